"""The ideal ITS2 of ALICE: 24,120 ALPIDE chips on 192 staves in seven layers, in closed form.

With a stave's outward direction n = (cos a, sin a, 0), its direction of rising azimuth t = (−sin a, cos a, 0)
and e = (0, 0, 1), a sensor stands at

    a = φ0 + 360° · stave / n_staves + 180° · half_barrel − τ
    T = X n + Y t + Z e,      local x → s t,   local y → −n,   local z → s e

X and a are the reference X and alpha of ALICE's tracking frame, Y and Z the sensor's place in it.
Inner-barrel staves (layers 0-2) are tilted by τ and carry nine chips in a row. Outer ones are flat and carry
two half-staves of four or seven modules, each of two rows of seven chips, one row turned by 180° about the
normal (s = −1 for chips 0-6 and in the inner barrel, s = +1 for chips 7-13). Half-barrel 0 is the upper one;
`stave` counts inside a half-barrel.

The local frame is ALICE's sensor frame: origin at the centre of the *full* chip (the active matrix is centred
at u = 0.058128 cm), y = 0 in the middle of the effective sensitive layer, +y towards the beam. Identifiers,
symbolic names and numbers are those of AliceO2's GeometryTGeo, V3Layer and SegmentationAlpide. Lengths in cm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.geometry.detector import Detector, Scatterers

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

N_CHIPS = 24_120
N_ROWS, N_COLUMNS = 512, 1024
ROW_PITCH, COLUMN_PITCH = 26.88e-4, 29.24e-4
CHIP_LENGTH_U, CHIP_LENGTH_V = 1.5, 3.0
"""The full chip, passive edges included."""

HALF_U, HALF_V = N_ROWS * ROW_PITCH / 2, N_COLUMNS * COLUMN_PITCH / 2
CENTRE_U = 0.058128
"""The readout edge (1.2 mm) lies at local −x, so the active matrix is off the chip's centre."""

X_OVER_X0 = (0.0036, 0.0036, 0.0036, 0.0110, 0.0110, 0.0110, 0.0110)
"""Published average of each layer, in radiation lengths at normal incidence (arXiv:2506.03212)."""

BEAM_PIPE_RADIUS, BEAM_PIPE_HALF_Z, BEAM_PIPE_X_OVER_X0 = 1.86, 44.4, 0.00227

_STAVES = np.array([12, 16, 20, 24, 30, 42, 48])
# Of a stave, of a half-stave, of a module; an inner stave counts as one half-stave of one module.
_HALF_STAVES = np.array([1, 1, 1, 2, 2, 2, 2])
_MODULES = np.array([1, 1, 1, 4, 4, 7, 7])
_CHIPS = np.array([9, 9, 9, 14, 14, 14, 14])
_CHIPS_OF_STAVE = _CHIPS * _MODULES * _HALF_STAVES
_FIRST = np.concatenate([[0], np.cumsum(_STAVES * _CHIPS_OF_STAVE)])
_R_MID = np.array([2.34, 3.15, 3.93, 19.45, 24.40, 34.24, 39.20])
_PHI0 = np.deg2rad([16.42, 12.18, 9.55, 7.50, 6.00, 4.29, 3.75])
_R_MIN, _R_MAX = np.array([2.24, 3.01, 3.78]), np.array([2.67, 3.46, 4.21])
_TILT = np.zeros(7)
_TILT[:3] = np.arcsin((_R_MAX**2 - _R_MIN**2) / (2 * _R_MID[:3] * CHIP_LENGTH_U))
_CHIP_STEP, _MODULE_STEP = 3.015, 21.11  # along z


class ChipAddress(NamedTuple):
    """Where a chip sits, int64 arrays of one shape; `half_stave` and `module` are −1 in the inner barrel."""

    layer: Integers
    half_barrel: Integers
    stave: Integers
    half_stave: Integers
    module: Integers
    chip: Integers


def its2(b_z: float = 0.5, x_over_x0: Sequence[float] | None = None) -> Detector:
    """The ideal ITS2 with its beam pipe, sensors in the order of ALICE's chip identifiers.

    Args:
        b_z: field along z [T].
        x_over_x0: material of a sensor of each of the seven layers; the published averages by default.

    Raises:
        GeometryError: `x_over_x0` does not have seven values.
    """
    material = X_OVER_X0 if x_over_x0 is None else tuple(x_over_x0)
    if len(material) != 7:
        raise GeometryError(f"its2: x_over_x0 has {len(material)} values, expected 7, one for each layer")
    address = chip_address(np.arange(N_CHIPS))
    rotation, translation = _places(address)
    ones = torch.ones(N_CHIPS, 1, dtype=torch.float64)
    return Detector(
        name="ITS2",
        sensor_id=torch.arange(N_CHIPS),
        names=tuple(symname(*row) for row in zip(*(column.tolist() for column in address), strict=True)),
        layer=torch.from_numpy(address.layer),
        rotation=torch.from_numpy(rotation),
        translation=torch.from_numpy(translation),
        half=ones * torch.tensor([HALF_U, HALF_V], dtype=torch.float64),
        centre=ones * torch.tensor([CENTRE_U, 0.0], dtype=torch.float64),
        x_over_x0=torch.tensor(material, dtype=torch.float64)[torch.from_numpy(address.layer)],
        curvature_radius=torch.zeros(N_CHIPS, dtype=torch.float64),
        b_z=b_z,
        scatterers=_beam_pipe(),
    )


