"""Where sensors really are: random motions of each level of the hierarchy.

A misalignment is called with a `Detector` and returns the local six of every sensor, (sensors, 6) float64,
which `misaligned` turns into the detector as it really stands. Amplitudes of deformed surfaces, where there
are any, are further columns (`geometry.surface`).

The motion d of a volume (a stave, say) is drawn in its frame; volumes carry what is inside them
(`alignnet.geometry.volumes`):

    G' = M_half_barrel · M_stave · M_half_stave · M_module · M_sensor · G,        M = V d V⁻¹ .
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
from alignnet.geometry.volumes import Volumes, carried, volume_frames
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
        levels = [Volumes.of(detector, level) for level in self.levels]
        place = detector.rotation, detector.translation
        moved = carried(levels, [self._draw(level) for level in levels], place)
        return rigid.local_of(*place, *moved)

    def _draw(self, volumes: Volumes) -> Tensor:
        """The sixes of a level's volumes, (volumes, 6)."""
        generator = _generator(self.seed, volumes.level)
        draw = torch.randn(len(volumes), 6, generator=generator, dtype=torch.float64)
        return draw * _sigma(volumes.level, self.levels[volumes.level])


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
