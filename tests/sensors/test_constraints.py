"""What `sensors.fixed` holds in place, and what it says to a name that it doesn't know."""

from __future__ import annotations

import pytest
import torch
from small_detectors import barrel

from alignnet.errors import ConfigError
from alignnet.sensors.constraints import set_free
from alignnet.sensors.sensor import SensorLayer

SMALL = barrel(chips=2)


@pytest.fixture
def sensors() -> SensorLayer:
    return SensorLayer.of(SMALL)


def test_without_arguments_everything_is_free_again(sensors):
    sensors.free[:] = False
    set_free(sensors, SMALL)
    assert sensors.free.all()


def test_a_fixed_layer_is_fixed_in_all_degrees_of_freedom_and_the_others_in_none(sensors):
    set_free(sensors, SMALL, layers=[1])
    assert torch.equal(sensors.free, (SMALL.layer != 1)[:, None].expand(-1, 6))


def test_a_fixed_degree_of_freedom_is_fixed_on_every_sensor(sensors):
    set_free(sensors, SMALL, dof=["dw", "rot_w"])
    assert sensors.free.all(0).tolist() == [True, True, False, True, True, False]
    assert torch.equal(sensors.free.any(0), sensors.free.all(0))


def test_a_pattern_fixes_the_sensors_whose_path_it_matches(sensors):
    set_free(sensors, SMALL, names=["B/BLayer0/*", "*/BLayer2/*/BStave1/*:du,rot_u"])
    stave = torch.tensor(["BLayer2" in name and "BStave1/" in name for name in SMALL.names])
    assert torch.equal(sensors.free[:, 1], SMALL.layer != 0)
    assert torch.equal(sensors.free[:, 0], (SMALL.layer != 0) & ~stave)
    assert torch.equal(sensors.free[:, 3], sensors.free[:, 0])
    assert int(stave.sum()) == 2


def test_constraints_add_up(sensors):
    set_free(sensors, SMALL, names=["B/BLayer0/*"], layers=[3], dof=["dv"])
    expected = ((SMALL.layer != 0) & (SMALL.layer != 3))[:, None].expand(-1, 6).clone()
    expected[:, 1] = False
    assert torch.equal(sensors.free, expected)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"layers": [9]}, r"fixed\.layers has \[9\]; .* \[0, 1, 2, 3\]"),
        ({"dof": ["dx"]}, r"fixed\.dof has \['dx'\]; choose from .*rot_w"),
        ({"names": ["*/Ladder*"]}, r"no sensor of small barrel matches '\*/Ladder\*'"),
        ({"names": ["*:du,dx"]}, r"'\*:du,dx' has \['dx'\]"),
        ({"layers": [0, 1, 2, 3]}, "leaves no degree of freedom free"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(sensors, fixed, message):
    with pytest.raises(ConfigError, match=message):
        set_free(sensors, SMALL, **fixed)


def test_a_refused_constraint_changes_nothing(sensors):
    set_free(sensors, SMALL, layers=[0])
    before = sensors.free.clone()
    with pytest.raises(ConfigError):
        set_free(sensors, SMALL, layers=[0, 1, 2, 3])
    assert torch.equal(sensors.free, before)


def test_degrees_of_freedom_are_named_by_the_parametrisation():
    sensors = SensorLayer.of(SMALL, "global")
    set_free(sensors, SMALL, dof=["psi"])
    assert sensors.free.all(0).tolist() == [True, True, True, False, True, True]
    with pytest.raises(ConfigError, match=r"choose from .*psi"):
        set_free(sensors, SMALL, dof=["rot_u"])
