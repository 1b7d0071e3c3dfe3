"""Misalignments of volumes that keep their shape, whatever a distortion would do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import Misalignment, misaligned
from alignnet.geometry.recovery import probe_points


@dataclass(frozen=True)
class Stiff:
    """A misalignment that volumes follow as rigid bodies, each as near to it as it can come.

    Weak modes stretch and bend staves; a stiff one keeps its shape, so that its six numbers can put it back.

    Args:
        part: what moves the sensors.
        levels: of the stiff volumes; a sensor belongs to that of the last of these levels that it has, and
            moves alone where it has none.
    """

    part: Misalignment
    levels: Sequence[str]

    def __call__(self, detector: Detector) -> Tensor:
        """The local six, (sensors, 6): by least squares of the sensors' corners and centres.

        Raises:
            GeometryError: the detector has no such level.
        """
        volume = torch.arange(len(detector))
        for level in self.levels:
            group = detector.groups(level)[0]
            volume = torch.where(group >= 0, (volume.max() + 1) + group, volume)
        _, volume = volume.unique(return_inverse=True)
        before, moved = detector, misaligned(detector, self.part(detector))
        motion = _nearest_motions(_probes(before), _probes(moved), volume)
        place = rigid.compose((before.rotation, before.translation), (motion[0][volume], motion[1][volume]))
        return rigid.local_of(before.rotation, before.translation, *place)


def _probes(detector: Detector) -> Tensor:
    """Global positions of the sensors' corners and centres (sensors, 5, 3) [cm]."""
    local = probe_points(detector)
    return detector.translation[:, None] + local @ detector.rotation.transpose(-1, -2)


def _nearest_motions(start: Tensor, end: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The rigid motion of each group that brings its points nearest to where they are to go (Kabsch)."""
    n, points = int(group.max()) + 1, start.shape[1]
    zero = start.new_zeros(n, 3)
    count = torch.bincount(group, minlength=n)[:, None] * points
    middle, aim = (zero.index_add(0, group, part.sum(1)) / count for part in (start, end))
    arms = torch.einsum("spi,spj->sij", start - middle[group, None], end - aim[group, None])
    u, _, vh = torch.linalg.svd(start.new_zeros(n, 3, 3).index_add(0, group, arms))
    proper = torch.ones_like(zero)
    proper[:, 2] = torch.linalg.det(u @ vh).sign()
    rotation = vh.mT @ (proper[..., None] * u.mT)
    return rotation, aim - (rotation @ middle[..., None]).squeeze(-1)
