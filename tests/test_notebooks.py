"""The notebooks run from top to bottom, say what they promise, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks; it comes with the dev extra")
pytest.importorskip("nbclient", reason="nbclient runs notebooks; it comes with the dev extra")
pytest.importorskip("ipykernel", reason="ipykernel runs their cells; it comes with the dev extra")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

NO_PICTURES = """
from alignnet.evaluation.report.markup import Html
from alignnet.evaluation.report.pictures import Picture
from alignnet.evaluation.summary import Evaluation
Evaluation.draw = lambda *arguments: None
Picture.html = lambda picture: Html("")
"""

jupyter = pytest.mark.filterwarnings("default")  # what Jupyter itself warns of


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(name: str, folder: Path, before: str = "") -> tuple[dict[str, Any], int]:
    """What the last cell shows, and how many pictures there are, of a notebook that ran in a folder."""
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute()  # raises where a cell does
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    last = eval(outputs[-1]["data"]["text/plain"], {"__builtins__": {}})
    return last, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_every_notebook_is_run_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in NOTEBOOKS if f'executed("{path.stem}"' not in text] == []


@jupyter
def test_the_first_alignment_brings_the_residuals_to_what_they_should_be(tmp_path):
    chi2, pictures = executed("01_first_alignment", tmp_path)
    assert pictures == 3
    assert chi2["before"] > 10
    assert chi2["after"] == pytest.approx(1.0, abs=0.1)
    assert chi2["after"] < 1.1 * chi2["ideal"]


@jupyter
def test_one_sensor_is_found_by_hand_by_one_step_and_by_the_library(tmp_path):
    left, pictures = executed("02_a_sensor_is_a_linear_layer", tmp_path)
    assert pictures == 3
    sigma = np.array([0.13, 0.13, 0.85, 0.07, 0.07, 0.008])  # of known tracks: √diag H⁻¹ [µm, mrad]
    for answer in left.values():
        assert (np.abs(answer) < 3 * sigma).all()
    assert np.abs(np.subtract(left["by hand"], left["one step"])).max() < 0.5


@jupyter
def test_the_dca_comes_back_to_that_of_the_ideal_places(tmp_path):
    found, pictures = executed("03_dca_before_and_after", tmp_path, NO_PICTURES)
    assert pictures == 2
    assert found["before"]["bias"] > 50
    assert found["before"]["width"] > 2
    assert found["after"]["bias"] < 10  # µm, in the worst of twelve bins of φ
    assert found["after"]["width"] < 1.05


@jupyter
def test_data_that_should_cure_a_mode_do_and_the_others_are_said_to_be_blind(tmp_path):
    """Modes are found within their errors; momenta hide the curl, straight lines and cosmics show it."""
    found, pictures = executed("05_weak_modes", tmp_path)
    assert pictures == 1
    error = {name: {mode: value for mode, (_, value) in rows.items()} for name, rows in found.items()}
    for rows in found.values():
        for fraction, expected in rows.values():
            assert abs(fraction - 1) * 50 < 4 * expected
    for mode in ("curl", "clamshell_cos", "telescope"):
        assert error["collisions"][mode] > 10
        assert error["cosmics"][mode] < 10
    assert error["field off"]["curl"] < 0.2 * error["with vertex"]["curl"]
    assert all(error["K0S"][mode] < error["collisions"][mode] for mode in error["K0S"])


@jupyter
def test_a_detector_of_ones_own_is_aligned_with_the_errors_that_it_says(tmp_path):
    found, pictures = executed("04_your_own_detector", tmp_path)
    assert pictures == 4
    assert found["before"] > 10
    assert found["after"] < 1.1 * found["ideal"]
    assert 0.85 < found["pull"] < 1.15
