"""The tree `noise` of docs/data-format.md: hits that belong to no track, one entry a hit, event by event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alignnet.data.noise import NoiseHits
from alignnet.data.root_columns import Table, branch_type, has_tree
from alignnet.data.tracks import Array
from alignnet.geometry.detector import Detector

TREE = "noise"
_BRANCHES = {
    "event": "int64", "sensor": "int32", "u": "float64", "v": "float64", "sigma_u": "float32",
    "sigma_v": "float32",
}  # fmt: skip


def has_noise(path: str | Path) -> bool:
    """Whether a file has hits that belong to no track."""
    return has_tree(path, TREE)


def noise_columns(noise: NoiseHits, detector: Detector) -> dict[str, Array]:
    """The branches of some hits."""
    values = (noise.event, detector.sensor_id.numpy()[noise.sensor], *noise.uv.T, *noise.sigma.T)
    return {name: v.astype(kind) for (name, kind), v in zip(_BRANCHES.items(), values, strict=True)}


def append_noise(file: Any, tree: Any, noise: NoiseHits, detector: Detector) -> Any:
    """Write more hits to the tree of an open file, which is made where it is None; returns the tree."""
    columns = noise_columns(noise, detector)
    if tree is None:
        tree = file.mktree(TREE, {name: branch_type(column) for name, column in columns.items()})
    tree.extend(columns)
    return tree


class NoiseFile:
    """The noise of a file; event numbers are kept in memory, the hits are read when they are asked for.

    Args:
        path: a file with tree `noise`.
        detector: what its hits refer to.

    Raises:
        SchemaError: a branch is missing or of another type, or events do not ascend; later, where a sensor is
            not the detector's, a number is not finite or a resolution not > 0.
    """

    def __init__(self, path: str | Path, detector: Detector) -> None:
        self._path, self._detector = path, detector
        table = Table(path, TREE, ("event",))
        self._event = table.numbers("event", "integer")
        ascends = np.diff(self._event, prepend=self._event[:1]) >= 0
        table.origin.require("event", ascends, self._event, "events in ascending order")

    def __len__(self) -> int:
        return len(self._event)

    def of(self, events: Array) -> NoiseHits:
        """The hits in some events, by their numbers."""
        start, stop = np.searchsorted(self._event, [events.min(), events.max() + 1]).tolist()
        if start == stop:
            return NoiseHits.none()
        found = _read(self._path, self._detector, start, stop)
        return found.select(np.isin(found.event, events))

    def chunks(self, step: int = 1_000_000) -> Iterator[NoiseHits]:
        """All hits, so many at a time."""
        for start in range(0, len(self), step):
            yield _read(self._path, self._detector, start, min(start + step, len(self)))


def _read(path: str | Path, detector: Detector, start: int, stop: int) -> NoiseHits:
    table = Table(path, TREE, tuple(_BRANCHES), (), start, stop)
    identifier = table.numbers("sensor", "integer")
    rows = detector.rows(identifier)
    table.origin.require("sensor", rows >= 0, identifier, f"a sensor_id of detector {detector.name}")
    columns = {name: table.numbers(name, "float") for name in ("u", "v", "sigma_u", "sigma_v")}
    for name, column in columns.items():
        table.origin.require(name, np.isfinite(column), column, "finite numbers [cm]")
        if name.startswith("sigma"):
            table.origin.require(name, column > 0, column, "a resolution > 0 [cm]")
    u, v, sigma_u, sigma_v = columns.values()
    uv, sigma = np.stack([u, v], -1), np.stack([sigma_u, sigma_v], -1)
    return NoiseHits(table.numbers("event", "integer"), rows.astype(np.int64), uv, sigma)
