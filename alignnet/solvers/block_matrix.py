"""Symmetric matrices of small dense blocks, in compressed rows of the upper triangle.

A product reads every block once and uses it twice, for its own row and for its mirror image: memory traffic
(8 bytes an element) bounds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignnet.data.tracks import Array
from alignnet.solvers.jit import compiled, pays

_FEW, _MANY = 30_000, 1_000_000
"""Blocks that numpy takes in the time in which kernels are read from disk, or are compiled."""


@dataclass(frozen=True)
class BlockMatrix:
    """A symmetric matrix.

    Args:
        start: first block of each row and the total, int64 (rows + 1,).
        column: of each block, ≥ its row, ascending in a row, int32 (blocks,).
        values: the blocks, float64 (blocks, width, width); those on the diagonal are symmetric.
    """

    start: Array
    column: Array
    values: Array

    @staticmethod
    def of_pairs(
        row: Array, column: Array, values: Array, rows: int, place: Array | None = None
    ) -> BlockMatrix:
        """From blocks (row ≤ column) in any order, each pair once; rows without any get a 0 diagonal.

        Args:
            row, column: of each pair (pairs,).
            values: the blocks (pairs, width, width).
            rows: of the matrix, in blocks.
            place: which of `values` is each pair's; default: the same order.
        """
        bare = np.setdiff1d(np.arange(rows), row[row == column])
        place = np.arange(len(row)) if place is None else place
        row, column = np.concatenate([row, bare]), np.concatenate([column, bare])
        order = np.argsort(row * rows + column)
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)
        ordered = np.empty((len(order), *values.shape[1:]))
        where = np.concatenate([place, np.full(len(bare), -1)])[order]
        if len(values):
            np.take(values, where, axis=0, out=ordered, mode="clip")  # with no copy of them all
        ordered[where < 0] = 0.0
        return BlockMatrix(start, column[order].astype(np.int32), ordered)

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def width(self) -> int:
        """Rows of a block."""
        return int(self.values.shape[-1])

    @property
    def row(self) -> Array:
        """Row of each block (blocks,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def __matmul__(self, vectors: Array) -> Array:
        """The product with a vector (rows · width,), or with several (rows · width, vectors)."""
        x = np.ascontiguousarray(vectors, dtype=np.float64)
        out, width = np.zeros_like(x), (0,) * self.width
        if not self._pays(_multiply if x.ndim == 1 else _multiply_many):
            self._add_product(x, out)
        elif x.ndim == 1:
            _multiply(self.start, self.column, self.values, x, out, width)
        else:
            _multiply_many(self.start, self.column, self.values, x, out, width)
        return out

    def _pays(self, kernel: Callable[..., None]) -> bool:
        """Whether to take a kernel; beyond a size there is nothing else, as that would need more memory."""
        blocks = len(self.column)
        return blocks > _MANY or pays(kernel, blocks, _MANY, _FEW)

    def _add_product(self, x: Array, out: Array) -> None:
        target, vectors = (v.reshape(len(self), self.width, -1) for v in (out, x))
        row, off = self.row, self.row != self.column
        np.add.at(target, row, self.values @ vectors[self.column])
        np.add.at(target, self.column[off], self.values[off].swapaxes(1, 2) @ vectors[row[off]])

    @property
    def diagonal_blocks(self) -> Array:
        """(rows, width, width)."""
        return self.values[self.start[:-1]]

    def scaled(self, factor: Array) -> BlockMatrix:
        """FᵀAF with a block-diagonal F (rows, width, width); the values are changed in place."""
        if self._pays(_scale):
            _scale(self.start, self.column, self.values, factor, (0,) * self.width)
        else:
            self.values[:] = factor[self.row].swapaxes(1, 2) @ self.values @ factor[self.column]
        return self

    def dense(self) -> Array:
        """(rows · width, rows · width), for small ones."""
        n, width = len(self), self.width
        full = np.zeros((n, width, n, width))
        full[self.row, :, self.column, :] = self.values
        full[self.column, :, self.row, :] = self.values.swapaxes(1, 2)
        return full.reshape(n * width, n * width)


@compiled
def _multiply(
    start: Array, column: Array, values: Array, x: Array, out: Array, width: tuple[int, ...]
) -> None:
    n = len(width)
    for i in range(len(start) - 1):
        for k in range(start[i], start[i + 1]):
            j, block = column[k], values[k]
            for a in range(n):
                s = 0.0
                for c in range(n):
                    s += block[a, c] * x[j * n + c]
                out[i * n + a] += s
            if j != i:
                for a in range(n):
                    f = x[i * n + a]
                    for c in range(n):
                        out[j * n + c] += f * block[a, c]


@compiled
def _multiply_many(
    start: Array, column: Array, values: Array, x: Array, out: Array, width: tuple[int, ...]
) -> None:
    n, m = len(width), x.shape[1]
    for i in range(len(start) - 1):
        for k in range(start[i], start[i + 1]):
            j, block = column[k], values[k]
            for a in range(n):
                for c in range(n):
                    f = block[a, c]
                    for v in range(m):
                        out[i * n + a, v] += f * x[j * n + c, v]
                    if j != i:
                        for v in range(m):
                            out[j * n + c, v] += f * x[i * n + a, v]


@compiled
def _scale(start: Array, column: Array, values: Array, factor: Array, width: tuple[int, ...]) -> None:
    n = len(width)
    left = np.zeros((n, n))
    for i in range(len(start) - 1):
        own = factor[i]
        for k in range(start[i], start[i + 1]):
            block, other = values[k], factor[column[k]]
            for a in range(n):
                for c in range(n):
                    left[a, c] = 0.0
                for j in range(n):
                    for c in range(n):
                        left[a, c] += own[j, a] * block[j, c]
            for a in range(n):
                for c in range(n):
                    block[a, c] = 0.0
                for j in range(n):
                    for c in range(n):
                        block[a, c] += left[a, j] * other[j, c]
