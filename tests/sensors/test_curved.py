"""Sensor layers whose sensors are bent or have surface modes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import barrel, random_local
from torch import Tensor

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import SurfaceModes, misaligned
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.physics.surface_path import path_to_sheet
from alignnet.physics.trackfit import residuals
from alignnet.sensors.sensor import SensorLayer
from alignnet.units import UM

FLAT = barrel()
BENT = replace(
    FLAT,
    curvature_radius=torch.where(FLAT.layer == 0, 2.5, torch.where(FLAT.layer == 1, -4.0, 0.0)).double(),
)
HITS = 60


def shaped(detector: Detector, order: int = 3, parametrisation: str = "local") -> SensorLayer:
    """Sensors off their places by 100 µm and 10 mrad, with amplitudes of 30 µm."""
    layer = SensorLayer.of(detector, parametrisation, order)
    local = random_local(len(detector), 0.01, 0.01)
    layer.set_local(torch.cat([local, SurfaceModes(order, 30 * UM)(detector)[:, 6:]], -1) if order else local)
    return layer


def hits(detector: Detector) -> tuple[Tensor, Tensor]:
    """Sensors and local positions of random hits (hits,), (hits, 2)."""
    generator = torch.Generator().manual_seed(4)
    sensor = torch.randint(len(detector), (HITS,), generator=generator)
    draw = torch.rand(HITS, 2, generator=generator, dtype=torch.float64)
    return sensor, detector.centre[sensor] + detector.half[sensor] * (2 * draw - 1)


def lines(layer: SensorLayer, sensor: Tensor, uv: Tensor, miss: float) -> Helix:
    """Lines at up to 45° that pass hits at about this distance [cm]."""
    generator = torch.Generator().manual_seed(5)
    draw = torch.randn(HITS, 2, 3, generator=generator, dtype=torch.float64)
    planes = layer.planes(uv, sensor).detach()
    direction = planes.normal + 0.5 * draw[:, 0]
    direction = direction / direction.norm(dim=-1, keepdim=True)
    away = draw[:, 1] - (draw[:, 1] * direction).sum(-1, keepdim=True) * direction
    origin = planes.origin + miss * away / away.norm(dim=-1, keepdim=True)
    return Helix(origin - direction, direction, torch.zeros(HITS, dtype=torch.float64))


@pytest.mark.parametrize("parametrisation", ["local", "global"])
@pytest.mark.parametrize("order", [0, 3])
def test_what_residuals_do_is_what_autograd_finds(parametrisation, order):
    layer, miss = shaped(BENT, order, parametrisation), 1 * UM
    sensor, uv = hits(BENT)
    helix = lines(layer, sensor, uv, miss)
    planes = layer.planes(uv[:, None], sensor[:, None])
    residual, s = residuals(helix, planes)
    rows = [torch.autograd.grad(residual[:, 0, k].sum(), layer.theta, retain_graph=True)[0] for k in range(2)]
    slope = planes.detach().slopes(hx.tangent(hx.expand(helix), s.detach()))
    found = layer.hit_response(planes.detach(), slope, residual.detach(), uv[:, None], sensor[:, None])[:, 0]
    summed = torch.zeros(len(BENT), 2, layer.theta.shape[1]).double().index_add_(0, sensor, found)
    expected = torch.stack(rows, 1)
    assert torch.allclose(summed[..., :6], expected[..., :6], rtol=1e-10, atol=1e-11)
    # axes of a deformed sheet turn with its modes, by amplitude over length: that times the miss is left out
    assert torch.allclose(summed, expected, rtol=1e-5, atol=2e-5)


def test_one_flat_sensor_among_bent_ones_is_a_plane():
    sensor, uv = hits(FLAT)
    flat = FLAT.layer[sensor] > 1
    here, there = (SensorLayer.at(d, random_local(len(FLAT))).planes(uv, sensor) for d in (FLAT, BENT))
    for a, b in zip(here, there, strict=True):
        assert torch.allclose(a[flat], b[flat], atol=1e-13)
    assert (here.normal - there.normal)[~flat].norm(dim=-1).amax() > 0.1


@pytest.mark.parametrize("radius", [1e7, 1e9])
def test_a_hardly_bent_sensor_is_a_flat_one(radius):
    almost = replace(FLAT, curvature_radius=torch.full((len(FLAT),), radius).double())
    sensor, uv = hits(FLAT)
    local = random_local(len(FLAT))
    for a, b in zip(*(SensorLayer.at(d, local).planes(uv, sensor) for d in (FLAT, almost)), strict=True):
        assert torch.allclose(a, b, atol=20 / radius)


def test_planes_touch_the_sheets_at_the_hits():
    layer = shaped(BENT)
    sensor, uv = hits(BENT)
    planes = layer.planes(uv, sensor)
    assert torch.allclose(planes.origin, layer(uv, sensor), atol=1e-14)
    step = 1e-5
    for axis, move in ((planes.u, torch.tensor([step, 0.0])), (planes.v, torch.tensor([0.0, step]))):
        beside = layer(uv + move, sensor) - planes.origin
        assert (beside * planes.normal).sum(-1).abs().max() < step**2
        assert (beside - step * axis).norm(dim=-1).max() < 0.05 * step


@pytest.mark.parametrize("miss", [100 * UM, 5 * UM])
def test_the_touching_plane_tells_residuals_but_for_the_sagitta(miss):
    half = FLAT.half.clamp_max(2.0)
    bent = replace(FLAT, curvature_radius=torch.full((len(FLAT),), 1.8).double(), half=half)
    layer = shaped(bent, order=0)
    sensor, uv = hits(bent)
    helix, planes = lines(layer, sensor, uv, miss), layer.planes(uv, sensor).detach()
    seen, s = residuals(helix, layer.planes(uv[:, None], sensor[:, None]))
    sheet = layer.sheet().at(sensor)
    exact = sheet.uv(hx.point(helix, path_to_sheet(helix, sheet, s[:, 0]))) - uv
    sagitta = seen[:, 0, 0].square() / (2 * 1.8)
    slope = planes.slopes(helix.direction).norm(dim=-1)
    off, expected = (seen[:, 0] - exact).norm(dim=-1), sagitta * slope
    shallow = slope < 1
    assert torch.allclose(
        off[shallow], expected[shallow], rtol=0.05, atol=1e-3 * float(expected.detach().max())
    )


def test_turning_the_whole_detector_changes_no_residual():
    turn, shift = rigid.exp(torch.tensor([0.3, -0.5, 1.1]).double()), torch.tensor([1.0, -2.0, 0.5]).double()
    turned = BENT.placed(turn @ BENT.rotation, BENT.translation @ turn.T + shift)
    sensor, uv = hits(BENT)
    here, there = shaped(BENT), shaped(turned)
    helix = lines(here, sensor, uv, 50 * UM)
    moved = Helix(helix.position @ turn.T + shift, helix.direction @ turn.T, helix.omega)
    first, _ = residuals(helix, here.planes(uv[:, None], sensor[:, None]))
    second, _ = residuals(moved, there.planes(uv[:, None], sensor[:, None]))
    assert torch.allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_places_and_amplitudes_come_back(parametrisation):
    layer = SensorLayer.of(BENT, parametrisation, 2)
    local = torch.cat([random_local(len(BENT)), SurfaceModes(2, 0.01)(BENT)[:, 6:]], -1)
    layer.set_local(local)
    assert layer.dof_names[6:] == ("w20", "w11", "w02")
    assert torch.allclose(layer.local(), local, atol=1e-12)
    layer.set_local(local[:, :6])
    assert torch.equal(layer.local()[:, 6:], torch.zeros(len(BENT), 3).double())


def test_amplitudes_beyond_the_order_are_refused():
    layer, local = SensorLayer.of(FLAT, surface_order=2), SurfaceModes(3, 0.01)(FLAT)
    with pytest.raises(
        GeometryError, match=r"amplitudes of order 3, expected up to 2; raise sensors.surface_order"
    ):
        layer.set_local(local)


def test_a_layer_stands_where_a_misaligned_detector_does():
    local = torch.cat([random_local(len(BENT)), SurfaceModes(3, 0.01)(BENT)[:, 6:]], -1)
    sensor, uv = hits(BENT)
    actual = misaligned(BENT, local)
    place = actual.surface.at(sensor).point(uv)
    expected = actual.translation[sensor] + (actual.rotation[sensor] @ place[..., None]).squeeze(-1)
    assert torch.allclose(SensorLayer.at(BENT, local)(uv, sensor), expected, atol=1e-13)


@pytest.mark.parametrize(("detector", "order"), [(BENT, 0), (FLAT, 2)])
def test_affine_is_refused_where_sensors_are_not_planes(detector, order):
    with pytest.raises(ConfigError, match="affine is for flat sensors"):
        SensorLayer.of(detector, "affine", order)
