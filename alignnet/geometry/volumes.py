"""Volumes of a hierarchy (half-barrels, staves, modules), and motions of theirs that carry what is inside.

A volume has a frame V (`volume_frames`) and six numbers d, which move it in that frame: M = V d V⁻¹ does the
same in the global frame. A child is carried along by its parents and moves in the frame where they have put
it,

    G' = M₁ M₂ … Mₙ · G,        P_l = M₁ … M_l,

level 1 the coarsest. ALICE says the same with deltas that act parents first, D_l = P_l P_{l−1}⁻¹:

    G' = Dₙ … D₂ D₁ · G .
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector

Motion = tuple[Tensor, Tensor]
"""Rigid motions of the global frame: rotations (..., 3, 3) and translations (..., 3)."""


class Volumes(NamedTuple):
    """The volumes of one level of a detector."""

    level: str  # as `Detector.groups` takes it
    names: tuple[str, ...]  # symbolic paths; "" for the whole detector
    group: Tensor  # volume of each sensor (sensors,), −1 for none
    frame: Motion  # V of each volume

    @classmethod
    def of(cls, detector: Detector, level: str) -> Volumes:
        """Those of a level.

        Raises:
            GeometryError: the detector has no such level.
        """
        group, names = detector.groups(level)
        return cls(level, names, group, volume_frames(detector, group))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def depth(self) -> int:
        """How deep their paths go; −1 for the whole detector."""
        return max(path.count("/") if path else -1 for path in self.names)

    @property
    def first(self) -> Tensor:
        """The first sensor of each volume (volumes,)."""
        row = torch.full((len(self.names),), len(self.group))
        has = self.group >= 0
        return row.scatter_reduce_(0, self.group[has], has.nonzero().squeeze(-1), "amin")

    def motion(self, six: Tensor) -> Motion:
        """M of each volume, of its six numbers in its frame (volumes, 6)."""
        return rigid.compose(
            rigid.compose(rigid.invert(self.frame), rigid.place_local(*still(), six)), self.frame
        )

    def six(self, motion: Motion) -> Tensor:
        """The six numbers (volumes, 6) of each volume's M; inverse of `motion`."""
        return rigid.local_of(*self.frame, *rigid.compose(self.frame, motion))

    def of_sensors(self, motion: Motion) -> Motion:
        """The motions of the sensors' volumes; sensors without one stay."""
        rotation, shift = still()
        # The last row stays still, and −1 (a sensor without this level) picks it.
        return torch.cat([motion[0], rotation[None]])[self.group], torch.cat([motion[1], shift[None]])[
            self.group
        ]


def still() -> Motion:
    """The motion that moves nothing."""
    return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def parents_first(levels: Iterable[Volumes]) -> list[Volumes]:
    """Levels from the coarsest to the finest."""
    return sorted(levels, key=lambda one: one.depth)


def carried(levels: Sequence[Volumes], sixes: Sequence[Tensor], place: Motion) -> Motion:
    """Where sensors are that stand at `place` in their volumes, once these have moved.

    Args:
        levels: in any order.
        sixes: of each level's volumes (volumes, 6).
        place: rotations (sensors, 3, 3) and origins (sensors, 3) [cm].
    """
    six = {id(level): one for level, one in zip(levels, sixes, strict=True)}
    for level in reversed(parents_first(levels)):  # each motion carries everything inside its volume
        place = rigid.compose(place, level.of_sensors(level.motion(six[id(level)])))
    return place


def accumulated(levels: Sequence[Volumes], sixes: Sequence[Tensor]) -> list[Motion]:
    """P of every volume of each level: how it is moved by its parents and itself.

    Args:
        levels: from the coarsest to the finest.
        sixes: of each level's volumes (volumes, 6).
    """
    found = []
    sensors = _all_still(levels)
    for level, six in zip(levels, sixes, strict=True):
        sensors = rigid.compose(level.of_sensors(level.motion(six)), sensors)
        found.append(_rows(sensors, level.first))
    return found


def deltas(levels: Sequence[Volumes], moved: Sequence[Motion]) -> list[Motion]:
    """D of every volume, which acts on what its parents among these levels have moved already.

    Args:
        levels: from the coarsest to the finest.
        moved: P of their volumes.
    """
    found = []
    parents = _all_still(levels)
    for level, motion in zip(levels, moved, strict=True):
        found.append(rigid.compose(rigid.invert(_rows(parents, level.first)), motion))
        parents = replaced(parents, level, motion)
    return found


def relative(levels: Sequence[Volumes], moved: Sequence[Motion]) -> list[Tensor]:
    """The sixes of every volume (volumes, 6) against its parents among these levels; undoes `accumulated`."""
    found = []
    parents = _all_still(levels)
    for level, motion in zip(levels, moved, strict=True):
        before = _rows(parents, level.first)
        found.append(level.six(rigid.compose(motion, rigid.invert(before))))
        parents = replaced(parents, level, motion)
    return found


def own_six(detector: Detector, local: Tensor, moved: Iterable[tuple[Volumes, Motion]]) -> Tensor:
    """What is left of sensors' local six (sensors, 6) once the motions of their volumes are undone.

    Args:
        detector: the nominal places.
        local: of the sensors, volumes included.
        moved: levels in any order, and P of their volumes.
    """
    n = len(detector)
    carried_by: Motion = still()[0].expand(n, 3, 3), still()[1].expand(n, 3)
    for level, motion in sorted(moved, key=lambda one: one[0].depth):
        carried_by = replaced(carried_by, level, motion)
    drawn = detector.rotation, detector.translation
    here = rigid.place_local(*drawn, local[:, :6])
    return rigid.local_of(*drawn, *rigid.compose(here, rigid.invert(carried_by)))


def replaced(sensors: Motion, level: Volumes, motion: Motion) -> Motion:
    """Motions of sensors, those in a volume of this level having that volume's."""
    has, index = level.group >= 0, level.group.clamp_min(0)
    rotation = torch.where(has[:, None, None], motion[0][index], sensors[0])
    return rotation, torch.where(has[:, None], motion[1][index], sensors[1])


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


def _all_still(levels: Sequence[Volumes]) -> Motion:
    n = len(levels[0].group) if levels else 0
    rotation, shift = still()
    return rotation.expand(n, 3, 3), shift.expand(n, 3)


def _rows(motion: Motion, rows: Tensor) -> Motion:
    return motion[0][rows], motion[1][rows]
