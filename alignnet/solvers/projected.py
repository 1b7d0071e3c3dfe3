"""Conjugate gradients under exact linear constraints, for one right-hand side or several at once.

With P the orthogonal projection onto C x = 0, the minimum of ½ xᵀAx − bᵀx under C x = r is x₀ + z, with x₀
the shortest vector that fulfils C x₀ = r, and z the solution of PAP z = P (b − A x₀) in that subspace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from alignnet.data.tracks import Array
from alignnet.errors import ConvergenceError

DEPENDENT = 1e-9
"""A constraint is taken to follow from others where less than this part of it is left without them."""


class SparseRows:
    """Few or many rows C with few or many factors each.

    Args:
        index: for each row its unknowns.
        factors: and what these are multiplied by.
        size: unknowns in all.
    """

    def __init__(self, index: Sequence[Array], factors: Sequence[Array], size: int) -> None:
        self.size = size
        self.offset = np.concatenate([[0], np.cumsum([len(row) for row in index])]).astype(np.int64)
        self.index = np.concatenate([np.zeros(0, dtype=np.int64), *index]).astype(np.int64)
        self.factors = np.concatenate([np.zeros(0), *factors])
        self._rows = csr_array((self.factors, self.index, self.offset), shape=(len(index), size))
        self._columns = self._rows.T

    def __len__(self) -> int:
        return len(self.offset) - 1

    def __matmul__(self, x: Array) -> Array:
        """C x, for a vector (unknowns,) or several (unknowns, vectors)."""
        return np.asarray(self._rows @ x)

    def transposed(self, multipliers: Array) -> Array:
        """Cᵀ λ."""
        return np.asarray(self._columns @ multipliers)

    def dense(self) -> Array:
        """(rows, unknowns), for small ones."""
        return self.transposed(np.eye(len(self))).T

    def scaled(self, factor: Array) -> tuple[list[Array], list[Array]]:
        """Index and factors of C F, with a block-diagonal F (blocks, width, width)."""
        width = factor.shape[-1]
        index, factors = [], []
        for i in range(len(self)):
            rows = slice(self.offset[i], self.offset[i + 1])
            block, which = np.unique(self.index[rows] // width, return_inverse=True)
            dense = np.zeros((len(block), width))
            dense[which, self.index[rows] % width] = self.factors[rows]
            index.append((block[:, None] * width + np.arange(width)).ravel())
            factors.append(np.einsum("bij,bi->bj", factor[block], dense).ravel())
        return index, factors


class Constraints(SparseRows):
    """Exact constraints C x = r."""

    def __init__(self, index: Sequence[Array], factors: Sequence[Array], size: int) -> None:
        super().__init__(index, factors, size)
        self.gram = self._gram()
        self._inverse = np.linalg.pinv(self.gram, rcond=1e-13, hermitian=True) if len(self) else self.gram

    def shortest(self, r: Array) -> Array:
        """The shortest x with C x = r."""
        return self.transposed(self._inverse @ r)

    def project(self, x: Array) -> Array:
        """The part of x that fulfils C x = 0."""
        return x - self.shortest(self @ x) if len(self) else x

    def orthonormal(self) -> Array:
        """The directions that the constraints hold (constraints, unknowns), orthonormal."""
        return np.asarray(np.linalg.qr(self.dense().T)[0].T)

    def diagonal(self) -> Array:
        """Diagonal of the projection (unknowns,)."""
        taken = np.zeros(self.size)
        for i in range(len(self)):
            unit = np.zeros(len(self))
            unit[i] = 1.0
            part = self.transposed(self._inverse @ unit)
            rows = slice(self.offset[i], self.offset[i + 1])
            taken[self.index[rows]] += self.factors[rows] * part[self.index[rows]]
        return 1 - taken

    def dependent(self) -> list[int]:
        """Constraints that follow from those before them."""
        found: list[int] = []
        kept: list[int] = []
        scale = np.sqrt(np.maximum(self.gram.diagonal(), 1e-300))
        correlation = self.gram / np.outer(scale, scale)
        for i in range(len(self)):
            row = correlation[i, kept]
            left = 1 - row @ np.linalg.lstsq(correlation[np.ix_(kept, kept)], row)[0] if kept else 1.0
            (kept if left > DEPENDENT and self.gram[i, i] > 0 else found).append(i)
        return found

    def _gram(self) -> Array:
        """C Cᵀ."""
        columns = [self @ self.transposed(unit) for unit in np.eye(len(self))]
        return np.stack(columns) if columns else np.zeros((0, 0))


@dataclass(frozen=True)
class Solved:
    """What conjugate gradients found."""

    x: Array
    iterations: int
    residual: float  # |P (b − A x)| / |P b|, the largest of several right-hand sides
    converged: bool


def solve(
    multiply: Callable[[Array], Array],
    b: Array,
    constraints: Constraints,
    r: Array | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 3000,
    precondition: Callable[[Array], Array] = lambda residual: residual,
) -> Solved:
    """Solve A x = b (unknowns,) or (unknowns, several) under C x = r, r = 0 if not given.

    Args:
        precondition: about the inverse of A under C x = 0; symmetric (Gould, Hribar & Nocedal, SIAM J. Sci.
            Comput. 23 (2001) 1376).

    Raises:
        ConvergenceError: a number became non-finite, or A is not positive.
    """
    x = np.zeros_like(b) if r is None else constraints.shortest(r)
    force = constraints.project(b)
    residual = force if r is None else constraints.project(b - multiply(x))
    goal = tolerance * np.sqrt(_dot(force, force))
    direction = constraints.project(precondition(residual))
    rho, size, iteration = _dot(residual, direction), _dot(residual, residual), 0
    while iteration < max_iterations and (np.sqrt(size) > goal).any():
        product = multiply(direction)
        curvature = _dot(direction, product)
        moving = rho > 0
        if not np.isfinite(curvature).all() or (curvature[moving] <= 0).any():
            raise ConvergenceError(
                f"the problem is singular: curvature {float(np.min(curvature)):.3g} in iteration "
                f"{iteration}; fix parameters, add constraints or a presigma"
            )
        step = np.where(moving, rho / np.where(moving, curvature, 1.0), 0.0)
        x, residual = x + step * direction, constraints.project(residual - step * product)
        better = constraints.project(precondition(residual))
        new = _dot(residual, better)
        direction = better + np.where(moving, new / np.where(moving, rho, 1.0), 0.0) * direction
        rho, size, iteration = new, _dot(residual, residual), iteration + 1
    relative = float(np.max(np.sqrt(size) / np.maximum(goal / tolerance, 1e-300)))
    return Solved(x, iteration, relative, bool((np.sqrt(size) <= goal).all()))


def _dot(a: Array, b: Array) -> Array:
    return np.asarray((a * b).sum(0))
