"""Compiled loops and tensors find the same of the same tracks, whatever the cost's noise and vertex are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import COSMICS, GUN, barrel, batch_of, mixed, random_local, simulated

from alignnet.evaluation.dca import DcaSums
from alignnet.evaluation.dca_sample import Approach, sample_of
from alignnet.evaluation.fitted_tracks import FittedTracks, TrackFitter
from alignnet.evaluation.impact import vertex_fit
from alignnet.evaluation.overlap_pairs import pairs_of
from alignnet.evaluation.places import Places
from alignnet.evaluation.residuals import ResidualSummary
from alignnet.evaluation.surface_maps import SurfaceMaps
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.robust import TrackWeights
from alignnet.physics.jit import SWITCH

SMALL = barrel(radii=(2.5, 4.0, 7.0, 11.0, 15.0))
PLACES = Places(SMALL, random_local(len(SMALL), 3e-4, 3e-5, seed=4))
UM = 1e-4


@pytest.fixture(scope="module")
def batch():
    """Collisions, and cosmic rays without a vertex, with all noise."""
    return batch_of(mixed(simulated(SMALL, GUN, 60, seed=1), simulated(SMALL, COSMICS, 30, seed=2)), SMALL)


@pytest.fixture
def both(monkeypatch):
    """What a function returns with tensors and with loops."""

    def run(function):
        found = []
        for switch in ("off", "on"):
            monkeypatch.setenv(SWITCH, switch)
            found.append(function())
        return found

    return run


@pytest.fixture(scope="module")
def fitted(batch):
    """The batch by tensors and by loops."""
    found = []
    for switch in ("off", "on"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SWITCH, switch)
            found.append(TrackFitter(HelixChi2(SMALL), SMALL)(PLACES, batch, pairs=pairs_of(batch, SMALL)))
    return found


COSTS = {
    "full, given": HelixChi2(SMALL),
    "full, absent": HelixChi2(SMALL, vertex="absent"),
    "diagonal, given": HelixChi2(SMALL, NoiseModel(SMALL, "diagonal")),
    "none, given": HelixChi2(SMALL, NoiseModel(SMALL, "none", systematic=2 * UM)),
    "robust": HelixChi2(SMALL, weights=TrackWeights("huber", threshold=1.2)),
}


@pytest.mark.parametrize("cost", COSTS)
def test_loops_and_tensors_agree_on_fits_residuals_and_chi2(batch, both, cost):
    fitter, pairs = TrackFitter(COSTS[cost], SMALL), pairs_of(batch, SMALL)
    tensors, loops = both(lambda: fitter(PLACES, batch, pairs=pairs))
    assert len(pairs.hits) > 20
    for name in ("biased", "unbiased", "expected"):  # to a thousandth of what is expected of it
        one, other = (getattr(x, name)[tensors.used_hits] for x in (tensors, loops))
        assert torch.equal(one.isnan(), other.isnan())
        assert ((other - one) / tensors.expected[tensors.used_hits]).nan_to_num().abs().max() < 1e-3
    torch.testing.assert_close(loops.pair, tensors.pair, rtol=1e-3, atol=0.02 * UM, equal_nan=True)
    size = tensors.pair_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (loops.pair_covariance - tensors.pair_covariance) / (size[:, :, None] * size[:, None])
    assert torch.equal(error.isnan(), loops.pair_covariance.isnan())
    assert error.nan_to_num().abs().max() < 2e-3
    for name in ("weight", "used_hits", "ndf"):
        torch.testing.assert_close(getattr(loops, name), getattr(tensors, name), rtol=1e-4, atol=0)
    torch.testing.assert_close(loops.chi2, tensors.chi2, rtol=1e-5, atol=1e-4, equal_nan=True)
    assert loops.sums == pytest.approx(tensors.sums, rel=1e-5)


def test_fits_to_the_hits_alone_agree_with_their_covariance(fitted):
    tensors, loops = (one.free for one in fitted)
    assert torch.equal(loops.usable, tensors.usable)
    good = tensors.usable
    sigma = tensors.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    least = sigma[good, :2].amin(-1), sigma[good, 2:4].amin(-1), sigma[good, 4]  # place, direction, curvature
    for one, other, error in zip(tensors.helix, loops.helix, least, strict=True):
        off = (other - one)[good].reshape(len(error), -1).norm(dim=-1)
        assert (off / error).max() < 1e-3  # both end where a step promises a thousandth of an error
    error = (loops.covariance - tensors.covariance) / (sigma[:, :, None] * sigma[:, None])
    assert error[good].abs().max() < 2e-3
    torch.testing.assert_close(loops.chi2[good], tensors.chi2[good], rtol=1e-5, atol=1e-4)


def test_a_cost_without_the_full_noise_has_the_same_fits_to_the_hits_alone(batch, both):
    fitter = TrackFitter(COSTS["none, given"], SMALL)
    tensors, loops = both(lambda: fitter(PLACES, batch).free)
    torch.testing.assert_close(loops.chi2[loops.usable], tensors.chi2[tensors.usable], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("vertex", ["given", "leave_one_out"])
def test_closest_approaches_and_vertices_agree(fitted, batch, both, vertex):
    free = fitted[0].free
    tensors, loops = both(lambda: Approach(0.5, vertex)(free, batch))
    assert torch.equal(loops.known, tensors.known)
    for name in ("distance", "covariance", "towards"):
        one, other = (getattr(x.impact, name)[tensors.known] for x in (tensors, loops))
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    places = both(lambda: vertex_fit(free.helix, free.covariance, free.usable, batch, 0.5)[0])
    torch.testing.assert_close(*places, rtol=1e-9, atol=1e-12)


def sums_of(tracks: FittedTracks, make):
    sums = make()
    sums.add(tracks)
    return sums


def test_sums_agree(fitted, batch, both):
    tracks = fitted[0]
    one, other = both(lambda: sums_of(tracks, lambda: SurfaceMaps(SMALL)).sums)
    np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-15)
    one, other = both(lambda: sums_of(tracks, lambda: ResidualSummary.of(SMALL)))
    for name in ("biased", "unbiased", "pull"):
        first, second = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(second.sums.sums, first.sums.sums, rtol=1e-12, atol=1e-15)
        assert torch.equal(second.histogram.counts, first.histogram.counts)
    torch.testing.assert_close(other.sensors.sums, one.sensors.sums, rtol=1e-12, atol=1e-15)


def test_dca_sums_agree(fitted, batch, both):
    approach = Approach(0.5, "given")
    found = {name: approach(one.free, batch) for name, one in zip(("after", "ideal"), fitted, strict=True)}
    sample = sample_of(found, batch, "ideal")

    def table():
        sums = DcaSums(["after", "ideal"], "ideal")
        sums.add(sample)
        return sums

    one, other = both(table)
    for name in ("counts", "totals", "differences", "pulls"):
        torch.testing.assert_close(
            torch.from_numpy(getattr(other, name)),
            torch.from_numpy(getattr(one, name)),
            rtol=1e-9,
            atol=1e-15,
        )
