"""Volumes above the sensors: their priors are the sensors' marginal prior; without priors nothing changes."""

from __future__ import annotations

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from small_problems import dense
from torch import Tensor

from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import levels
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, Level, level, level_matrix, prior_weight
from alignnet.solvers.linearised import linearise
from alignnet.solvers.pcg import BlockJacobi, Solution, conjugate_gradients

DETECTOR = barrel(radii=(2.5, 4.0, 7.0), staves=6, chips=2)
TRUE = random_local(len(DETECTOR), 10e-4, 1e-4)
PRIORS = {"half_barrel": (30e-4, 2e-4), "stave": (20e-4, 3e-4)}
OWN = (10e-4, 1e-4)


def problem_of(sensors: SensorLayer, n_events: int = 60, vertex: str = "absent") -> Problem:
    batch = batch_of(simulated(DETECTOR, GUN, n_events, TRUE), DETECTOR)
    return Problem(sensors, [linearise(HelixChi2(DETECTOR, vertex=vertex), sensors, batch)])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problem_of(SensorLayer.of(DETECTOR))


def levels_of(sensors: SensorLayer, priors: dict[str, tuple[float, float] | None]) -> list[Level]:
    return [level(DETECTOR, sensors, name, sigma) for name, sigma in priors.items()]


def everyone() -> Tensor:
    return torch.ones(len(DETECTOR), dtype=torch.bool)


def hierarchical(problem: Problem, priors=PRIORS, own=OWN, moves: Tensor | None = None) -> Hierarchical:
    some = levels_of(SensorLayer.of(DETECTOR), priors)
    return Hierarchical(problem, some, prior_weight(own), everyone() if moves is None else moves)


def basis_of(some: Level) -> Tensor:
    """Z as a matrix (sensors·dof, groups·motions)."""
    unit = torch.eye(some.n_groups * 6, dtype=torch.float64).view(-1, some.n_groups, 6)
    return torch.stack([some.prolong(vector).flatten() for vector in unit], -1)


def solved(system: Hierarchical, tolerance: float = 1e-11, iterations: int = 3000) -> tuple[Tensor, Solution]:
    force = -system.collect(system.problem.gradient())
    solution = conjugate_gradients(system, force, system.preconditioner(), tolerance, iterations)
    return system.expand(solution.x), solution


def test_priors_of_the_levels_are_the_marginal_prior_of_the_sensors(problem):
    found, solution = solved(hierarchical(problem))
    covariance = torch.diag(prior_weight(OWN).repeat(len(DETECTOR)).reciprocal())
    for some in levels_of(SensorLayer.of(DETECTOR), PRIORS):
        z = basis_of(some)
        covariance = covariance + z @ torch.diag(some.weight.repeat(some.n_groups).reciprocal()) @ z.T
    matrix = dense(problem) + torch.linalg.inv(covariance)
    expected = -torch.linalg.solve(matrix, problem.gradient().flatten()).view_as(found)
    assert solution.converged
    scale = expected.abs().amax(0)
    assert ((found - expected).abs() / scale).max() < 1e-6


def test_a_stiff_prior_of_the_sensors_leaves_rigid_staves():
    sensors = SensorLayer.of(DETECTOR)
    problem = problem_of(sensors)
    found, _ = solved(hierarchical(problem, {"stave": (1.0, 1.0)}, (1e-9, 1e-9)), 1e-9)
    z = basis_of(levels_of(sensors, {"stave": None})[0])
    matrix = z.T @ dense(problem) @ z + torch.eye(z.shape[1], dtype=torch.float64)
    expected = -(z @ torch.linalg.solve(matrix, z.T @ problem.gradient().flatten())).view_as(found)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_levels_without_priors_change_no_answer():
    problem = problem_of(SensorLayer.of(DETECTOR), vertex="given")
    alone, _ = solved(hierarchical(problem, {}, None))
    free = dict.fromkeys(("all", "half_barrel", "stave"))
    together, solution = solved(hierarchical(problem, free, None))
    assert solution.converged
    gradient = problem.gradient()
    for answer in (alone, together):
        assert float((problem(answer) + gradient).norm() / gradient.norm()) < 1e-6
    drop = float((gradient * alone).sum())
    assert float((gradient * together).sum()) == pytest.approx(drop, rel=1e-6)


def test_levels_find_the_answer_in_fewer_iterations(problem):
    free = dict.fromkeys(("half_barrel", "stave"))
    plain, coarse = (solved(hierarchical(problem, priors, None), 1e-6)[1] for priors in ({}, free))
    assert coarse.converged
    assert coarse.iterations < 0.7 * plain.iterations


@pytest.mark.parametrize("parametrisation", ["local", "global", "affine"])
def test_every_parametrisation_takes_the_cost_down_with_levels_and_without(parametrisation):
    for priors in ({}, dict.fromkeys(("half_barrel", "stave"), (0.01, 5e-4))):
        sensors = SensorLayer.of(DETECTOR, parametrisation)
        problem = problem_of(sensors)
        system = Hierarchical(problem, levels_of(sensors, priors), prior_weight(None), everyone())
        answer, _ = solved(system, 1e-6, 500)
        gradient = problem.gradient()
        drop = float(-(gradient * answer).sum() - 0.5 * (answer * problem(answer)).sum())
        assert drop > 0
        assert float((gradient * answer).sum()) < 0


