"""Helices: circles, straight lines, symmetries, derivatives, and another program's orbits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from alignnet.physics.helix import (
    Helix,
    Perigee,
    arctan_ratio,
    frame,
    from_momentum,
    from_perigee,
    momentum_of,
    move,
    path_to_axis,
    path_to_cylinder,
    path_to_plane,
    perigee,
    point,
    sinc,
    state_derivative,
    tangent,
    turned,
    updated,
)

OMEGAS = [0.0, 1e-9, 1e-3, 0.02]
UM = 1e-4


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True)


def random_helices(n: int, omega: float | None = None) -> Helix:
    """Any place within a few cm, any direction, |ω| up to that of 150 MeV/c in 0.5 T."""
    turning = 0.01 * (2 * torch.rand(n, dtype=torch.float64) - 1)
    return Helix(
        torch.randn(n, 3, dtype=torch.float64),
        unit(torch.randn(n, 3, dtype=torch.float64)),
        turning if omega is None else torch.full((n,), omega, dtype=torch.float64),
    )


def test_without_a_field_the_path_is_a_straight_line():
    helix = random_helices(100, omega=0.0)
    s = torch.linspace(-50, 50, 100, dtype=torch.float64)
    assert torch.equal(tangent(helix, s), helix.direction)
    torch.testing.assert_close(
        point(helix, s), helix.position + s[:, None] * helix.direction, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("omega", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_weak_field_bends_by_half_omega_s_squared(omega):
    helix, s = random_helices(200, omega=omega), torch.full((200,), 40.0, dtype=torch.float64)
    straight = helix._replace(omega=torch.zeros(200, dtype=torch.float64))
    bend = point(helix, s) - point(straight, s)
    across = torch.linalg.cross(tensor([0.0, 0.0, 1.0]).expand(200, 3), helix.direction)
    torch.testing.assert_close(bend, 0.5 * omega * 40.0**2 * across, rtol=0, atol=omega**2 * 40.0**3 + 1e-13)


@pytest.mark.parametrize("charge", [1.0, -1.0])
def test_every_point_lies_on_the_circle_of_radius_pt_over_0_3_b(charge):
    momentum = tensor([0.6, -0.8, 1.5])  # p_T = 1 GeV/c
    helix = from_momentum(tensor([1.0, 2.0, 3.0]), momentum, tensor(charge), 0.5)
    radius = 1.0 / (0.299792458 * 0.5) * 100
    # The force q v × B on a positive charge with momentum (0.6, −0.8) in +z points along (−0.8, −0.6).
    centre = tensor([1.0, 2.0]) + charge * radius * tensor([-0.8, -0.6])
    s = torch.linspace(-2000, 2000, 401, dtype=torch.float64)
    places = point(Helix(*(field.expand(401, *field.shape) for field in helix)), s)
    torch.testing.assert_close((places[:, :2] - centre).norm(dim=-1), tensor(radius).expand(401))
    torch.testing.assert_close(places[:, 2], 3.0 + s * 1.5 / math.sqrt(1 + 1.5**2))


def test_a_positive_charge_in_a_field_along_plus_z_turns_clockwise():
    helix = from_momentum(tensor([0.0, 0.0, 0.0]), tensor([1.0, 0.0, 0.0]), tensor(1.0), 0.5)
    assert helix.omega < 0
    assert point(helix, tensor(10.0))[1] < 0
    assert tangent(helix, tensor(10.0))[1] < 0


def test_half_a_turn_at_1_gev_in_1_tesla_ends_6_67_m_away():
    helix = from_momentum(tensor([0.0, 0.0, 0.0]), tensor([1.0, 0.0, 0.0]), tensor(-1.0), 1.0)
    end = point(helix, math.pi / helix.omega)
    torch.testing.assert_close(end, tensor([0.0, 2 * 333.564095, 0.0]), rtol=1e-8, atol=1e-9)


def test_momentum_comes_back_from_the_turning():
    momentum = torch.randn(50, 3, dtype=torch.float64)
    helix = from_momentum(torch.zeros(50, 3, dtype=torch.float64), momentum, torch.ones(50), 0.5)
    torch.testing.assert_close(momentum_of(helix, 0.5), momentum.norm(dim=-1))


def test_rotating_everything_about_z_rotates_the_path():
    helix, s = random_helices(50), 30 * torch.randn(50, dtype=torch.float64)
    angle = torch.full((50,), 1.234, dtype=torch.float64)
    rotated = Helix(turned(helix.position, angle), turned(helix.direction, angle), helix.omega)
    torch.testing.assert_close(point(rotated, s), turned(point(helix, s), angle))
    torch.testing.assert_close(tangent(rotated, s), turned(tangent(helix, s), angle))


def test_the_path_length_is_what_its_name_says():
    helix, s = random_helices(50), 30 * torch.randn(50, dtype=torch.float64)
    step = 1e-3
    speed = (point(helix, s + step) - point(helix, s - step)) / (2 * step)
    torch.testing.assert_close(speed, tangent(helix, s), rtol=0, atol=1e-9)
    torch.testing.assert_close(tangent(helix, s).norm(dim=-1), torch.ones(50, dtype=torch.float64))


def test_moving_the_reference_point_leaves_the_path():
    helix, s = random_helices(50), 30 * torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(point(move(helix, s), 7 - s), point(helix, torch.full_like(s, 7.0)))
    torch.testing.assert_close(tangent(move(helix, s), -s), helix.direction)


@pytest.mark.parametrize("b_z", [0.5, -1.0, 4.0])
def test_the_equation_of_motion_integrated_numerically_gives_the_same_orbit(b_z):
    position, momentum, charge = np.array([0.3, -0.2, 1.0]), np.array([0.3, 0.2, 0.4]), -1.0

    def force(s: float, state: np.ndarray) -> np.ndarray:
        p = state[3:]
        length = np.linalg.norm(p)  # dx/ds = p/|p|, dp/ds = q (p/|p|) × B, with p in GeV/c, s in m
        return np.concatenate([p / length, 0.299792458 * charge * np.cross(p / length, [0.0, 0.0, b_z])])

    start = np.concatenate([position / 100, momentum])
    orbit = solve_ivp(force, (0.0, 1.5), start, rtol=1e-12, atol=1e-14, t_eval=[0.1, 0.4, 1.0, 1.5])
    helix = from_momentum(tensor(position), tensor(momentum), tensor(charge), b_z)
    helix = Helix(*(field.expand(4, *field.shape) for field in helix))
    s = tensor([10.0, 40.0, 100.0, 150.0])
    np.testing.assert_allclose(point(helix, s).numpy(), 100 * orbit.y[:3].T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        tangent(helix, s).numpy() * np.linalg.norm(momentum), orbit.y[3:].T, rtol=0, atol=1e-10
    )


@given(
    st.lists(st.floats(-20, 20), min_size=3, max_size=3),
    st.floats(0, 2 * math.pi), st.floats(-0.9, 0.9), st.floats(-0.01, 0.01), st.floats(-1.0, 1.0),
)  # fmt: skip
def test_the_path_to_a_plane_ends_on_it(origin, phi, cosine, omega, tilt):
    sine = math.sqrt(1 - cosine**2)
    direction = tensor([sine * math.cos(phi), sine * math.sin(phi), cosine])
    helix = Helix(tensor([0.1, 0.2, 0.3]), direction, tensor(omega))
    e1, _ = frame(direction)
    normal = unit(direction + tilt * e1)  # within 45° of the path at its start
    # A plane further away than this need not be reached by a path this curved.
    assume(abs(float((normal * (tensor(origin) - helix.position)).sum())) < 20)
    s = path_to_plane(helix, tensor(origin), normal, steps=8)
    torch.testing.assert_close(
        ((point(helix, s) - tensor(origin)) * normal).sum(), tensor(0.0), rtol=0, atol=1e-11
    )


def test_four_steps_reach_the_planes_of_a_barrel_to_rounding():
    phi = 2 * math.pi * torch.rand(500, dtype=torch.float64)
    pt = 0.1 + torch.rand(500, dtype=torch.float64)
    momentum = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * torch.randn(500, dtype=torch.float64)], -1)
    helix = from_momentum(torch.zeros(500, 3, dtype=torch.float64), momentum, torch.ones(500), 0.5)
    ahead = point(helix, path_to_cylinder(helix, torch.full((500,), 39.0, dtype=torch.float64)))
    normal = unit(ahead * tensor([1.0, 1.0, 0.0]) + torch.randn(500, 3, dtype=torch.float64))
    s = path_to_plane(helix, ahead, normal)
    distance = ((point(helix, s) - ahead) * normal).sum(-1)
    assert distance.abs().max() < 1e-10


@pytest.mark.parametrize("omega", OMEGAS)
def test_gradients_of_a_point_with_respect_to_everything(omega):
    def path(position: Tensor, direction: Tensor, turning: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        helix = Helix(position, direction, turning)
        return point(helix, s), tangent(helix, s)

    assert gradcheck(path, leaves([[1.0, 2.0, 3.0]], [[0.48, 0.6, 0.64]], [omega], [25.0]))
    assert gradgradcheck(path, leaves([[1.0, 2.0, 3.0]], [[0.48, 0.6, 0.64]], [omega], [25.0]))


@pytest.mark.parametrize("omega", OMEGAS)
def test_gradients_of_the_path_to_a_plane_with_respect_to_everything(omega):
    def path(*args: Tensor) -> tuple[Tensor, Tensor]:
        helix = Helix(*args[:3])
        s = path_to_plane(helix, *args[3:], steps=6)
        return s, point(helix, s)

    inputs = leaves([[1.0, 2.0, 3.0]], [[0.48, 0.6, 0.64]], [omega], [[9.0, 14.0, 2.0]], [[0.6, 0.8, 0.1]])
    assert gradcheck(path, inputs)


def leaves(*values: object) -> tuple[Tensor, ...]:
    return tuple(tensor(value).requires_grad_() for value in values)


@pytest.mark.parametrize("x", [0.0, 1e-6, 0.049, 0.051, 1.0])
def test_sinc_and_arctan_ratio_have_all_derivatives_at_zero(x):
    for function in (sinc, arctan_ratio):
        assert gradcheck(function, leaves([x, -x]))
        assert gradgradcheck(function, leaves([x, -x]))


def test_sinc_and_arctan_ratio_are_right_where_the_series_end():
    x = torch.cat([torch.linspace(0.0499, 0.0501, 101), torch.logspace(-8, 0, 50)]).double()
    torch.testing.assert_close(sinc(x), x.sin() / x, rtol=4e-16, atol=0)
    torch.testing.assert_close(arctan_ratio(x), x.atan() / x, rtol=4e-16, atol=0)


@pytest.mark.parametrize("n_parameters", [4, 5])
@pytest.mark.parametrize("omega", [0.0, 1e-9, 1e-3, -0.0099, 0.0101, 0.02])
def test_state_derivatives_are_those_of_updated_paths(omega, n_parameters):
    helix = Helix(tensor([1.0, 2.0, 3.0]), tensor([0.48, 0.6, 0.64]), tensor(omega))
    s = tensor([-10.0, 0.0, 1e-3, 30.0, 100.0])

    def points(delta: Tensor) -> Tensor:
        moved = updated(helix, delta)
        return point(Helix(*(field.expand(5, *field.shape) for field in moved)), s)

    exact = torch.autograd.functional.jacobian(points, torch.zeros(n_parameters, dtype=torch.float64))
    found = state_derivative(Helix(*(f[None] for f in helix)), s[None], n_parameters)[0]
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("turn", [1e-9, 1e-4, 0.29, 0.2999, 0.3001, 0.31, 2.0])
def test_the_curvature_derivative_is_the_integral_over_the_path(turn):
    s, omega = 30.0, turn / 30.0
    helix = Helix(tensor([[0.0, 0.0, 0.0]]), tensor([[1.0, 0.0, 0.0]]), tensor([omega]))
    found = state_derivative(helix, tensor([[s]]))[0, 0, :, 4]
    # d x/d ω = ∫ s' ẑ × t(s') ds' with t = (cos ωs', sin ωs')
    expected = [
        quad(lambda x: -x * math.sin(omega * x), 0, s)[0],
        quad(lambda x: x * math.cos(omega * x), 0, s)[0],
    ]
    torch.testing.assert_close(found, tensor([*expected, 0.0]), rtol=1e-12, atol=1e-12)


@given(st.floats(-1, 1), st.floats(0, 2 * math.pi))
def test_the_frame_is_orthonormal_in_every_direction(cosine, phi):
    sine = math.sqrt(1 - cosine**2)
    direction = tensor([sine * math.cos(phi), sine * math.sin(phi), cosine])
    axes = torch.stack([*frame(direction), direction])
    torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(axes), tensor(1.0))
    assert abs(cosine) > 0.98 or abs(axes[0, 2]) < 1e-15  # e1 is horizontal


@given(
    st.floats(-5, 5), st.floats(-50, 50), st.floats(-3.1, 3.1), st.floats(-3, 3), st.floats(-5, 5),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.floats(-30, 30),
)  # fmt: skip
def test_five_perigee_parameters_describe_the_whole_path(d0, z0, phi0, tan_lambda, q_over_pt, reference, s):
    five = Perigee(*(tensor(value) for value in (d0, z0, phi0, tan_lambda, q_over_pt)))
    helix = from_perigee(five, tensor(reference), 0.5)
    # The perigee is the same seen from another point of the path, if that is less than a half turn away.
    again = perigee(move(helix, tensor(s)), tensor(reference), 0.5)
    for name, found, expected in zip(Perigee._fields, again, five, strict=True):
        assert abs(float(found - expected)) < 1e-9, name


def test_positive_d0_lies_to_the_left_of_the_momentum():
    helix = Helix(tensor([0.0, 0.1, 0.0]), tensor([1.0, 0.0, 0.0]), tensor(0.0))
    assert perigee(helix, tensor([0.0, 0.0, 0.0]), 0.5).d0 == pytest.approx(0.1)


def test_straight_tracks_have_q_over_pt_zero_at_the_perigee():
    five = perigee(random_helices(10, omega=0.0), tensor([0.0, 0.0, 0.0]), 0.0)
    assert torch.equal(five.q_over_pt, torch.zeros(10, dtype=torch.float64))
    assert all(torch.isfinite(field).all() for field in five)


@pytest.mark.parametrize("omega", OMEGAS)
def test_the_closest_approach_is_perpendicular_and_the_minimum(omega):
    helix = random_helices(20, omega=omega)
    reference = torch.randn(20, 3, dtype=torch.float64)
    s = path_to_axis(helix, reference)
    apart = (point(helix, s) - reference)[:, :2]
    along = (apart * tangent(helix, s)[:, :2]).sum(-1)
    assert along.abs().max() < 1e-12

    def distance(length: float, row: int) -> float:
        one = Helix(*(field[row] for field in helix))
        return float((point(one, tensor(length)) - reference[row])[:2].norm())

    for row in range(5):
        around = float(s[row])
        best = minimize_scalar(
            distance,
            bounds=(around - 20, around + 20),
            args=(row,),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert best.x == pytest.approx(around, abs=1e-6)


def test_the_path_to_a_cylinder_ends_on_it_going_outwards():
    helix = random_helices(200)._replace(direction=unit(tensor([[1.0, 0.3, 0.8]])).expand(200, 3))
    radius = 5 + 34 * torch.rand(200, dtype=torch.float64)
    s = path_to_cylinder(helix, radius)
    place = point(helix, s)
    torch.testing.assert_close(place[:, :2].norm(dim=-1), radius, rtol=0, atol=1e-9)
    assert ((place * tangent(helix, s))[:, :2].sum(-1) > 0).all()
    assert (s > 0).all()


def test_a_particle_that_curls_up_never_reaches_an_outer_cylinder():
    helix = from_momentum(tensor([0.0, 0.0, 0.0]), tensor([0.05, 0.0, 0.0]), tensor(1.0), 0.5)
    diameter = 2 * 0.05 / (0.299792458 * 0.5) * 100
    assert torch.isfinite(path_to_cylinder(helix, tensor(0.9 * diameter), steps=10))
    assert not torch.isfinite(path_to_cylinder(helix, tensor(1.2 * diameter), steps=10))


@pytest.mark.parametrize("pt", [1.0, 10.0, 50.0])
def test_single_precision_is_good_to_a_micrometre_at_40_cm(pt):
    phi, theta = 2 * math.pi * torch.rand(10_000).double(), 0.5 + 2 * torch.rand(10_000).double()
    momentum = pt * torch.stack([phi.cos(), phi.sin(), 1 / theta.tan()], -1)
    helix = from_momentum(
        torch.zeros(10_000, 3, dtype=torch.float64), momentum, torch.ones(10_000).double(), 0.5
    )
    s = torch.full((10_000,), 40.0, dtype=torch.float64)
    # The rounding of the inputs is not the formula's doing: both start from the same numbers.
    single = Helix(*(field.float() for field in helix))
    exact = point(Helix(*(field.double() for field in single)), s)
    error = (point(single, s.float()).double() - exact).norm(dim=-1)
    assert error.max() < 0.3 * UM
