"""What was found for half-barrels, staves and modules: how far each level has moved, and who moved most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignnet.data.root_alignment import ERROR_KINDS
from alignnet.data.root_volumes import LevelAnswer, VolumeTable, volume_table
from alignnet.data.tracks import Array
from alignnet.evaluation.statistics import number
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.units import MRAD, UM

LARGEST = 10
"""Volumes of a level that are named."""

COLUMNS = tuple(
    f"{name}_{unit}" for name, unit in zip(rigid.LOCAL_NAMES, ["um"] * 3 + ["mrad"] * 3, strict=True)
)
"""The six of a volume, with their units."""


def volume_metrics(detector: Detector, levels: Sequence[LevelAnswer]) -> dict[str, Any]:
    """The levels' corrections against their parents, for metrics.json.

    Returns:
        `{level: {"n", "aligned", "error": what the errors are, "rms": {"du_um", …, "rot_w_mrad"},
        "median_error": the same, "largest": [{"name", "n_hits", "du_um", "du_um_error", …}, …]}}`, the
        largest by the length of the translation; numbers that are not known are None.
    """
    table = volume_table(detector, levels)
    names, found = np.array(table.level), {}
    for level in dict.fromkeys(table.level):
        rows = np.flatnonzero(names == level)
        aligned = rows[table.status[rows] == 0]
        found[level] = {
            "n": len(rows),
            "aligned": len(aligned),
            "error": ERROR_KINDS[int(table.error_kind[rows[0]])],
            "rms": _six(np.sqrt((_scaled(table.local[rows]) ** 2).mean(0))),
            "median_error": _six(_median(_scaled(table.error[aligned]))),
            "largest": [_row(table, row) for row in _largest(table, rows)],
        }
    return found


def _largest(table: VolumeTable, rows: Array) -> Array:
    length = np.linalg.norm(table.local[rows, :3], axis=1)
    return np.asarray(rows[np.argsort(-length, kind="stable")[:LARGEST]])


def _row(table: VolumeTable, row: int) -> dict[str, Any]:
    errors = {f"{name}_error": value for name, value in _six(_scaled(table.error[row])).items()}
    hits = int(table.n_hits[row])
    return {"name": table.name[row], "n_hits": hits, **_six(_scaled(table.local[row])), **errors}


def _scaled(values: Array) -> Array:
    return np.asarray(values / np.array([UM] * 3 + [MRAD] * 3))


def _median(values: Array) -> Array:
    known = [column[np.isfinite(column)] for column in values.T]
    return np.array([np.median(column) if len(column) else np.nan for column in known])


def _six(values: Array) -> dict[str, float | None]:
    return {name: number(value) for name, value in zip(COLUMNS, values, strict=True)}
