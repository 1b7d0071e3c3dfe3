"""In which order to eliminate the blocks of a symmetric sparse matrix, and what each elimination touches.

Nested dissection (George, SIAM J. Numer. Anal. 10 (1973) 345; METIS) puts blocks that separate the others
last. Tracks couple sensors along roads that start at the beam: a tracker's matrix is as sparse as that of a
surface, and its factor has only a few times its blocks. Columns of the factor with the same rows are treated
together (supernodes), as dense matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pymetis

from alignnet.data.memory import physical_memory
from alignnet.data.tracks import Array
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.jit import compiled

_MEMORY_SHARE = 0.3  # of the machine's memory for factors

_ALWAYS = 2
"""Supernodes of up to so many blocks are joined with the one they feed, whatever zeros that stores."""

_ZEROS = ((8, 0.6), (24, 0.25), (1 << 30, 0.05))
"""Largest part of stored zeros in joined supernodes of up to so many blocks."""


@dataclass(frozen=True)
class EliminationTree:
    """Supernodes of a factor, children before their parents; positions are those after reordering.

    Args:
        order: the block that is eliminated at each position (blocks,).
        first: first position of each supernode, and the number of blocks (supernodes + 1,).
        offset: where each supernode's rows begin, and how many there are (supernodes + 1,).
        rows: positions below each supernode's own that its elimination touches, ascending.
        parent: supernode that the rows' first belongs to; −1 for none (supernodes,).
    """

    order: Array
    first: Array
    offset: Array
    rows: Array
    parent: Array

    @staticmethod
    def of(matrix: BlockMatrix) -> EliminationTree:
        """The tree of a matrix."""
        start, column = _both_triangles(matrix)
        order = _dissected(start, column)
        parent = _tree(start, column, order, _inverse(order))
        order = order[_postorder(parent)]
        place = _inverse(order)
        parent = _tree(start, column, order, place)
        count = _counts(start, column, order, place, parent)
        first = _joined(parent, count)
        rows = _structure(start, column, order, place, parent, first, count)
        last = first[1:] - 1
        offset = np.concatenate([[0], np.cumsum(count[last])]).astype(np.int64)
        owner = np.repeat(np.arange(len(last)), np.diff(first))
        above = np.where(count[last] > 0, owner[np.where(count[last] > 0, parent[last], 0)], -1)
        return EliminationTree(order, first, offset, rows, above)

    @staticmethod
    def dense(blocks: int) -> EliminationTree:
        """The tree of a dense matrix: one supernode, for which nothing is compiled."""
        first, none = np.array([0, blocks]), np.zeros(0, dtype=np.int64)
        return EliminationTree(np.arange(blocks), first, np.zeros(2, dtype=np.int64), none, np.array([-1]))

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def columns(self) -> Array:
        """Blocks of each supernode (supernodes,)."""
        return np.diff(self.first)

    @property
    def below(self) -> Array:
        """Rows below each supernode's own (supernodes,)."""
        return np.diff(self.offset)

    @property
    def products(self) -> Array:
        """Products of two blocks' elements that eliminate each supernode, in width³ (supernodes,)."""
        k, m = self.columns.astype(float), self.below.astype(float)
        return np.asarray(k**3 / 6 + k * k * m / 2 + k * m * m / 2)

    def size(self, width: int) -> int:
        """Numbers in a factor of blocks of this width."""
        return int((self.columns * (self.columns + self.below)).sum()) * width**2

    def fits(self, width: int, itemsize: int) -> bool:
        """Whether a factor of numbers of so many bytes (of all ranks) leaves the machine enough memory."""
        return itemsize * self.size(width) < _MEMORY_SHARE * physical_memory()


def _dissected(start: Array, column: Array) -> Array:
    if not len(column):
        return np.arange(len(start) - 1)
    graph = pymetis.CSRAdjacency(start.astype(np.int32), column)
    return np.asarray(pymetis.nested_dissection(graph)[0], dtype=np.int64)


def _inverse(order: Array) -> Array:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _both_triangles(matrix: BlockMatrix) -> tuple[Array, Array]:
    """Neighbours of each block, itself left out, in compressed rows."""
    row, column = matrix.row, matrix.column.astype(np.int64)
    off = row != column
    both = np.concatenate([row[off], column[off]]), np.concatenate([column[off], row[off]])
    by_row = np.argsort(both[0], kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(both[0], minlength=len(matrix)))])
    return start.astype(np.int64), both[1][by_row].astype(np.int32)


