"""Run every notebook beside this file from a clean kernel; any error ends with a traceback and exit code 1.

python notebooks/execute.py            # check
python notebooks/execute.py --write    # and keep the outputs
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the outputs")
    write = parser.parse_args().write
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        notebook = executed(path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")
        if write:
            drop_warnings(notebook)
            nbformat.write(notebook, path)


def executed(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


def drop_warnings(notebook: NotebookNode) -> None:
    """Warnings of other libraries name folders of this machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


if __name__ == "__main__":
    main()
