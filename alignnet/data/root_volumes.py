"""The tree `volumes`: what an alignment found for half-barrels, staves and modules, each against its parent.

A row's six numbers move a volume in its own frame, where its parents have put it; its global six is ALICE's
delta, which acts on what its parents' deltas have moved already (`alignnet.geometry.volumes`). With all of
them applied, parents first, what is left of a sensor's place in tree `alignment` is the sensor's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.root_alignment import ERROR_KINDS, ERROR_NAMES
from alignnet.data.root_columns import Table, open_root
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Motion, Volumes, deltas, parents_first, relative, replaced, still

TREE = "volumes"

VOLUME_STATUS = {0: "aligned", 1: "held", 2: "too few hits"}
"""What `status` says of a volume."""


class LevelAnswer(NamedTuple):
    """What was found for the volumes of one level."""

    volumes: Volumes
    moved: Motion  # P: by their parents and themselves, from the drawing
    error: Tensor  # of their six numbers (volumes, 6); NaN where not known
    n_hits: Tensor  # of their sensors (volumes,)
    status: Tensor  # a key of VOLUME_STATUS (volumes,)
    error_kind: int = 0  # a key of ERROR_KINDS


class VolumeTable(NamedTuple):
    """The tree as columns, one row a volume, parents before their children."""

    level: tuple[str, ...]
    name: tuple[str, ...]  # symbolic path
    local: Array  # float64 (rows, 6): du, dv, dw [cm], rot_u, rot_v, rot_w [rad] in the volume's frame
    error: Array  # float64 (rows, 6)
    global_: Array  # float64 (rows, 6): x, y, z [cm], psi, theta, phi [rad]
    n_sensors: Array  # int32 (rows,)
    n_hits: Array  # int64 (rows,)
    status: Array  # int8 (rows,)
    error_kind: Array  # int8 (rows,)


def volume_table(detector: Detector, levels: Sequence[LevelAnswer]) -> VolumeTable:
    """The table of some levels of a detector."""
    order = parents_first([one.volumes for one in levels])
    ordered = sorted(levels, key=lambda one: [level is one.volumes for level in order].index(True))
    moved = [one.moved for one in ordered]
    sixes, acting = relative(order, moved), deltas(order, moved)

    def column(parts: Sequence[Any], width: tuple[int, ...], kind: type) -> Array:
        arrays: list[Array] = [np.asarray(part, dtype=kind) for part in parts]
        return np.concatenate([np.zeros((0, *width), dtype=kind), *arrays])

    return VolumeTable(
        level=tuple(one.volumes.level for one in ordered for _ in one.volumes.names),
        name=tuple(name or whole_name(detector) for one in ordered for name in one.volumes.names),
        local=column(sixes, (6,), np.float64),
        error=column([one.error.cpu() for one in ordered], (6,), np.float64),
        global_=column([delta_six(motion) for motion in acting], (6,), np.float64),
        n_sensors=column([_count(one.volumes) for one in ordered], (), np.int32),
        n_hits=column([one.n_hits.cpu() for one in ordered], (), np.int64),
        status=column([one.status.cpu() for one in ordered], (), np.int8),
        error_kind=column([np.full(len(one.volumes), one.error_kind) for one in ordered], (), np.int8),
    )


def volume_columns(table: VolumeTable) -> dict[str, Any]:
    """The named columns of docs/data-format.md, in their order."""
    columns: dict[str, Any] = {"name": table.name, "level": table.level}
    for i, (name, error) in enumerate(zip(rigid.LOCAL_NAMES, ERROR_NAMES, strict=True)):
        columns |= {name: table.local[:, i], error: table.error[:, i]}
    columns |= {name: table.global_[:, i] for i, name in enumerate(rigid.GLOBAL_NAMES)}
    rest = ("n_sensors", "n_hits", "status", "error_kind")
    return columns | {name: getattr(table, name) for name in rest}


def has_volumes(path: str | Path) -> bool:
    """Whether a ROOT file has the tree `volumes`.

    Raises:
        SchemaError: there is no such file, or it is not a ROOT file.
    """
    with open_root(path) as file:
        return TREE in file.keys(cycle=False)


def read_volumes(path: str | Path) -> VolumeTable:
    """The tree `volumes`, row by row.

    Raises:
        SchemaError: the file does not follow the schema.
    """
    names = ("name", "level", *rigid.LOCAL_NAMES, *ERROR_NAMES, *rigid.GLOBAL_NAMES)
    table = Table(path, TREE, (*names, "n_sensors", "n_hits", "status", "error_kind"))
    status, kind = table.numbers("status", "integer"), table.numbers("error_kind", "integer")
    table.origin.require("status", np.isin(status, list(VOLUME_STATUS)), status, str(VOLUME_STATUS))
    table.origin.require("error_kind", np.isin(kind, list(ERROR_KINDS)), kind, str(ERROR_KINDS))
    for name in (*rigid.LOCAL_NAMES, *rigid.GLOBAL_NAMES):
        values = table.numbers(name, "float")
        table.origin.require(name, np.isfinite(values), values, "finite numbers")

    def six(columns: Sequence[str]) -> Array:
        return np.stack([table.numbers(name, "float") for name in columns], -1)

    return VolumeTable(
        level=table.text("level"),
        name=table.text("name"),
        local=six(rigid.LOCAL_NAMES),
        error=six(ERROR_NAMES),
        global_=six(rigid.GLOBAL_NAMES),
        n_sensors=table.numbers("n_sensors", "integer").astype(np.int32),
        n_hits=table.numbers("n_hits", "integer"),
        status=status.astype(np.int8),
        error_kind=kind.astype(np.int8),
    )


def moved_by(detector: Detector, names: Sequence[str], delta: Tensor) -> dict[str, tuple[Volumes, Motion]]:
    """Levels of volumes that ALICE's deltas move, and P of each volume of theirs; the coarsest first.

    Args:
        detector: the sensors.
        names: symbolic paths of volumes above the sensors.
        delta: global sixes (names, 6).

    Raises:
        SchemaError: a path is no volume of this detector.
    """
    whole = whole_name(detector)
    wanted = {"" if name == whole else name: six for name, six in zip(names, delta, strict=True)}
    levels = [Volumes.of(detector, level) for level in detector.levels[:-1]]
    levels = [one for one in parents_first(levels) if any(name in wanted for name in one.names)]
    sensors = (still()[0].expand(len(detector), 3, 3), still()[1].expand(len(detector), 3))
    found: dict[str, tuple[Volumes, Motion]] = {}
    used: set[str] = set()
    for level in levels:
        six = torch.stack([wanted.get(name, torch.zeros(6, dtype=torch.float64)) for name in level.names])
        used |= {name for name in level.names if name in wanted}
        parents = sensors[0][level.first], sensors[1][level.first]
        motion = rigid.place_global(*parents, six)
        sensors = replaced(sensors, level, motion)
        found[level.level] = level, motion
    if unknown := sorted(set(wanted) - used):
        raise SchemaError(
            f"volume {unknown[0]!r} is none of detector {detector.name}, expected one like {used}"
        )
    return found


def whole_name(detector: Detector) -> str:
    """The symbolic name of the whole: the word that all paths begin with, or ""."""
    roots = {name.partition("/")[0] for name in detector.names}
    return roots.pop() if len(roots) == 1 else ""


def delta_six(motion: Motion) -> Tensor:
    """ALICE's global six (..., 6) of motions."""
    return torch.cat([motion[1], rigid.matrix_to_euler(motion[0])], -1)


def _count(volumes: Volumes) -> Array:
    return np.bincount(volumes.group[volumes.group >= 0].numpy(), minlength=len(volumes))