@compiled
def _tree(start: Array, column: Array, order: Array, place: Array) -> Array:
    """Parent of each position in the elimination tree (Liu, SIAM J. Matrix Anal. 11 (1990) 134)."""
    parent = np.full(len(order), -1, dtype=np.int64)
    ancestor = np.full(len(order), -1, dtype=np.int64)
    for i in range(len(order)):
        for k in range(start[order[i]], start[order[i] + 1]):
            j = place[column[k]]
            while j < i and j != -1:
                above, ancestor[j] = ancestor[j], i
                if above == -1:
                    parent[j] = i
                j = above
    return parent


@compiled
def _postorder(parent: Array) -> Array:
    """Positions such that those of a subtree follow each other and end with its root."""
    n = len(parent)
    child, sibling = np.full(n + 1, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    for j in range(n - 1, -1, -1):
        above = parent[j] if parent[j] >= 0 else n
        sibling[j], child[above] = child[above], j
    order, stack, done, height = np.empty(n, np.int64), np.empty(n + 1, np.int64), 0, 0
    stack[0] = n
    while height >= 0:
        top = stack[height]
        below = child[top]
        if below >= 0:
            child[top] = sibling[below]
            height += 1
            stack[height] = below
        else:
            height -= 1
            if top < n:
                order[done] = top
                done += 1
    return order


@compiled
def _counts(start: Array, column: Array, order: Array, place: Array, parent: Array) -> Array:
    """Rows below the diagonal in each column of the factor."""
    count, seen = np.zeros(len(order), np.int64), np.full(len(order), -1, dtype=np.int64)
    for i in range(len(order)):
        seen[i] = i
        for k in range(start[order[i]], start[order[i] + 1]):
            j = place[column[k]]
            while j < i and seen[j] != i:
                seen[j] = i
                count[j] += 1
                j = parent[j]
    return count


@compiled
def _structure(
    start: Array, column: Array, order: Array, place: Array, parent: Array, first: Array, count: Array
) -> Array:
    """Rows below each supernode: those of its last column."""
    n = len(order)
    target, total = np.full(n, -1, dtype=np.int64), 0
    for s in range(len(first) - 1):
        target[first[s + 1] - 1] = total
        total += count[first[s + 1] - 1]
    rows, seen = np.empty(total, np.int64), np.full(n, -1, dtype=np.int64)
    for i in range(n):
        seen[i] = i
        for k in range(start[order[i]], start[order[i] + 1]):
            j = place[column[k]]
            while j < i and seen[j] != i:
                seen[j] = i
                if target[j] >= 0:
                    rows[target[j]] = i
                    target[j] += 1
                j = parent[j]
    return rows


def _joined(parent: Array, count: Array) -> Array:
    """First position of each supernode, and the end."""
    new = np.ones(len(parent), dtype=bool)
    new[1:] = (parent[:-1] != np.arange(1, len(parent))) | (count[:-1] != count[1:] + 1)
    first = np.concatenate([np.flatnonzero(new), [len(parent)]])
    limits = np.array(_ZEROS, dtype=np.float64)
    return np.asarray(first[_relaxed(parent, count, first, limits)])


@compiled
def _relaxed(parent: Array, count: Array, first: Array, limits: Array) -> Array:
    """Which supernodes stay, after those with few zeros more have been joined with the one they feed."""
    stay = np.ones(len(first), dtype=np.bool_)
    n = len(first) - 1
    size, zeros, below = first[n] - first[n - 1], 0.0, count[first[n] - 1]
    for s in range(n - 2, -1, -1):
        k, last = first[s + 1] - first[s], first[s + 1] - 1
        more = zeros + k * (size + below - count[last])
        joined = k + size
        share = more / (0.5 * joined * (joined + 1) + joined * below)
        allowed = 1.0 if joined <= _ALWAYS else 0.0
        for i in range(len(limits)):
            if allowed == 0.0 and joined <= limits[i, 0]:
                allowed = limits[i, 1]
        if parent[last] == last + 1 and share <= allowed:
            stay[s + 1], size, zeros = False, joined, more
        else:
            size, zeros, below = k, 0.0, count[last]
    return np.flatnonzero(stay)
