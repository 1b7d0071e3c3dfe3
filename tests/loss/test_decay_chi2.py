"""Decays of known mass: gradient and matrix against finite differences, invariances, what the mass adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import QUIET, barrel, batch_of, random_local, simulated

from alignnet.data.decay_source import TwoBodyDecays
from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.weak_modes import WEAK_MODE_NAMES, weak_mode_basis
from alignnet.loss.decay_chi2 import DecayChi2, pairs_of
from alignnet.loss.noise import NoiseModel
from alignnet.physics.helix import from_momentum
from alignnet.physics.two_body import invariant_mass, meeting_point
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.assembled import AssembledProblem
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise

DETECTOR = barrel()
K0S = 0.497611
DECAYS = TwoBodyDecays(lifetime=0.3, pt_min=0.7, pt_max=3.0, eta_max=0.6, vertex_sigma=(0.02, 0.02, 1.0))


def loss_of(detector=DETECTOR, kind="none", width=1e-3, **options):
    return DecayChi2(detector, K0S, width, normalisation="total", noise=NoiseModel(detector, kind), **options)


@pytest.fixture(scope="module")
def exact():
    return batch_of(simulated(DETECTOR, DECAYS, 40, seed=3, **QUIET), DETECTOR)


def test_pairs_part_where_and_with_the_mass_that_they_were_made_with():
    detector = barrel(b_z=-0.7)
    tracks = simulated(
        detector, replace(DECAYS, mass=1.86484, daughters=(0.1396, 0.4937), lifetime=0.5), 60, seed=1, **QUIET
    )
    pairs = pairs_of(batch_of(tracks, detector))
    place, momentum = (torch.from_numpy(tracks.truth[key]) for key in ("position", "momentum"))
    helix = from_momentum(
        place[pairs], momentum[pairs], torch.from_numpy(tracks.truth["q"]).double()[pairs], -0.7
    )
    found = meeting_point(helix)
    assert (found - place[pairs[:, 0]]).abs().max() < 1e-6
    masses = torch.from_numpy(tracks.mass)[pairs]
    assert (invariant_mass(helix, masses, found, -0.7) - 1.86484).abs().max() < 1e-9


def test_exact_decays_fit_exactly(exact):
    chi2 = loss_of()(SensorLayer.of(DETECTOR), exact)
    assert chi2.fit.ok.all()
    assert float(chi2.sums("total")[0].detach()) < 1e-8
    n = len(pairs_of(exact))
    hits = int(exact.is_hit[pairs_of(exact)].sum())
    assert float(chi2.sums("total")[1]) == 2 * hits - 8 * n  # nine parameters, and the mass


def test_the_gradient_is_that_of_the_refitted_cost():
    """Along three directions, against central differences; noise of known width, so that weights stay."""
    batch = batch_of(simulated(DETECTOR, DECAYS, 25, random_local(24, 20e-4, 2e-4), seed=5), DETECTOR)
    loss, sensors = loss_of(width=2e-3), SensorLayer.of(DETECTOR)
    loss.cost(loss(sensors, batch)).backward()
    for seed in range(3):
        direction = random_local(24, 1e-5, 1e-6, seed=seed)
        costs = []
        for sign in (1, -1):
            moved = SensorLayer.of(DETECTOR)
            moved.set_local(sign * direction)
            costs.append(float(loss.cost(loss(moved, batch)).detach()))
        found = float((sensors.theta.grad * direction).sum())
        assert (costs[0] - costs[1]) / 2 == pytest.approx(found, rel=1e-4)


def test_the_matrix_is_the_change_of_the_gradient(exact):
    """With exact tracks Gauss–Newton is the second derivative, mass rows and points included."""
    loss, sensors = loss_of(), SensorLayer.of(DETECTOR)
    problem = Problem(sensors, [linearise(loss, sensors, exact)])
    direction = random_local(24, 1e-6, 1e-7, seed=4)
    slopes = []
    for sign in (1, -1):
        moved = SensorLayer.of(DETECTOR)
        moved.set_local(sign * direction)
        found = Problem(moved, [linearise(loss, moved, exact)]).gradient()
        loss.cost(loss(moved, exact)).backward()
        ndf = float(loss(moved, exact).sums("total")[1])
        assert (0.5 * ndf * moved.theta.grad - found).abs().max() < 1e-6 * found.abs().max()
        slopes.append(found)
    expected = (slopes[0] - slopes[1]) / 2
    assert (problem(direction) - expected).abs().max() < 1e-3 * expected.abs().max()


def test_turned_about_the_beam_nothing_changes(exact):
    turn = rigid.exp(torch.tensor([0.0, 0.0, 1.1], dtype=torch.float64))
    turned = DETECTOR.placed(turn @ DETECTOR.rotation, DETECTOR.translation @ turn.T)
    sensors = [SensorLayer.of(one) for one in (DETECTOR, turned)]
    place = random_local(24, 20e-4, 2e-4)
    totals = []
    for one, layer in zip((DETECTOR, turned), sensors, strict=True):
        layer.set_local(place)
        totals.append(float(loss_of(one, "full")(layer, exact).sums("total")[0].detach()))
    assert totals[0] > 1
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)


def test_a_known_mass_shows_a_radial_expansion(exact):
    """What the mass adds to H is positive, and of a mode that scales momenta it is most of what is known."""
    sensors = SensorLayer.of(DETECTOR)
    free, known = (
        Problem(sensors, [linearise(loss_of(width=width), sensors, exact)]) for width in (1e3, 1e-6)
    )
    size = {}
    for name in ("radial", "curl"):
        mode = weak_mode_basis(DETECTOR)[WEAK_MODE_NAMES.index(name)]
        size[name] = [float((mode * problem(mode)).sum()) for problem in (free, known)]
        assert size[name][1] > size[name][0]
    random = random_local(24, 1.0, 1.0, seed=2)
    assert float((random * (known(random) - free(random))).sum()) > 0


def test_assembled_pairs_are_those_that_are_stored(exact):
    sensors = SensorLayer.of(DETECTOR)
    block = linearise(loss_of(kind="full"), sensors, exact)
    stored, assembled = Problem(sensors, [block]), AssembledProblem(sensors)
    assembled.add(block.take(torch.arange(10), block.n_hits))
    stored = Problem(sensors, [block.take(torch.arange(10), block.n_hits)])
    vector = random_local(24, 1.0, 1.0)
    assert (assembled(vector) - stored(vector)).abs().max() < 1e-9 * stored(vector).abs().max()


def test_pulls_of_the_mass_have_the_width_of_the_tracks_errors():
    """Of simulated decays with all noise, fitted without the mass."""
    detector = barrel(radii=(2.5, 4.0, 7.0, 11.0, 15.0))
    tracks = simulated(detector, DECAYS, 400, seed=6, energy_loss=False)
    loss = DecayChi2(
        detector, K0S, 1e-5, noise=NoiseModel(detector, energy_loss=False), normalisation="total"
    )
    chi2 = loss(SensorLayer.of(detector), batch_of(tracks, detector))
    total, ndf = (float(part.detach()) for part in chi2.sums("total"))
    assert total / ndf == pytest.approx(1, abs=5 * np.sqrt(2 / ndf))


def test_events_that_are_not_two_tracks_do_not_count(exact):
    fewer = exact.take(torch.arange(1, exact.n_tracks))  # the first decay has lost a track
    chi2 = loss_of()(SensorLayer.of(DETECTOR), fewer)
    assert chi2.batch.n_tracks == int((chi2.weight > 0).sum()) == 2 * len(pairs_of(exact)) - 2
    assert not (chi2.batch.event == exact.event[0]).any()


def test_without_a_field_or_a_mass_there_is_no_constraint():
    with pytest.raises(ConfigError, match="its b_z is 0"):
        DecayChi2(barrel(b_z=0.0), K0S, 1e-3)
    with pytest.raises(ConfigError, match="both > 0"):
        DecayChi2(DETECTOR, K0S, 0.0)
    with pytest.raises(ConfigError, match="more than that of the daughters"):
        TwoBodyDecays(mass=0.2)
