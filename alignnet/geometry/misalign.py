"""Where sensors really are: random motions of each level of the hierarchy.

A misalignment is called with a `Detector` and returns the local six of every sensor, (sensors, 6) float64,
which `misaligned` turns into the detector as it really stands. Amplitudes of deformed surfaces, where there
are any, are further columns (`geometry.surface`).

A volume (a stave, say) has a frame V (`volume_frames`). Its motion d is drawn in that frame, and M = V d V⁻¹
is the same motion in the global frame. A child is carried along by its parents and moves in the frame where
they have put it:

    G' = M_half_barrel · M_stave · M_half_stave · M_module · M_sensor · G

which is ALICE's G' = D_sensor … D_half_barrel · G with each D taken in the moved frame of its volume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.surface import mode_numbers, n_modes, order_of, padded
from alignnet.geometry.weak_modes import (
    WEAK_MODE_NAMES,
    WEAK_MODES,
    WeakMode,
    displacement,
    rigid_motion_basis,
    weak_mode_basis,
)

__all__ = [
    "WEAK_MODES",
    "WEAK_MODE_NAMES",
    "Composed",
    "Gaussian",
    "Misalignment",
    "NoMisalignment",
    "Only",
    "SurfaceModes",
    "WeakMode",
    "displacement",
    "misaligned",
    "rigid_motion_basis",
    "volume_frames",
    "weak_mode_basis",
]

Motion = tuple[Tensor, Tensor]
"""Rigid motions of the global frame: rotations (..., 3, 3) and translations (..., 3)."""


class Misalignment(Protocol):
    """What every misalignment is: a detector in, the local six of its sensors out."""

    def __call__(self, detector: Detector) -> Tensor:
        """The local six (sensors, 6): cm and rad."""
        ...


@dataclass(frozen=True)
class NoMisalignment:
    """Every sensor where the drawing has it."""

    def __call__(self, detector: Detector) -> Tensor:
        """Zeros, (sensors, 6)."""
        return torch.zeros(len(detector), 6, dtype=torch.float64)


@dataclass(frozen=True)
class Gaussian:
    """Independent Gaussian motions of the volumes of each level of the hierarchy.

    Args:
        levels: for each level ("half_barrel", "stave", …, "sensor") the standard deviations `translation`
            [cm] and `rotation` [rad], each one number or three (along and about u, v, w of the volume's
            frame); 0 if left out. Sensors whose path has no such level are not moved by it.
        seed: each level draws from its own generator, so that adding one does not change the others.

    Raises:
        ConfigError: a standard deviation cannot be used.
    """

    levels: Mapping[str, Mapping[str, float | Sequence[float]]]
    seed: int = 0

    def __post_init__(self) -> None:
        for level, sigmas in self.levels.items():
            _sigma(level, sigmas)
        if len({_key(level) for level in self.levels}) != len(self.levels):
            raise ConfigError(f"misalignment: levels {list(self.levels)} name one level twice")

    def __call__(self, detector: Detector) -> Tensor:
        """The local six, (sensors, 6).

        Raises:
            GeometryError: the detector has no such level.
        """
        groups = {level: detector.groups(level) for level in self.levels}
        place = (detector.rotation, detector.translation)
        # Finest first: each motion then carries everything inside its volume.
        for level in sorted(groups, key=lambda level: _depth(groups[level][1]), reverse=True):
            place = rigid.compose(place, self._motion(detector, level, groups[level][0]))
        return rigid.local_of(detector.rotation, detector.translation, *place)

    def _motion(self, detector: Detector, level: str, group: Tensor) -> Motion:
        """The motion of each sensor, (sensors, …), that its volume of this level makes."""
        frame = volume_frames(detector, group)
        draw = torch.randn(len(frame[1]), 6, generator=_generator(self.seed, level), dtype=torch.float64)
        still = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        inside = rigid.place_local(*still, draw * _sigma(level, self.levels[level]))
        motion = rigid.compose(rigid.compose(rigid.invert(frame), inside), frame)
        # The last row stays still, and −1 (a sensor without this level) picks it.
        return torch.cat([motion[0], still[0][None]])[group], torch.cat([motion[1], still[1][None]])[group]


@dataclass(frozen=True)
class SurfaceModes:
    """Independent Gaussian deformations of the sensors' surfaces, which stay where they are.

    Args:
        order: of the Legendre modes, 2 to 8.
        amplitude: standard deviation of a mode's amplitude [cm], one number or one for each order from 2 on.
        seed: of the draw.

    Raises:
        ConfigError: order or amplitudes cannot be used.
    """

    order: int
    amplitude: float | Sequence[float]
    seed: int = 0

    def __post_init__(self) -> None:
        n_modes(self.order)
        sigma = torch.as_tensor(self.amplitude, dtype=torch.float64)
        if sigma.shape not in ((), (max(self.order - 1, 0),)) or not ((sigma >= 0) & sigma.isfinite()).all():
            raise ConfigError(
                f"misalignment of surfaces: amplitude is {self.amplitude!r}, expected one number >= 0 or one "
                f"for each order from 2 to {self.order}"
            )

    def __call__(self, detector: Detector) -> Tensor:
        """Local sixes of 0 and the amplitudes, (sensors, 6 + modes)."""
        sigma = torch.as_tensor(self.amplitude, dtype=torch.float64).expand(
            self.order - 1 if self.order else 0
        )
        of_mode = sigma[[i + j - 2 for i, j in mode_numbers(self.order)]]
        generator = _generator(self.seed, "surface")
        draw = torch.randn(len(detector), len(of_mode), generator=generator, dtype=torch.float64)
        return torch.nn.functional.pad(draw * of_mode, (6, 0))


@dataclass(frozen=True)
class Composed:
    """Misalignments one after another: each acts on the detector as the ones before it have left it.

    Amplitudes of surfaces add.
    """

    parts: Sequence[Misalignment]

    def __call__(self, detector: Detector) -> Tensor:
        """The local six of the whole, (sensors, 6), and amplitudes of surfaces if a part has them."""
        moved = detector
        for part in self.parts:
            moved = misaligned(moved, part(moved))
        six = rigid.local_of(detector.rotation, detector.translation, moved.rotation, moved.translation)
        return torch.cat([six, moved.surface.amplitude], -1)


@dataclass(frozen=True)
class Only:
    """A misalignment of some layers; the sensors of the others stay where they are.

    Args:
        part: what moves the sensors of these layers.
        layers: their numbers.
    """

    part: Misalignment
    layers: Sequence[int]

    def __call__(self, detector: Detector) -> Tensor:
        """The local six, (sensors, 6), as `part` gives them or 0.

        Raises:
            GeometryError: the detector has no such layer.
        """
        if missing := sorted(set(self.layers) - set(detector.layers)):
            raise GeometryError(
                f"misalignment of layers {missing}; detector {detector.name} has {detector.layers}"
            )
        moves = torch.isin(detector.layer, torch.tensor(list(self.layers), dtype=torch.int64))
        return self.part(detector) * moves[:, None]


def misaligned(detector: Detector, local: Tensor) -> Detector:
    """The detector as it really stands, from the local six (sensors, 6) and amplitudes of surfaces after it.

    Raises:
        GeometryError: the shape is not (sensors, 6), or no order has so many amplitudes.
    """
    if local.ndim != 2 or len(local) != len(detector) or local.shape[-1] < 6:
        raise GeometryError(
            f"local six of shape {tuple(local.shape)}, expected ({len(detector)}, 6), one a sensor"
        )
    order_of(local.shape[-1] - 6)
    moved = detector.placed(*rigid.place_local(detector.rotation, detector.translation, local[:, :6]))
    before, more = detector.surface.amplitude, local[:, 6:]
    n = max(before.shape[-1], more.shape[-1])
    return replace(moved, deformation=padded(before, n) + padded(more, n)) if n else moved


def volume_frames(detector: Detector, group: Tensor) -> Motion:
    """The frames of the volumes of a level, rotations (volumes, 3, 3) and origins (volumes, 3).

    The origin is the mean of the sensors' origins. Where the sensors face one way (a stave, a module) w is
    their mean normal, v lies in the plane of w and global z (of w and global y, where w is along z), and
    u = w × v. Where they do not (a half-barrel) u, w, v are global x, y, z. A volume of one sensor has that
    sensor's frame.

    Args:
        detector: the sensors.
        group: the volume of each sensor, (sensors,), −1 for none, as `Detector.groups` gives it.
    """
    index, rotation, translation = (t[group >= 0] for t in (group, detector.rotation, detector.translation))
    count = torch.bincount(index)
    origin, normal = (
        torch.zeros(len(count), 3, dtype=torch.float64).index_add_(0, index, vector) / count[:, None]
        for vector in (translation, rotation[:, :, 1])
    )
    axes = _axes(normal)
    alone = (count == 1)[index]
    axes[index[alone]] = rotation[alone]
    return axes, origin


def _axes(normal: Tensor) -> Tensor:
    """Axes of volumes with these mean normals, (volumes, 3) → (volumes, 3, 3); columns u, w, v."""
    length = normal.norm(dim=-1, keepdim=True)
    w = normal / length.clamp(min=1e-9)
    y, z = torch.eye(3, dtype=torch.float64)[1:]
    v = torch.where(w[:, 2:].abs() < 0.9, z, y)
    v = torch.nn.functional.normalize(v - (v * w).sum(-1, keepdim=True) * w, dim=-1)
    axes = torch.stack([torch.linalg.cross(w, v), w, v], -1)
    return torch.where(length[..., None] > 0.9, axes, torch.eye(3, dtype=torch.float64))


def _sigma(level: str, sigmas: Mapping[str, float | Sequence[float]]) -> Tensor:
    """Standard deviations of the local six, (6,)."""
    unknown = set(sigmas) - {"translation", "rotation"}
    if unknown:
        raise ConfigError(f"misalignment of {level}: {sorted(unknown)} is not one of translation, rotation")
    given = (sigmas.get("translation", 0.0), sigmas.get("rotation", 0.0))
    parts = [torch.as_tensor(value, dtype=torch.float64) for value in given]
    if any(part.shape not in ((), (3,)) or not ((part >= 0) & part.isfinite()).all() for part in parts):
        raise ConfigError(f"misalignment of {level}: {dict(sigmas)}, expected one or three numbers >= 0 each")
    return torch.cat([part.expand(3) for part in parts])


def _generator(seed: int, level: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{_key(level)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def _key(level: str) -> str:
    return level.replace("_", "").lower()


def _depth(paths: Sequence[str]) -> int:
    return max(path.count("/") if path else -1 for path in paths)
