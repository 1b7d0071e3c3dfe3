"""Weak modes: distortions of the detector that tracks from the beam line hardly feel.

Fields of displacement (dR, R dφ, dZ) of amplitude A at the edge of the detector, with r = R/R_max and
ζ = Z/Z_max (`edge`: the largest R and |Z| of the active areas' corners):

    radial      dR = A r               curl       R dφ = A r²             telescope    dZ = A r
    elliptical  dR = A r cos(2φ − p)   clamshell  R dφ = A r cos(φ − p)   skew         dZ = A r cos(φ − p)
    bowing      dR = A r (1 − ζ²)      twist      R dφ = A r ζ            z_expansion  dZ = A ζ

and with them `conical`, dR = A r ζ, bowing's odd companion, and `clamshell_radial`, dR = A r cos(φ − p),
which goes with the clamshell where a change of every track's φ0 hides both. p is the phase. The curl is
exactly what a change of every track's curvature does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector

WEAK_MODES = (
    "radial", "curl", "telescope", "elliptical", "clamshell", "skew", "bowing", "twist", "z_expansion",
)  # fmt: skip
"""The nine, by which coordinate moves (dR, R dφ, dZ) as a function of which (R, φ, Z)."""


@dataclass(frozen=True)
class WeakMode:
    """One weak mode; sensors move rigidly with the field (see `weak_mode_basis`).

    Args:
        mode: one of the nine of `WEAK_MODES`, or "conical" or "clamshell_radial".
        amplitude: displacement at the detector's edge [cm].
        phase: p of the modes in φ [rad]; 0 is a cosine, π/2 a sine.

    Raises:
        ConfigError: there is no such mode.
    """

    mode: str
    amplitude: float
    phase: float = 0.0

    def __post_init__(self) -> None:
        _known(self.mode)

    def __call__(self, detector: Detector) -> Tensor:
        """The local six, (sensors, 6)."""
        return self.amplitude * _carried(detector, self.mode, self.phase)


def displacement(mode: str, position: Tensor, r_max: float, z_max: float, phase: float = 0.0) -> Tensor:
    """The field of a weak mode of unit amplitude (1 cm at the edge), in global x, y, z.

    Args:
        mode: as in `WeakMode`; the formulas are at the top of this file.
        position: global positions [cm], (..., 3).
        r_max: radius of the edge [cm].
        z_max: half-length of the detector [cm].
        phase: p of the modes in φ [rad].

    Returns:
        Displacements [cm], (..., 3).

    Raises:
        ConfigError: there is no such mode.
    """
    x, y, z = position.unbind(-1)
    # On the axis φ is undefined and R has no gradient: any direction will do there, and the field is 0.
    on_axis = (x == 0) & (y == 0)
    off_x = torch.where(on_axis, torch.ones_like(x), x)
    radius = torch.hypot(off_x, y)
    cosine, sine = off_x / radius, y / radius
    c, s = math.cos(phase), math.sin(phase)
    moves, size = _FIELDS[_known(mode)]
    amount = size(
        _Point(
            r=torch.where(on_axis, torch.zeros_like(x), radius / r_max),
            r_cos=(c * x + s * y) / r_max,
            zeta=z / z_max,
            cos=c * cosine + s * sine,
            cos_2=c * (cosine**2 - sine**2) + s * 2 * sine * cosine,
        )
    )
    o = torch.zeros_like(x)
    parts = {
        "R": (amount * x / r_max, amount * y / r_max, o),
        "phi": (-amount * y / r_max, amount * x / r_max, o),
    }
    return torch.stack(parts.get(moves, (o, o, amount)), -1)


_BASIS = (
    ("radial", 0.0), ("curl", 0.0), ("telescope", 0.0),
    ("elliptical", 0.0), ("elliptical", math.pi / 2), ("clamshell", 0.0), ("clamshell", math.pi / 2),
    ("clamshell_radial", 0.0), ("clamshell_radial", math.pi / 2), ("skew", 0.0), ("skew", math.pi / 2),
    ("bowing", 0.0), ("conical", 0.0), ("twist", 0.0), ("z_expansion", 0.0),
)  # fmt: skip

WEAK_MODE_NAMES = (
    "radial", "curl", "telescope",
    "elliptical_cos", "elliptical_sin", "clamshell_cos", "clamshell_sin",
    "clamshell_radial_cos", "clamshell_radial_sin", "skew_cos", "skew_sin",
    "bowing", "conical", "twist", "z_expansion",
)  # fmt: skip
"""The name of each row of `weak_mode_basis`."""


def weak_mode_basis(detector: Detector) -> Tensor:
    """The weak modes, of unit amplitude (1 cm at the edge), as local six: (modes, sensors, 6).

    Those in φ come with both phases, and the companions are among them; rows are named by `WEAK_MODE_NAMES`.
    A sensor is shifted by the field at its origin and turned as the field turns its sheet (the two tangents'
    tilt out of the plane, and the mean of their turns within it), so that its hits follow the field to first
    order but for a stretch and a shear within the plane. Half the field's curl would count how the field
    varies along the normal too, where the sensor has no hits; tracks do see that.
    """
    return torch.stack([_carried(detector, mode, phase) for mode, phase in _BASIS])


def rigid_motion_basis(detector: Detector) -> Tensor:
    """Motions of the whole detector, to first order, as local six: (6, sensors, 6).

    Rows are in the order of `rigid.GLOBAL_NAMES`: shifts along x, y, z [1 cm], and rotations about the global
    x, y and z axes [1 rad].
    """
    axes = torch.eye(3, dtype=torch.float64)[:, None].expand(-1, len(detector), -1)
    turned = torch.linalg.cross(axes, detector.translation.expand_as(axes))
    shift, turn = torch.cat([axes, turned]), torch.cat([torch.zeros_like(axes), axes])
    return rigid.join_local(_in_frame(detector.rotation, shift), _in_frame(detector.rotation, turn))


def edge(detector: Detector) -> tuple[float, float]:
    """R_max and Z_max [cm]: the largest radius and |z| of the corners of the active areas."""
    signs = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    u, v = (detector.centre[:, None] + signs * detector.half[:, None]).unbind(-1)
    local = torch.stack([u, torch.zeros_like(u), v], -1)
    corners = detector.translation[:, None] + local @ detector.rotation.transpose(-1, -2)
    r_max = float(torch.hypot(corners[..., 0], corners[..., 1]).max())
    # A single plane at z = 0 has no length; its Z is 0 too, and any scale does.
    return r_max, float(corners[..., 2].abs().max()) or r_max


class _Point(NamedTuple):
    """What the modes are functions of."""

    r: Tensor  # R / R_max
    r_cos: Tensor  # R cos(φ − p) / R_max, smooth on the axis
    zeta: Tensor  # Z / Z_max
    cos: Tensor  # cos(φ − p)
    cos_2: Tensor  # cos(2φ − p)


_FIELDS: dict[str, tuple[str, Callable[[_Point], Tensor]]] = {
    # Which coordinate moves, and how far; R and φ by a multiple of r, which keeps them smooth on the axis.
    "radial": ("R", lambda p: torch.ones_like(p.r)),
    "curl": ("phi", lambda p: p.r),
    "telescope": ("Z", lambda p: p.r),
    "elliptical": ("R", lambda p: p.cos_2),
    "clamshell": ("phi", lambda p: p.cos),
    "clamshell_radial": ("R", lambda p: p.cos),
    "skew": ("Z", lambda p: p.r_cos),
    "bowing": ("R", lambda p: 1 - p.zeta**2),
    "conical": ("R", lambda p: p.zeta),
    "twist": ("phi", lambda p: p.zeta),
    "z_expansion": ("Z", lambda p: p.zeta),
}


def _known(mode: str) -> str:
    """The mode's name as in `_FIELDS`; "radial expansion" and "z expansion" are read too."""
    name = mode.lower().replace(" ", "_").replace("-", "_")
    name = "radial" if name == "radial_expansion" else name
    if name not in _FIELDS:
        raise ConfigError(f"weak mode {mode!r} is not known; choose from {list(_FIELDS)}")
    return name


def _carried(detector: Detector, mode: str, phase: float) -> Tensor:
    """The local six, (sensors, 6), of sensors that a mode of unit amplitude carries along."""
    r_max, z_max = edge(detector)

    def field(position: Tensor) -> Tensor:
        return displacement(mode, position, r_max, z_max, phase)

    gradient = torch.func.vmap(torch.func.jacrev(field))(detector.translation)
    local = detector.rotation.transpose(-1, -2) @ gradient @ detector.rotation
    # ω × (x, 0, z) = (ω_y z, ω_z x − ω_x z, −ω_y x)
    turn = [-local[:, 1, 2], (local[:, 0, 2] - local[:, 2, 0]) / 2, local[:, 1, 0]]
    return rigid.join_local(_in_frame(detector.rotation, field(detector.translation)), torch.stack(turn, -1))


def _in_frame(rotation: Tensor, vector: Tensor) -> Tensor:
    return (rotation.transpose(-1, -2) @ vector[..., None]).squeeze(-1)
