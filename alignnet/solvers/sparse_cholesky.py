"""A = L Lᵀ of a symmetric positive block-sparse matrix, exactly, by dense algebra on its supernodes.

Multifrontal elimination (Duff & Reid, ACM TOMS 9 (1983) 302): the front of a supernode collects the matrix
and what its children left, its own columns are factored as a dense matrix, and the rest goes to its parent.
Matrix products bound it. Where A is singular, a 1 is added to as many of its diagonal elements as its rank
lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.solvers import blas
from alignnet.solvers import front_kernels as kernels
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.elimination_tree import EliminationTree

SINGULAR = {"float64": 1e-7, "float32": 2e-6}
"""Pivots below this are taken to be 0, in a matrix whose diagonal is 1."""

_PANEL = 192  # columns that are factored at a time
_THIN = 2  # leaves of up to so many blocks are taken off their parent's front without one of their own


@dataclass(frozen=True)
class SparseCholesky:
    """L, and what was added to A.

    Args:
        tree: structure of L.
        values: columns of the supernodes, one after the other, each row-major (own and lower rows, own).
        begin: where those of each supernode begin, and the end (supernodes + 1,).
        propped: unknowns whose diagonal element got 1 more, in the order of the matrix (rank defect,).
        width: rows of a block.
    """

    tree: EliminationTree
    values: Array
    begin: Array
    propped: Array
    width: int

    def solve(self, b: Array) -> Array:
        """(A + props)⁻¹ b, for one right-hand side (unknowns,) or several (unknowns, vectors)."""
        t, blocks = self.tree, b.reshape(len(self.tree.order), self.width, -1)
        x = np.ascontiguousarray(blocks[t.order], dtype=self.values.dtype)
        if not b.size:
            return np.zeros(b.shape)
        if b.ndim == 1 and len(t) > 1:
            layout = t.first, t.offset, t.rows, self.begin, self.values
            kernels.forward(*layout, x.ravel(), (0,) * self.width)
            kernels.backward(*layout, x.ravel(), (0,) * self.width)
        else:
            self._several(torch.from_numpy(x).flatten(0, 1))
        out = np.empty(x.shape)
        out[t.order] = x
        return out.reshape(b.shape)

    @property
    def props(self) -> Array:
        """E of what was added, E Eᵀ (unknowns, rank defect)."""
        unit = np.zeros((len(self.tree.order) * self.width, len(self.propped)))
        unit[self.propped, np.arange(unit.shape[1])] = 1.0
        return unit

    def columns(self, s: int) -> tuple[Tensor, Tensor]:
        """L of a supernode: its own triangle, and the rows below."""
        own = int(self.tree.columns[s]) * self.width
        both = torch.from_numpy(self.values[self.begin[s] : self.begin[s + 1]]).view(-1, own)
        return both[:own], both[own:]

    def lower_rows(self, s: int) -> Tensor:
        """Unknowns, in the order of elimination, of a supernode's rows below its own."""
        blocks = self.tree.rows[self.tree.offset[s] : self.tree.offset[s + 1]]
        return torch.from_numpy((blocks[:, None] * self.width + np.arange(self.width)).ravel())

    def _several(self, x: Tensor) -> None:
        ends = (self.tree.first * self.width).tolist()
        slices = [slice(a, b) for a, b in pairwise(ends)]
        for s, own in enumerate(slices):
            corner, below = self.columns(s)
            x[own] = torch.linalg.solve_triangular(corner, x[own], upper=False)
            x.index_add_(0, self.lower_rows(s), below @ x[own], alpha=-1)
        for s in range(len(slices) - 1, -1, -1):
            corner, below = self.columns(s)
            right = x[slices[s]] - below.mT @ x.index_select(0, self.lower_rows(s))
            x[slices[s]] = torch.linalg.solve_triangular(corner.mT, right, upper=True)


