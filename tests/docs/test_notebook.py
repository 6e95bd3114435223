"""The notebook runs from top to bottom, in a kernel of its own, as a reader would run it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import nbformat
import pytest
from nbformat import NotebookNode
from repository import ROOT
from run_notebook import NOTEBOOK, execute, without_traces

LARGEST = 300 * 1024


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookNode]:
    """With one thread, a cache of its own and few random channels."""
    folder = tmp_path_factory.mktemp("notebook")
    book = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAG_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MPLBACKEND", "Agg")  # as after an import of Streamlit
        first = next(cell for cell in book.cells if cell.cell_type == "code")
        few = re.sub(r"CONTROLS = \d+", "CONTROLS = 3", first.source)
        assert few != first.source
        first.source = few
        yield execute(book, ROOT / "docs", timeout=280)


def code_cells(book: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(book: NotebookNode) -> str:
    return "".join(o.text for cell in code_cells(book) for o in cell.outputs if o.get("name") == "stdout")


@pytest.mark.slow
def test_every_cell_runs_and_shows_something(executed: NotebookNode) -> None:
    cells = code_cells(executed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    silent = [cell.source for cell in cells[1:] if not cell.outputs]
    assert not silent, "a cell without output explains nothing"
    pictures = [o for cell in cells for o in cell.outputs if "image/jpeg" in o.get("data", {})]
    assert len(pictures) >= 7


@pytest.mark.slow
def test_it_says_what_it_promises(executed: NotebookNode) -> None:
    """Conservation, verdicts of two runs, a report."""
    text = printed(executed)
    errors = [float(found) for found in re.findall(r"error (\S+)", text)]
    assert len(errors) == 2 and max(errors) <= 1e-3
    assert len(re.findall(r"^  iou +\S", text, re.MULTILINE)) == 2
    assert re.search(r"\.html: [\d.]+ MiB, [1-9]\d* pictures, [1-9]\d* plots", text)


def test_what_is_stored_is_complete_small_and_of_no_machine() -> None:
    raw = NOTEBOOK.read_text("utf-8")
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    assert len(raw.encode()) <= LARGEST
    assert all(cell.execution_count for cell in code_cells(stored)), "run `python docs/run_notebook.py`"
    assert stored == without_traces(nbformat.read(NOTEBOOK, as_version=4)), "run `python docs/run_notebook.py`"
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\\\", printed(stored))


def test_a_reader_needs_only_one_import_of_the_project() -> None:
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(NOTEBOOK, as_version=4)))
    assert re.findall(r"^[ \t]*(?:import|from) (?:lag_core|dashboard)\S*", source, re.MULTILINE) == ["import lag_core"]
