"""Mille files as one linear problem of the shared parameters: labels found, track parameters eliminated.

Files are read block by block, as often as needed; what stays in memory is the matrix of the parameters that
appear together in a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from alignnet.data.mille import RawBlock, iterate_raw
from alignnet.data.mille_write import pack
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError
from alignnet.solvers import elimination
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.jit import compiled, pays
from alignnet.solvers.record_batches import BatchSums
from alignnet.solvers.record_kernels import NO_ROOM, UNREADABLE, Buffers, buffers, find, scan
from alignnet.solvers.record_labels import labels_of, usual_width
from alignnet.solvers.record_tables import Cuts, Labels, Reduced

ROOM = 16  # blocks that a record may have at first
MOST_AT_FIRST = 1 << 22  # blocks of the matrix that there is room for at first
_BATCH = 1 << 22  # bytes of records that are taken at a time without kernels
_QUICK = 1 << 23  # bytes that this takes about as long for as reading kernels from disk, and
_MANY_TO_SCAN, _MANY_TO_REDUCE = 3 << 24, 1 << 28  # as a compiler does
Progress = Callable[[int], None]  # told how many records more were read


def find_labels(paths: Sequence[Path], progress: Progress | None = None) -> Labels:
    """Read files once for the labels in them.

    Raises:
        SchemaError: a file is missing or damaged, or no record has a label.
    """
    if pays(scan, _size(paths), _MANY_TO_SCAN, _QUICK):
        labels = _scanned_labels(_blocks(paths, progress))
    else:
        labels = labels_of(_blocks(paths, progress, _BATCH))
    if not len(labels.label):
        raise SchemaError(f"{paths[0]}: no record has a global label: there is nothing to solve for")
    return labels


def _size(paths: Sequence[Path]) -> int:
    """Bytes of files that are there; one that is not will be named by who reads it."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def _scanned_labels(blocks: Iterable[RawBlock]) -> Labels:
    table, entries, largest = _table(1 << 10), np.zeros((1 << 9, 3), dtype=np.int64), np.zeros(5, np.int64)
    width = 0
    for block in blocks:
        width = width or usual_width(block)
        table, entries = _scanned(block, table, entries, largest)
    rows = np.flatnonzero(table[:, 0] > 0)
    order = np.argsort(table[rows, 0])
    seen = entries[table[rows[order], 1]]
    sizes = (int(largest[0]), int(largest[1]), int(largest[2]))
    return Labels(table[rows[order], 0], seen[:, 0], seen[:, 1], sizes, width or 1, int(largest[4]))


def _scanned(block: RawBlock, table: Array, entries: Array, largest: Array) -> tuple[Array, Array]:
    """Note the labels of a block; the table and the entries, which may have grown."""
    first = 0
    while first < len(block):
        first, why = scan(block.words, block.starts, first, table, entries, largest)
        if why == NO_ROOM:
            room = max(2 * len(entries), 4 * int(block.starts[first + 1] - block.starts[first]))
            table, entries = _grown(table, 2 * room), _longer(entries, room)
        elif why == UNREADABLE:
            table, entries = _scanned(_plain(block, first), table, entries, largest)
            first += 1
    return table, entries


