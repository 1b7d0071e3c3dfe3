"""The factored matrix of sensors and volumes is the inverse of what conjugate gradients multiply with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from torch import Tensor

from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import elimination_tree
from alignnet.solvers.assembled import AssembledProblem
from alignnet.solvers.direct_preconditioner import direct_preconditioner, of_all_ranks
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, level, prior_weight
from alignnet.solvers.linearised import linearise
from alignnet.solvers.pcg import conjugate_gradients

DETECTOR = barrel(radii=(2.5, 4.0, 7.0), staves=6, chips=2)
PRIORS = {"half_barrel": (30e-4, 2e-4), "stave": (20e-4, 3e-4)}
SOME = torch.arange(len(DETECTOR)) % 4 != 1
CASES = {
    "levels": (PRIORS, (10e-4, 1e-4), None, False),
    "levels without a prior": ({"half_barrel": None, "stave": (20e-4, 3e-4)}, (10e-4, 1e-4), None, False),
    "followers": (PRIORS, (10e-4, 1e-4), SOME, False),
    "fixed": (PRIORS, (10e-4, 1e-4), SOME, True),
    "sensors alone": ({}, (10e-4, 1e-4), None, False),
}


def system(case: str, n_events: int = 60) -> Hierarchical:
    priors, own, moves, fixed = CASES[case]
    sensors = SensorLayer.of(DETECTOR)
    if fixed:
        sensors.free[3], sensors.free[:, 2] = False, False
    tracks = simulated(DETECTOR, GUN, n_events, random_local(len(DETECTOR), 10e-4, 1e-4))
    problem = AssembledProblem(sensors)
    problem.add(linearise(HelixChi2(DETECTOR, vertex="absent"), sensors, batch_of(tracks, DETECTOR)))
    levels = [level(DETECTOR, sensors, name, sigma) for name, sigma in priors.items()]
    everyone = torch.ones(len(DETECTOR), dtype=torch.bool)
    return Hierarchical(problem, levels, prior_weight(own), everyone if moves is None else moves)


def random_force(hierarchy: Hierarchical) -> Tensor:
    """In the range of the matrix."""
    x = torch.randn(len(hierarchy), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return hierarchy(x / hierarchy.weight.clamp_min(1e-2 * float(hierarchy.weight.max())).sqrt())


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_inverse(case):
    hierarchy = system(case)
    inverse = direct_preconditioner(hierarchy, "float64")
    assert inverse is not None
    force = random_force(hierarchy)
    assert (hierarchy(inverse(force)) - force).abs().max() < 1e-8 * force.abs().max()
    assert inverse.null.shape[1] == (4 if case == "levels without a prior" else 0)


@pytest.mark.parametrize("case", CASES)
def test_the_answer_is_that_of_the_blocks_and_takes_few_iterations(case):
    hierarchy = system(case)
    force = -hierarchy.collect(hierarchy.problem.gradient())
    plain = conjugate_gradients(hierarchy, force, hierarchy.preconditioner(), 1e-11, 3000)
    inverse = direct_preconditioner(hierarchy, "float32")
    assert inverse is not None
    found = conjugate_gradients(hierarchy, force, inverse, 1e-10, 20)
    assert plain.converged
    assert found.converged
    assert found.iterations < 0.1 * plain.iterations
    difference, size = hierarchy.expand(found.x - plain.x), hierarchy.expand(plain.x)
    if case != "levels without a prior":  # which leave the whole free to move
        assert difference.abs().max() < 1e-6 * size.abs().max()
    assert (difference * hierarchy.problem(difference)).sum() < 1e-12 * (size * hierarchy.problem(size)).sum()
    assert size.abs().max() > 0.3 * hierarchy.expand(found.x).abs().max()


def test_it_is_symmetric():
    hierarchy = system("followers")
    inverse = direct_preconditioner(hierarchy, "float64")
    assert inverse is not None
    a, b = random_force(hierarchy), random_force(hierarchy).flip(0)
    assert float(inverse(a) @ b) == pytest.approx(float(inverse(b) @ a), rel=1e-8)


def test_a_free_detector_has_its_null_modes_and_is_solved_all_the_same():
    case = {**CASES, "free": ({}, None, None, False)}["free"]
    CASES["free"] = case
    try:
        hierarchy = system("free", n_events=400)
    finally:
        del CASES["free"]
    inverse = direct_preconditioner(hierarchy, "float64")
    assert inverse is not None
    assert inverse.null.shape[1] == 4
    force = -hierarchy.collect(hierarchy.problem.gradient())
    found = conjugate_gradients(hierarchy, force, inverse, 1e-8, 30)
    assert found.converged
    assert (hierarchy(found.x) - force).abs().max() < 1e-6 * force.abs().max()


def test_where_it_does_not_apply_there_is_none(monkeypatch):
    hierarchy = system("levels")
    stored = Hierarchical(Problem(SensorLayer.of(DETECTOR), []), hierarchy.levels, prior_weight(None), SOME)
    assert direct_preconditioner(stored, "float64") is None
    loose = Hierarchical(hierarchy.problem, hierarchy.levels, prior_weight(None), SOME)
    assert direct_preconditioner(loose, "float64") is None
    monkeypatch.setattr(elimination_tree, "physical_memory", lambda: 1000)
    assert direct_preconditioner(hierarchy, "float64") is None


def test_matrices_of_several_threads_are_added():
    matrices = system("sensors alone").problem.matrices
    whole = sum(matrix.dense() for matrix in matrices)
    assert np.allclose(of_all_ranks([*matrices, *matrices]).dense(), 2 * whole)
