"""The tree `motion` of docs/data-format.md: where volumes truly were, step by step (simulation)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignnet.data.root_columns import Table, has_tree, write_columns
from alignnet.data.tracks import Array
from alignnet.geometry import rigid
from alignnet.geometry.motion import Step

TREE = "motion"


class TrueMotion(NamedTuple):
    """How volumes had moved, a row for each step and volume."""

    first: Array  # first event, int64 (rows,)
    last: Array  # the event after the last one (rows,)
    volume: tuple[str, ...]  # symbolic names
    six: Array  # in the volume's frame (rows, 6) [cm, rad]


def motion_of(steps: Sequence[Step]) -> TrueMotion:
    """The rows of some steps; those that follow each other without a change are one."""
    rows: list[tuple[int, int, str, tuple[float, ...]]] = []
    open_rows: dict[str, int] = {}
    for step in steps:
        for name, six in zip(step.names, step.six.tolist(), strict=True):
            k = open_rows.get(name)
            if k is not None and rows[k][1] == step.first and rows[k][3] == tuple(six):
                rows[k] = (rows[k][0], step.last, name, tuple(six))
            else:
                open_rows[name] = len(rows)
                rows.append((step.first, step.last, name, tuple(six)))
    rows.sort(key=lambda row: row[:3])
    return TrueMotion(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.int64),
        tuple(row[2] for row in rows),
        np.array([row[3] for row in rows], dtype=np.float64).reshape(-1, 6),
    )


def write_motion(file: Any, motion: TrueMotion) -> None:
    """Write the tree into an open ROOT file; nothing where nothing moves."""
    if not len(motion.first):
        return
    columns: dict[str, Array | Sequence[str]] = {
        "first_event": motion.first,
        "last_event": motion.last - 1,
        "volume": motion.volume,
    }
    write_columns(file, TREE, columns | {n: motion.six[:, i] for i, n in enumerate(rigid.LOCAL_NAMES)})


def has_motion(path: str | Path) -> bool:
    """Whether a file says how volumes moved."""
    return has_tree(path, TREE)


def read_motion(path: str | Path) -> TrueMotion:
    """The tree of a file.

    Raises:
        SchemaError: it does not follow the schema.
    """
    table = Table(path, TREE, ("first_event", "last_event", "volume", *rigid.LOCAL_NAMES))
    first, last = (table.numbers(name, "integer") for name in ("first_event", "last_event"))
    table.origin.require("last_event", last >= first, last, "at least first_event")
    six = []
    for name in rigid.LOCAL_NAMES:
        six.append(table.numbers(name, "float"))
        table.origin.require(name, np.isfinite(six[-1]), six[-1], "finite numbers")
    return TrueMotion(first, last + 1, table.text("volume"), np.stack(six, -1))