def its2_wedge(
    b_z: float = 0.5,
    x_over_x0: Sequence[float] | None = None,
    phi_max: float = math.pi / 6,
    z_max: float = 6.0,
) -> Detector:
    """The sensors of ITS2 in a wedge, for quick studies.

    Args:
        b_z, x_over_x0: as of `its2`.
        phi_max, z_max: |φ| and |z| of their local origins are smaller [rad, cm].

    Raises:
        GeometryError: there are none, or `x_over_x0` does not have seven values.
    """
    whole = its2(b_z, x_over_x0)
    x, y, z = whole.translation.unbind(-1)
    rows = ((torch.atan2(y, x).abs() < phi_max) & (z.abs() < z_max)).nonzero().squeeze(-1)
    if not len(rows):
        raise GeometryError(
            f"its2_wedge: no sensor has |φ| < {phi_max} rad and |z| < {z_max} cm; expected larger limits"
        )
    return replace(whole.part(rows), name="ITS2 wedge")


def chip_address(chip_id: ArrayLike) -> ChipAddress:
    """Where the chips with these identifiers sit, any shape; inverse of `chip_id`.

    Raises:
        GeometryError: an identifier is not in 0…24119.
    """
    ids = np.asarray(chip_id, dtype=np.int64)
    if ((ids < 0) | (ids >= N_CHIPS)).any():
        raise GeometryError(f"chip identifiers from {ids.min()} to {ids.max()}, expected 0 to {N_CHIPS - 1}")
    layer = np.searchsorted(_FIRST, ids, side="right") - 1
    stave, rest = np.divmod(ids - _FIRST[layer], _CHIPS_OF_STAVE[layer])
    half_barrel, stave = np.divmod(stave, _STAVES[layer] // 2)
    module, chip = np.divmod(rest, _CHIPS[layer])
    half_stave, module = np.divmod(module, _MODULES[layer])
    inner = layer < 3
    return ChipAddress(
        layer, half_barrel, stave, np.where(inner, -1, half_stave), np.where(inner, -1, module), chip
    )


def chip_id(
    layer: ArrayLike,
    half_barrel: ArrayLike,
    stave: ArrayLike,
    half_stave: ArrayLike,
    module: ArrayLike,
    chip: ArrayLike,
) -> Integers:
    """ALICE's chip identifiers; `stave` counts inside the half-barrel.

    In the inner barrel (layers 0-2) `half_stave` and `module` are −1: it has none. Arguments broadcast.

    Raises:
        GeometryError: one of them is out of range for its layer.
    """
    columns = (layer, half_barrel, stave, half_stave, module, chip)
    address = ChipAddress(*np.broadcast_arrays(*(np.asarray(column, dtype=np.int64) for column in columns)))
    _in_range("layer", address.layer, 0, 7)
    staves, modules = _STAVES[address.layer] // 2, _MODULES[address.layer]
    chips, inner = _CHIPS[address.layer], address.layer < 3
    lowest = np.where(inner, -1, 0)
    _in_range("half_barrel", address.half_barrel, 0, 2)
    _in_range("stave", address.stave, 0, staves)
    _in_range("half_stave", address.half_stave, lowest, np.where(inner, 0, 2))
    _in_range("module", address.module, lowest, np.where(inner, 0, modules))
    _in_range("chip", address.chip, 0, chips)
    stave_of_layer = address.half_barrel * staves + address.stave
    module_of_stave = address.half_stave.clip(0) * modules + address.module.clip(0)
    first = _FIRST[address.layer] + stave_of_layer * _CHIPS_OF_STAVE[address.layer]
    return np.asarray(first + module_of_stave * chips + address.chip)


def symname(layer: int, half_barrel: int, stave: int, half_stave: int, module: int, chip: int) -> str:
    """ALICE's symbolic name of a chip; without half-stave and module where they are −1."""
    inside = "" if half_stave < 0 else f"ITSUHalfStave{half_stave}/ITSUModule{module}/"
    return f"ITS/ITSULayer{layer}/ITSUHalfBarrel{half_barrel}/ITSUStave{stave}/{inside}ITSUChip{chip}"


def stave_name(layer: int, half_barrel: int, stave: int) -> str:
    """The hardware name L{layer}_{number} of a stave, counted through the whole layer."""
    return f"L{layer}_{half_barrel * int(_STAVES[layer]) // 2 + stave:02d}"


def tracking_frame(detector: Detector) -> tuple[Tensor, Tensor]:
    """ALICE's tracking frame of each sensor: X [cm] and alpha in [0, 2π), each (sensors,).

    The frame is the global one rotated about z by alpha, so that its x axis is the normal from the z axis to
    the line through the sensor's origin along its local x; X is the length of that normal.
    """
    along = detector.rotation[:, :2, 0]
    along = along / along.norm(dim=-1, keepdim=True)
    origin = detector.translation[:, :2]
    foot = origin - (origin * along).sum(-1, keepdim=True) * along
    return foot.norm(dim=-1), torch.remainder(torch.atan2(foot[:, 1], foot[:, 0]), 2 * torch.pi)


def pixel_to_local(row: ArrayLike, column: ArrayLike) -> tuple[Floats, Floats]:
    """Local (u, v) [cm] of pixel centres; fractions of a pixel (a cluster's centre of gravity) are welcome.

    Raises:
        GeometryError: outside the matrix, −0.5…511.5 rows and −0.5…1023.5 columns.
    """
    rows, columns = np.asarray(row, dtype=np.float64), np.asarray(column, dtype=np.float64)
    _in_range("row", rows + 0.5, 0, N_ROWS)
    _in_range("column", columns + 0.5, 0, N_COLUMNS)
    return CENTRE_U + HALF_U - (rows + 0.5) * ROW_PITCH, (columns + 0.5) * COLUMN_PITCH - HALF_V


def local_to_pixel(u: ArrayLike, v: ArrayLike) -> tuple[Integers, Integers]:
    """Row and column of the pixels that hold the local points (u, v) [cm]; both are −1 outside the matrix."""
    row = np.floor((CENTRE_U + HALF_U - np.asarray(u, dtype=np.float64)) / ROW_PITCH)
    column = np.floor((np.asarray(v, dtype=np.float64) + HALF_V) / COLUMN_PITCH)
    inside = (row >= 0) & (row < N_ROWS) & (column >= 0) & (column < N_COLUMNS)
    return np.where(inside, row, -1).astype(np.int64), np.where(inside, column, -1).astype(np.int64)


def _places(address: ChipAddress) -> tuple[Floats, Floats]:
    """Rotations (chips, 3, 3) and translations (chips, 3) of the sensor frames."""
    layer, inner, first_row = address.layer, address.layer < 3, address.chip < 7
    sign = np.where(inner | first_row, -1.0, 1.0)
    x = _R_MID[layer] + np.where(address.half_stave == 0, -0.09675, 0.26325)
    x = np.where(inner, _R_MID[layer] * np.cos(_TILT[layer]) + 0.0029, x)
    y = np.where(address.half_stave == 0, -1.29, 1.29) + np.where(first_row, 0.7575, -0.7575)
    y = np.where(inner, _R_MID[layer] * np.sin(_TILT[layer]), y)
    in_row = 9.045 - _CHIP_STEP * (address.chip % 7)
    in_module = np.where(first_row, in_row, -in_row)
    z = _MODULE_STEP * ((_MODULES[layer] - 1) / 2 - address.module) + in_module
    z = np.where(inner, 12.06 - _CHIP_STEP * address.chip, z)
    turn = address.stave / _STAVES[layer] + address.half_barrel / 2
    azimuth = _PHI0[layer] - _TILT[layer] + 2 * np.pi * turn
    c, s, o = np.cos(azimuth), np.sin(azimuth), np.zeros(len(layer))
    rotation = np.stack([-s * sign, -c, o, c * sign, -s, o, o, o, sign], -1).reshape(-1, 3, 3)
    return rotation, np.stack([x * c - y * s, x * s + y * c, z], -1)


def _beam_pipe() -> Scatterers:
    values = (BEAM_PIPE_RADIUS, BEAM_PIPE_HALF_Z, BEAM_PIPE_X_OVER_X0)
    return Scatterers(*(torch.tensor([value], dtype=torch.float64) for value in values))


def _in_range(name: str, value: Integers | Floats, low: ArrayLike, high: ArrayLike) -> None:
    """`low` ≤ value < `high`, or a GeometryError; NaN is outside."""
    value, low, high = np.broadcast_arrays(value, low, high)
    outside = ~((value >= low) & (value < high))
    if outside.any():
        found, least, most = value[outside][0], low[outside][0], high[outside][0]
        raise GeometryError(f"{name} {found} is not on the detector; expected {least} <= {name} < {most}")
