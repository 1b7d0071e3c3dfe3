"""Blocks of a symmetric matrix while they are collected, found by their row and column.

The blocks on the diagonal come first, in order. Others are found through a table of keys
(`record_kernels.find`) and lie in the order in which they were first met; `PairBlocks.matrix` sorts them in
place. Room grows in place too, so that the matrix is never in memory twice.
"""

from __future__ import annotations

import numpy as np

from alignnet.data.tracks import Array
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.elimination import PAIR as PAIR
from alignnet.solvers.jit import compiled
from alignnet.solvers.record_kernels import find


class PairBlocks:
    """Room for blocks on and above the diagonal.

    Args:
        rows: of blocks.
        width: unknowns of a row.

    Attributes:
        table: keys i · `PAIR` + j and where their blocks are (2ⁿ, 2).
        values: the blocks, the diagonal's first (room, width, width).
        used: how many blocks there are, an array of one.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.used = np.array([rows], dtype=np.int64)
        self.values = np.zeros((rows, width, width))
        self.table = np.full((1 << 12, 2), -1, dtype=np.int64)

    def make_room(self, blocks: int) -> None:
        """See to it that so many blocks more can be met."""
        need = int(self.used[0]) + blocks
        if need > len(self.values):
            self.values.resize((max(need, len(self.values) * 9 // 8), self.width, self.width), refcheck=False)
        size = len(self.table)
        while size < 2 * len(self.values):
            size *= 2
        if size > len(self.table):
            old, self.table = self.table, np.full((size, 2), -1, dtype=np.int64)
            _copy(old, self.table)

    def matrix(self) -> BlockMatrix:
        """The matrix; this object has nothing left."""
        key, where = self.table[self.table[:, 0] >= 0].T
        self.table = np.zeros((0, 2), dtype=np.int64)
        diagonal = np.arange(self.rows, dtype=np.int64)
        key, where = np.concatenate([diagonal * (PAIR + 1), key]), np.concatenate([diagonal, where])
        order = np.argsort(key)
        key, where = key[order], where[order]
        values, self.values = self.values, np.zeros((0, self.width, self.width))
        _permute(values, where)
        values.resize((len(where), self.width, self.width), refcheck=False)
        start = np.searchsorted(key, np.arange(self.rows + 1, dtype=np.int64) * PAIR)
        return BlockMatrix(start.astype(np.int64), (key % PAIR).astype(np.int32), values)


@compiled
def _copy(old: Array, new: Array) -> None:
    for k in range(len(old)):
        if old[k, 0] != -1:
            row = find(new, old[k, 0])
            new[row, 0], new[row, 1] = old[k, 0], old[k, 1]


@compiled
def _permute(values: Array, where: Array) -> None:
    """Put the block values[where[k]] at k, along the cycles of the permutation; `where` is used up."""
    kept = np.empty(values.shape[1:])
    for first in range(len(where)):
        if where[first] < 0 or where[first] == first:
            continue
        kept[:] = values[first]
        to = first
        while where[to] != first:
            source = where[to]
            values[to] = values[source]
            where[to], to = -1, source
        values[to] = kept
        where[to] = -1
