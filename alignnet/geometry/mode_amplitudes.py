"""How much of each weak mode there is in a displacement of the sensors.

The displacement of the sensors' corners and centres is fitted by all weak modes and the six rigid motions of
the whole at once, by least squares, every sensor counting alike. The amplitude a_m [cm at the edge] is linear
in the displacement,

    a_m = Σ_s p_ms · δ_s ,

p_m the mode's *form*: 1 on the mode itself, 0 on the others and on rigid motions. Modes that a detector
cannot tell from those before them (a twist in layers of one sensor along z) have none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.recovery import displacement_metric
from alignnet.geometry.weak_modes import WEAK_MODE_NAMES, rigid_motion_basis, weak_mode_basis

_DISTINCT = 1e-2  # of a mode that must be left beside rigid motions and the modes before it
_SOMETHING = 1e-6  # of the largest mode, below which a mode is rounding


class ModeAmplitudes:
    """The weak modes of a detector, and their amplitudes in displacements.

    Args:
        detector: the nominal places.
        selected: sensors that count (sensors,); default: all.
    """

    def __init__(self, detector: Detector, selected: Tensor | None = None) -> None:
        metric = displacement_metric(detector)
        if selected is not None:
            metric = metric * selected.cpu()[:, None, None]
        rigid, weak = rigid_motion_basis(detector), weak_mode_basis(detector)
        rows = _distinct(torch.cat([rigid, weak]), metric)
        kept = [row - len(rigid) for row in rows if row >= len(rigid)]
        self.names = tuple(WEAK_MODE_NAMES[row] for row in kept)
        self.motions = weak[kept]
        basis = torch.cat([rigid, weak])[rows]
        dual = (metric @ basis[..., None]).squeeze(-1)
        gram = torch.einsum("asd,bsd->ab", basis, dual)
        inverse = _inverse(gram)[len(rows) - len(kept) :]
        self.forms = torch.einsum("ab,bsd->asd", inverse, dual)

    def __len__(self) -> int:
        return len(self.names)

    def __call__(self, local: Tensor) -> Tensor:
        """Amplitudes (..., modes) [cm] of local sixes (..., sensors, 6); those of surfaces do not count."""
        return torch.einsum("msd,...sd->...m", self.forms, local[..., :6].to(self.forms))

    def rows(self, mode: str) -> list[int]:
        """The modes of a name: one of `WEAK_MODE_NAMES`, or a mode in φ with both of its phases.

        Raises:
            ConfigError: there is no such mode, or this detector cannot tell it from others.
        """
        wanted = [name for name in WEAK_MODE_NAMES if mode in (name, family(name))]
        if not wanted:
            known = list(dict.fromkeys(family(name) for name in WEAK_MODE_NAMES))
            raise ConfigError(f"weak mode {mode!r} is not known; choose from {known}")
        if missing := [name for name in wanted if name not in self.names]:
            raise ConfigError(
                f"weak mode {missing[0]!r} is none of its own in this detector, which has {list(self.names)}"
            )
        return [self.names.index(name) for name in wanted]


def family(name: str) -> str:
    """A mode without its phase: "skew_cos" → "skew"."""
    return name.removesuffix("_cos").removesuffix("_sin")


def _distinct(motions: Tensor, metric: Tensor) -> list[int]:
    """Rows that are not sums of those before them."""
    rows: list[int] = []
    basis = motions.new_zeros(0, *motions.shape[1:])
    sizes = [_size(motion, metric) for motion in motions]
    for i, (motion, size) in enumerate(zip(motions, sizes, strict=True)):
        left = motion
        for _ in range(2):  # the second time for what rounding left
            left = left - _part(left, basis, metric)
        if size > _SOMETHING * max(sizes) and _size(left, metric) > _DISTINCT * size:
            rows.append(i)
            basis = torch.cat([basis, left[None] / _size(left, metric)])
    return rows


def _part(motion: Tensor, basis: Tensor, metric: Tensor) -> Tensor:
    """What of a motion lies along an orthonormal basis."""
    amount = torch.einsum("asd,sde,se->a", basis, metric, motion)
    return torch.einsum("a,asd->sd", amount, basis)


def _size(motion: Tensor, metric: Tensor) -> float:
    return float(torch.einsum("sd,sde,se->", motion, metric, motion).clamp_min(0).sqrt())


def _inverse(gram: Tensor) -> Tensor:
    scale = gram.diagonal().rsqrt()
    return torch.linalg.inv(gram * scale[:, None] * scale) * scale[:, None] * scale
