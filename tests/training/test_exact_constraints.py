"""Constraints of a Gauss–Newton step hold exactly, and the rest is at its minimum: against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated

from alignnet.errors import ConfigError
from alignnet.geometry.recovery import displacement_metric
from alignnet.geometry.weak_modes import rigid_motion_basis
from alignnet.loss.chi2 import HelixChi2
from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.constrained import MOST, Constraints, constraints_of, minimised, null_space
from alignnet.solvers.dense_system import dense_system
from alignnet.solvers.errors import exact_errors
from alignnet.solvers.linearised import linearise
from alignnet.training.optim import GaussNewton

DETECTOR = barrel()
TRUTH = random_local(len(DETECTOR), 20e-4, 2e-4, seed=4)
PRIOR = {"translation": 20e-4, "rotation": 1e-3}
VOLUME = DETECTOR.levels[1]
CASES = {
    "gauge, nothing known of rotations about z": ({"gauge": True}, "absent"),
    "gauge, with priors": ({"gauge": True, "sensor_prior": PRIOR, "levels": {VOLUME: PRIOR}}, "given"),
    "zero mean": ({"zero_mean": [VOLUME], "sensor_prior": PRIOR, "levels": {VOLUME: PRIOR}}, "given"),
    "both": (
        {"gauge": True, "zero_mean": [VOLUME], "sensor_prior": PRIOR, "levels": {VOLUME: None}},
        "given",
    ),
}


def problem(options, vertex="given", start=None):
    """An optimiser with the tracks of a batch, and its sensors."""
    layer = SensorLayer.of(DETECTOR)
    if start is not None:
        layer.set_local(start)
    optimizer = GaussNewton([layer.theta], min_hits=0, tolerance=1e-10, max_iterations=2000, **options)
    optimizer.attach(DETECTOR, layer)
    loss = HelixChi2(DETECTOR, vertex=vertex, normalisation="total")
    batch = batch_of(simulated(DETECTOR, GUN, 60, TRUTH, seed=2), DETECTOR)
    optimizer.add(linearise(loss, layer, batch))
    return optimizer, layer


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_dense_minimum_among_those_that_fulfil_the_constraints(case, first_order):
    options, vertex = CASES[case]
    start = random_local(len(DETECTOR), 3e-4, 3e-5, seed=9)
    optimizer, layer = problem(options, vertex, start)
    hierarchy, preconditioner = optimizer.system()
    constraints, dense = constraints_of(preconditioner), dense_system(hierarchy)
    force = dense.motion.flatten(1) @ -hierarchy.problem.gradient().flatten()
    zero = torch.zeros_like(hierarchy.weight)
    rows = torch.stack([dense.of(constraints)(one) for one in torch.eye(len(force), dtype=force.dtype)], -1)
    first = -constraints.of(layer.theta.detach(), zero)
    particular = torch.linalg.lstsq(rows, first[:, None], driver="gelsd").solution[:, 0]
    scale = dense.matrix.diagonal().clamp_min(1e-30).rsqrt()
    free = scale[:, None] * null_space(dense.of(constraints), scale)
    inner = torch.linalg.pinv(free.T @ dense.matrix @ free, rtol=1e-11, hermitian=True)
    x = particular + free @ (inner @ (free.T @ (force - dense.matrix @ particular)))
    expected = torch.einsum("u,usd->sd", x, dense.motion)

    optimizer, layer = problem(options, vertex, start)
    before = layer.theta.detach().clone()
    optimizer.step()
    moved = layer.theta.detach() - before
    sigma = exact_errors(hierarchy, displacement_metric(DETECTOR), constraints).sigma.nan_to_num(nan=1.0)
    known = sigma > 0
    assert ((moved - expected) / sigma.clamp_min(1e-12))[known].abs().max() < 1e-4
    left = constraints.of(layer.theta.detach(), optimizer.state[layer.theta]["x"])
    size = constraints.of(before, zero).abs().max()
    assert left.abs().max() < 1e-9 * size.clamp_min(1e-3)


@pytest.mark.parametrize("kernels", ["off", "on"])
def test_a_gauge_settles_what_nothing_else_does(monkeypatch, kernels):
    monkeypatch.setenv(SWITCH, kernels)
    start = TRUTH + 1e-3 * rigid_motion_basis(DETECTOR).sum(0)
    whole = constraints_of(problem({"gauge": True})[0].system()[1])
    left = []
    for gauge in (False, True):
        optimizer, layer = problem({"gauge": gauge}, "absent", start)
        optimizer.step()
        left.append(float(whole.of(layer.theta.detach(), 0 * layer.theta.detach()).abs().max()))
    assert left[0] > 1e-4
    assert left[1] < 1e-12


def test_errors_are_those_of_single_forces_and_lie_below_those_without_constraints():
    optimizer, _ = problem({"gauge": True, "sensor_prior": PRIOR})
    system, preconditioner = optimizer.system()
    metric = displacement_metric(DETECTOR)
    exact = exact_errors(system, metric, constraints_of(preconditioner)).sigma
    for sensor, dof in ((0, 0), (7, 2), (20, 4)):
        force = torch.zeros_like(exact)
        force[sensor, dof] = 1.0
        solution = minimised(system, system.collect(force), preconditioner, 1e-10, 2000)
        variance = float(system.expand(solution.x)[sensor, dof])
        assert variance**0.5 == pytest.approx(float(exact[sensor, dof]), rel=1e-6)
    assert bool((exact <= exact_errors(system, metric).sigma * (1 + 1e-9)).all())


def test_a_training_with_a_gauge_leaves_no_motion_of_the_whole():
    optimizer, layer = problem({"gauge": True, "sensor_prior": PRIOR}, "absent", 10 * TRUTH)
    optimizer.step()
    _, preconditioner = optimizer_system(optimizer, layer)
    whole = constraints_of(preconditioner)
    np.testing.assert_allclose(whole.of(layer.theta.detach(), 0 * layer.theta), 0, atol=1e-12)


def optimizer_system(optimizer, layer):
    loss = HelixChi2(DETECTOR, vertex="absent", normalisation="total")
    batch = batch_of(simulated(DETECTOR, GUN, 60, TRUTH, seed=2), DETECTOR)
    optimizer.add(linearise(loss, layer, batch))
    return optimizer.system()


def test_too_many_constraints_and_unknown_levels_are_named(monkeypatch):
    monkeypatch.setattr("alignnet.solvers.constrained.MOST", 5)
    with pytest.raises(
        ConfigError, match=r"optimizer.gauge and zero_mean are 6 constraints, expected up to 5"
    ):
        problem({"gauge": True})[0].system()
    with pytest.raises(ConfigError, match=r"'storey'"):
        problem({"zero_mean": ["storey"]})
    assert MOST > 1152  # staves of ITS2
    assert len(Constraints(problem({})[0].system()[0], None)) == 0
