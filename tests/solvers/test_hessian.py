"""H of the whole alignment: its products, its null space as physics says, and noise drawn from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import BEAM, COSMICS, GUN, batch_of, exact, random_local, simulated
from small_problems import BARREL, LINES, TELESCOPE, VERTEX, converged_loss, dense, noisy
from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.loss.robust import TrackWeights
from alignnet.sensors.hierarchy import volume_motions
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import Block, linearise, linearise_at


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
    block = linearise(converged_loss(BARREL, vertex=vertex), sensors, batch)
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
    loss = converged_loss(BARREL, vertex=vertex)
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


def null_space(problem: Problem) -> tuple[int, float]:
    """How many eigenvalues of H, its diagonal scaled to 1, vanish, and the next one over the largest."""
    h = dense(problem)
    scale = h.diagonal().rsqrt()
    values = torch.linalg.eigvalsh(h * scale[:, None] * scale)
    n = int((values < 1e-13 * values.max()).sum())
    return n, float(values[n] / values.max())


def observed(detector: Detector, *sources: object, local: Tensor | None = None) -> Problem:
    sensors, loss = SensorLayer.of(detector), converged_loss(detector)
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
        loss = converged_loss(BARREL, vertex=vertex)
        problem = Problem(sensors, [linearise(loss, sensors, batch_of(tracks, BARREL))])
        n, gap = null_space(problem)
        assert n == 1
        assert gap > 1e-9


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
    sensors = free_of(detector, rows)
    loss = converged_loss(detector, vertex=vertex, weights=TrackWeights("huber", 0.8))
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
    sensors, loss = free_of(BARREL, [2, 8, 14]), converged_loss(BARREL, vertex=vertex)
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
    problem = Problem(sensors, [linearise(converged_loss(BARREL), sensors, batch_of(noisy(), BARREL))])
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


def test_without_tracks_there_is_nothing_to_solve():
    problem = Problem(SensorLayer.of(BARREL), [])
    assert float(problem(torch.ones(24, 6, dtype=torch.float64)).abs().max()) == 0
    assert float(problem.gradient().abs().max() + problem.noise().abs().max() + problem.hits().sum()) == 0
    empty = batch_of(noisy().select(np.array([], dtype=np.int64)), BARREL)
    sensors = SensorLayer.of(BARREL)
    for vertex in VERTEX:
        block = linearise(converged_loss(BARREL, vertex=vertex), sensors, empty)
        assert float(Problem(sensors, [block]).gradient().abs().max()) == 0
