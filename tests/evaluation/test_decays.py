"""Decays in flight: their vertices and masses come back, and wrong curvatures move them as they must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from neutral_kaons import K0S, NeutralKaons
from small_detectors import batch_of

from alignnet.data.simulate import Simulation
from alignnet.errors import ConfigError
from alignnet.evaluation.decays import DECAYS, EDGES, Decays, decays_of, invariant_mass
from alignnet.evaluation.fitted_tracks import FreeTracks, TrackFitter
from alignnet.evaluation.peak import fit_peak
from alignnet.evaluation.places import Places
from alignnet.evaluation.two_body import meet, opposite_pairs
from alignnet.loss.chi2 import HelixChi2
from alignnet.physics.helix import Helix
from alignnet.units import KAON_MASS, PION_MASS

UM = 1e-4


@pytest.fixture(scope="module")
def kaons(detector):
    """The tracks of 300 events, fitted in the ideal detector, with their batch."""
    tracks = Simulation(NeutralKaons(), detector, seed=3).generate(300)
    batch = batch_of(tracks, detector)
    nominal = torch.zeros(len(detector), 6, dtype=torch.float64)
    return (
        TrackFitter(HelixChi2(detector), detector).fit_free(Places(detector, nominal), batch),
        batch,
        tracks,
    )


def peak_of(tracks: FreeTracks, batch, cuts=None):
    found = Decays(0.5, decays_of({"k0s": cuts or {}}))
    found.add(tracks, batch)
    return found


def true_pairs(kaons) -> torch.Tensor:
    """Rows of the pions of each kaon whose pions both were found."""
    tracks, batch, truth = kaons
    position = torch.from_numpy(truth.truth["position"])
    pairs = opposite_pairs(torch.from_numpy(truth.truth["q"]).double(), batch.event, tracks.usable)
    mine = (position[pairs[:, 0]] == position[pairs[:, 1]]).all(-1)
    return pairs[mine & ((position - batch.vertex)[pairs[:, 0], :2].norm(dim=-1) > 0.3)]


def test_pairs_meet_where_the_mother_decayed(kaons):
    tracks, batch, truth = kaons
    position, momentum = (torch.from_numpy(truth.truth[k]) for k in ("position", "momentum"))
    pairs = true_pairs(kaons)
    assert len(pairs) > 400
    found = meet(tracks, pairs, batch.vertex[pairs[:, 0]], 0.5)
    miss = (found.place - position[pairs[:, 0]]).norm(dim=-1)
    assert miss.median() < 150 * UM
    assert found.chi2.median() < 1.0  # one degree of freedom: 0.45
    torch.testing.assert_close(
        found.momentum.median(0).values, momentum[pairs].median(0).values, rtol=0, atol=0.02
    )
    exact = invariant_mass(momentum[pairs], (PION_MASS, PION_MASS))
    np.testing.assert_allclose(exact, K0S, rtol=1e-9)


def test_pairs_are_all_those_of_opposite_charge_in_one_event():
    rng = np.random.default_rng(1)
    event = torch.from_numpy(np.sort(rng.integers(0, 9, 60)))
    charge = torch.from_numpy(rng.choice([-1.0, 1.0], 60))
    usable = torch.from_numpy(rng.random(60) < 0.8)
    expected = {
        (i, j)
        for i in range(60)
        for j in range(60)
        if event[i] == event[j] and charge[i] > 0 > charge[j] and usable[i] and usable[j]
    }
    found = [tuple(pair) for pair in opposite_pairs(charge, event, usable).tolist()]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_mass_of_the_kaon_comes_back_with_little_else(kaons):
    found = peak_of(*kaons[:2]).metrics()["k0s"]
    assert found["all"]["yield"][0] > 300
    tracks, batch, _ = kaons
    pairs = true_pairs(kaons)
    mass = 1e3 * invariant_mass(
        meet(tracks, pairs, batch.vertex[pairs[:, 0]], 0.5).momentum, (PION_MASS,) * 2
    )
    low, middle, high = mass.quantile(torch.tensor([0.158655, 0.5, 0.841345], dtype=mass.dtype)).tolist()
    error = found["all"]["mean_error_mev"][0]
    assert 0.2 < error < 0.8
    assert found["all"]["mean_mev"][0] == pytest.approx(middle, abs=4 * error)
    assert found["all"]["width_mev"][0] == pytest.approx(0.5 * (high - low), rel=0.15)
    assert middle == pytest.approx(1e3 * K0S, abs=1.5)
    assert sum(found["phi"]["n"]) == sum(found["pt"]["n"]) == found["all"]["n"][0]
    assert len(found["pt"]["n"]) == len(EDGES["pt"]) - 1


def test_momenta_too_large_by_a_percent_raise_the_mass_as_they_must(kaons):
    tracks, batch, _ = kaons
    bent = replace(tracks, helix=tracks.helix._replace(omega=tracks.helix.omega / 1.01))
    one, other = (peak_of(t, batch).metrics()["k0s"]["all"]["mean_mev"][0] for t in (tracks, bent))
    q2 = K0S**2 - 4 * PION_MASS**2  # d ln m / d ln p = q²/m² of equal daughters, roughly
    assert other - one == pytest.approx(1e3 * K0S * 0.01 * q2 / K0S**2, rel=0.35)


def test_a_cut_on_the_flight_leaves_what_flew_further(kaons):
    tracks, batch, _ = kaons
    every, far = (peak_of(tracks, batch, cuts).counts["k0s"][0].sum() for cuts in ({}, {"min_flight": 1.1}))
    assert far == pytest.approx(0.5 * every, rel=0.2)


def test_the_order_of_tracks_makes_no_difference(kaons):
    tracks, batch, _ = kaons
    rows = torch.from_numpy(np.random.default_rng(5).permutation(batch.n_tracks))
    mixed = FreeTracks(
        Helix(*(f[rows] for f in tracks.helix)), tracks.covariance[rows], tracks.chi2[rows], tracks.ndf[rows],
        tracks.usable[rows],
    )  # fmt: skip
    one, other = peak_of(tracks, batch), peak_of(mixed, batch.take(rows))
    np.testing.assert_array_equal(one.counts["k0s"], other.counts["k0s"])


def test_masses_are_those_of_the_definition():
    momentum = torch.tensor([[[0.3, 0.0, 0.4], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    energy = (0.25 + PION_MASS**2) ** 0.5 + KAON_MASS
    exact = (energy**2 - 0.25) ** 0.5
    assert float(invariant_mass(momentum, (PION_MASS, KAON_MASS))) == pytest.approx(exact, rel=1e-12)
    assert DECAYS["d0"].assignments == [(PION_MASS, KAON_MASS), (KAON_MASS, PION_MASS)]
    assert len(DECAYS["k0s"].assignments) == 1


def test_decays_and_cuts_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match="'xi'; choose from"):
        decays_of({"xi": {}})
    with pytest.raises(ConfigError, match=r"evaluation\.decays\.k0s has \['min_fligth'\]"):
        decays_of({"k0s": {"min_fligth": 1.0}})


# the fit of a peak


def test_a_peak_on_a_slope_comes_back_within_its_errors():
    rng = np.random.default_rng(2)
    edges = np.linspace(-1, 1, 101)
    pulls = []
    for _ in range(100):
        rest = np.concatenate([rng.triangular(-1, 1, 1, 2000), rng.uniform(-1, 1, 2000)])
        values = np.concatenate([rng.normal(0.1, 0.12, 2000), rest])
        peak = fit_peak(np.histogram(values, edges)[0], edges, 0.0, 0.1)
        assert peak is not None
        pulls.append([(peak.mean - 0.1) / peak.mean_error, (peak.width - 0.12) / peak.width_error])
    assert np.mean(pulls, axis=0) == pytest.approx([0, 0], abs=0.35)
    assert np.std(pulls, axis=0) == pytest.approx([1, 1], abs=0.25)


def test_there_is_no_peak_in_background_or_in_nothing():
    rng = np.random.default_rng(3)
    edges = np.linspace(-1, 1, 101)
    assert fit_peak(np.zeros(100), edges, 0.0, 0.1) is None
    found = [fit_peak(rng.poisson(30, 100), edges, 0.0, 0.1) for _ in range(20)]
    assert sum(peak is not None for peak in found) <= 1
