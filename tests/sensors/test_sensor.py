"""The sensor as a linear layer is a rigid motion: every sensor, every parametrisation, any batch of them."""

from __future__ import annotations

import pytest
import torch
from small_detectors import barrel, random_local
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.sensors.parametrisation import PARAMETRISATIONS, Phi
from alignnet.sensors.sensor import SensorLayer

SMALL = barrel(chips=2)


@pytest.fixture(scope="module")
def ring() -> Detector:
    """All 24,120 sensors of ITS2."""
    return its2()


def random_uv(detector: Detector, hits: int = 3) -> Tensor:
    """Local points all over the active areas (hits, sensors, 2) [cm]."""
    generator = torch.Generator().manual_seed(3)
    draw = 2 * torch.rand(hits, len(detector), 2, generator=generator, dtype=torch.float64) - 1
    return detector.centre + detector.half * draw


def network_form(detector: Detector, phi: Phi, uv: Tensor) -> Tensor:
    """R PO (W + diag(d₁, d₂)) s̃ − R PO D⁻¹ Δ + R PO b + T, written as it stands in docs/physics.md."""
    po = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    d_inverse = torch.diag_embed(torch.nn.functional.pad(detector.half, (0, 1), value=1.0))
    d = torch.linalg.inv(d_inverse)
    delta = -(d @ torch.nn.functional.pad(detector.centre, (0, 1))[..., None])
    local = torch.stack([uv[..., 0], torch.zeros_like(uv[..., 0]), uv[..., 1]], -1)[..., None]
    tilde = (d @ po.T @ local + delta)[..., :2, :]  # from l = PO D⁻¹ (s̃ − Δ)
    frame = detector.rotation @ po
    g = frame @ (phi.weight + d_inverse[..., :2]) @ tilde - frame @ d_inverse @ delta
    return (g + frame @ phi.bias[..., None]).squeeze(-1) + detector.translation


def about(axis: int, angle: Tensor) -> Tensor:
    """Active rotation matrices about a global axis."""
    matrix = torch.eye(3, dtype=torch.float64).repeat(len(angle), 1, 1)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, i, i] = matrix[:, j, j] = angle.cos()
    matrix[:, i, j], matrix[:, j, i] = -angle.sin(), angle.sin()
    return matrix


def rigid_form(detector: Detector, delta: Tensor, uv: Tensor) -> Tensor:
    """a_R (R l + T) + a_T with a_R = Rx Ry Rz."""
    a_r = about(0, delta[:, 3]) @ about(1, delta[:, 4]) @ about(2, delta[:, 5])
    local = torch.stack([uv[..., 0], torch.zeros_like(uv[..., 0]), uv[..., 1]], -1)[..., None]
    nominal = detector.rotation @ local + detector.translation[:, :, None]
    return (a_r @ nominal).squeeze(-1) + delta[:, :3]


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_network_form_is_the_rigid_form_on_every_its2_sensor(ring, parametrisation):
    delta = random_local(len(ring), shift=0.1, turn=0.02)
    layer, uv = SensorLayer.of(ring, parametrisation), random_uv(ring)
    theta = delta
    if parametrisation == "local":
        theta = rigid.global_to_local(ring.rotation, ring.translation, delta)
    with torch.no_grad():
        layer.theta.copy_(theta)
        expected = rigid_form(ring, delta, uv)
        assert (network_form(ring, layer.phi(), uv) - expected).abs().max() < 1e-12
        assert (layer(uv) - expected).abs().max() < 1e-12


def test_local_and_global_degrees_of_freedom_of_one_motion_give_the_same_points(ring):
    local, uv = random_local(len(ring), shift=0.1, turn=0.02), random_uv(ring)
    points = []
    for parametrisation in ("local", "global"):
        layer = SensorLayer.of(ring, parametrisation)
        layer.set_local(local)
        points.append(layer(uv).detach())
    assert (points[0] - points[1]).abs().max() < 1e-12


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_zero_theta_is_the_nominal_place(parametrisation):
    layer, uv = SensorLayer.of(SMALL, parametrisation), random_uv(SMALL)
    rotation, translation = layer.placement()
    assert (layer(uv) - rigid_form(SMALL, torch.zeros(len(SMALL), 6).double(), uv)).abs().max() < 1e-14
    assert (rotation - SMALL.rotation).abs().max() < 1e-14
    assert (translation - SMALL.translation).abs().max() < 1e-14
    assert float(layer.phi().weight.detach().abs().max()) == 0


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_local_six_survive_the_round_trip_through_the_degrees_of_freedom(parametrisation):
    layer, local = SensorLayer.of(SMALL, parametrisation), random_local(len(SMALL), 0.1, 0.05)
    layer.set_local(local)
    rotation, translation = rigid.place_local(SMALL.rotation, SMALL.translation, local)
    assert (layer.local() - local).abs().max() < 1e-12
    assert (layer.placement()[0] - rotation).abs().max() < 1e-13
    assert (layer.placement()[1] - translation).abs().max() < 1e-13


