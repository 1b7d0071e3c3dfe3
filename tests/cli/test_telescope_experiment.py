"""Real data: four planes of FE-I4 pixels, 250 µm along u and 50 µm along v, in an electron beam."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training_runs import configured, train

from alignnet.data.root import read_detector
from alignnet.data.root_alignment import read_alignment
from alignnet.data.root_tracks import read_tracks
from alignnet.units import UM

PITCH_U = 250 * UM


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of `experiment=telescope`."""
    run = tmp_path_factory.mktemp("telescope")
    train(run, "experiment=telescope", "figure_every=0", "trainer.accelerator=cpu")
    return run


@pytest.fixture(scope="module")
def metrics(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_planes_end_where_their_residuals_along_v_are_as_wide_as_they_should_be(metrics):
    before = [abs(row[c]["unbiased_before_mean_um"]) for row in metrics["residuals"].values() for c in "uv"]
    assert max(before) > 1000
    for row in metrics["residuals"].values():
        v, u = row["v"], row["u"]
        assert v["unbiased_width_um"] == pytest.approx(v["expected_unbiased_width_um"], rel=0.15)
        assert abs(v["unbiased_mean_um"]) < 3.0
        assert abs(v["mean_um"]) < 1.0
        assert abs(u["mean_um"]) < 3.0
        assert v["n_hits"] > 3000
    assert metrics["chi2_per_ndf"] < 1.3 < metrics["chi2_per_ndf_before"]


def test_residuals_along_u_are_those_of_straight_lines_rounded_to_pixels(folder, metrics):
    """Rounding errors of parallel tracks in four planes are not independent: the expected width is too small.

    Lines with the beam's own slopes, evenly spread, are rounded to the pixels of the planes where the run has
    put them; no scattering (6 µm at most), no shared charge (4 % of the clusters).
    """
    (file,) = configured("train", "experiment=telescope").data.files
    detector = read_detector(file)
    shift = read_alignment(folder / "alignment.root", detector)[:, :2].numpy()
    z = detector.translation[:, 2].numpy()
    places = np.asarray(read_tracks([file], detector, min_hits=4).uv).reshape(-1, 4, 2) + shift
    slope = (places[:, 3] - places[:, 0]) / z[3]
    slope = slope[(np.abs(slope - np.median(slope, 0)) < 4e-3).all(1)]  # the others are wrong matches
    # along v the slopes are measured well; along u their mean is
    spread = slope[:, 1] - slope[:, 1].mean() + slope[:, 0].mean()
    draw = np.random.default_rng(0)
    lines = draw.uniform(-0.5, 0.5, (100_000, 1)) + draw.choice(spread, (100_000, 1)) * z
    rounded = np.round((lines - shift[:, 0]) / PITCH_U) * PITCH_U + shift[:, 0]
    for plane in range(4):
        found = metrics["residuals"][f"layer{plane}"]["u"]["unbiased_width_um"]
        assert found == pytest.approx(unbiased(rounded, z, plane).std() / UM, rel=0.05)


def unbiased(x: np.ndarray, z: np.ndarray, plane: int) -> np.ndarray:
    """Residuals of a plane to straight lines through the others."""
    others = [k for k in range(len(z)) if k != plane]
    line = np.linalg.pinv(np.stack([np.ones(len(others)), z[others]], -1))
    return x[:, plane] - x[:, others] @ line.T @ np.array([1, z[plane]])


def test_a_run_stops_by_itself(metrics):
    assert 3 < len(metrics["history"]) < 15
    assert "truth" not in metrics
    assert metrics["dca"] is None
