"""What a collective motion of the sensors looks like: its overlap with rigid motions, weak modes and shears.

Motions are compared as displacements of each sensor's corners and centre, every sensor counting alike. The
overlap of a motion with a family of others is the r.m.s. of its projection onto them over its own, between 0
and 1. Overlaps with a weak mode (both phases of those in φ) are of what both have besides rigid motions. Weak
modes are not orthogonal to each other, so that the squares of their overlaps may add up to more than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.geometry.recovery import displacement_rate, shears
from alignnet.geometry.surface import padded
from alignnet.geometry.weak_modes import WEAK_MODE_NAMES, rigid_motion_basis, weak_mode_basis

RIGID = ("translation x", "translation y", "translation z", "rotation x", "rotation y", "rotation z")
"""The rows of `rigid_motion_basis`."""

SHEARS = ("shear u", "stretch", "shear v")
"""The rows of `shears`."""

_NAMED = 0.3  # smallest overlap that a name is worth
_MOST = 3  # names of a mode


@dataclass(frozen=True)
class ModeName:
    """What a motion is made of."""

    rigid: float  # overlap with the six rigid motions
    weak: float  # with all weak modes and shears, besides
    overlaps: dict[str, float]  # with each rigid motion, weak mode and shear

    def __str__(self) -> str:
        """For example "rigid: translation z (1.00)", or "curl 0.83, telescope 0.51"."""
        whole = self.rigid > 0.5**0.5
        wanted = {name: size for name, size in self.overlaps.items() if (name in RIGID) == whole}
        best = sorted(wanted, key=lambda name: -wanted[name])[:_MOST]
        named = [name for name in best if wanted[name] >= _NAMED]
        if whole:
            return "rigid: " + ", ".join(f"{name} ({wanted[name]:.2f})" for name in named)
        return ", ".join(f"{name} {wanted[name]:.2f}" for name in named) or "none of them"


class ModeNames:
    """Names motions of a detector's sensors.

    Args:
        detector: the nominal places.
        columns: of the motions that are named; more than 6 with amplitudes of surfaces.
    """

    def __init__(self, detector: Detector, columns: int = 6) -> None:
        self.detector, self._table = detector, columns
        rigid = self._columns(rigid_motion_basis(detector))
        self._rigid, self._motions = _orthonormal(rigid), dict(zip(RIGID, _unit(rigid).T, strict=True))
        weak = self._columns(torch.cat([weak_mode_basis(detector), shears(detector)]))
        left = _besides(weak, self._rigid)
        names = [*WEAK_MODE_NAMES, *SHEARS][: left.shape[1]]
        families: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            if float(left[:, i].norm()) > 1e-6 * float(weak[:, i].norm()):
                families.setdefault(name.removesuffix("_cos").removesuffix("_sin"), []).append(i)
        self._families = {name: _orthonormal(left[:, rows]) for name, rows in families.items()}
        self._weak = _orthonormal(left[:, sorted(i for rows in families.values() for i in rows)])

    def __call__(self, motion: Tensor) -> ModeName:
        """The name of a motion, local sixes of any size (sensors, 6)."""
        flat = self._columns(motion.detach().cpu().to(torch.float64)[None])[:, 0]
        flat = flat / flat.norm()
        single = {name: abs(float(one @ flat)) for name, one in self._motions.items()}
        of_family = {name: float((q.T @ flat).norm()) for name, q in self._families.items()}
        rigid, weak = (float((q.T @ flat).norm()) for q in (self._rigid, self._weak))
        return ModeName(rigid, weak, {**single, **of_family})

    def _columns(self, motions: Tensor) -> Tensor:
        """Displacements of the probe points, one column a motion."""
        return displacement_rate(self.detector, padded(motions, self._table)).flatten(1).T


def _besides(columns: Tensor, basis: Tensor) -> Tensor:
    return columns - basis @ (basis.T @ columns)


def _unit(columns: Tensor) -> Tensor:
    return columns / columns.norm(dim=0).clamp_min(1e-300)


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span; dependent ones are dropped."""
    values, vectors = torch.linalg.eigh(_unit(columns).T @ _unit(columns))
    keep = values > 1e-10 * values.amax() if len(values) else values > 0
    return _unit(columns) @ (vectors[:, keep] * values[keep].rsqrt())
