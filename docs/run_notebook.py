"""Run docs/why-preserved.ipynb from top to bottom and store what it shows.

    python docs/run_notebook.py        # needs the extra `dev`

The same runs and versions give nearly the same file: times and the machine's names are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("why-preserved.ipynb")
ROOT = Path(__file__).resolve().parents[1]


def execute(notebook: NotebookNode, folder: Path, timeout: int = 600) -> NotebookNode:
    """Run all cells, with `folder` as the working folder. CellExecutionError where one fails.

    On a busy machine a cell's output may come long after its end: it is waited for as long as the cell itself.
    The kernel draws into the notebook, whatever MPLBACKEND says here (Streamlit sets it when it is imported).
    """
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    resources = {"metadata": {"path": str(folder)}}
    patience = {"timeout": timeout, "iopub_timeout": timeout, "raise_on_iopub_timeout": True}
    client = NotebookClient(notebook, **patience, record_timing=False, resources=resources)
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return client.execute(env={**inherited, "PYTHONPATH": os.pathsep.join(places)})


def without_traces(notebook: NotebookNode) -> NotebookNode:
    """Without what changes from machine to machine: the kernel's version, progress bars, warnings."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    done = execute(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.parent)
    nbformat.write(without_traces(done), NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1024:.0f} KiB")
