"""Sheets that are bent about local z and displaced along their normals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import barrel, double
from torch.autograd import gradcheck

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry.surface import (
    Surface,
    bent,
    column_names,
    curvature_of,
    legendre,
    mode_names,
    n_modes,
    order_of,
)

RADII = st.floats(1.0, 50.0).flatmap(lambda r: st.sampled_from([r, -r]))


def shape(curvature: float, order: int = 3, size: float = 0.01, seed: int = 1) -> Surface:
    """A sheet of 2.4 × 8 cm, off the middle, with random modes."""
    amplitude = size * torch.randn(
        n_modes(order), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return Surface(double(curvature).squeeze(), double(1.2, 4.0), double(0.1, -0.2), amplitude)


def places(surface: Surface, n: int = 40) -> torch.Tensor:
    """Random points of the active area (n, 2)."""
    draw = torch.rand(n, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return surface.centre + surface.half * (2 * draw - 1)


def many(surface: Surface, n: int) -> Surface:
    """The same shape for each of n points."""
    return Surface(*(field.expand(n, *field.shape) for field in surface))


def test_without_curvature_a_sheet_is_the_plane_exactly():
    surface = shape(0.0, order=0)
    uv = places(surface)
    flat = torch.stack([uv[:, 0], torch.zeros(len(uv)).double(), uv[:, 1]], -1)
    assert torch.equal(many(surface, len(uv)).point(uv), flat)
    u, v, w = many(surface, len(uv)).axes(uv)
    for axis, expected in ((u, [1, 0, 0]), (v, [0, 0, 1]), (w, [0, 1, 0])):
        assert torch.equal(axis, torch.tensor(expected).double().expand_as(axis))


@pytest.mark.parametrize("radius", [1e3, 1e6, 1e12])
def test_a_large_radius_comes_to_the_plane_as_the_sagitta_says(radius):
    u = torch.linspace(-3, 3, 13).double()
    x, y = bent(u, double(1 / radius))
    assert torch.allclose(y, u.square() / (2 * radius), rtol=1e-5, atol=0)
    assert ((x - u).abs() <= u.abs() ** 3 / (6 * radius**2) * 1.001 + 1e-16).all()


def test_bending_is_smooth_at_no_curvature():
    u, k = torch.linspace(-2, 2, 5).double(), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    x, y = bent(u, k)
    by_x, by_y = (torch.autograd.grad(part.sum(), k, retain_graph=True)[0] for part in (x, y))
    assert torch.equal(by_x, torch.zeros_like(u))
    assert torch.allclose(by_y, u.square() / 2)


@given(RADII)
def test_points_lie_on_the_cylinder_at_their_arc_length(radius):
    u = torch.linspace(-1, 1, 2001).double() * 3.0 * abs(radius)
    x, y = bent(u, double(1 / radius))
    assert torch.allclose(torch.hypot(x, y - radius), torch.full_like(x, abs(radius)), rtol=1e-12)
    length = torch.hypot(x.diff(), y.diff()).sum()
    assert torch.isclose(length, u[-1] - u[0], rtol=1e-5)
    assert (y * radius >= 0).all()  # bent towards w for a positive radius


@given(RADII, st.sampled_from([0, 2, 3, 5]))
def test_axes_are_those_of_the_tangent_plane(radius, order):
    surface = shape(1 / radius, order)
    uv = places(surface, 10)
    sheet = many(surface, len(uv))
    by_u, by_v = torch.func.vmap(torch.func.jacrev(surface.point))(uv).unbind(-1)
    u, v, w = sheet.axes(uv)
    assert torch.allclose(u, by_u / by_u.norm(dim=-1, keepdim=True), atol=1e-12)
    assert torch.allclose((w * by_v).sum(-1), torch.zeros(len(uv)).double(), atol=1e-12)
    frame = torch.stack([u, w, v], -1)
    assert torch.allclose(frame.mT @ frame, torch.eye(3).double().expand(len(uv), 3, 3), atol=1e-12)
    assert (torch.linalg.det(frame) > 0).all()


@pytest.mark.parametrize("curvature", [0.0, 1e-9, -0.5])
def test_gradients_of_the_surface_map(curvature):
    surface = shape(curvature)
    uv = places(surface, 3)

    def mapped(k: torch.Tensor, amplitude: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
        sheet = Surface(k, *many(surface, 3)[1:3], amplitude)
        return torch.cat([sheet.point(uv), *sheet.axes(uv)])

    leaves = (torch.full((3,), curvature).double(), surface.amplitude.repeat(3, 1), uv)
    assert gradcheck(mapped, [leaf.clone().requires_grad_() for leaf in leaves])


def test_polynomials_are_those_of_numpy():
    x = torch.linspace(-1, 1, 9).double()
    values, slopes = legendre(x, 6)
    for n in range(7):
        series = np.polynomial.legendre.Legendre.basis(n)
        np.testing.assert_allclose(values[:, n], series(x.numpy()), atol=1e-14)
        np.testing.assert_allclose(slopes[:, n], series.deriv()(x.numpy()) if n else 0 * x, atol=1e-13)


def test_orders_have_the_modes_of_their_names():
    assert mode_names(2) == ("w20", "w11", "w02")
    assert mode_names(3)[3:] == ("w30", "w21", "w12", "w03")
    assert [n_modes(order) for order in (0, 2, 3, 4)] == [0, 3, 7, 12]
    assert [order_of(n) for n in (0, 3, 7, 12)] == [0, 2, 3, 4]
    assert column_names(9)[4:] == ("rot_v", "rot_w", "w20", "w11", "w02")


@pytest.mark.parametrize("order", [1, -2, 9, 2.0, True, "2"])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ConfigError, match=r"surface_order is .*expected 0 for none, or 2"):
        n_modes(order)


def test_a_number_of_amplitudes_that_no_order_has_is_refused():
    with pytest.raises(GeometryError, match=r"4 amplitudes.*\[0, 3, 7"):
        order_of(4)


def test_three_bows_move_no_corner_apart_from_the_others():
    # P20 and P02 lift all corners alike, P11 the two diagonals against each other
    surface = shape(0.0, 2)
    corners = surface.centre + surface.half * torch.cartesian_prod(double(-1, 1), double(-1, 1))
    one = Surface(*(field.expand(4, *field.shape) for field in surface)).modes(corners)[0]
    assert torch.allclose(one, torch.tensor([[1, 1, 1], [1, -1, 1], [1, -1, 1], [1, 1, 1]]).double())


def test_curvature_of_a_flat_sensor_is_zero_and_keeps_the_sign():
    assert torch.equal(curvature_of(double(0, 2, -4)), double(0, 0.5, -0.25))


def test_a_sheet_that_overlaps_itself_is_refused_by_name():
    detector = barrel()
    radius = torch.where(torch.arange(len(detector)) == 3, 0.4, 0.0).double()
    with pytest.raises(GeometryError, match=rf"{detector.names[3]} is bent to a radius of 0.4 cm"):
        replace(detector, curvature_radius=radius)


def test_the_fingerprint_knows_the_bend():
    detector = barrel()
    bent_one = replace(detector, curvature_radius=torch.full((len(detector),), 20.0).double())
    assert bent_one.fingerprint != detector.fingerprint
