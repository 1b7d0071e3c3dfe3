"""Residual summaries: one pass in bounded memory says what all the residuals together say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alignnet.data.tracks import Tracks
from alignnet.evaluation.dca_sample import event_batches
from alignnet.evaluation.residuals import ResidualSummary, residual_metrics, residual_summary
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.residuals import path_residual
from alignnet.loss.robust import TrackWeights
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.unbiased import unbiased

UM = 1e-4


@pytest.fixture(scope="module")
def few(tracks: Tracks) -> Tracks:
    return tracks.select(tracks.event < 60)


def summary_at(
    local: Tensor, loss: HelixChi2, detector: Detector, few: Tracks, n: int = 25
) -> ResidualSummary:
    sensors = SensorLayer.of(detector)
    sensors.set_local(local)
    return residual_summary(loss, sensors, detector, event_batches(few, detector, batch_events=n))


@pytest.fixture(scope="module")
def ideal(detector: Detector, few: Tracks, loss: HelixChi2, nominal: Tensor) -> ResidualSummary:
    return summary_at(nominal, loss, detector, few)


@pytest.fixture(scope="module")
def before(detector: Detector, few: Tracks, loss: HelixChi2, layer_moved: Tensor) -> ResidualSummary:
    return summary_at(layer_moved, loss, detector, few)


def test_an_ideal_detector_has_the_widths_to_expect(ideal: ResidualSummary) -> None:
    assert ideal.chi2_per_ndf == pytest.approx(1, abs=0.06)
    assert ideal.pull.width.numpy() == pytest.approx(np.ones((7, 2)), abs=0.12)
    assert (ideal.unbiased.width / ideal.expected_width).numpy() == pytest.approx(np.ones((7, 2)), rel=0.3)
    assert (ideal.biased.width < ideal.unbiased.width).all()
    # A hit of an inner layer cannot be further from its path than its resolution of 5 µm allows.
    assert (ideal.biased.width < 5.2 * UM).all()


def test_numbers_are_those_of_all_hits_at_once(
    ideal: ResidualSummary, detector: Detector, few: Tracks, loss: HelixChi2
) -> None:
    sensors = SensorLayer.of(detector)
    batch = next(event_batches(few, detector))
    chi2 = loss(sensors, batch)
    left, biased = unbiased(loss, sensors, chi2), path_residual(loss, chi2)
    for i, layer in enumerate(ideal.layers):
        own = (detector.layer[batch.sensor] == layer) & batch.is_hit & (chi2.weight > 0)[:, None]
        torch.testing.assert_close(ideal.biased.mean[i], biased[own].mean(0), rtol=1e-6, atol=1e-9)
        own &= (left.expected <= 200 * batch.sigma).all(-1)
        width = left.residual[own].std(0, correction=0)
        torch.testing.assert_close(ideal.unbiased.width[i], width, rtol=1e-5, atol=0)
        rms = left.expected[own].square().mean(0).sqrt()
        torch.testing.assert_close(ideal.expected_width[i], rms, rtol=1e-5, atol=0)
        quantiles = left.residual[own].quantile(torch.tensor([0.158655, 0.841345]).double(), dim=0)
        half = 0.5 * (quantiles[1] - quantiles[0])
        torch.testing.assert_close(ideal.unbiased.core_width[i], half, rtol=0.05, atol=0)
    n_hits, mean, _ = ideal.sensor_table
    sensor = int(n_hits.argmax())
    own = (batch.sensor == sensor) & batch.is_hit & (chi2.weight > 0)[:, None]
    assert n_hits[sensor] == own.sum()
    torch.testing.assert_close(mean[sensor], biased[own].mean(0), rtol=1e-6, atol=1e-9)
    assert ideal.n_tracks + ideal.n_rejected == len(few)


def test_batches_make_no_difference(
    ideal: ResidualSummary, detector: Detector, few: Tracks, loss: HelixChi2, nominal: Tensor
) -> None:
    other = summary_at(nominal, loss, detector, few, n=7)
    assert other.chi2_per_ndf == pytest.approx(ideal.chi2_per_ndf, rel=1e-9)
    torch.testing.assert_close(other.pull.width, ideal.pull.width, rtol=1e-5, atol=0)
    assert torch.equal(other.biased.count, ideal.biased.count)


def test_a_layer_out_of_place_shows_in_means_widths_and_chi2(
    before: ResidualSummary, ideal: ResidualSummary
) -> None:
    assert before.chi2_per_ndf > 2 * ideal.chi2_per_ndf
    # Predicted minus measured, along v, which points to −z in the inner layers: the hits are too far in z.
    assert before.unbiased.mean[0, 1] / UM == pytest.approx(50, abs=3)
    assert abs(ideal.unbiased.mean[0, 1]) < 3 * UM
    assert abs(before.unbiased.mean[0, 0]) < 3 * UM
    assert before.pull.width[0, 1] > 1.6
    assert (before.pull.width[5] < 1.2).all()


def test_wrong_matches_are_left_out_and_counted(detector: Detector, few: Tracks, loss: HelixChi2) -> None:
    uv = few.uv.copy()
    uv[few.offset[:30]] += 0.3
    wrong = replace(few, uv=uv)
    sensors = SensorLayer.of(detector)
    every = residual_summary(loss, sensors, detector, event_batches(wrong, detector))
    good = residual_summary(loss, sensors, detector, event_batches(wrong, detector), max_chi2_per_ndf=5.0)
    cut = HelixChi2(detector, weights=TrackWeights("cut", threshold=5**0.5))
    by_weight = residual_summary(cut, sensors, detector, event_batches(wrong, detector))
    assert every.n_rejected == 0
    assert good.n_rejected == by_weight.n_rejected == 30
    assert good.chi2_per_ndf == pytest.approx(1, abs=0.06)
    assert every.chi2_per_ndf > 20
    # What a few tracks do to a standard deviation, and not to a core.
    assert every.unbiased.width[0, 0] > 10 * good.unbiased.width[0, 0]
    assert every.unbiased.core_width[0, 0] == pytest.approx(float(good.unbiased.core_width[0, 0]), rel=0.2)


def test_tracks_that_weigh_nothing_are_told_from_those_that_cannot_be_fitted(
    detector: Detector, few: Tracks
) -> None:
    uv = few.uv.copy()
    uv[few.offset[:30]] += 0.3
    uv[few.offset[30:33]] = np.nan
    cut = HelixChi2(detector, weights=TrackWeights("cut", threshold=5**0.5))
    tracks = event_batches(replace(few, uv=uv), detector)
    metrics = residual_metrics(residual_summary(cut, SensorLayer.of(detector), detector, tracks))
    assert (metrics["n_tracks_weightless"], metrics["n_tracks_rejected"]) == (30, 33)
    assert metrics["n_tracks"] == len(few) - 33


def test_metrics_have_numbers_in_micrometres_for_every_layer(
    before: ResidualSummary, ideal: ResidualSummary
) -> None:
    metrics = residual_metrics(ideal, before, ideal)
    assert metrics["chi2_per_ndf"] == metrics["chi2_per_ndf_ideal"] == ideal.chi2_per_ndf
    assert metrics["chi2_per_ndf_before"] == before.chi2_per_ndf
    assert list(metrics["residuals"]) == [f"layer{i}" for i in range(7)]
    row = metrics["residuals"]["layer0"]["v"]
    assert row["unbiased_before_mean_um"] == pytest.approx(50, abs=3)
    assert row["width_um"] == pytest.approx(float(ideal.biased.width[0, 1]) / UM)
    assert row["expected_unbiased_width_um"] == pytest.approx(float(ideal.expected_width[0, 1]) / UM)
    assert "before_mean_um" not in residual_metrics(ideal)["residuals"]["layer0"]["v"]


def test_nothing_gives_no_numbers_and_no_failure(detector: Detector, loss: HelixChi2) -> None:
    empty = residual_summary(loss, SensorLayer.of(detector), detector, [])
    metrics = residual_metrics(empty)
    assert metrics["chi2_per_ndf"] is None
    assert metrics["n_tracks"] == 0
    assert metrics["residuals"]["layer3"]["u"]["width_um"] is None
