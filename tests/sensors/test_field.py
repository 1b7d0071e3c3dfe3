"""A correction field moves sensors as rigid bodies that follow it, and its gradient reaches the weights."""

from __future__ import annotations

import pytest
import torch
from small_detectors import barrel

from alignnet.errors import ConfigError
from alignnet.geometry.weak_modes import WeakMode
from alignnet.sensors.field import CorrectionField, follow_field, follows_field
from alignnet.sensors.sensor import SensorLayer

SMALL = barrel(chips=3)


def drawn(field: CorrectionField) -> CorrectionField:
    """The same with weights that give some 10 µm."""
    torch.nn.init.normal_(field.network[-1].weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return field


def test_a_new_field_leaves_sensors_where_they_are():
    layer = SensorLayer.of(SMALL)
    layer.set_local(torch.full((len(SMALL), 6), 1e-4, dtype=torch.float64))
    before = layer.local()
    follow_field(layer, CorrectionField(SMALL))
    assert follows_field(layer)
    assert torch.equal(layer.local(), before)


def test_sensors_follow_the_field_at_the_middles_of_their_edges():
    """To first order in its gradient, and but for what stretches and shears a sensor."""
    field, layer = CorrectionField(SMALL, width=8), SensorLayer.of(SMALL)
    follow_field(layer, field)
    drawn(field)
    uv = SMALL.centre[:, None] + torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]]) * SMALL.half[:, None]
    rows = torch.arange(len(SMALL))[:, None].expand(-1, 4)
    with torch.no_grad():
        moved = (layer(uv, rows) - field.points) @ SMALL.rotation
        wanted = field.displacement(field.points) @ SMALL.rotation
    assert moved.mean(1) == pytest.approx(wanted.mean(1), abs=1e-6)
    slope, expected = ((d[:, ::2] - d[:, 1::2]) for d in (moved, wanted))
    assert slope[..., 1] == pytest.approx(expected[..., 1], abs=1e-6)  # out of the plane


def test_a_detector_turned_about_its_axis_turns_the_field_with_it():
    """Displacements are along r, φ and z: a network without φ knows no direction."""
    field = drawn(CorrectionField(SMALL))
    with torch.no_grad():
        field.network[0].weight[:, 1:3] = 0
        angle = torch.tensor(0.7, dtype=torch.float64)
        c, s = angle.cos(), angle.sin()
        turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
        one = field.displacement(field.points) @ turn.T
        other = field.displacement(field.points @ turn.T)
    assert one == pytest.approx(other, abs=1e-12)


def test_gradients_of_weights_are_numerical_ones():
    detector = barrel(radii=(3.0,), chips=1)
    field = drawn(CorrectionField(detector, width=8))
    weights = [parameter.detach().clone().requires_grad_() for parameter in field.parameters()]

    def local(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(field.named_parameters()), values, strict=True))
        named = {f"field.{name}": value for name, value in named.items()}
        return 1e4 * torch.func.functional_call(_Local(field), named, ())

    assert torch.autograd.gradcheck(local, weights)


class _Local(torch.nn.Module):
    def __init__(self, field: CorrectionField) -> None:
        super().__init__()
        self.field = field

    def forward(self) -> torch.Tensor:
        return self.field.local()


def test_a_smooth_distortion_is_learnt_by_the_weights_alone():
    wanted = WeakMode("elliptical", 50e-4, 0.3)(SMALL)
    layer = SensorLayer.of(SMALL)
    follow_field(layer, CorrectionField(SMALL, width=16))
    weights = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        (1e8 * (layer.theta - wanted)[:, :3].square().mean()).backward()
        optimizer.step()
    assert (layer.local() - wanted)[:, :3].norm() < 0.05 * wanted[:, :3].norm()
    assert not layer.parametrizations.theta.original.any()


def test_what_a_field_cannot_move_is_refused():
    layer = SensorLayer.of(SMALL)
    layer.free[0] = False
    with pytest.raises(ConfigError, match=r"parametrisation=field .* no sensors\.fixed"):
        follow_field(layer, CorrectionField(SMALL))
    with pytest.raises(ConfigError, match=r"sensors\.field\.depth is 0; expected a whole number"):
        CorrectionField(SMALL, depth=0)
