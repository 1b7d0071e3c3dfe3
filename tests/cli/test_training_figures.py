"""What TensorBoard shows of a run that goes on is what an evaluation of the same tracks says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import GUN, barrel, random_local, simulated

from alignnet.cli.board import SAMPLE, TrainingFigures, first_events
from alignnet.evaluation.summary import Evaluation
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.robust import TrackWeights
from alignnet.training.robust_schedule import begin_epoch

DETECTOR = barrel()
HISTORY = [{"epoch": 0.0, "train/step_um": 1.0, "train/chi2_per_ndf": 2.0}]


@pytest.fixture(scope="module")
def evaluation():
    """Fifty collisions in a misaligned barrel, with robust weights."""
    local = random_local(len(DETECTOR), 30e-4, 0.2e-3, seed=2)
    tracks = simulated(DETECTOR, GUN, 50, local, seed=5)
    start = torch.zeros_like(local)
    loss = HelixChi2(DETECTOR, weights=TrackWeights("huber"))
    every = torch.ones(len(DETECTOR), dtype=torch.bool)
    return Evaluation(DETECTOR, loss, tracks, start, start, local, every, decays={"k0s": {}})


def test_the_figures_of_a_training_are_those_of_its_report(evaluation, tmp_path):
    figures = TrainingFigures(evaluation)(DETECTOR, evaluation.truth, HISTORY)
    evaluation.run(tmp_path)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    apart = {name for name in pictures if name.startswith(("corrections", "residual_hist", "truth"))}
    assert pictures - apart - {"residuals"} <= set(figures)
    assert {"dca_phi", "dca_eta", "dca_charge", "fit_quality", "surface", "surface_before"} <= set(figures)
    assert "mass_k0s" not in figures  # no decay is among these tracks, and so no peak to draw


def test_the_numbers_are_those_of_the_present_places(evaluation):
    at_truth = TrainingFigures(evaluation).numbers(evaluation.truth)
    assert at_truth["dca"]["after"] == at_truth["dca"]["ideal"]
    assert at_truth["chi2_per_ndf"] == at_truth["chi2_per_ndf_ideal"] < at_truth["chi2_per_ndf_before"]


def test_the_weights_of_the_epoch_are_left_as_they_were(evaluation):
    loss = evaluation.loss
    begin_epoch(loss, 3)
    loss.weights.scale = 7.0
    try:
        found = TrainingFigures(evaluation).numbers(evaluation.after)
        assert (loss.weights.epoch, loss.weights.scale) == (3, 7.0)
    finally:
        begin_epoch(loss, None)
    assert found["chi2_per_ndf"] == TrainingFigures(evaluation).numbers(evaluation.after)["chi2_per_ndf"]


def test_a_sample_is_of_whole_events(evaluation):
    tracks, detector = evaluation.tracks, evaluation.detector
    assert first_events(tracks, detector, SAMPLE).n_tracks == len(tracks)
    table = first_events(tracks, detector, 20)
    some = table.of(np.arange(len(table)))
    assert 20 <= len(some) < len(tracks)
    last = some.event.max()
    assert np.array_equal(some.event, tracks.event[tracks.event <= last])
    assert first_events(tracks, detector, 1).n_tracks == (tracks.event == tracks.event[0]).sum()