def test_sensors_with_few_hits_follow_their_volumes(problem):
    moves = everyone()
    moves[5] = False
    free = dict.fromkeys(("stave",))
    found, _ = solved(hierarchical(problem, free, OWN, moves), 1e-8)
    z = basis_of(levels_of(SensorLayer.of(DETECTOR), free)[0])
    unknowns = torch.cat(
        [torch.eye(6 * len(DETECTOR), dtype=torch.float64)[:, moves.repeat_interleave(6)], z], 1
    )
    n_own = 6 * int(moves.sum())
    prior = torch.cat([prior_weight(OWN).repeat(n_own // 6), torch.zeros(z.shape[1], dtype=torch.float64)])
    matrix = unknowns.T @ dense(problem) @ unknowns + prior.diag()
    scale = matrix.diagonal().rsqrt()
    right = -(unknowns.T @ problem.gradient().flatten()) * scale
    answer = torch.linalg.lstsq(matrix * scale[:, None] * scale, right[:, None], driver="gelsd").solution[
        :, 0
    ]
    residual = problem(found) - problem((unknowns @ (answer * scale)).view_as(found))
    assert float(residual.norm() / problem.gradient().norm()) < 1e-5


@pytest.fixture(params=["dense", "blocks"])
def coarse(request, monkeypatch) -> str:
    """Both ways to invert a level's matrix: whole, or a block for each volume."""
    if request.param == "blocks":
        monkeypatch.setattr(levels, "_DENSE", 0)
    return request.param


def test_the_preconditioner_is_symmetric_and_positive(problem, coarse):
    system = hierarchical(problem)
    preconditioner = system.preconditioner()
    kinds = [isinstance(inverse, BlockJacobi) for inverse in preconditioner.levels]
    assert all(kinds) if coarse == "blocks" else not any(kinds)
    x, y = torch.randn(2, 20, len(system), dtype=torch.float64) * system.weight.sqrt()
    for a, b in zip(x, y, strict=True):
        one, other = float(a @ preconditioner(b)), float(b @ preconditioner(a))
        size = float((a @ preconditioner(a) * (b @ preconditioner(b))).sqrt())
        assert one == pytest.approx(other, abs=1e-9 * size)
        assert float(a @ preconditioner(a)) > 0


def test_both_ways_to_invert_a_level_lead_to_one_answer(problem, coarse):
    found, solution = solved(hierarchical(problem), 1e-10)
    assert solution.converged
    levels._DENSE = 400
    expected, _ = solved(hierarchical(problem), 1e-12)
    assert ((found - expected).abs() / expected.abs().amax(0)).max() < 1e-5


def test_the_operator_is_symmetric_and_collect_is_the_transpose_of_expand(problem):
    system = hierarchical(problem)
    x, y = torch.randn(2, len(system), dtype=torch.float64)
    assert float(x @ system(y)) == pytest.approx(float(y @ system(x)), rel=1e-9)
    force = torch.randn(len(DETECTOR), 6, dtype=torch.float64)
    assert float((system.expand(x) * force).sum()) == pytest.approx(
        float(x @ system.collect(force)), rel=1e-9
    )


@pytest.mark.parametrize("name", ["stave", "half_barrel", "all"])
def test_a_levels_matrix_is_that_of_its_motions(problem, name):
    some = level(DETECTOR, SensorLayer.of(DETECTOR), name, (20e-4, 3e-4))
    z = basis_of(some)
    expected = z.T @ dense(problem) @ z + torch.diag(some.weight.repeat(some.n_groups))
    assert torch.allclose(
        level_matrix(problem, some), expected, rtol=1e-9, atol=1e-10 * float(expected.max())
    )


def test_a_prior_is_a_width_of_translations_and_one_of_rotations():
    assert prior_weight((0.1, 0.01)).tolist() == pytest.approx([100.0] * 3 + [1e4] * 3)
    assert prior_weight(None).tolist() == [0.0] * 6


def test_noise_holds_the_data_and_the_priors(problem):
    empty = Problem(SensorLayer.of(DETECTOR), [])
    system = hierarchical(empty)
    draws = torch.stack([system.noise(seed) for seed in range(50)]) / system.weight.sqrt()
    assert abs(float(draws.square().mean()) - 1) < 4 * (2 / draws.numel()) ** 0.5
    filled = hierarchical(problem)
    data = filled.noise(3) - system.noise(3)
    assert torch.allclose(data, filled.collect(problem.noise(3)), rtol=1e-9, atol=1e-6)


def test_fixed_sensors_do_not_follow_their_volumes():
    sensors = SensorLayer.of(DETECTOR)
    sensors.free[4] = False
    some = level(DETECTOR, sensors, "stave", None)
    moved = some.prolong(torch.ones(some.n_groups, 6, dtype=torch.float64))
    assert float(moved[4].abs().max()) == 0
    assert float(moved[5].abs().max()) > 0
