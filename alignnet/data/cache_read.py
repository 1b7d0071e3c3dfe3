"""Tracks from a cache: memory-mapped columns, of which a few blocks at a time are kept in memory.

A block is checked against its checksum when a process first comes to it, which also brings it into the
system's page cache in one go; blocks that have not been asked for since are taken out of the process again.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from alignnet.data.cache_layout import AXES, INDEX, STEPS_PER_CM, VERSION, Column
from alignnet.data.cache_lock import Lock
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import SchemaError

WINDOW = 16
"""Blocks that stay in memory, some 15 MB each."""

_TRUTH = ("truth_position", "truth_vertex")
_NEEDED = {"number", "first_track", "first_hit", "n_tracks", "n_hits", "sensor", "uv", "sigma"}


class CachedTracks:
    """The tracks of a whole cache, by event.

    Args:
        folder: of the cache.
        index: what its index.json holds.
        lock: on it; is let go of with this.
        window: blocks that stay in memory.

    Raises:
        SchemaError: a column is not as the index says, so that the cache is damaged.
    """

    def __init__(
        self, folder: Path, index: Mapping[str, Any], lock: Lock | None = None, window: int = WINDOW
    ) -> None:
        self.folder, self.lock, self.window = folder, lock, window
        self.rows: dict[str, int] = index["rows"]
        self.event_numbers: tuple[int, int] = tuple(index["event_numbers"])  # lowest and highest
        first = [block["first"] for block in index["blocks"]]
        self._edges = {axis: np.array([*(f[axis] for f in first), self.rows[axis]]) for axis in AXES}
        self._checksums: list[dict[str, int]] = [block["crc"] for block in index["blocks"]]
        self._columns = {
            name: MappedColumn(folder / f"{name}.npy", Column(*column), self.rows[column[0]])
            for name, column in index["columns"].items()
        }
        self._checked = np.zeros(len(first), dtype=bool)
        self._recent: dict[int, None] = {}  # blocks in memory, the latest last

    def __len__(self) -> int:
        return self.rows["event"]

    @property
    def names(self) -> set[str]:
        """What its tracks have, in names of columns."""
        return set(self._columns)

    @property
    def edges(self) -> Array:
        """First event of each block, and their number at the end (blocks + 1,)."""
        return self._edges["event"]

    def counts(self, rows: Array) -> Array:
        """Tracks of some events, int64; checked only when these are read."""
        column = self._columns["n_tracks"]
        count = column.rows[rows].astype(np.int64)
        column.release(0, len(self))
        return count

    def tracks(self, rows: Array, names: Collection[str] | None = None) -> Tracks:
        """The tracks of some events, in any order.

        Args:
            rows: of the events.
            names: optional columns that are wanted; by default all.

        Raises:
            SchemaError: a block does not have its checksum.
        """
        self._enter(rows)
        columns = {n: c.rows for n, c in self._columns.items() if names is None or n in (_NEEDED | {*names})}
        count = columns["n_tracks"][rows].astype(np.int64)
        track = ranges(columns["first_track"][rows], count)
        n_hits = columns["n_hits"][track].astype(np.int64)
        offset = np.concatenate([[0], np.cumsum(n_hits)]).astype(np.int64)
        bounds = offset[np.concatenate([[0], np.cumsum(count)]).astype(np.int64)]
        hit = ranges(columns["first_hit"][rows], np.diff(bounds))
        uv, shared = columns["uv"][hit], self._shared(columns, track)
        floats = {n: columns[n][track].astype(np.float64) for n in ("p", "mass") if n in columns}
        return Tracks(
            event=np.repeat(columns["number"][rows], count),
            offset=offset,
            sensor=columns["sensor"][hit].astype(np.int64),
            uv=uv / STEPS_PER_CM if uv.dtype.kind == "i" else uv.astype(np.float64),
            sigma=columns["sigma"][hit].astype(np.float64),
            kind=columns["kind"][track] if "kind" in columns else None,
            truth={n.removeprefix("truth_"): shared.pop(n) for n in _TRUTH if n in shared},
            **floats,
            **shared,
        )

    @staticmethod
    def _shared(columns: Mapping[str, Array], track: Array) -> dict[str, Array]:
        names = [n for n in ("vertex", "vertex_cov", *_TRUTH) if n in columns]
        if not names:
            return {}
        origin = columns["origin"][track]
        return {n: columns[n][origin].astype(np.float64) for n in names}

    def _enter(self, rows: Array) -> None:
        """Have the blocks of some events at hand, and let go of those that were not used for long."""
        blocks = np.unique(np.searchsorted(self.edges, rows, side="right") - 1).tolist()
        for block in blocks:
            if block not in self._recent:
                self._load(block)
            self._recent[block] = self._recent.pop(block, None)
        for block in list(self._recent)[: max(len(self._recent) - max(self.window, len(blocks)), 0)]:
            del self._recent[block]
            for column in self._columns.values():
                column.release(*self._rows_of(block, column))

    def _load(self, block: int) -> None:
        for name, column in self._columns.items():
            bounds = self._rows_of(block, column)
            if self._checked[block]:
                column.prefetch(*bounds)
            elif column.checksum(*bounds) != self._checksums[block][name]:
                self._refuse(f"block {block} of {name} does not have its checksum")
        self._checked[block] = True

    def _refuse(self, reason: str) -> NoReturn:
        if self.lock is not None:
            self.lock.close()  # it is to be written again
        raise SchemaError(
            f"{self.folder}: the cache is damaged: {reason}; delete this folder, and it will be written again"
        )

    def _rows_of(self, block: int, column: MappedColumn) -> tuple[int, int]:
        edges = self._edges[column.axis]
        return int(edges[block]), int(edges[block + 1])


class MappedColumn:
    """A .npy file of a cache in memory as far as its pages are used.

    Args:
        path: the file.
        column: what it should hold.
        rows: and how many of them.

    Raises:
        SchemaError: it is missing, or does not hold that.
    """

    def __init__(self, path: Path, column: Column, rows: int) -> None:
        shape = (rows,) if column.width == 0 else (rows, column.width)
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                found, _, dtype = np.lib.format.read_array_header_1_0(file)
                self._start = file.tell()
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SchemaError(f"{path}: cannot be read: {error}") from error
        self._row = dtype.itemsize * max(column.width, 1)
        size = self._start + rows * self._row
        if found != shape or dtype != np.dtype(column.dtype) or len(self._map) != size:
            raise SchemaError(f"{path}: holds {found} {dtype} in {len(self._map)} bytes, expected {size}")
        self.axis = column.axis
        flat = np.frombuffer(self._map, dtype, rows * max(column.width, 1), self._start)
        self.rows: Array = flat.reshape(shape)

    def checksum(self, start: int, stop: int) -> int:
        """CRC-32 of some rows."""
        with memoryview(self._map) as whole, whole[self._at(start) : self._at(stop)] as part:
            return zlib.crc32(part)

    def prefetch(self, start: int, stop: int) -> None:
        """Tell the system that some rows will be read."""
        self._advise("MADV_WILLNEED", start, stop)

    def release(self, start: int, stop: int) -> None:
        """Take some rows out of this process; the system may keep them."""
        self._advise("MADV_DONTNEED", start, stop)

    def _at(self, row: int) -> int:
        return self._start + row * self._row

    def _advise(self, name: str, start: int, stop: int) -> None:
        if hasattr(mmap, name):
            begin = self._at(start) // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(getattr(mmap, name), begin, self._at(stop) - begin)


def open_cache(folder: Path, identity: Mapping[str, Any], lock: Lock | None = None) -> CachedTracks:
    """A cache that is whole and of these data.

    Raises:
        SchemaError: says what it is instead.
    """
    try:
        return CachedTracks(folder, _index(folder, identity), lock)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise SchemaError(f"{folder}: is not a whole cache ({error!r} in {INDEX})") from error


def _index(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / INDEX
    if not folder.is_dir():
        raise SchemaError(f"{folder}: no such cache")
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        own, blocks = index["identity"], index["blocks"]
    except (OSError, ValueError) as error:
        raise SchemaError(f"{folder}: is not a whole cache ({type(error).__name__} in {INDEX})") from error
    if own.get("version") != VERSION:
        raise SchemaError(f"{folder}: is of version {own.get('version')}, expected {VERSION}")
    if own != identity:
        differ = sorted(key for key in identity if own.get(key) != identity[key])
        raise SchemaError(f"{folder}: is of other data; it differs in {', '.join(differ)}")
    if not blocks or not set(index["columns"]) >= _NEEDED:
        raise SchemaError(f"{folder}: is not a whole cache ({INDEX} lacks columns or blocks)")
    return index


def ranges(first: Array, count: Array) -> Array:
    """The numbers first, first + 1, … of each row, `count` of them, one after the other."""
    before = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)
    start: Array = np.repeat(first - before, count)
    return start + np.arange(len(start))
