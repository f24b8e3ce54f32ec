"""The structure of the code: short files, classes and functions, and folders whose ``__init__.py`` only says what they hold."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [folder for folder in (ROOT / "ghostify", ROOT / "tests", ROOT / "benchmarks") if folder.exists()]
FILES = {str(path.relative_to(ROOT)): path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))}
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 400, 250, 50

# what is longer, "file", "file::Class" or "file::Class.function", and why it has to be
EXCEPTIONS: dict[str, str] = {}


def docstring_lines(node):
    first = node.body[0]
    quoted = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return first.end_lineno - first.lineno + 1 if quoted else 0


def too_long(name, tree, lines):
    """What is longer than it should be, with its lines; a function counts without its docstring."""
    found = {name: lines} if lines > LONGEST_FILE else {}

    def visit(node, place):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child, place)
                continue
            here = f"{place}.{child.name}" if "::" in place else f"{place}::{child.name}"
            length, longest = child.end_lineno - child.lineno + 1, LONGEST_CLASS
            if not isinstance(child, ast.ClassDef):
                length, longest = length - docstring_lines(child), LONGEST_FUNCTION
            if length > longest:
                found[here] = length
            visit(child, here)

    visit(tree, name)
    return found


@pytest.fixture(scope="module")
def long():
    found = {}
    for name, path in FILES.items():
        text = path.read_text()
        found |= too_long(name, ast.parse(text), len(text.splitlines()))
    return found


def test_files_classes_and_functions_are_short(long):
    assert {name: lines for name, lines in long.items() if name not in EXCEPTIONS} == {}


def test_every_exception_is_still_needed(long):
    assert [name for name in EXCEPTIONS if name not in long] == []
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_what_is_long_is_noticed():
    lines = "\n".join(f"    x{k} = {k}" for k in range(60))
    words = "\n".join(["def short():", '    """', *60 * ["    word"], '    """'])
    method = "class Small:\n    def method(self):\n" + "\n".join(f"    {line}" for line in lines.splitlines())
    text = f"{words}\n\n\ndef long():\n{lines}\n\n\n{method}\n"
    assert set(too_long("f.py", ast.parse(text), 500)) == {"f.py", "f.py::long", "f.py::Small.method"}


def test_a_folder_says_what_it_holds_and_nothing_else():
    inits = [path for path in FILES.values() if path.name == "__init__.py" and path != ROOT / "ghostify" / "__init__.py"]
    assert inits
    for path in inits:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1, path


def test_the_formatter_formats_every_line():
    skipped = [name for name, path in FILES.items() if name.startswith("ghostify") and "# fmt: skip" in path.read_text()]
    assert skipped == []


def test_files_of_tests_have_names_of_their_own():
    """Test files are imported by their names alone."""
    names = [path.name for path in FILES.values() if path.name.startswith("test_")]
    assert sorted(set(names)) == sorted(names)
