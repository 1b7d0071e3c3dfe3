"""The notebooks run from top to bottom, say what they promise, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks; it comes with the dev extra")
pytest.importorskip("nbclient", reason="nbclient runs notebooks; it comes with the dev extra")
pytest.importorskip("ipykernel", reason="ipykernel runs their cells; it comes with the dev extra")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.filterwarnings("default")  # what Jupyter itself warns of
def test_the_first_alignment_brings_the_residuals_to_what_they_should_be(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell does
    pictures = [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
    last = code_cells(notebook)[-1].outputs[-1]
    chi2 = eval(last["data"]["text/plain"], {"__builtins__": {}})
    assert chi2["before"] > 10
    assert chi2["after"] == pytest.approx(1.0, abs=0.1)
    assert chi2["after"] < 1.1 * chi2["ideal"]
