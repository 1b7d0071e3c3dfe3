"""Writing a cache: columns that grow as .npy files, block by block, and the index that makes it whole."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alignnet.data.cache_layout import AXES, INDEX, STEPS_PER_CM, Axis, Column, columns_for
from alignnet.data.tracks import Array, Tracks, concatenate
from alignnet.errors import SchemaError
from alignnet.geometry.detector import Detector

BLOCK = 100_000
"""Tracks of a block (whole events), about 15 MB; blocks are what is shuffled, checked and let go of."""


class CacheWriter:
    """Tracks to the columns of a cache in an empty folder; the index comes with `finish`.

    Args:
        folder: is there, and empty.
        detector: what the hits refer to.
        origin: where the tracks come from, for messages.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path, detector: Detector, origin: str) -> None:
        self.folder, self.origin = folder, origin
        self.rows = dict.fromkeys(AXES, 0)
        self.blocks: list[dict[str, Any]] = []
        self._known = columns_for(detector)
        self._files: dict[str, _ColumnFile] = {}
        self._pending: list[Tracks] = []
        self._stack = ExitStack()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def append(self, tracks: Tracks) -> None:
        """Add whole events, none of which came before.

        Raises:
            SchemaError: they have other columns than the first ones, or a number that a column cannot hold.
        """
        self._pending.append(tracks)
        if 2 * sum(map(len, self._pending)) >= BLOCK:
            self._write_pending()

    def finish(self, identity: Mapping[str, Any]) -> None:
        """Write what is left, and the index; all of it is on the disk then.

        Raises:
            SchemaError: no tracks came, or an event came twice.
        """
        self._write_pending()
        if not self.blocks:
            raise SchemaError(f"{self.origin}: no tracks came; lower data.min_hits")
        for file in self._files.values():
            file.finish()
        index = {
            "identity": dict(identity),
            "rows": self.rows,
            "event_numbers": self._event_numbers(),
            "columns": {name: list(file.column) for name, file in self._files.items()},
            "blocks": self.blocks,
        }
        with (self.folder / INDEX).open("w") as text:
            json.dump(index, text)
            text.flush()
            os.fsync(text.fileno())

    def _write_pending(self) -> None:
        if not self._pending:
            return
        tracks = self._pending[0] if len(self._pending) == 1 else concatenate(self._pending)
        self._pending = []
        starts = np.flatnonzero(np.diff(tracks.event, prepend=tracks.event[:1] - 1))
        pieces = min(max(round(len(tracks) / BLOCK), 1), len(starts))
        edges = [int(starts[len(starts) * k // pieces]) for k in range(pieces)]
        for start, stop in zip(edges, [*edges[1:], len(tracks)], strict=True):
            self._write_block(tracks if pieces == 1 else tracks.select(np.arange(start, stop)))

    def _write_block(self, tracks: Tracks) -> None:
        columns = block_columns(tracks, self.rows)
        if self.blocks and set(columns) != set(self._files):
            differ = sorted(set(columns) ^ set(self._files))
            raise SchemaError(
                f"{self.origin}: some tracks have {differ} and others do not; write all or none"
            )
        first, count = dict(self.rows), dict.fromkeys(AXES, 0)
        for name, values in columns.items():
            column = self._known[name]
            if name not in self._files:
                self._files[name] = self._stack.enter_context(_ColumnFile(self.folder, name, column))
            self._files[name].append(_packed(values, name, column, self.origin))
            count[column.axis] = len(values)
        self.rows = {axis: self.rows[axis] + count[axis] for axis in AXES}
        self.blocks.append({"first": first, "crc": {n: f.take_checksum() for n, f in self._files.items()}})

    def _event_numbers(self) -> tuple[int, int]:
        """Lowest and highest; that tracks of an event are far apart is seen only now."""
        number = np.sort(np.load(self.folder / "number.npy"))
        twice = np.flatnonzero(number[1:] == number[:-1])
        if len(twice):
            raise SchemaError(
                f"{self.origin}: found event {number[twice[0]]} twice with others between, expected tracks "
                "of one event next to each other; sort the tracks by event"
            )
        return int(number[0]), int(number[-1])


class _ColumnFile:
    """A .npy file that grows; numpy leaves room in its header for any number of rows."""

    def __init__(self, folder: Path, name: str, column: Column) -> None:
        self.column, self.rows, self._checksum = column, 0, 0
        self._file = (folder / f"{name}.npy").open("wb")
        self._write_header()

    def __enter__(self) -> _ColumnFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, values: Array) -> None:
        data = np.ascontiguousarray(values).data
        self._file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self.rows += len(values)

    def take_checksum(self) -> int:
        """Of what was appended since the last one."""
        checksum, self._checksum = self._checksum, 0
        return checksum

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        shape = (self.rows,) if self.column.width == 0 else (self.rows, self.column.width)
        header = {"descr": self.column.dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


def block_columns(tracks: Tracks, before: Mapping[Axis, int]) -> dict[str, Array]:
    """The columns of some events, as yet in float64 and int64.

    Args:
        tracks: whole events.
        before: rows by axis that came earlier.
    """
    starts = np.flatnonzero(np.diff(tracks.event, prepend=tracks.event[:1] - 1))
    columns = {
        "number": tracks.event[starts],
        "first_track": starts + before["track"],
        "first_hit": tracks.offset[starts] + before["hit"],
        "n_tracks": np.diff(starts, append=len(tracks)),
        "n_hits": tracks.hits_per_track,
        "sensor": tracks.sensor,
        "uv": tracks.uv,
        "sigma": tracks.sigma,
    }
    columns |= {name: c for name in ("p", "mass", "kind") if (c := getattr(tracks, name)) is not None}
    shared = {"vertex": tracks.vertex, "vertex_cov": tracks.vertex_cov}
    shared |= {f"truth_{name}": tracks.truth.get(name) for name in ("position", "vertex")}
    present = {name: column for name, column in shared.items() if column is not None}
    if present:
        table = np.concatenate(list(present.values()), 1)
        new = np.append(True, (table[1:] != table[:-1]).any(-1))
        columns |= {name: column[new] for name, column in present.items()}
        columns["origin"] = np.cumsum(new) - 1 + before["origin"]
    return columns


def _packed(values: Array, name: str, column: Column, origin: str) -> Array:
    """Values in the type of their column; SchemaError where one does not fit."""
    target = np.dtype(column.dtype)
    if name == "uv" and target.kind == "i":
        values = np.rint(values * STEPS_PER_CM)
    if target.kind in "iu":
        limits = np.iinfo(target)
        good = (values >= limits.min) & (values <= limits.max)
    else:
        with np.errstate(over="ignore", under="ignore"):
            narrow = values.astype(target)
        good = np.isfinite(narrow) & ((narrow != 0) | (values == 0))
    if not good.all():
        found = float(values[~good].flat[0]) / (STEPS_PER_CM if name == "uv" and target.kind == "i" else 1)
        raise SchemaError(
            f"{origin}: {name} is {found:g}, for which a cache has no room ({target.name}); look at the "
            "data, or read them into memory: data.cache=null"
        )
    return values.astype(target)
