"""The weak modes: their formulas, what a sensor does in their fields, and what tracks see of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.misalign import misaligned
from alignnet.geometry.telescope import telescope
from alignnet.geometry.weak_modes import (
    WEAK_MODE_NAMES,
    WEAK_MODES,
    WeakMode,
    displacement,
    edge,
    rigid_motion_basis,
    weak_mode_basis,
)

ideal = its2()
basis = weak_mode_basis(ideal)
R_MAX, Z_MAX = edge(ideal)
MICROMETRE = 1e-4


def cylindrical(position: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dR, R dφ, dZ of a displacement."""
    outwards = torch.nn.functional.pad(torch.nn.functional.normalize(position[:, :2], dim=-1), (0, 1))
    around = torch.linalg.cross(torch.tensor([[0.0, 0.0, 1.0]]).double().expand_as(outwards), outwards)
    return (moved * outwards).sum(-1), (moved * around).sum(-1), moved[:, 2]


def formula(mode: str, position: Tensor, phase: float) -> tuple[int, Tensor]:
    """Which of dR, R dφ, dZ moves, and by how much at unit amplitude, from polar coordinates."""
    r, zeta = position[:, :2].norm(dim=-1) / R_MAX, position[:, 2] / Z_MAX
    phi = torch.atan2(position[:, 1], position[:, 0])
    return {
        "radial": (0, r),
        "curl": (1, r**2),
        "telescope": (2, r),
        "elliptical": (0, r * torch.cos(2 * phi - phase)),
        "clamshell": (1, r * torch.cos(phi - phase)),
        "skew": (2, r * torch.cos(phi - phase)),
        "bowing": (0, r * (1 - zeta**2)),
        "conical": (0, r * zeta),
        "clamshell_radial": (0, r * torch.cos(phi - phase)),
        "twist": (1, r * zeta),
        "z_expansion": (2, zeta),
    }[mode]


@pytest.mark.parametrize("phase", [0.0, math.pi / 2, 0.4])
@pytest.mark.parametrize("mode", [*WEAK_MODES, "conical", "clamshell_radial"])
def test_a_mode_moves_sensors_by_its_formula(mode: str, phase: float) -> None:
    actual = misaligned(ideal, WeakMode(mode, 0.01, phase)(ideal))
    found = cylindrical(ideal.translation, actual.translation - ideal.translation)
    which, expected = formula(mode, ideal.translation, phase)
    for i, component in enumerate(found):
        assert torch.allclose(
            component, 0.01 * expected if i == which else torch.zeros(24120).double(), rtol=0, atol=1e-13
        )


def test_the_amplitude_is_what_the_edge_of_the_detector_moves_by() -> None:
    corner = torch.tensor([R_MAX, 0.0, Z_MAX], dtype=torch.float64)
    for mode in WEAK_MODES:
        at = corner * torch.tensor([1.0, 1.0, 0.0]) if mode == "bowing" else corner
        assert float(displacement(mode, at, R_MAX, Z_MAX).norm()) == pytest.approx(1, abs=1e-12), mode


def test_the_edge_of_its2_is_the_corner_of_its_outermost_active_areas() -> None:
    assert pytest.approx(39.5540, abs=5e-5) == R_MAX
    assert pytest.approx(73.875 - 29.12e-4, abs=1e-6) == Z_MAX


def test_no_amplitude_is_no_motion_and_the_rest_is_proportional() -> None:
    assert WeakMode("skew", 0.0)(ideal).abs().max() == 0
    assert torch.allclose(
        WeakMode("skew", 0.02)(ideal), 2 * WeakMode("skew", 0.01)(ideal), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("name", WEAK_MODE_NAMES)
def test_rows_of_the_basis_are_the_modes_of_their_names(name: str) -> None:
    mode, phase = (
        name.removesuffix("_sin").removesuffix("_cos"),
        math.pi / 2 if name.endswith("_sin") else 0.0,
    )
    row = basis[WEAK_MODE_NAMES.index(name)]
    assert torch.equal(row, WeakMode(mode, 1.0, phase)(ideal))


def test_the_basis_holds_the_nine_with_both_phases_and_is_independent_of_rigid_motions() -> None:
    assert {name.removesuffix("_sin").removesuffix("_cos") for name in WEAK_MODE_NAMES} >= set(WEAK_MODES)
    modes = torch.cat([basis, rigid_motion_basis(ideal)])[..., :3].flatten(1)
    modes = modes / modes.norm(dim=-1, keepdim=True)
    singular = torch.linalg.svdvals(modes)
    assert float(singular.min()) > 0.05


def test_modes_may_be_written_as_in_the_table_of_the_field() -> None:
    for spelling, mode in (
        ("Z expansion", "z_expansion"),
        ("radial expansion", "radial"),
        ("Twist", "twist"),
    ):
        assert torch.equal(WeakMode(spelling, 1.0)(ideal), WeakMode(mode, 1.0)(ideal))


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'bend' is not known.*twist"):
        WeakMode("bend", 0.01)


def test_a_rigid_motion_of_everything_is_the_basis_to_first_order() -> None:
    rigid_basis = rigid_motion_basis(ideal)
    for row in range(6):
        for step in (1e-3, 1e-4):
            delta = torch.zeros(6, dtype=torch.float64)
            delta[row] = step
            place = rigid.place_global(ideal.rotation, ideal.translation, delta)
            exact = rigid.local_of(ideal.rotation, ideal.translation, *place)
            second_order = 0.0 if row < 3 else 90 * step**2
            assert (exact - step * rigid_basis[row]).abs().max() <= second_order + 1e-13


def test_sensors_turn_with_the_twist() -> None:
    """The twist turns each plane of constant z about the beam by A Z / (R_max Z_max)."""
    twist = misaligned(ideal, WeakMode("twist", 0.01)(ideal))
    turn = rigid.log(twist.rotation @ ideal.rotation.mT)[:, 2]
    assert torch.allclose(turn, 0.01 * ideal.translation[:, 2] / (R_MAX * Z_MAX), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", WEAK_MODE_NAMES)
def test_the_sheet_of_a_sensor_turns_with_the_field(name: str) -> None:
    """Near the origin, both tangents follow the field out of the plane, and their turns in it on average."""
    mode, phase = (
        name.removesuffix("_sin").removesuffix("_cos"),
        math.pi / 2 if name.endswith("_sin") else 0.0,
    )
    shift, turn = rigid.split_local(basis[WEAK_MODE_NAMES.index(name)])
    left_over = []
    for axis in (0, 2):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-4
        field = displacement(mode, ideal.translation + ideal.rotation @ step, R_MAX, Z_MAX, phase)
        local = (ideal.rotation.mT @ field[..., None]).squeeze(-1)
        left_over.append((local - shift - torch.linalg.cross(turn, step.expand_as(turn))) / step[axis])
    along_u, along_v = left_over
    assert torch.stack([along_u[:, 1], along_v[:, 1]]).abs().max() < 1e-5  # per cm, at an amplitude of 1 cm
    assert (along_u[:, 2] - along_v[:, 0]).abs().max() < 1e-5


def active_corners(detector: Detector) -> Tensor:
    """Local (u, v) of the active areas' corners, (sensors, 4, 2)."""
    signs = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    return detector.centre[:, None] + signs * detector.half[:, None]


def seen(detector: Detector, point: Tensor, direction: Tensor) -> Tensor:
    """Local (u, v) where straight lines through points (sensors, 4, 3) cross the sensors."""
    local = (point - detector.translation[:, None]) @ detector.rotation
    slope = direction @ detector.rotation
    return (local - local[..., 1:2] / slope[..., 1:2] * slope)[..., [0, 2]]


def hits(detector: Detector) -> Tensor:
    """Global positions of the corners of the active areas, (sensors, 4, 3)."""
    u, v = active_corners(detector).unbind(-1)
    local = torch.stack([u, torch.zeros_like(u), v], -1)
    return detector.translation[:, None] + local @ detector.rotation.mT


def test_tracks_of_changed_curvature_do_not_see_a_curl() -> None:
    """Straight tracks from the origin, given a curvature 2A/R_max², hit the moved sensors where they did."""
    amplitude = 100 * MICROMETRE
    actual = misaligned(ideal, WeakMode("curl", amplitude)(ideal))
    before = hits(ideal)
    angle = amplitude * before[..., :2].norm(dim=-1) / R_MAX**2
    c, s, (x, y, z) = angle.cos(), angle.sin(), before.unbind(-1)
    after = torch.stack([c * x - s * y, s * x + c * y, z], -1)
    residual = seen(actual, after, after) - active_corners(ideal)
    assert residual.abs().max() < 0.11 * MICROMETRE


def test_tracks_of_changed_dip_do_not_see_a_telescope() -> None:
    """With tan λ changed by A/R_max they hit the moved sensors where they did, but for a shear of these."""
    amplitude = 100 * MICROMETRE
    actual = misaligned(ideal, WeakMode("telescope", amplitude)(ideal))
    before = hits(ideal)
    after = before.clone()
    after[..., 2] += amplitude * before[..., :2].norm(dim=-1) / R_MAX
    residual = seen(actual, after, after) - active_corners(ideal)
    assert residual.abs().max() < 0.6 * MICROMETRE


def test_tracks_of_changed_azimuth_do_not_see_a_clamshell_with_its_companion() -> None:
    """Both together shift everything along x by a multiple of R: every track's φ0 changes by −sin φ of it."""
    field = displacement("clamshell_radial", ideal.translation, 1.0, 1.0)
    field = field - displacement("clamshell", ideal.translation, 1.0, 1.0, math.pi / 2)
    radius = ideal.translation[:, :2].norm(dim=-1)
    assert torch.allclose(field[:, 0], radius, rtol=0, atol=1e-12)
    assert field[:, 1:].abs().max() < 1e-12


def test_planes_on_the_beam_axis_are_carried_along_without_a_nan() -> None:
    planes = telescope([0.0, 2.0, 4.0], 1.0, 0.5)
    of_planes = weak_mode_basis(planes)
    assert torch.isfinite(of_planes).all()
    twist = of_planes[WEAK_MODE_NAMES.index("twist")]
    assert edge(planes) == (pytest.approx(math.hypot(1.0, 0.5)), 4.0)
    expected = -torch.tensor([0.0, 0.5, 1.0]).double() / math.hypot(1.0, 0.5)  # about w, which is −z
    assert torch.allclose(twist[:, 5], expected, rtol=0, atol=1e-12)
    assert torch.isfinite(weak_mode_basis(telescope([0.0], 1.0, 1.0))).all()


def test_the_field_and_its_gradient_are_smooth_near_the_axis() -> None:
    near = torch.tensor([[1e-9, -1e-9, 1.0]], dtype=torch.float64)
    for mode in (*WEAK_MODES, "conical", "clamshell_radial"):
        at_axis = displacement(mode, near * torch.tensor([0.0, 0.0, 1.0]), R_MAX, Z_MAX)
        assert torch.allclose(displacement(mode, near, R_MAX, Z_MAX), at_axis, rtol=0, atol=1e-9)
