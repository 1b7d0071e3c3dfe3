"""O2's compact clusters ↔ pixels and local points of ALPIDE chips.

    mData:  row (bits 0-8) · column (9-18) · pattern ID (19-29) · flag (30)

A cluster of an ordinary pattern ID stands at the pixel of lowest row and column of its box, and the
dictionary says how far from there its centre is. Where the ID is of a group, or 2047 (in no dictionary), the
pattern itself is next in the stream of patterns, in the order of the clusters of a time frame:

    u8 rows | u8 columns | ceil(rows · columns / 8) bytes: pixels row by row, the highest bit first

and the centre is that of its pixels: from the box's corner for 2047; for a group the given pixel is the one
that holds the centre, so the corner is that pixel less the centre, rounded. (AliceO2: CompCluster.h,
ClusterPattern.cxx, TopologyDictionary.cxx, IOUtils.cxx.)

The local frame is O2's sensor frame, which `geometry.its2` uses too: u is local x, falling with the row, v is
local z. O2 calculates in float32, which differs by less than 1e-7 cm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from alignnet.data.o2_branches import Frames
from alignnet.data.o2_dictionary import NO_ENTRY, TopologyDictionary
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError
from alignnet.geometry.its2 import (
    CENTRE_U,
    COLUMN_PITCH,
    HALF_U,
    HALF_V,
    N_CHIPS,
    N_COLUMNS,
    N_ROWS,
    ROW_PITCH,
)
from alignnet.physics.jit import compiled

MAX_SPAN = 128
"""Rows and columns of the largest box."""


class CompactClusters(NamedTuple):
    """What `mData` says; each field (clusters,)."""

    row: Array
    column: Array
    pattern_id: Array
    flag: Array


class Patterns(NamedTuple):
    """The explicit patterns of some time frames, one row each, in the order of their clusters."""

    rows: Array  # of the box
    columns: Array
    n_pixels: Array
    row_mean: Array  # centre of gravity from the box's corner [pixels]
    column_mean: Array


class LocalPoints(NamedTuple):
    """Where clusters are."""

    uv: Array  # (clusters, 2) [cm]
    sigma: Array  # (clusters, 2) [cm]


def unpack(data: Array) -> CompactClusters:
    """The fields of `mData`, int64."""
    wide = data.astype(np.int64)
    return CompactClusters(wide & 0x1FF, wide >> 9 & 0x3FF, wide >> 19 & 0x7FF, wide >> 30 & 1)


def pack(clusters: CompactClusters) -> Array:
    """`mData` of clusters, uint32; inverse of `unpack` (bit 31 is not used)."""
    row, column, pattern_id, flag = (np.asarray(field, dtype=np.int64) for field in clusters)
    return (row | column << 9 | pattern_id << 19 | flag << 30).astype(np.uint32)


def pattern_bytes(pixels: Sequence[Array]) -> Array:
    """The stream of patterns given as boolean boxes (rows, columns)."""
    parts = [np.zeros(0, dtype=np.uint8)]
    for box in pixels:
        parts += [np.array(box.shape, dtype=np.uint8), np.packbits(box.astype(bool).ravel())]
    return np.concatenate(parts)


def read_patterns(frames: Frames, explicit: Array, path: str) -> Patterns:
    """Follow the streams of patterns of some time frames.

    Args:
        frames: with collections ITSClusterComp and ITSClusterPatt.
        explicit: which clusters carry a pattern, booleans (clusters,).
        path: of the file, for messages.

    Raises:
        SchemaError: a stream ends before its clusters do or goes on after them, a box is empty or too large,
        or
            a pattern has no pixel.
    """
    before = np.concatenate([[0], np.cumsum(explicit)])
    wanted = np.diff(before[frames.offset("ITSClusterComp")])
    found = np.zeros((int(wanted.sum()), 5), dtype=np.int64)
    stream = np.ascontiguousarray(frames["ITSClusterPatt"])
    fault, frame, record = _follow(stream, frames.offset("ITSClusterPatt"), wanted, found)
    if fault:
        told = _FAULTS[fault].format(record=record, wanted=int(wanted[frame]))
        raise SchemaError(
            f"{path}: time frame {frames.first + frame}: {told}; it is damaged, or was not written "
            "with this dictionary"
        )
    rows, columns, n_pixels, sum_row, sum_column = found.T
    return Patterns(rows, columns, n_pixels, sum_row / n_pixels, sum_column / n_pixels)


_FAULTS = {
    1: "the stream of patterns ends within pattern {record} of {wanted}",
    2: "pattern {record} of {wanted} has no rows or columns, or more than 128",
    3: "pattern {record} of {wanted} has no pixel",
    4: "the stream of patterns goes on after the {wanted} patterns that its clusters need",
}


@compiled
def _follow(stream: Array, edges: Array, wanted: Array, found: Array) -> tuple[int, int, int]:
    """Fill rows, columns, pixels and sums of both; (fault or 0, frame, record within the frame)."""
    k = 0
    for frame in range(len(wanted)):
        at, end = edges[frame], edges[frame + 1]
        for record in range(wanted[frame]):
            if at + 2 > end:
                return 1, frame, record
            rows, columns = np.int64(stream[at]), np.int64(stream[at + 1])
            if rows < 1 or columns < 1 or rows > 128 or columns > 128:
                return 2, frame, record
            size = (rows * columns + 7) // 8
            at += 2
            if at + size > end:
                return 1, frame, record
            n, sum_row, sum_column = np.int64(0), np.int64(0), np.int64(0)
            for bit in range(rows * columns):
                if stream[at + bit // 8] >> (7 - bit % 8) & 1:
                    n += 1
                    sum_row += bit // columns
                    sum_column += bit % columns
            if n == 0:
                return 3, frame, record
            found[k, 0], found[k, 1], found[k, 2] = rows, columns, n
            found[k, 3], found[k, 4] = sum_row, sum_column
            at += size
            k += 1
        if at != end:
            return 4, frame, 0
    return 0, 0, 0


def local_points(frames: Frames, dictionary: TopologyDictionary, rows: Array, path: str) -> LocalPoints:
    """Local points of some clusters, and their errors.

    Without an entry in the dictionary the error is half a pitch, as in O2.

    Args:
        frames: with collections ITSClusterComp and ITSClusterPatt, whose streams are followed from the start.
        dictionary: that the clusters were made with.
        rows: clusters (n,), rows of ITSClusterComp.
        path: of the file, for messages.

    Raises:
        SchemaError: a chip or a pattern ID does not exist, an entry has no error, a cluster is outside its
            chip, or as `read_patterns`.
    """
    _check(frames, dictionary, path)
    data = frames["ITSClusterComp.mData"]
    explicit = dictionary.has_pattern[data >> 19 & 0x7FF]
    patterns = read_patterns(frames, explicit, path)
    row, column, pattern_id, _ = unpack(data[rows])
    centre, sigma = dictionary.centre[pattern_id], dictionary.sigma[pattern_id]
    sigma[pattern_id == NO_ENTRY] = ROW_PITCH / 2, COLUMN_PITCH / 2
    u = CENTRE_U + HALF_U - (row + 0.5) * ROW_PITCH + centre[:, 0]
    v = (column + 0.5) * COLUMN_PITCH - HALF_V + centre[:, 1]
    own = np.flatnonzero(explicit[rows]) if len(patterns.rows) else rows[:0]
    which = np.searchsorted(np.flatnonzero(explicit), rows[own])
    group = pattern_id[own] != NO_ENTRY
    row_mean, column_mean = patterns.row_mean[which], patterns.column_mean[which]
    corner_row = row[own] - np.where(group, np.floor(row_mean + 0.5), 0)
    corner_column = column[own] - np.where(group, np.floor(column_mean + 0.5), 0)
    u[own] = CENTRE_U + HALF_U - (corner_row + row_mean + 0.5) * ROW_PITCH
    v[own] = (corner_column + column_mean + 0.5) * COLUMN_PITCH - HALF_V
    points = LocalPoints(np.stack([u, v], -1), sigma)
    _check_points(points, pattern_id, rows, frames, dictionary.origin, path)
    return points


def _check(frames: Frames, dictionary: TopologyDictionary, path: str) -> None:
    chip = frames["ITSClusterComp.mChipID"]
    _first(chip < N_CHIPS, frames, path, lambda k: f"chip {chip[k]}, expected 0 to {N_CHIPS - 1}")
    pattern_id = frames["ITSClusterComp.mData"] >> 19 & 0x7FF
    known = (pattern_id < len(dictionary)) | (pattern_id == NO_ENTRY)
    if len(dictionary) == 0:
        lacking = "which needs a dictionary of cluster topologies; give o2.dictionary=FILE"
    else:
        lacking = (
            f"expected less than {len(dictionary)}, the entries of {dictionary.origin}; give that of the run"
        )
    _first(known, frames, path, lambda k: f"pattern ID {pattern_id[k]}, {lacking}")


def _check_points(
    points: LocalPoints, pattern_id: Array, rows: Array, frames: Frames, origin: str, path: str
) -> None:
    u, v = points.uv.T
    inside = np.asarray((np.abs(u - CENTRE_U) <= HALF_U) & (np.abs(v) <= HALF_V))
    box = f"a centre outside the {N_ROWS} × {N_COLUMNS} pixels of its chip; is {origin} of this period?"
    _first(inside, frames, path, lambda _: box, rows)
    known = np.asarray((points.sigma > 0).all(-1))
    _first(known, frames, path, lambda k: f"pattern ID {pattern_id[k]}, which has no error in {origin}", rows)


def _first(
    good: Array, frames: Frames, path: str, told: Callable[[int], str], rows: Array | None = None
) -> None:
    """Raise for the first cluster (of `rows`, or of all) that is not good."""
    if good.all():
        return
    k = int(np.flatnonzero(~good)[0])
    row = k if rows is None else int(rows[k])
    offset = frames.offset("ITSClusterComp")
    frame = int(np.searchsorted(offset, row, side="right")) - 1
    cluster = row - int(offset[frame])
    raise SchemaError(f"{path}: time frame {frames.first + frame}, cluster {cluster}: found {told(k)}")
