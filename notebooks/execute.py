"""Run every notebook beside this file from a clean kernel; any error ends with a traceback and exit code 1.

python notebooks/execute.py            # check
python notebooks/execute.py --write    # and keep the outputs
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

for path in sorted(Path(__file__).parent.glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")
    if "--write" in sys.argv:
        for cell in notebook.cells:  # warnings of other libraries name folders of this machine
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
