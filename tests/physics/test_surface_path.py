"""Where helices meet bent and deformed sheets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from alignnet.geometry import rigid
from alignnet.geometry.surface import Surface
from alignnet.physics.helix import Helix, path_to_plane, point, tangent
from alignnet.physics.surface_path import Sheet, flattened, height_above, line_to_cylinder, path_to_sheet

N = 30


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sheets(curvature: float, modes: int = 7, size: float = 0.005) -> Sheet:
    """Random sheets of a curvature."""
    half, centre = (
        torch.tensor([1.0, 2.0]).double().repeat(N, 1),
        torch.tensor([0.1, 0.2]).double().repeat(N, 1),
    )
    surface = Surface(torch.full((N,), curvature).double(), half, centre, size * drawn(N, modes, seed=1))
    return Sheet(rigid.exp(drawn(N, 3, seed=2)), drawn(N, 3, seed=3), surface)


def towards(sheet: Sheet, distance: float = 3.0) -> tuple[Helix, Tensor, Tensor]:
    """Helices that meet sheets at known places, (u, v) and path lengths."""
    uv = sheet.surface.centre + sheet.surface.half * (2 * torch.rand(N, 2, dtype=torch.float64) - 1)
    normal = sheet.normal(uv)
    direction = normal + 0.4 * drawn(N, 3, seed=4)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    omega = 0.02 * drawn(N, seed=5)
    back = Helix(sheet.point(uv), -direction, -omega)
    start = torch.full((N,), distance).double()
    here = point(back, start)
    return Helix(here, -tangent(back, start), omega), uv, start


@given(
    st.floats(-0.8, 0.8), st.floats(-3.0, 3.0), st.floats(-5.0, 5.0), st.floats(-0.5, 0.5),
)  # fmt: skip
def test_flattening_undoes_the_bend(curvature, angle, v, height):
    k, u = torch.tensor(curvature).double(), torch.tensor(angle / max(abs(curvature), 1.0)).double()
    uv = torch.stack([u, torch.tensor(v).double()])
    two, none = torch.ones(2).double(), torch.zeros(0).double()
    surface = Surface(k, two, 0 * two, none)
    place = surface.point(uv) + height * surface.normal(uv)
    found, above = flattened(place, k)
    assert torch.allclose(found, uv, atol=1e-12)
    assert torch.isclose(above, torch.tensor(height).double(), atol=1e-12)


def test_flattening_nothing_changes_nothing():
    place = drawn(N, 3)
    uv, height = flattened(place, torch.zeros(N).double())
    assert torch.equal(uv, place[:, [0, 2]])
    assert torch.equal(height, place[:, 1])


@pytest.mark.parametrize("curvature", [0.0, 1e-8, 0.3, -0.5])
def test_a_path_meets_the_sheet_where_it_was_drawn_to(curvature):
    sheet = sheets(curvature)
    helix, uv, s = towards(sheet)
    found = path_to_sheet(helix, sheet, s + 0.05 * drawn(N, seed=6))
    assert torch.allclose(found, s, atol=1e-10)
    assert height_above(helix, sheet, found).abs().max() < 1e-12
    assert torch.allclose(sheet.uv(point(helix, found)), uv, atol=1e-10)


def test_a_flat_sheet_is_met_as_a_plane_is():
    sheet = sheets(0.0, modes=0)
    helix, _, s = towards(sheet)
    plane = path_to_plane(helix, sheet.translation, sheet.rotation[..., 1])
    assert torch.allclose(path_to_sheet(helix, sheet, s), plane, atol=1e-12)


@pytest.mark.parametrize("curvature", [0.0, 0.4])
def test_turning_everything_about_the_field_changes_no_path(curvature):
    sheet = sheets(curvature)
    helix, uv, s = towards(sheet)
    turn = rigid.exp(torch.tensor([0.0, 0.0, 0.789]).double())
    turned = Sheet(turn @ sheet.rotation, sheet.translation @ turn.T, sheet.surface)
    other = Helix(helix.position @ turn.T, helix.direction @ turn.T, helix.omega)
    found = path_to_sheet(other, turned, s)
    assert torch.allclose(found, path_to_sheet(helix, sheet, s), atol=1e-12)
    assert torch.allclose(turned.uv(point(other, found)), uv, atol=1e-11)


@pytest.mark.parametrize("curvature", [0.0, -0.4])
def test_gradients_of_the_place_of_crossing(curvature):
    sheet = sheets(curvature)
    helix, _, s = towards(sheet)
    some = slice(0, 4)
    leaves = [
        helix.position[some], helix.direction[some], helix.omega[some], sheet.rotation[some],
        sheet.translation[some], sheet.surface.curvature[some], sheet.surface.amplitude[some],
    ]  # fmt: skip

    def crossed(*of: Tensor) -> Tensor:
        moved = Sheet(
            of[3], of[4], Surface(of[5], sheet.surface.half[some], sheet.surface.centre[some], of[6])
        )
        return path_to_sheet(Helix(*of[:3]), moved, s[some])

    assert gradcheck(crossed, [leaf.clone().requires_grad_() for leaf in leaves])


def test_a_line_meets_the_cylinder_twice():
    flat = torch.zeros(1, 0).double()
    two = torch.ones(1, 2).double()
    sheet = Sheet(
        torch.eye(3).double()[None],
        torch.zeros(1, 3).double(),
        Surface(torch.tensor([0.5]).double(), two, 0 * two, flat),
    )  # the axis is at y = 2
    across = Helix(
        torch.tensor([[1.0, -3.0, 0.0]]).double(),
        torch.tensor([[0.0, 1.0, 0.0]]).double(),
        torch.zeros(1).double(),
    )
    far, near = line_to_cylinder(across, sheet)[0].tolist()
    assert near == pytest.approx(3 + 2 - math.sqrt(3))
    assert far == pytest.approx(3 + 2 + math.sqrt(3))
    beside = across._replace(position=torch.tensor([[2.1, -3.0, 0.0]]).double())
    assert line_to_cylinder(beside, sheet).isnan().all()