def factorise(
    matrix: BlockMatrix,
    tree: EliminationTree,
    precision: str = "float64",
    progress: Callable[[float], None] | None = None,
) -> SparseCholesky:
    """Factor a matrix whose diagonal is 1, or 0 where an unknown does not exist (it then gets 1).

    Args:
        matrix: it.
        tree: its elimination tree.
        precision: "float64" or "float32" of the factor.
        progress: told, again and again, what part of the work was done since.
    """
    if len(tree) == 1:
        values, begin, propped = _whole(matrix, tree, np.dtype(precision), SINGULAR[precision])
        if progress is not None:
            progress(1.0)
    else:
        work = _Elimination(matrix, tree, np.dtype(precision), SINGULAR[precision])
        share = tree.products / max(tree.products.sum(), 1.0)
        for s in range(len(tree)):
            work.eliminate(s)
            if progress is not None:
                progress(float(share[s]))
        values, begin, propped = work.values, work.begin, work.propped
    where = np.array(propped, dtype=np.int64)
    unknown = tree.order[where // matrix.width] * matrix.width + where % matrix.width
    return SparseCholesky(tree, values, begin, unknown, matrix.width)


def _whole(
    matrix: BlockMatrix, tree: EliminationTree, dtype: np.dtype, weakest: float
) -> tuple[Array, Array, list[int]]:
    """L of a single supernode, where it begins and ends, and what was propped."""
    rows = (tree.order[:, None] * matrix.width + np.arange(matrix.width)).ravel()
    full = matrix.dense()[np.ix_(rows, rows)].astype(dtype)
    bare = np.flatnonzero(full.diagonal() == 0)
    full[bare, bare] = 1.0
    propped = _factored(full, len(full), weakest)
    return full.ravel(), np.array([0, full.size]), propped


class _Elimination:
    """Fronts in one workspace, and what they leave to their parents on a stack."""

    def __init__(self, matrix: BlockMatrix, tree: EliminationTree, dtype: np.dtype, weakest: float) -> None:
        self.matrix, self.tree, self.weakest = matrix, tree, weakest
        self.width = (0,) * matrix.width
        self.own, self.below = tree.columns * matrix.width, tree.below * matrix.width
        self.begin = np.concatenate([[0], np.cumsum(self.own * (self.own + self.below))]).astype(np.int64)
        self.values = np.empty(self.begin[-1], dtype)
        self.entries = _entries(matrix)
        self.place, self.local = np.empty((2, len(matrix)), np.int64)
        self.place[tree.order] = np.arange(len(matrix))
        leaf = np.ones(len(tree), dtype=bool)
        leaf[tree.parent[tree.parent >= 0]] = False
        self.thin = leaf & (tree.columns <= _THIN) & (tree.parent >= 0)
        largest = int((self.own + self.below)[~self.thin].max(initial=0))
        self.workspace = np.empty(largest**2, dtype)
        self.square = np.empty(int(self.below[self.thin].max(initial=0)) ** 2, dtype)
        self.stack, self.height = np.empty(self._deepest(), dtype), 0
        self.waiting: list[list[int]] = [[] for _ in range(len(tree))]
        self.propped: list[int] = []

    def eliminate(self, s: int) -> None:
        """The next supernode."""
        own, n = int(self.own[s]), int(self.own[s] + self.below[s])
        columns = self.values[self.begin[s] : self.begin[s + 1]].reshape(n, own)
        if self.thin[s]:
            columns[:] = 0.0
            self._assemble(s, columns)
            weak = kernels.factor_thin(columns, own, self.weakest)
            self._prop(s, [i for i in range(own) if weak >> i & 1])
        else:
            front = self.workspace[: n * n].reshape(n, n)
            kernels.clear(front)
            self._assemble(s, front)
            self._absorb(s, front)
            self._prop(s, _factored(front[:, :own], own, self.weakest))
            blas.subtract_square(front[own:, own:], front[own:, :own])
            columns[:] = front[:, :own]
            size = _triangle(n - own)
            kernels.pack(front, own, self.stack[self.height : self.height + size])
            self.height += size
        if self.tree.parent[s] >= 0:
            self.waiting[self.tree.parent[s]].append(s)

    def _assemble(self, s: int, front: Array) -> None:
        t, m = self.tree, self.matrix
        first, last, rows = int(t.first[s]), int(t.first[s + 1]), t.rows[t.offset[s] : t.offset[s + 1]]
        self.local[first:last] = np.arange(last - first)
        self.local[rows] = np.arange(last - first, last - first + len(rows))
        kernels.assemble(
            front, first, last, t.order, self.place, *self.entries, m.values, self.local, self.width
        )

    def _absorb(self, s: int, front: Array) -> None:
        """What the children left, the last one's first: it is on top of the stack."""
        t = self.tree
        for child in reversed(self.waiting[s]):
            where = self.local[t.rows[t.offset[child] : t.offset[child + 1]]]
            if self.thin[child]:
                own, below = int(self.own[child]), int(self.below[child])
                columns = self.values[self.begin[child] : self.begin[child + 1]].reshape(-1, own)
                square = self.square[: below**2].reshape(below, below)
                blas.subtract_square(square, columns[own:], keep=False)
                kernels.extend_add_square(front, square, where, self.width)
            else:
                top = self.height
                self.height -= _triangle(int(self.below[child]))
                kernels.extend_add(front, self.stack[self.height : top], where, self.width)

    def _prop(self, s: int, weak: list[int]) -> None:
        self.propped += [int(self.tree.first[s]) * len(self.width) + i for i in weak]

    def _deepest(self) -> int:
        """Most numbers on the stack."""
        height = deepest = 0
        waiting = np.zeros(len(self.tree), dtype=np.int64)
        for s, parent in enumerate(self.tree.parent.tolist()):
            size = 0 if self.thin[s] else _triangle(int(self.below[s]))
            height += size - int(waiting[s])
            deepest = max(deepest, height, height + int(waiting[s]))
            if parent >= 0:
                waiting[parent] += size
        return deepest


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _factored(columns: Array, own: int, weakest: float) -> list[int]:
    """Factor columns in place, a panel at a time; returns where the diagonal got 1 more."""
    weak: list[int] = []
    for first in range(0, own, _PANEL):
        last = min(first + _PANEL, own)
        corner, below = columns[first:last, first:last], columns[last:, first:last]
        blas.subtract_square(corner, columns[first:last, :first])
        blas.subtract_product(below, columns[last:, :first], columns[first:last, :first])
        weak += [first + i for i in _root(corner, weakest)]
        blas.divide_by_transpose(below, corner)
    return weak


def _root(corner: Array, weakest: float) -> list[int]:
    """Factor the lower triangle of a dense matrix in place; returns where its diagonal got 1 more."""
    weak: list[int] = []
    before = corner.copy()
    while True:
        good = blas.cholesky(corner)
        small = np.flatnonzero(corner.diagonal()[:good] ** 2 < weakest)
        if good == len(corner) and not len(small):
            return weak
        weak.append(int(small[0]) if len(small) else good)
        before[weak[-1], weak[-1]] += 1
        corner[:] = before


def _entries(matrix: BlockMatrix) -> tuple[Array, Array, Array]:
    """Blocks of each row of both triangles: start, column, and which block, −1 − k for block k mirrored."""
    row, column, k = matrix.row, matrix.column.astype(np.int64), np.arange(len(matrix.column))
    off = row != column
    rows = np.concatenate([row, column[off]])
    order = np.argsort(rows, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))]).astype(np.int64)
    return start, np.concatenate([column, row[off]])[order], np.concatenate([k, -1 - k[off]])[order]
