"""The linearised problem: g and H are derivatives of the cost, and take a sensor to where it really is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import BEAM, GUN, QUIET, batch_of, exact, random_local, simulated
from small_problems import BARREL, LINES, TELESCOPE, VERTEX, converged_loss, dense, noisy
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.robust import TrackWeights
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise, linearise_at, merged


def sensors_at(
    detector: Detector, parametrisation: str = "local", local: Tensor | None = None
) -> SensorLayer:
    sensors = SensorLayer.of(detector, parametrisation)
    if local is not None:
        sensors.set_local(local)
    return sensors


def everything_turned(angle: float) -> Tensor:
    """Local sixes of a barrel that turned about the beam line: far from nominal, as good for tracks."""
    matrix = rigid.exp(torch.tensor([0.0, 0.0, angle], dtype=torch.float64))
    place = BARREL.translation @ matrix.T
    return rigid.local_of(BARREL.rotation, BARREL.translation, matrix @ BARREL.rotation, place)


@pytest.mark.parametrize("parametrisation", ["local", "global"])
@pytest.mark.parametrize("vertex", VERTEX)
@pytest.mark.parametrize("noise", ["none", "diagonal", "full"])
def test_the_gradient_is_that_of_half_the_chi2(noise, vertex, parametrisation):
    batch = batch_of(noisy(), BARREL)
    sensors = sensors_at(BARREL, parametrisation, everything_turned(0.05))
    loss = converged_loss(BARREL, noise, vertex, weights=TrackWeights("cauchy"), iterations=20)
    chi2 = loss(sensors, batch)
    expected = torch.autograd.grad(0.5 * chi2.per_event()[0].sum(), sensors.theta)[0]
    found = Problem(sensors, [linearise(loss, sensors, batch)]).gradient()
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


class Refitted:
    """The gradient of ½χ² near the places of exact tracks, with tracks refitted with the same weights."""

    def __init__(self, detector: Detector, source, vertex: str, parametrisation: str) -> None:
        self.batch = batch_of(exact(detector, source, 12), detector)
        self.sensors = SensorLayer.of(detector, parametrisation)
        self.loss = converged_loss(detector, vertex=vertex)
        self.fit = self.loss.fit(self.planes().detach(), self.batch)

    def planes(self) -> Plane:
        return self.sensors.planes(self.batch.uv, self.batch.sensor)

    def problem(self) -> Problem:
        with torch.no_grad():
            block = linearise_at(self.loss, self.sensors, self.planes(), self.fit, self.batch)
        return Problem(self.sensors, [block])

    def gradient(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            self.sensors.theta.copy_(theta)
            fit = self.loss.refit(self.planes(), self.fit, self.batch, 6)
        total = 0.5 * self.loss.at(self.planes(), fit, self.batch).per_event()[0].sum()
        return torch.autograd.grad(total, self.sensors.theta)[0]


@pytest.mark.parametrize("parametrisation", ["local", "global", "affine"])
@pytest.mark.parametrize(
    ("detector", "source", "vertex"),
    [(BARREL, GUN, vertex) for vertex in VERTEX] + [(LINES, GUN, "fitted"), (TELESCOPE, BEAM, "absent")],
    ids=["absent", "given", "fitted", "straight", "telescope"],
)
def test_h_is_the_derivative_of_the_gradient_where_residuals_vanish(
    detector, source, vertex, parametrisation
):
    case = Refitted(detector, source, vertex, parametrisation)
    problem = case.problem()
    way = case.sensors.parametrisation.theta(random_local(len(detector), 1e-5, 1e-6), case.sensors.frame)
    found = problem(way)
    g = [case.gradient(k * way) for k in (-2, -1, 1, 2)]
    expected = (g[0] - 8 * g[1] + 8 * g[2] - g[3]) / 12
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert float(problem.gradient().norm()) < 1e-5 * float(expected.norm())


def test_blocks_by_length_hold_each_track_once_without_its_padding():
    block = linearise(converged_loss(BARREL), SensorLayer.of(BARREL), batch_of(noisy(), BARREL))
    parts = block.by_length()
    assert sum(len(part.sensor) for part in parts) == len(block.sensor)
    assert all(bool(part.is_hit.all()) for part in parts)
    assert sorted(part.n_hits for part in parts) == sorted(set(block.is_hit.sum(-1).tolist()))
    total = sum(float(part.metric.sum()) for part in merged([block]))
    assert total == pytest.approx(float(block.metric.sum()), rel=1e-12)


DOF = ("du", "dv", "dw", "rot_u", "rot_v", "rot_w")


@pytest.mark.parametrize("parametrisation", ["local", "global"])
@pytest.mark.parametrize("dof", range(6), ids=DOF)
def test_a_sensor_that_moved_by_a_known_amount_is_found_there(dof, parametrisation):
    moved, true = 8, torch.zeros(24, 6, dtype=torch.float64)
    true[moved, dof] = 2e-4
    tracks = simulated(BARREL, GUN, 60, true, **QUIET)
    sensors = SensorLayer.of(BARREL, parametrisation)
    sensors.free[:] = False
    sensors.free[moved] = True
    for _ in range(2):
        problem = Problem(sensors, [linearise(converged_loss(BARREL), sensors, batch_of(tracks, BARREL))])
        answer = -torch.linalg.solve(problem.diagonal_blocks()[moved], problem.gradient()[moved])
        assert float(answer @ problem.gradient()[moved]) <= 0
        with torch.no_grad():
            sensors.theta[moved] += answer
    found = sensors.local()[moved]
    assert float(found[dof]) == pytest.approx(2e-4, rel=1e-3)
    assert (found - true[moved]).abs().max() < 1e-7


def test_one_step_to_the_whole_detector_takes_the_cost_to_one():
    true = random_local(24, 20e-4, 2e-4)
    batch, sensors = (
        batch_of(simulated(BARREL, GUN, 300, true, energy_loss=False), BARREL),
        SensorLayer.of(BARREL),
    )
    loss = HelixChi2(BARREL, NoiseModel(BARREL, energy_loss=False), "absent")
    problem = Problem(sensors, [linearise(loss, sensors, batch)])
    before = loss(sensors, batch)
    step = -torch.linalg.lstsq(dense(problem), problem.gradient().flatten()[:, None], driver="gelsd").solution
    with torch.no_grad():
        sensors.theta += step.view(24, 6)
    after = loss(sensors, batch)
    first, second = (float(c.track.detach().sum() / c.ndf.sum()) for c in (before, after))
    assert first > 5
    assert second < 1.1


def test_numbers_stored_in_single_precision_give_nearly_the_same_problem():
    sensors, batch, loss = SensorLayer.of(BARREL), batch_of(noisy(), BARREL), converged_loss(BARREL)
    one, other = (
        Problem(sensors, [linearise(loss, sensors, batch, dtype)]) for dtype in (torch.float64, torch.float32)
    )
    vector = random_local(24, 1e-3, 1e-4)
    assert float((one(vector) - other(vector)).norm() / one(vector).norm()) < 1e-5
    assert float((one.gradient() - other.gradient()).norm() / one.gradient().norm()) < 1e-4
    assert one(vector).dtype == other(vector).dtype == torch.float64


@pytest.mark.parametrize("vertex", VERTEX)
def test_tracks_without_weight_leave_the_problem_alone(vertex):
    tracks, sensors = noisy(n_events=20), SensorLayer.of(BARREL)
    spoilt = replace(tracks, sensor=tracks.sensor.copy(), uv=tracks.uv.copy())
    rows = np.arange(0, len(tracks), 4)
    for t in rows:  # the same hit again and again
        hits = slice(tracks.offset[t], tracks.offset[t + 1])
        spoilt.sensor[hits], spoilt.uv[hits] = tracks.sensor[hits][0], tracks.uv[hits][0]
    good = np.setdiff1d(np.arange(len(tracks)), rows)
    loss, vector = converged_loss(BARREL, vertex=vertex), random_local(24, 1e-3, 1e-4)
    with_them, without = (
        Problem(sensors, [linearise(loss, sensors, batch_of(some, BARREL))])
        for some in (spoilt, tracks.select(good))
    )
    scale = float(without(vector).abs().max())
    assert torch.allclose(with_them(vector), without(vector), rtol=1e-7, atol=1e-7 * scale)
    assert torch.allclose(with_them.gradient(), without.gradient(), rtol=1e-6, atol=1e-5)
    assert with_them.noise().isfinite().all()
