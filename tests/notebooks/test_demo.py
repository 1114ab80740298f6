"""The notebook, executed in a kernel of its own as a reader would, with small numbers; git has it without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "demo.ipynb"
SIZES = "NUM_REVIEWS, NUM_STEPS, NUM_HELD_OUT = 8000, 30, 64"
SMALL = "NUM_REVIEWS, NUM_STEPS, NUM_HELD_OUT = 300, 1, 8"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_git_has_no_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert not [cell for cell in cells if cell.outputs or cell.execution_count]


def test_it_runs_from_a_clone_without_a_trained_model(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    (cell,) = [cell for cell in notebook.cells if SIZES in cell.source]
    cell.source = cell.source.replace(SIZES, SMALL)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    texts = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    pages = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert "parameters" in texts
    assert "95 % interval" in texts
    assert len([page for page in pages if "nats" in page.get("text/html", "")]) == 2
    assert any("image/png" in page for page in pages)
