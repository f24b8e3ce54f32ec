import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_example_prints_what_the_readme_says(capsys):
    blocks = re.findall(r"```(python|text)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    position = kinds.index("text")
    exec(compile(blocks[position - 1][1], "README example", "exec"), {})
    assert capsys.readouterr().out == blocks[position][1]


def test_figures_come_from_the_results():
    if not (ROOT / "benchmarks").exists():
        pytest.skip("benchmarks are not part of a source distribution")
    command = [sys.executable, "-m", "benchmarks.readme", "--check"]
    check = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_exist(document):
    path = ROOT / document
    if not path.exists():
        pytest.skip("not part of a source distribution")
    names = re.findall(r"`([\w./]+/\w+\.py)`", path.read_text())
    assert [name for name in names if not any((base / name).exists() for base in (ROOT, ROOT / "ghostify"))] == []