def unknowns_of(label: Array, free: Array, width: int) -> tuple[Array, int]:
    """Which unknown each parameter is (−1 if it is not free), and how many there are with the gaps of blocks.

    Labels that follow each other fill blocks of `width` unknowns.
    """
    run = np.cumsum(np.concatenate([[1], np.diff(label) != 1])) - 1
    first = np.flatnonzero(np.concatenate([[True], np.diff(label) != 1]))
    place = np.arange(len(label)) - first[run]
    blocks = -(-np.bincount(run) // width)
    start = np.concatenate([[0], np.cumsum(blocks)])
    return np.where(free, start[run] * width + place, -1), int(start[-1]) * width


def reduce_records(
    paths: Sequence[Path],
    weights: Sequence[float],
    labels: Labels,
    unknown: Array,
    size: int,
    at: Array,
    cuts: Cuts,
    progress: Progress | None = None,
) -> Reduced:
    """Read files and eliminate the track parameters of every record.

    Args:
        paths, weights: Mille files, and what multiplies 1/σ² in each.
        labels: theirs.
        unknown: which unknown each parameter is, −1 for none (parameters,).
        size: unknowns, a multiple of the labels' width.
        at: where the parameters are (parameters,).
        cuts: which records count.

    Raises:
        SchemaError: a record is damaged.
    """
    kernels = pays(elimination.accumulate, _size(paths), _MANY_TO_REDUCE, _QUICK)
    sums = (_Sums if kernels else BatchSums)(labels, unknown, size, at, cuts)
    for path, weight in zip(paths, weights, strict=True):
        for block in _blocks([path], progress, None if kernels else _BATCH):
            sums.add(block, weight)
    return sums.result()


class _Sums:
    def __init__(self, labels: Labels, unknown: Array, size: int, at: Array, cuts: Cuts) -> None:
        self.labels, self.unknown, self.at, self.cuts = labels, unknown, at, cuts
        self.limit = np.array(cuts.limit, dtype=np.float64)
        self.table = _grown(_table(1 << 10), 4 * len(labels.label))
        _copy(np.stack([labels.label, np.arange(len(labels.label))], 1), self.table)
        self.pairs, self.gradient = _table(1 << 14), np.zeros(size)
        blocks = size // labels.width
        room = min(blocks * (blocks + 1) // 2 + ROOM**2, MOST_AT_FIRST)  # not in memory before it is used
        self.values = np.empty((room, labels.width, labels.width))
        self.totals = np.zeros(8)
        self.buffers = self._buffers(ROOM)

    def _buffers(self, blocks: int) -> Buffers:
        return buffers(*self.labels.largest, blocks, self.labels.width)

    def add(self, block: RawBlock, weight: float) -> None:
        first, words = 0, block.words
        scale = weight * np.array(self.cuts.scale)
        order = np.argsort(last_labels(words, block.starts), kind="stable")
        while first < len(block):
            first, why = elimination.accumulate(
                words, words.view(np.float32), block.starts, order, first, self.labels.label,
                self.table, self.unknown, self.at, self.buffers, scale, self.cuts.passes,
                self.cuts.most_lost, self.limit, self.pairs, self.values, self.gradient, self.totals,
            )  # fmt: skip
            if why == NO_ROOM:
                self.buffers = self._buffers(2 * len(self.buffers.block))
            elif why == UNREADABLE:
                self.add(_plain(block, int(order[first])), weight)
                first += 1
            self._make_room()

    def _make_room(self) -> None:
        used = int(self.totals[7])
        need = used + len(self.buffers.block) ** 2
        if need > len(self.values):
            self.values = _longer(self.values, max(need, 3 * len(self.values) // 2))
        if 2 * need > len(self.pairs):
            self.pairs = _grown(self.pairs, 4 * need)

    def result(self) -> Reduced:
        rows = self.pairs[self.pairs[:, 0] >= 0]
        row, column = rows[:, 0] // elimination.PAIR, rows[:, 0] % elimination.PAIR
        values, self.values = self.values[: len(rows)], self.values[:0]
        self.pairs = self.pairs[:0]
        own = rows[row == column, 1]
        upper = np.triu(values[own])
        values[own] = upper + np.triu(upper, 1).swapaxes(1, 2)
        blocks = len(self.gradient) // self.labels.width
        matrix = BlockMatrix.of_pairs(row, column, values, blocks, rows[:, 1])
        counts = [int(n) for n in self.totals[3:7]]
        return Reduced(
            matrix,
            self.gradient,
            float(self.totals[0]),
            float(self.totals[1]),
            (counts[0], counts[1], counts[2], counts[3]),
        )


@compiled
def last_labels(words: Array, starts: Array) -> Array:
    """Last label of each record: of tracks from inside out, that of the sensor that few others hit."""
    label = np.zeros(len(starts) - 1, np.int64)
    for r in range(len(label)):
        label[r] = words[starts[r + 1] - 1]
    return label


def _plain(block: RawBlock, record: int) -> RawBlock:
    """One record without its special blocks; raises SchemaError if it is damaged."""
    begin, end = block.starts[record], block.starts[record + 1]
    one = RawBlock(
        block.words[begin:end], np.array([0, end - begin]), block.path, block.first_byte + 4 * int(begin)
    )
    words = np.frombuffer(pack(one.records()), dtype=np.int32)
    return RawBlock(words, np.array([0, len(words)]), block.path, one.first_byte)


def _blocks(paths: Sequence[Path], progress: Progress | None, size: int | None = None) -> Iterator[RawBlock]:
    for path in paths:
        for block in iterate_raw(path) if size is None else iterate_raw(path, size):
            yield block
            if progress is not None:
                progress(len(block))


def _table(size: int) -> Array:
    return np.full((size, 2), -1, dtype=np.int64)


def _grown(table: Array, least: int) -> Array:
    """A larger table with the same content."""
    size = len(table)
    while size < least:
        size *= 2
    if size == len(table):
        return table
    larger = _table(size)
    _copy(table[table[:, 0] != -1], larger)
    return larger


@compiled
def _copy(rows: Array, table: Array) -> None:
    for k in range(len(rows)):
        row = find(table, rows[k, 0])
        table[row, 0], table[row, 1] = rows[k, 0], rows[k, 1]


def _longer(array: Array, length: int) -> Array:
    longer = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer
