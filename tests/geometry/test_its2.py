"""The ideal ITS2 against numbers that the geometry builder of ALICE O2 gives."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.geometry.its2 import (
    chip_address,
    chip_id,
    its2,
    its2_wedge,
    local_to_pixel,
    pixel_to_local,
    stave_name,
    symname,
    tracking_frame,
)

ideal = its2()
reference_x, alphas = tracking_frame(ideal)
FIRST = [0, 108, 252, 432, 3120, 6480, 14712, 24120]
CONF = Path(__file__).resolve().parents[2] / "conf" / "detector"

# layer: X of its planes; mean, min, max radius of the sensors' origins; min, max over the chips;
# min, max, mean over the active areas; half-length in z [cm]
TABLE = {
    0: ([2.23456], [2.3428, 2.3428, 2.3428], [2.2346, 2.6658], [2.2346, 2.6023, 2.3581], 13.560),
    1: ([2.99967], [3.1528, 3.1528, 3.1528], [3.0078, 3.4581], [3.0080, 3.3999, 3.1591], 13.560),
    2: ([3.76233], [3.9328, 3.9328, 3.9328], [3.7830, 4.2127], [3.7834, 4.1601, 3.9354], 13.560),
    3: (
        [19.35325, 19.71325],
        [19.5904, 19.3606, 19.8193],
        [19.3533, 19.9108],
        [19.3533, 19.8943, 19.5924],
        42.210,
    ),
    4: (
        [24.30325, 24.66325],
        [24.5289, 24.3091, 24.7481],
        [24.3033, 24.8214],
        [24.3033, 24.8082, 24.5305],
        42.210,
    ),
    5: (
        [34.14325, 34.50325],
        [34.3558, 34.1474, 34.5639],
        [34.1433, 34.6165],
        [34.1433, 34.6070, 34.3570],
        73.875,
    ),
    6: (
        [39.10325, 39.46325],
        [39.3117, 39.1069, 39.5163],
        [39.1033, 39.5623],
        [39.1033, 39.5540, 39.3127],
        73.875,
    ),
}
# chip: translation [cm], X [cm], alpha [rad]; None where the source has no number
SAMPLES = {
    0: ((2.247463, 0.661408, 12.06), 2.234561, 6.264284),
    8: ((2.247463, 0.661408, -12.06), 2.234561, 6.264284),
    9: ((1.615657, 1.696528, 12.06), None, 0.504698),
    54: ((-2.247463, -0.661408, 12.06), None, 3.122692),
    107: ((2.277064, -0.550936, -12.06), None, 5.740685),
    108: ((3.081978, 0.664307, 12.06), 2.999670, 6.182576),
    431: ((3.889958, -0.578742, -12.06), 3.762334, 5.840007),
    432: ((19.257185, 1.998162, 40.71), 19.353250, 0.130900),
    445: ((19.454933, 0.496123, 40.71), None, None),
    488: ((19.277348, 4.603079, 40.71), 19.713250, None),
    3119: ((19.614106, -2.045151, -22.62), None, None),
    3120: ((24.225776, 2.010798, 40.71), 24.303250, 0.104720),
    6480: ((34.087421, 2.023067, 72.375), 34.143250, 0.074875),
    14712: ((39.054354, 2.026115, 72.375), 39.103250, 0.065450),
    24119: ((39.413583, -2.049660, -54.285), 39.463250, 6.217735),
}


def at_local_u(rows: Tensor, u: Tensor) -> Tensor:
    """Transverse positions (sensors, points, 2) of points at local u (points,)."""
    return ideal.translation[rows, None, :2] + u[:, None] * ideal.rotation[rows, None, :2, 0]


def ring(layer: int) -> Tensor:
    """The sensors of a layer that stand at the z of its first one: all others repeat them along z."""
    rows = of_layer(layer)
    return rows[(ideal.translation[rows, 2] - ideal.translation[rows[0], 2]).abs() < 1e-6]


def radii(layer: int, low: float, high: float, points: int) -> Tensor:
    """Radii on a grid of local u over the sensors of a ring."""
    return at_local_u(ring(layer), torch.linspace(low, high, points, dtype=torch.float64)).norm(dim=-1)


def of_layer(layer: int) -> Tensor:
    return (ideal.layer == layer).nonzero().squeeze(-1)


@pytest.mark.parametrize("layer", range(7))
def test_layers_hold_the_chips_that_alice_numbers_so(layer: int) -> None:
    rows = of_layer(layer)
    assert ideal.sensor_id[rows].tolist() == list(range(FIRST[layer], FIRST[layer + 1]))
    for edge in (FIRST[layer], FIRST[layer + 1] - 1):
        assert chip_address(edge).layer == layer


@pytest.mark.parametrize("layer", range(7))
def test_radii_and_lengths_of_a_layer_are_those_of_the_builder(layer: int) -> None:
    planes, origin, chip, active, half_length = TABLE[layer]
    rows = of_layer(layer)
    assert np.unique(reference_x[rows].numpy().round(8)) == pytest.approx(planes, abs=6e-6)
    radius = ideal.translation[rows, :2].norm(dim=-1)
    assert [radius.mean(), radius.min(), radius.max()] == pytest.approx(origin, abs=5.1e-5)
    full = radii(layer, -0.75, 0.75, 3001)
    assert [full.min(), full.max()] == pytest.approx(chip, abs=5.1e-5)
    over_active = radii(layer, -0.63, 0.746256, 3001)
    # The mean of the source is one over 61 points from edge to edge; that over the area is up to 11 µm less.
    mean = radii(layer, -0.63, 0.746256, 61).mean()
    assert [over_active.min(), over_active.max(), mean] == pytest.approx(active, abs=5.1e-5)
    assert float(ideal.translation[rows, 2].abs().max()) + 1.5 == pytest.approx(half_length, abs=1e-9)


def test_active_radii_lie_where_half_and_centre_say() -> None:
    low, high = (ideal.centre[:, 0] - ideal.half[:, 0]), (ideal.centre[:, 0] + ideal.half[:, 0])
    assert low.unique().tolist() == pytest.approx([-0.63], abs=1e-12)
    assert high.unique().tolist() == pytest.approx([0.746256], abs=1e-12)
    assert (2 * ideal.half).unique(dim=0).flatten().tolist() == pytest.approx([1.376256, 2.994176], abs=1e-12)
    assert ideal.centre[:, 1].abs().max() == 0


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(0, 1.064), (1, 1.058), (2, 1.067), (3, 1.070), (4, 1.070), (5, 1.070), (6, 1.069)],
)
def test_active_areas_cover_the_azimuth_this_many_times(layer: int, expected: float) -> None:
    ends = at_local_u(ring(layer), torch.tensor([-0.63, 0.746256], dtype=torch.float64))
    phi = torch.atan2(ends[..., 1], ends[..., 0])
    span = torch.remainder(phi[:, 1] - phi[:, 0] + math.pi, 2 * math.pi) - math.pi
    assert float(span.abs().sum() / (2 * math.pi)) == pytest.approx(expected, abs=5.1e-4)


@pytest.mark.parametrize("chip", SAMPLES)
def test_sample_sensors_stand_where_the_builder_puts_them(chip: int) -> None:
    translation, x, alpha = SAMPLES[chip]
    assert ideal.translation[chip].tolist() == pytest.approx(translation, abs=5.1e-7)
    if x is not None:
        assert float(reference_x[chip]) == pytest.approx(x, abs=1.1e-6)
    if alpha is not None:
        assert float(alphas[chip]) == pytest.approx(alpha, abs=5.1e-7)


def test_sensors_of_the_inner_barrel_are_tilted_and_offset_as_configured() -> None:
    for layer, x, y, alpha, tilt in (
        (0, 2.234561, 0.703767, -1.08295, 17.50295),
        (1, 2.999670, 0.970500, -5.76448, 17.94448),
        (2, 3.762333, 1.145233, -7.39227, 16.94227),
    ):
        row = FIRST[layer]
        along = ideal.rotation[row, :, 0] * -1  # s = −1
        assert float(reference_x[row]) == pytest.approx(x, abs=1.1e-6)
        assert float(ideal.translation[row] @ along) == pytest.approx(y, abs=1.1e-6)
        assert math.degrees(alphas[row]) - 360 == pytest.approx(alpha, abs=6e-6)
        assert math.degrees(math.atan2(y, x - 0.0029)) == pytest.approx(tilt, abs=3e-5)


def test_tracking_frame_turns_positions_into_x_and_measured_offsets() -> None:
    """In the frame every origin has x = X, and the normal is −x of it: the local y looks at the beam."""
    c, s = alphas.cos(), alphas.sin()
    x = c * ideal.translation[:, 0] + s * ideal.translation[:, 1]
    assert torch.allclose(x, reference_x, rtol=0, atol=1e-12)
    outwards = torch.stack([c, s, torch.zeros_like(c)], -1)
    assert torch.allclose(ideal.rotation[:, :, 1], -outwards, rtol=0, atol=1e-12)
    assert ((alphas >= 0) & (alphas < 2 * math.pi)).all()


def test_frames_are_right_handed_and_local_z_is_along_the_beam() -> None:
    assert torch.allclose(torch.linalg.det(ideal.rotation), torch.ones(24120).double(), rtol=0, atol=1e-12)
    outer_second_row = (ideal.layer > 2) & torch.from_numpy(chip_address(np.arange(24120)).chip >= 7)
    assert torch.equal(ideal.rotation[:, 2, 2], torch.where(outer_second_row, 1.0, -1.0).double())


def test_half_barrel_1_is_half_barrel_0_turned_by_180_degrees() -> None:
    address = chip_address(np.arange(24120))
    upper = np.flatnonzero(address.half_barrel == 0)
    lower = chip_id(*(column[upper] for column in address._replace(half_barrel=address.half_barrel + 1)))
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    assert torch.allclose(ideal.translation[upper] @ turn, ideal.translation[lower], rtol=0, atol=1e-12)
    assert torch.allclose(turn @ ideal.rotation[upper], ideal.rotation[lower], rtol=0, atol=1e-12)
    stave_height = (
        torch.zeros(7, 2)
        .double()
        .index_put(
            (ideal.layer, torch.from_numpy(address.half_barrel)), ideal.translation[:, 1], accumulate=True
        )
    )
    assert (stave_height[:, 0] > 0).all()  # half-barrel 0 is the upper one


def test_chips_overlap_and_leave_gaps_as_built() -> None:
    half_stave = ideal.translation[432:544]  # the first stave of layer 3
    along = -ideal.rotation[432, :, 0]
    y = (half_stave @ along) + (ideal.rotation[432:544, :, 0] @ along) * 0.058128
    rows = np.unique(y.numpy().round(5))
    assert rows.tolist() == pytest.approx([-1.98937, -0.59063, 0.59063, 1.98937], abs=1e-5)
    gaps = np.diff(rows) - 2 * float(ideal.half[432, 0])  # in a module, between the half-staves, in a module
    assert gaps == pytest.approx([0.0225, -0.195, 0.0225], abs=5e-5)
    z = np.unique(half_stave[:, 2].numpy().round(6))
    steps = np.unique((np.diff(z) - 2 * 1.497088).round(5))
    assert steps == pytest.approx([0.0208, 0.0258], abs=5e-5)  # between chips, between modules


@pytest.mark.parametrize(
    ("level", "volumes"),
    [
        ("layer", 7),
        ("half_barrel", 14),
        ("stave", 192),
        ("half_stave", 288),
        ("module", 1692),
        ("sensor", 24120),
    ],
)
def test_the_hierarchy_has_as_many_volumes_as_alice_aligns(level: str, volumes: int) -> None:
    index, paths = ideal.groups(level)
    assert len(paths) == volumes
    assert len(index[index >= 0].unique()) == volumes
    inner = ideal.layer < 3
    assert ((index < 0) == (inner if level in ("half_stave", "module") else torch.zeros_like(inner))).all()


def test_levels_are_listed_coarsest_first() -> None:
    assert ideal.levels == ("all", "Layer", "HalfBarrel", "Stave", "HalfStave", "Module", "sensor")


def test_staves_and_modules_hold_as_many_chips_as_built() -> None:
    stave, paths = ideal.groups("Stave")
    chips = torch.bincount(stave)
    layer = torch.tensor([int(re.findall(r"Layer(\d)", path)[0]) for path in paths])
    assert torch.bincount(layer).tolist() == [12, 16, 20, 24, 30, 42, 48]
    assert chips.tolist() == torch.tensor([9, 9, 9, 112, 112, 196, 196])[layer].tolist()
    module = ideal.groups("Module")[0]
    assert torch.bincount(module[module >= 0]).unique().tolist() == [14]


def test_names_are_unique_and_spell_the_identifier() -> None:
    pattern = re.compile(
        r"ITS/ITSULayer(\d+)/ITSUHalfBarrel(\d+)/ITSUStave(\d+)(?:/ITSUHalfStave(\d+)/ITSUModule(\d+))?/ITSUChip(\d+)"
    )
    matches = [pattern.fullmatch(name) for name in ideal.names]
    numbers = np.array([[int(n) if n is not None else -1 for n in m.groups()] for m in matches if m])
    assert chip_id(*numbers.T).tolist() == ideal.sensor_id.tolist()
    assert len(set(ideal.names)) == 24120
    assert (
        ideal.names[24119]
        == "ITS/ITSULayer6/ITSUHalfBarrel1/ITSUStave23/ITSUHalfStave1/ITSUModule6/ITSUChip13"
    )
    assert (
        ideal.names[8] == symname(0, 0, 0, -1, -1, 8) == "ITS/ITSULayer0/ITSUHalfBarrel0/ITSUStave0/ITSUChip8"
    )


def test_staves_are_counted_through_the_layer_in_hardware_names() -> None:
    address = chip_address([0, 54, 107, 3119, 24119])
    names = [stave_name(*row) for row in zip(*(column.tolist() for column in address[:3]), strict=True)]
    assert names == ["L0_00", "L0_06", "L0_11", "L3_23", "L6_47"]


@given(st.integers(0, 24119))
def test_identifier_and_address_are_one_to_one(chip: int) -> None:
    assert chip_id(*chip_address(chip)) == chip


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ((7, 0, 0, 0, 0, 0), "layer"),
        ((0, 2, 0, -1, -1, 0), "half_barrel"),
        ((0, 0, 6, -1, -1, 0), "stave"),
        ((0, 0, 0, 0, -1, 0), "half_stave"),
        ((3, 0, 0, -1, 0, 0), "half_stave"),
        ((3, 0, 0, 0, 4, 0), "module"),
        ((0, 0, 0, -1, -1, 9), "chip"),
        ((6, 0, 0, 0, 0, -1), "chip"),
    ],
)
def test_an_address_off_the_detector_is_refused_by_its_part(address: tuple[int, ...], name: str) -> None:
    with pytest.raises(GeometryError, match=f"^{name} "):
        chip_id(*address)


@pytest.mark.parametrize("chip", [-1, 24120])
def test_an_identifier_off_the_detector_is_refused(chip: int) -> None:
    with pytest.raises(GeometryError, match="24119"):
        chip_address([0, chip])


def test_pixels_lie_where_alices_segmentation_has_them() -> None:
    u, v = pixel_to_local([0, 511, 0], [0, 0, 1023])
    assert u.tolist() == pytest.approx([0.744912, -0.628656, 0.744912], abs=1e-12)
    assert v.tolist() == pytest.approx([-1.495626, -1.495626, 1.495626], abs=1e-12)


@given(st.integers(0, 511), st.integers(0, 1023))
def test_a_pixels_centre_is_in_that_pixel(row: int, column: int) -> None:
    assert local_to_pixel(*pixel_to_local(row, column)) == (row, column)


@given(st.floats(-0.6299999, 0.7462559), st.floats(-1.4970879, 1.4970879))
def test_a_point_of_the_matrix_is_within_half_a_pitch_of_its_pixels_centre(u: float, v: float) -> None:
    centre_u, centre_v = pixel_to_local(*local_to_pixel(u, v))
    assert abs(u - centre_u) <= 13.44e-4 + 1e-12
    assert abs(v - centre_v) <= 14.62e-4 + 1e-12


def test_a_fraction_of_a_pixel_is_that_fraction_of_the_pitch() -> None:
    centre, shifted = pixel_to_local(100, 200), pixel_to_local(100.25, 199.5)
    assert float(shifted[0] - centre[0]) == pytest.approx(-0.25 * 26.88e-4, abs=1e-12)
    assert float(shifted[1] - centre[1]) == pytest.approx(-0.5 * 29.24e-4, abs=1e-12)


def test_points_outside_the_matrix_have_no_pixel() -> None:
    u = np.array([0.7463, -0.6301, 0.0, 0.0, np.nan, 0.0])
    v = np.array([0.0, 0.0, 1.4972, -1.4972, 0.0, np.inf])
    row, column = local_to_pixel(u, v)
    assert row.tolist() == column.tolist() == [-1] * 6


@pytest.mark.parametrize(
    ("row", "column", "name"), [(512, 0, "row"), (-1, 0, "row"), (0, 1024, "column"), (0, math.nan, "column")]
)
def test_pixels_outside_the_matrix_are_refused(row: float, column: float, name: str) -> None:
    with pytest.raises(GeometryError, match=f"^{name} "):
        pixel_to_local([3, row], [3, column])


def test_material_and_field_are_those_asked_for() -> None:
    assert [float(ideal.x_over_x0[first]) for first in FIRST[:7]] == [0.0036] * 3 + [0.011] * 4
    other = its2(b_z=0.2, x_over_x0=[0.001 * layer for layer in range(7)])
    assert other.b_z == 0.2
    assert torch.equal(other.x_over_x0, 0.001 * other.layer.double())
    with pytest.raises(GeometryError, match="expected 7"):
        its2(x_over_x0=[0.01])


def test_the_beam_pipe_has_the_thickness_of_its_beryllium() -> None:
    pipe = ideal.scatterers
    assert [float(value) for value in (pipe.radius, pipe.half_z)] == [1.86, 44.4]
    assert float(pipe.x_over_x0) == pytest.approx(0.08 / 35.3, abs=5e-6)


def test_the_configured_detector_is_the_default_one() -> None:
    configured = instantiate(OmegaConf.load(CONF / "its2.yaml"), _convert_="all")
    assert configured.fingerprint == ideal.fingerprint
    assert torch.equal(configured.x_over_x0, ideal.x_over_x0)
    assert configured.b_z == ideal.b_z


def test_a_wedge_has_the_sensors_of_the_whole_in_it_and_no_others():
    wedge = its2_wedge(b_z=0.2, phi_max=0.4, z_max=5.0)
    rows = {name: row for row, name in enumerate(ideal.names)}
    where = torch.tensor([rows[name] for name in wedge.names])
    x, y, z = ideal.translation.unbind(-1)
    inside = (y.abs() < math.tan(0.4) * x) & (z.abs() < 5.0)
    assert where.tolist() == inside.nonzero().squeeze(-1).tolist()
    assert torch.equal(wedge.sensor_id, ideal.sensor_id[where])
    assert torch.equal(wedge.rotation, ideal.rotation[where])
    assert set(wedge.layer.tolist()) == set(range(7))
    assert wedge.b_z == 0.2
    assert len(wedge.scatterers) == len(ideal.scatterers)
    with pytest.raises(GeometryError, match=r"no sensor has .* expected larger limits"):
        its2_wedge(phi_max=0.0)
