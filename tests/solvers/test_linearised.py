"""The linearised problem: g and H are derivatives of the cost, and H has the null space that physics says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import (
    BEAM,
    COSMICS,
    GUN,
    QUIET,
    barrel,
    batch_of,
    exact,
    planes,
    random_local,
    simulated,
)
from torch import Tensor

from alignnet.data.tracks import Tracks
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.robust import TrackWeights
from alignnet.sensors.hierarchy import volume_motions
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import Block, linearise, linearise_at, merged

BARREL, LINES, TELESCOPE = barrel(), barrel(b_z=0.0), planes()
VERTEX = ("absent", "given", "fitted")


def loss_of(detector: Detector, vertex: str = "absent", noise: str = "full", **options: object) -> HelixChi2:
    return HelixChi2(detector, NoiseModel(detector, noise), vertex, **{"iterations": 10, **options})


def noisy(detector: Detector = BARREL, source=GUN, n_events: int = 15) -> Tracks:
    """Tracks in a detector whose sensors are some 5 µm off."""
    return simulated(detector, source, n_events, random_local(len(detector), 5e-4, 5e-5))


def dense(problem: Problem) -> Tensor:
    """H as a matrix (sensors·dof, sensors·dof)."""
    unit = torch.eye(problem.free.numel(), dtype=torch.float64).view(-1, *problem.free.shape)
    return torch.stack([problem(vector).flatten() for vector in unit])


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
    loss = loss_of(BARREL, vertex, noise, weights=TrackWeights("cauchy"), iterations=20)
    chi2 = loss(sensors, batch)
    expected = torch.autograd.grad(0.5 * chi2.per_event()[0].sum(), sensors.theta)[0]
    found = Problem(sensors, [linearise(loss, sensors, batch)]).gradient()
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


class Refitted:
    """The gradient of ½χ² near the places of exact tracks, with tracks refitted with the same weights."""

    def __init__(self, detector: Detector, source, vertex: str, parametrisation: str) -> None:
        self.batch = batch_of(exact(detector, source, 12), detector)
        self.sensors, self.loss = SensorLayer.of(detector, parametrisation), loss_of(detector, vertex)
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


def from_rows(block: Block, sensors: SensorLayer, n_events: int) -> tuple[Tensor, Tensor]:
    """H and g, summed track by track from the block's own rows with dense matrices."""
    jacobian = sensors.parametrisation.jacobian(sensors.theta, sensors.frame)
    n, dof = len(sensors), jacobian.shape[-1]
    h, g = torch.zeros(n * dof, n * dof, dtype=torch.float64), torch.zeros(n * dof, dtype=torch.float64)
    pulls = torch.zeros(n_events, n * dof, 3, dtype=torch.float64)
    rows = block.derivative(jacobian).flatten(1, 2)
    for t in range(len(rows)):
        wide = torch.zeros(rows.shape[1], n, dof, dtype=torch.float64)
        for i in range(rows.shape[1]):
            wide[i, block.sensor[t, i // 2]] += rows[t, i]
        a = wide.flatten(1)
        h, g = h + a.T @ block.metric[t] @ a, g + a.T @ block.force[t]
        if len(block.origin_inverse):
            pulls[block.event[t]] += a.T @ block.towards_origin[t]
    for event in range(len(block.origin_inverse)):
        h = h - pulls[event] @ block.origin_inverse[event] @ pulls[event].T
    return h, g


@pytest.mark.parametrize("vertex", VERTEX)
def test_products_and_blocks_are_those_of_the_matrix_summed_track_by_track(vertex):
    batch, sensors = batch_of(noisy(), BARREL), SensorLayer.of(BARREL)
    block = linearise(loss_of(BARREL, vertex), sensors, batch)
    problem = Problem(sensors, [block])
    expected, gradient = from_rows(block, sensors, batch.n_events)
    scale = float(expected.abs().max())
    found = dense(problem)
    assert (found - expected).abs().max() < 1e-12 * scale
    assert (found - found.T).abs().max() < 1e-12 * scale
    assert torch.allclose(
        problem.gradient().flatten(), gradient, rtol=1e-9, atol=1e-9 * float(gradient.abs().max())
    )
    blocks = expected.view(24, 6, 24, 6).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    assert (problem.diagonal_blocks() - blocks).abs().max() < 1e-12 * scale
    assert torch.linalg.eigvalsh(found).min() > -1e-12 * scale


@pytest.mark.parametrize("vertex", VERTEX)
def test_batches_add_up_to_the_whole(vertex):
    tracks, sensors = noisy(n_events=20), SensorLayer.of(BARREL)
    loss = loss_of(BARREL, vertex)
    parts = [tracks.select((tracks.event // 3) % 3 == k) for k in range(3)]
    apart = Problem(sensors, [linearise(loss, sensors, batch_of(part, BARREL)) for part in parts])
    whole = Problem(sensors, [linearise(loss, sensors, batch_of(tracks, BARREL))])
    vector = random_local(len(BARREL), 1e-3, 1e-4)
    assert torch.allclose(
        apart(vector), whole(vector), rtol=1e-8, atol=1e-8 * float(whole(vector).abs().max())
    )
    assert torch.allclose(apart.gradient(), whole.gradient(), rtol=1e-7, atol=1e-6)
    assert torch.allclose(apart.diagonal_blocks(), whole.diagonal_blocks(), rtol=1e-8, atol=1e-2)
    assert torch.equal(apart.hits(), whole.hits())
    counted = torch.bincount(torch.from_numpy(tracks.sensor), minlength=len(BARREL)).double()
    assert torch.equal(whole.hits(), counted)


def test_blocks_by_length_hold_each_track_once_without_its_padding():
    block = linearise(loss_of(BARREL), SensorLayer.of(BARREL), batch_of(noisy(), BARREL))
    parts = block.by_length()
    assert sum(len(part.sensor) for part in parts) == len(block.sensor)
    assert all(bool(part.is_hit.all()) for part in parts)
    assert sorted(part.n_hits for part in parts) == sorted(set(block.is_hit.sum(-1).tolist()))
    total = sum(float(part.metric.sum()) for part in merged([block]))
    assert total == pytest.approx(float(block.metric.sum()), rel=1e-12)


def null_space(problem: Problem) -> tuple[int, float]:
    """How many eigenvalues of H, its diagonal scaled to 1, vanish, and the next one over the largest."""
    h = dense(problem)
    scale = h.diagonal().rsqrt()
    values = torch.linalg.eigvalsh(h * scale[:, None] * scale)
    n = int((values < 1e-13 * values.max()).sum())
    return n, float(values[n] / values.max())


def observed(detector: Detector, *sources: object, local: Tensor | None = None) -> Problem:
    sensors, loss = SensorLayer.of(detector), loss_of(detector)
    batches = [batch_of(simulated(detector, source, 200, local), detector) for source in sources]
    return Problem(sensors, [linearise(loss, sensors, batch) for batch in batches])


OFF = random_local(24, 5e-4, 5e-5)


@pytest.mark.parametrize(
    ("detector", "sources", "expected"),
    [
        (BARREL, (GUN,), 4),
        (BARREL, (GUN, COSMICS), 4),
        (LINES, (GUN,), 6),
        (LINES, (GUN, COSMICS), 6),
        (TELESCOPE, (BEAM,), 9),
    ],
    ids=["helices", "helices and cosmics", "lines", "lines and cosmics", "lines through parallel planes"],
)
def test_h_has_exactly_the_null_space_of_its_tracks(detector, sources, expected):
    n, gap = null_space(observed(detector, *sources, local=OFF[: len(detector)]))
    assert n == expected
    assert gap > 1e-9


def energy(problem: Problem, motion: Tensor) -> float:
    """motionᵀ H motion over what the motions of single sensors would cost."""
    alone = torch.einsum("si,sij,sj->", motion, problem.diagonal_blocks(), motion)
    return float((motion * problem(motion)).sum() / alone)


@pytest.mark.parametrize("detector", [BARREL, LINES, TELESCOPE], ids=["field", "no field", "telescope"])
def test_motions_of_the_whole_detector_cost_nothing_but_a_tilt_in_the_field(detector):
    problem = observed(detector, BEAM if detector is TELESCOPE else GUN, local=OFF[: len(detector)])
    motions, _ = volume_motions(detector, "all")
    cost = [energy(problem, motions[..., k]) for k in range(6)]
    tilts = [3, 4]
    assert max(abs(cost[k]) for k in range(6) if k not in tilts) < 1e-13
    for k in tilts:
        assert cost[k] > 1e-9 if detector is BARREL else abs(cost[k]) < 1e-13


def test_parallel_planes_may_be_sheared_and_stretched_along_the_beam():
    problem = observed(TELESCOPE, BEAM, local=OFF[:6])
    z = TELESCOPE.translation[:, 2]
    for k in range(3):
        shear = torch.zeros(6, 6, dtype=torch.float64)
        shear[:, k] = z  # du, dv, dw in proportion to z
        assert abs(energy(problem, shear)) < 1e-13
        shear[:, k] = z.square()
        assert energy(problem, shear) > 1e-5


def test_vertices_on_the_beam_line_leave_only_the_turn_about_it():
    tracks, sensors = exact(BARREL, replace(GUN, vertex_sigma=(0.0, 0.0, 1.0)), 60), SensorLayer.of(BARREL)
    for vertex in ("given", "fitted"):
        problem = Problem(sensors, [linearise(loss_of(BARREL, vertex), sensors, batch_of(tracks, BARREL))])
        n, gap = null_space(problem)
        assert n == 1
        assert gap > 1e-9


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
        problem = Problem(sensors, [linearise(loss_of(BARREL), sensors, batch_of(tracks, BARREL))])
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


def free_of(detector: Detector, rows: list[int], parametrisation: str = "local") -> SensorLayer:
    sensors = SensorLayer.of(detector, parametrisation)
    sensors.free[:] = False
    sensors.free[rows] = True
    return sensors


def whitened(draws: Tensor, problem: Problem) -> Tensor:
    """Draws (n, sensors, dof) times H^−½ over the free degrees of freedom (n, free)."""
    free = problem.free.flatten() > 0
    factor = torch.linalg.cholesky(dense(problem)[free][:, free])
    return torch.linalg.solve_triangular(factor, draws.flatten(1)[:, free].T, upper=False).T


def is_standard_normal(draws: Tensor) -> bool:
    n, m = draws.shape
    covariance = draws.T @ draws / n
    off = covariance - covariance.diagonal().diag()
    variance = float(draws.square().mean())
    return abs(variance - 1) < 4 * (2 / (n * m)) ** 0.5 and float(off.abs().max()) < 5 / n**0.5


@pytest.mark.parametrize(
    ("detector", "source", "vertex", "rows"),
    [
        (TELESCOPE, BEAM, "absent", [1, 2, 4]),
        (BARREL, GUN, "fitted", [2, 8, 14]),
        (BARREL, GUN, "given", [2, 8, 14]),
    ],
    ids=["absent", "fitted", "given"],
)
def test_noise_has_the_covariance_h(detector, source, vertex, rows):
    sensors, loss = free_of(detector, rows), loss_of(detector, vertex, weights=TrackWeights("huber", 0.8))
    batch = batch_of(noisy(detector, source, 25), detector)
    with torch.no_grad():
        where = sensors.planes(batch.uv, batch.sensor)
        fit = loss.fit(where, batch)
    draws = []
    for seed in range(0, 120, 2):
        problem = Problem(sensors, [linearise_at(loss, sensors, where, fit, batch, seed=seed)])
        draws.append(problem.noise())
    assert is_standard_normal(whitened(torch.stack(draws), problem))


@pytest.mark.parametrize("vertex", ["absent", "fitted"])
def test_draws_of_one_linearisation_with_other_seeds_are_other_draws(vertex):
    sensors, loss = free_of(BARREL, [2, 8, 14]), loss_of(BARREL, vertex)
    tracks = noisy(n_events=400)
    parts = [tracks.select(tracks.event % 2 == k) for k in range(2)]
    problem = Problem(sensors, [linearise(loss, sensors, batch_of(part, BARREL)) for part in parts])
    draws = whitened(torch.stack([problem.noise(seed) for seed in range(300)]), problem)
    assert abs(float(draws.square().mean()) - 1) < 0.25  # of some 100 tracks a sensor
    assert (draws[1:] * draws[:-1]).mean(-1).abs().mean() < 2 / 18**0.5
    assert draws.mean(0).abs().max() < 4 * float(draws.std()) / 300**0.5
    assert torch.equal(problem.noise(7), problem.noise(7))


def test_fixed_degrees_of_freedom_have_no_part_in_the_problem():
    sensors = SensorLayer.of(BARREL)
    sensors.free[3], sensors.free[:, 2] = False, False
    problem = Problem(sensors, [linearise(loss_of(BARREL), sensors, batch_of(noisy(), BARREL))])
    free = sensors.free.flatten()
    whole = Problem(SensorLayer.of(BARREL), problem.blocks)
    h, all_of_it = dense(problem), dense(whole)
    assert float(h[~free].abs().max()) == 0
    assert torch.allclose(
        h[free][:, free], all_of_it[free][:, free], rtol=1e-9, atol=1e-9 * float(h.abs().max())
    )
    assert float(problem.gradient()[~sensors.free].abs().max()) == 0
    assert torch.equal(
        problem.diagonal_blocks().diagonal(dim1=1, dim2=2)[~sensors.free].unique(), torch.ones(1).double()
    )


def test_numbers_stored_in_single_precision_give_nearly_the_same_problem():
    sensors, batch, loss = SensorLayer.of(BARREL), batch_of(noisy(), BARREL), loss_of(BARREL)
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
    loss, vector = loss_of(BARREL, vertex), random_local(24, 1e-3, 1e-4)
    with_them, without = (
        Problem(sensors, [linearise(loss, sensors, batch_of(some, BARREL))])
        for some in (spoilt, tracks.select(good))
    )
    scale = float(without(vector).abs().max())
    assert torch.allclose(with_them(vector), without(vector), rtol=1e-7, atol=1e-7 * scale)
    assert torch.allclose(with_them.gradient(), without.gradient(), rtol=1e-6, atol=1e-5)
    assert with_them.noise().isfinite().all()


def test_without_tracks_there_is_nothing_to_solve():
    problem = Problem(SensorLayer.of(BARREL), [])
    assert float(problem(torch.ones(24, 6, dtype=torch.float64)).abs().max()) == 0
    assert float(problem.gradient().abs().max() + problem.noise().abs().max() + problem.hits().sum()) == 0
    empty = batch_of(noisy().select(np.array([], dtype=np.int64)), BARREL)
    sensors = SensorLayer.of(BARREL)
    for vertex in VERTEX:
        block = linearise(loss_of(BARREL, vertex), sensors, empty)
        assert float(Problem(sensors, [block]).gradient().abs().max()) == 0
