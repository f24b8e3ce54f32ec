"""What each folder and file of the package is for, by its docstring: the list in docs/architecture.md."""

import ast
import re
from pathlib import Path

from benchmarks.harness.results import ROOT

PACKAGE = ROOT / "ghostify"


def tables() -> dict[str, str]:
    folders = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    return {"files": "\n\n".join([files(PACKAGE), *(folder_with_files(folder) for folder in folders)])}


def folder_with_files(folder: Path) -> str:
    return f"**{folder.name}/** {purpose(folder / '__init__.py')}\n\n{files(folder)}"


def files(folder: Path) -> str:
    paths = (path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py" or folder == PACKAGE)
    return "\n".join(f"- `{path.name}`: {purpose(path)}" for path in paths)


def purpose(path: Path) -> str:
    """The first paragraph of a file's docstring, in Markdown."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", " ".join(paragraph.split()).replace("``", "`"))
