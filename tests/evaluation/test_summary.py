"""One evaluation of an alignment: the same tracks for every geometry, and numbers that JSON can hold."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated

from alignnet.data.memory import peak_memory_mb
from alignnet.errors import ConfigError
from alignnet.evaluation.summary import Evaluation, report, write_metrics
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer

SMALL = barrel()
TRUTH = random_local(len(SMALL), 30e-4, 2e-4, seed=3)
LOSS = HelixChi2(SMALL, normalisation="total")


@pytest.fixture(scope="module")
def evaluation():
    """An alignment that has found a third of the way to the truth."""
    tracks = simulated(SMALL, GUN, 80, TRUTH, seed=8)
    every = torch.ones(len(SMALL), dtype=torch.bool)
    return Evaluation(SMALL, LOSS, tracks, torch.zeros_like(TRUTH), TRUTH / 3, TRUTH, every)


@pytest.fixture(scope="module")
def numbers(evaluation, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "draw", lambda *arguments: None)
        return evaluation.run(tmp_path_factory.mktemp("numbers"))


def chi2_per_ndf_of_tracks(evaluation, local):
    """χ²/ν of each track in the order of the table, all of them in one batch."""
    sensors = SensorLayer.of(SMALL)
    sensors.set_local(local)
    with torch.no_grad():
        chi2 = LOSS(sensors, batch_of(evaluation.tracks, SMALL))
    return ((chi2.track + chi2.vertex) / chi2.ndf).numpy()


def test_each_geometry_has_the_chi2_of_the_loss_there(evaluation, numbers):
    for key, local in (("_before", evaluation.before), ("", evaluation.after), ("_ideal", TRUTH)):
        sensors = SensorLayer.of(SMALL)
        sensors.set_local(local)
        chi2 = LOSS(sensors, batch_of(evaluation.tracks, SMALL))
        assert numbers[f"chi2_per_ndf{key}"] == pytest.approx(float(LOSS.cost(chi2).detach()), rel=1e-9)
    assert numbers["chi2_per_ndf_before"] > numbers["chi2_per_ndf"] > numbers["chi2_per_ndf_ideal"]


def test_what_remains_is_two_thirds_of_what_there_was(numbers):
    for kind in ("truth", "truth_rigid_only", "truth_layer_rigid"):
        for row in numbers[kind].values():
            for coordinate in "uvw":
                assert row[coordinate]["after_um"] == pytest.approx(
                    row[coordinate]["before_um"] * 2 / 3, rel=1e-3
                )


def test_the_truth_leaves_nothing(evaluation, tmp_path, no_pictures):
    metrics = replace(evaluation, after=TRUTH).run(tmp_path)
    assert metrics["chi2_per_ndf"] == metrics["chi2_per_ndf_ideal"]
    assert all(row[c]["after_um"] == 0 for row in metrics["truth"].values() for c in "uvw")
    assert metrics["dca"]["after"] == metrics["dca"]["ideal"]


def test_without_the_truth_there_is_no_ideal(evaluation, tmp_path, no_pictures):
    metrics = replace(evaluation, truth=None).run(tmp_path)
    assert not any(key.startswith("truth") for key in metrics)
    assert metrics["chi2_per_ndf_ideal"] is None
    assert set(metrics["dca"]) == {"before", "after"}


def test_only_the_sensors_that_were_aligned_count_in_what_remains(evaluation, tmp_path, no_pictures):
    aligned = SMALL.layer < 2
    metrics = replace(evaluation, aligned=aligned).run(tmp_path)
    assert set(metrics["truth"]) == {"layer0", "layer1"}
    assert metrics["n_aligned"] == 12


def test_tracks_beyond_a_chi2_are_left_out_the_same_ones_for_every_geometry(
    evaluation, tmp_path, no_pictures, monkeypatch
):
    monkeypatch.setattr("alignnet.data.batch._LENGTHS", (4, 5))  # batches are taken apart by length
    ratio = chi2_per_ndf_of_tracks(evaluation, evaluation.after)
    limit = float(np.median(ratio))
    kept = evaluation.tracks.select(ratio <= limit)
    assert len(set(kept.hits_per_track.tolist())) > 1  # so that an order by length is not that of the table
    metrics = replace(evaluation, max_chi2_per_ndf=limit).run(tmp_path)
    expected = replace(evaluation, tracks=kept).run(tmp_path)
    for key in ("chi2_per_ndf", "chi2_per_ndf_before", "chi2_per_ndf_ideal", "n_tracks"):
        assert metrics[key] == pytest.approx(expected[key], rel=1e-9)
    assert metrics["n_tracks"] + metrics["n_rejected"] == len(evaluation.tracks)
    assert metrics["chi2_per_ndf"] < limit


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"dca_vertex": "best"},
            r"evaluation\.dca_vertex is 'best'; choose from \['given', 'truth', 'leave_one_out'\]",
        ),
        ({"max_chi2_per_ndf": 0.0}, r"evaluation\.max_chi2_per_ndf is 0\.0; expected a number > 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_once(evaluation, change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        replace(evaluation, **change)


# metrics.json


def test_numbers_that_are_not_finite_become_null_and_nothing_else_changes(tmp_path):
    metrics = {
        "a": math.nan, "b": [1.5, math.inf, -math.inf, 2], "c": {1: torch.tensor([1.0, torch.nan])},
        "d": (True, None, "χ²"), "e": np.float64("nan"),
    }  # fmt: skip
    write_metrics(tmp_path / "metrics.json", metrics)
    text = (tmp_path / "metrics.json").read_text()
    assert "χ²" in text
    assert json.loads(text) == {
        "a": None, "b": [1.5, None, None, 2], "c": {"1": [1.0, None]}, "d": [True, None, "χ²"], "e": None,
    }  # fmt: skip


def test_what_json_cannot_hold_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"a": 1})
    with pytest.raises(TypeError):
        write_metrics(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_peak_of_the_memory_is_what_the_system_says(monkeypatch):
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("there is no /proc to compare with")
    block = np.ones(25_000_000)  # 200 MB
    peak = peak_memory_mb()
    high = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    assert peak == pytest.approx(high, rel=0.02)
    assert peak > block.nbytes / 2**20
    monkeypatch.setattr("sys.platform", "darwin")
    assert peak_memory_mb() == pytest.approx(peak / 1024)  # there the unit is a byte


def test_a_report_says_chi2_of_each_geometry_that_there_is(numbers, caplog, capsys):
    with caplog.at_level(logging.INFO, "alignnet.evaluation"):
        report(numbers, Path("run/evaluation"))
        report({**numbers, "chi2_per_ndf_ideal": None}, Path("run/evaluation"))
    first, where, second, _ = caplog.messages
    values = [numbers[f"chi2_per_ndf{which}"] for which in ("_before", "", "_ideal")]
    n = numbers["n_tracks"]
    assert first == "χ²/ndf: before {:.4g}, after {:.4g}, ideal {:.4g} ({} tracks)".format(*values, n)
    assert second == "χ²/ndf: before {:.4g}, after {:.4g} ({} tracks)".format(*values[:2], n)
    assert where == "pictures: run/evaluation"
    caplog.clear()
    lost = {"n_tracks_rejected": 1205, "n_tracks_weightless": 1200}
    with caplog.at_level(logging.INFO, "alignnet.evaluation"):
        report(numbers | lost, Path("run/evaluation"))
    assert caplog.messages[1].startswith("5 tracks cannot be fitted")
    assert caplog.messages[2].startswith("1,200 tracks weigh nothing")
    assert "Unbiased residuals" in capsys.readouterr().out
