"""Motions of staves and half-barrels are rigid motions, whichever degrees of freedom the sensors have."""

from __future__ import annotations

import pytest
import torch
from small_detectors import barrel, planes
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.sensors.hierarchy import theta_motions, volume_motions
from alignnet.sensors.parametrisation import PARAMETRISATIONS
from alignnet.sensors.sensor import SensorLayer

SMALL = barrel(chips=2)
STEP = 1e-4


def moved_exactly(detector: Detector, volume: Tensor, shift: Tensor, turn: Tensor) -> Tensor:
    """Local sixes of the sensors of a volume that turns about the mean of their origins and then moves."""
    centre = detector.translation[volume].mean(0)
    matrix = rigid.exp(turn)
    place = (detector.translation - centre) @ matrix.T + centre + shift
    local = rigid.local_of(detector.rotation, detector.translation, matrix @ detector.rotation, place)
    return local * volume[:, None]


@pytest.mark.parametrize("level", ["stave", "half_barrel", "layer", "all"])
@pytest.mark.parametrize("motion", range(6))
def test_a_moving_volume_carries_its_sensors_rigidly_to_first_order(level, motion):
    motions, group = volume_motions(SMALL, level)
    six = torch.zeros(6, dtype=torch.float64)
    six[motion] = STEP
    volume = group == int(group.max())
    expected = moved_exactly(SMALL, volume, six[:3], six[3:])
    found = motions @ six * volume[:, None]
    # The rest is of second order in the angle times the volume's size of 10 cm.
    assert (found - expected).abs().max() < 10 * STEP**2
    assert expected.abs().max() > 0.1 * STEP


def test_a_sensor_as_its_own_volume_turns_about_its_own_origin():
    motions, group = volume_motions(SMALL, "sensor")
    assert group.tolist() == list(range(len(SMALL)))
    assert motions[:, :3, 3:].abs().max() < 1e-12
    assert torch.linalg.matrix_rank(motions).eq(6).all()


def test_staves_of_its2_move_all_their_chips_and_no_others():
    detector = its2()
    motions, group = volume_motions(detector, "Stave")
    assert int(group.max()) + 1 == 192
    assert motions.abs().amax((1, 2)).min() > 0.9
    modules, of_module = volume_motions(detector, "module")
    inner = detector.layer < 3
    assert torch.equal(of_module < 0, inner)  # the inner barrel has no modules
    assert modules[inner].abs().max() == 0


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("detector", [SMALL, planes()], ids=["barrel", "planes"])
def test_motions_move_the_points_of_a_sensor_alike_in_every_parametrisation(parametrisation, detector):
    motions, _ = volume_motions(detector, "all")
    layer = SensorLayer.of(detector, parametrisation)
    uv = detector.centre + 0.7 * detector.half
    step = torch.tensor([3.0, -2.0, 1.0, 0.2, 0.5, -0.4], dtype=torch.float64) * 1e-6
    with torch.no_grad():
        start = layer(uv)
        layer.theta.copy_(theta_motions(layer, motions) @ step)
        moved = layer(uv) - start
    arm = start - detector.translation.mean(0)
    expected = step[:3] + torch.linalg.cross(step[3:].expand_as(arm), arm)
    assert (moved - expected).abs().max() < 1e-10


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_motions_are_the_derivative_of_theta_in_the_local_six(parametrisation):
    layer = SensorLayer.of(SMALL, parametrisation)
    unit = torch.eye(6, dtype=torch.float64).expand(len(SMALL), 6, 6)
    found = theta_motions(layer, unit)
    for k in range(6):
        up, down = (layer.parametrisation.theta(sign * 1e-5 * unit[:, k], layer.frame) for sign in (1, -1))
        assert torch.allclose(found[..., k], (up - down) / 2e-5, rtol=0, atol=1e-8)