def test_half_lengths_scale_the_normalised_position_to_one_at_the_edges(ring):
    layer = SensorLayer.of(ring)
    corner = layer.normalised(ring.centre + ring.half * torch.tensor([1.0, -1.0]))
    assert torch.allclose(corner, torch.tensor([1.0, -1.0], dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_batched_sensors_equal_one_at_a_time(parametrisation):
    layer, uv = SensorLayer.of(SMALL, parametrisation), random_uv(SMALL, 1)[0]
    layer.set_local(random_local(len(SMALL), 0.1, 0.05))
    together = layer(uv, torch.arange(len(SMALL)))
    assert torch.allclose(together, layer(uv), rtol=0, atol=1e-14)
    for i in (0, 7, len(SMALL) - 1):
        assert torch.allclose(layer[i](uv[i]), together[i], rtol=0, atol=1e-13)
    some = torch.tensor([5, 5, 2])
    assert torch.allclose(layer[some](uv[some]), together[some], rtol=0, atol=1e-14)


def test_a_sensor_taken_out_of_a_layer_shares_its_memory():
    layer, uv = SensorLayer.of(SMALL), torch.tensor([0.1, 0.2], dtype=torch.float64)
    one, some = layer[4], layer[2:6]
    before = one(uv).detach()
    with torch.no_grad():
        layer.theta[4, 2] = 0.3
    moved = one(uv).detach() - before
    assert torch.allclose(moved, 0.3 * SMALL.rotation[4, :, 1], atol=1e-13)
    with torch.no_grad():
        some.theta[1, 0] = -0.2
    assert layer.theta.tolist()[3][0] == -0.2


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_gradient_in_theta_is_the_chain_through_the_gradient_in_phi(parametrisation):
    layer, uv = SensorLayer.of(SMALL, parametrisation), random_uv(SMALL)
    layer.set_local(random_local(len(SMALL), 0.1, 0.05))
    phi = layer.phi()
    cost = ((layer(uv, phi=phi) - 3.0) ** 3).sum()
    *by_phi, by_theta = torch.autograd.grad(cost, [*phi, layer.theta])
    by_phi = torch.cat([by_phi[0].flatten(-2), by_phi[1]], -1)
    jacobian = layer.parametrisation.jacobian(layer.theta, layer.frame)  # ∂Φ/∂Θ
    chained = (jacobian.transpose(-1, -2) @ by_phi[..., None]).squeeze(-1)
    assert torch.allclose(chained, by_theta, rtol=1e-12, atol=1e-9)
    assert float(by_phi.abs().min()) > 0


@pytest.mark.parametrize("start", [0.0, 0.03], ids=["nominal", "moved"])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_points_and_planes_have_right_derivatives_in_theta(parametrisation, start):
    detector = barrel(radii=(2.5, 4.0), staves=3)
    layer, uv = SensorLayer.of(detector, parametrisation), random_uv(detector, 1)[0]
    layer.set_local(start * random_local(len(detector), 1.0, 1.0))
    theta = layer.theta.detach().clone().requires_grad_()
    sensor = torch.arange(len(detector))

    def points(theta: Tensor) -> Tensor:
        return layer(uv, sensor, layer.parametrisation.phi(theta, layer.frame))

    def axes(theta: Tensor) -> Tensor:
        return torch.cat(layer.planes(uv, sensor, layer.parametrisation.phi(theta, layer.frame)), -1)

    assert torch.autograd.gradcheck(points, theta)
    assert torch.autograd.gradcheck(axes, theta)


def test_fixed_degrees_of_freedom_get_no_gradient_but_keep_their_value():
    layer, uv = SensorLayer.of(SMALL), random_uv(SMALL)
    layer.set_local(random_local(len(SMALL)))
    everything = layer(uv).detach()
    layer.free[3] = False
    layer.free[:, 2] = False
    cost = (layer(uv) ** 2).sum()
    cost.backward()
    assert torch.equal(layer(uv).detach(), everything)
    assert torch.equal(layer.theta.grad != 0, layer.free)


def test_planes_lie_where_the_sensors_stand():
    layer, uv = SensorLayer.of(SMALL), random_uv(SMALL, 1)[0]
    layer.set_local(random_local(len(SMALL), 0.1, 0.05))
    sensor = torch.arange(len(SMALL))
    plane = layer.planes(uv, sensor)
    rotation, _ = layer.placement()
    axes = torch.stack([plane.u, plane.normal, plane.v], -1)
    assert torch.allclose(axes.detach(), rotation, atol=1e-13)
    assert torch.allclose(plane.origin, layer(uv), atol=1e-13)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_the_state_dict_is_the_alignment(parametrisation, tmp_path):
    layer, uv = SensorLayer.of(SMALL, parametrisation), random_uv(SMALL)
    layer.set_local(random_local(len(SMALL), 0.1, 0.05))
    layer.free[2] = False
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other = SensorLayer.of(SMALL, parametrisation)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(uv), layer(uv))
    assert torch.equal(other.free, layer.free)


def test_affine_moves_a_sensor_in_ways_that_no_rigid_motion_does():
    layer = SensorLayer.of(SMALL, "affine")
    with torch.no_grad():
        layer.theta[0, 0] = 0.01 * layer.half_length[0, 0]  # stretches u by 1 %
    uv = SMALL.centre[0] + SMALL.half[0] * torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    ends = layer[0](uv).detach()
    length = float((ends[1] - ends[0]).norm())
    assert length == pytest.approx(1.01 * 2 * float(SMALL.half[0, 0]), rel=1e-12)


def test_an_unknown_parametrisation_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"'euler'.*affine.*global.*local"):
        SensorLayer.of(SMALL, "euler")
