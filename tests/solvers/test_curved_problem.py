"""The linearised problem of bent sensors with surface modes: stored, assembled and compiled alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from small_problems import converged_loss, dense
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.misalign import SurfaceModes
from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import compiled_linear
from alignnet.solvers.assembled import AssembledProblem
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise, linearise_at

FLAT = barrel()
BENT = replace(FLAT, curvature_radius=torch.where(FLAT.layer < 2, 2.6, 0.0).double())
LOSS = converged_loss(BENT, "full", "given")


def placed(parametrisation: str = "local", size: float = 1.0) -> SensorLayer:
    """Sensors off their places by 10 µm, surfaces deformed by as much."""
    layer = SensorLayer.of(BENT, parametrisation, 2)
    modes = SurfaceModes(2, 1e-3)(BENT)[:, 6:]
    layer.set_local(size * torch.cat([random_local(len(BENT), 1e-3, 1e-4), modes], -1))
    return layer


def batch(n_events: int = 30) -> Batch:
    """Noisy tracks of the nominal detector."""
    return batch_of(simulated(BENT, GUN, n_events), BENT)


def half_chi2(sensors: SensorLayer, some: Batch) -> Tensor:
    """½ Σ χ² of tracks that are fitted to the sensors, in the graph."""
    chi2 = LOSS(sensors, some)
    return 0.5 * torch.where(chi2.weight > 0, chi2.track + chi2.vertex, 0.0).sum()


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_the_gradient_is_that_of_the_cost(parametrisation):
    sensors, some = placed(parametrisation), batch()
    (expected,) = torch.autograd.grad(half_chi2(sensors, some), sensors.theta)
    found = Problem(sensors, [linearise(LOSS, sensors, some)]).gradient()
    scale = expected.abs().amax(0)
    assert ((found - expected).abs() / scale).amax() < 1e-3


def test_the_matrix_says_how_the_cost_changes():
    sensors, some = placed(), batch()
    direction = placed(size=0.01).theta.detach()
    problem = Problem(sensors, [linearise(LOSS, sensors, some)])
    bend = float((direction * problem(direction)).sum())
    at = []
    for step in (-1.0, 0.0, 1.0):
        moved = placed()
        with torch.no_grad():
            moved.theta.add_(step * direction)
        with torch.no_grad():
            at.append(float(half_chi2(moved, some)))
    assert bend == pytest.approx(at[0] - 2 * at[1] + at[2], rel=0.02)


def test_assembled_and_stored_problems_are_the_same():
    sensors = placed()
    sensors.free[2], sensors.free[:, 7] = False, False
    block = linearise(LOSS, sensors, batch())
    stored, assembled = Problem(sensors, [block]), AssembledProblem(sensors)
    assembled.add(block)
    assert torch.allclose(assembled.gradient(), stored.gradient(), rtol=1e-9, atol=1e-9)
    whole = torch.from_numpy(sum(matrix.dense() for matrix in assembled.matrices))
    assert (whole - dense(stored)).abs().max() < 1e-10 * whole.abs().max()
    assert not assembled.gradient()[~sensors.free].any()


def test_compiled_blocks_are_those_of_the_batched_functions(monkeypatch):
    sensors, some = placed(), batch()
    with torch.no_grad():
        planes = sensors.planes(some.uv, some.sensor)
        fit = LOSS.fit(planes, some)
    monkeypatch.setenv(SWITCH, "on")
    assert compiled_linear.applies(LOSS, fit, some)
    found = linearise_at(LOSS, sensors, planes, fit, some)
    monkeypatch.setattr(compiled_linear, "applies", lambda *_: False)
    expected = linearise_at(LOSS, sensors, planes, fit, some)
    assert found.response.shape[-1] == 9
    for name, a, b in zip(found._fields, found, expected, strict=True):
        if a.numel():
            assert (a.double() - b.double()).abs().max() <= 1e-9 * b.double().abs().max(), name


def test_blocks_of_flat_sensors_hold_no_more_than_they_did():
    block = linearise(converged_loss(FLAT), SensorLayer.of(FLAT), batch_of(simulated(FLAT, GUN, 5), FLAT))
    assert block.response.numel() == 0
