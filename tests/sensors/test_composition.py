"""Θ of sensors in moving volumes: rigid to rounding, linear to first order, and still where it is fixed."""

from __future__ import annotations

import pytest
import torch
from small_detectors import barrel, random_local

from alignnet.geometry.volumes import Volumes, carried
from alignnet.sensors.composition import Composition
from alignnet.sensors.hierarchy import frame_motions, theta_motions
from alignnet.sensors.parametrisation import PARAMETRISATIONS
from alignnet.sensors.sensor import SensorLayer

DETECTOR = barrel(chips=2)
LEVELS = [Volumes.of(DETECTOR, name) for name in ("half_barrel", "stave")]
SIXES = [random_local(len(level), 0.02, 0.01, seed=i) for i, level in enumerate(LEVELS)]
OWN = random_local(len(DETECTOR), 0.01, 0.005, seed=7)


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_sensors_stand_where_their_volumes_carry_them(parametrisation):
    sensors = SensorLayer.of(DETECTOR, parametrisation)
    sensors.set_local(OWN)
    place = sensors.placement()
    expected = carried(LEVELS, SIXES, place)
    theta = Composition(DETECTOR, sensors, LEVELS)(sensors.theta.detach(), SIXES)
    with torch.no_grad():
        sensors.theta.copy_(theta)
    for found, wanted in zip(sensors.placement(), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    assert (place[1] - expected[1]).abs().max() > 0.01


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_small_motions_are_those_that_the_solver_has(parametrisation):
    sensors = SensorLayer.of(DETECTOR, parametrisation)
    zero = torch.zeros_like(sensors.theta)
    step = 1e-6
    moved = Composition(DETECTOR, sensors, LEVELS)(zero, [step * six for six in SIXES])
    linear = zero.detach().clone()
    for level, six in zip(LEVELS, SIXES, strict=True):
        basis = theta_motions(sensors, frame_motions(DETECTOR, level))
        linear += (basis @ (step * six)[level.group][..., None]).squeeze(-1)
    assert (moved - linear).abs().max() < 1e-5 * linear.abs().max()


def test_what_is_fixed_stays():
    sensors = SensorLayer.of(DETECTOR)
    sensors.free[3], sensors.free[:, 2] = False, False
    theta = Composition(DETECTOR, sensors, LEVELS)(OWN, SIXES)
    assert torch.equal(theta[3], OWN[3])
    assert torch.equal(theta[:, 2], OWN[:, 2])
    assert (theta != OWN)[sensors.free].all()


def test_volumes_that_have_not_moved_change_no_bit():
    sensors = SensorLayer.of(DETECTOR)
    nothing = [torch.zeros_like(six) for six in SIXES]
    assert torch.equal(Composition(DETECTOR, sensors, LEVELS)(OWN, nothing), OWN)
