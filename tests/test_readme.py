import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]


def half_copied():
    """A network half of whose maps are copies of the others, so that it can be halved and loses nothing."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(inputs, 16, 3, padding=1) for inputs in (1, 16, 16)]
    for conv in convs:
        for tensor in (conv.weight.data, conv.bias.data):
            tensor[8:] = tensor[:8]
    maps = [layer for conv in convs for layer in (conv, nn.ReLU())]
    return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.mark.slow
def test_the_first_example_takes_a_network_of_the_readers(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    model, x = half_copied(), torch.randn(600, 1, 8, 8)
    names = {"model": model, "images": torch.randn(64, 1, 8, 8), "x": x, "y": model(x).argmax(1)}
    exec(compile(example, "README's first example", "exec"), names)
    assert names["result"].report.student.flops < 0.8 * names["result"].report.original.flops
    assert "taken" in capsys.readouterr().out
    assert (tmp_path / "smaller" / "student.safetensors").exists()


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
