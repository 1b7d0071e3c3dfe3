"""A x = b under linear constraints C x = r by a sparse factorisation, with the errors of x.

A is a block-sparse matrix M, plus measurements of few linear combinations, Sᵀ W S. M may be singular where
the constraints hold what it leaves free: its factor is that of M + E Eᵀ, with as many unit vectors E as its
rank lacks. With Z = (M + E Eᵀ)⁻¹ the inverse under the constraints is

    G = Z − Z Cᵀ (C Z Cᵀ)⁻¹ C Z,      A_c⁻¹ = G − G U (D⁻¹ + Uᵀ G U)⁻¹ Uᵀ G,

U = (Sᵀ, E) and D = diag(W, −1) (Sherman, Morrison & Woodbury). In single precision it is a preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alignnet.data.memory import physical_memory
from alignnet.data.tracks import Array
from alignnet.errors import ConvergenceError
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.elimination_tree import EliminationTree
from alignnet.solvers.projected import Constraints, SparseRows
from alignnet.solvers.selected_inverse import inverse_blocks
from alignnet.solvers.sparse_cholesky import factorise

MOST_PROPS = 256
"""Missing ranks for which this is meant: each is a few dense vectors."""

_MEMORY_SHARE = 0.2  # of the machine's memory for dense vectors

_HELD = 1e-11
"""Smallest eigenvalue of 1 − Eᵀ A⁻¹ E along directions that something else than E holds."""


class DirectSystem:
    """A_c⁻¹ as an operator.

    Args:
        matrix: M, in unknowns that make its diagonal 1 (0 for unknowns that do not exist).
        tree: its elimination tree.
        constraints: C.
        survey: S.
        weight: W (rows of S,).
        precision: "float64" or "float32" of the factor.
        progress: told, again and again, what part of the factorisation was done since.

    Raises:
        ConvergenceError: A is singular under the constraints (in float64; in float32 the iteration tells).
    """

    def __init__(
        self,
        matrix: BlockMatrix,
        tree: EliminationTree,
        constraints: Constraints,
        survey: SparseRows,
        weight: Array,
        precision: str = "float64",
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.factor = factorise(matrix, tree, precision, progress)
        if len(self.factor.propped) > MOST_PROPS:
            raise ConvergenceError(_singular(len(self.factor.propped)))
        self._rows = constraints.orthonormal()
        self._held = self.factor.solve(self._rows.T)
        self._held_inverse = _inverse(self._rows @ self._held)
        props = self.factor.props
        self._added = np.concatenate([survey.dense().T, props], 1)
        self._moved = self._under_constraints(self.factor.solve(self._added))
        middle = self._added.T @ self._moved
        if precision == "float64":
            self._refuse_singular(middle, 1 / weight)
        diagonal = np.concatenate([1 / weight, -np.ones(props.shape[1])])
        self._middle = _inverse(np.diag(diagonal) + middle)

    def __call__(self, b: Array) -> Array:
        """A_c⁻¹ b (unknowns,)."""
        x = self._under_constraints(self.factor.solve(b))
        return x - self._moved @ (self._middle @ (self._moved.T @ b))

    def covariance(self, progress: Callable[[float], None] | None = None) -> Array:
        """Blocks on the diagonal of A_c⁻¹ (blocks, width, width).

        Args:
            progress: told, again and again, what part of the work was done since.
        """
        blocks = inverse_blocks(self.factor, progress)
        for vectors, weight in ((self._held, self._held_inverse), (self._moved, self._middle)):
            part = vectors.reshape(len(blocks), blocks.shape[1], len(weight))
            blocks -= (part @ weight) @ part.swapaxes(1, 2)
        return blocks

    def _under_constraints(self, x: Array) -> Array:
        return x - self._held @ (self._held_inverse @ (self._rows @ x))

    def _refuse_singular(self, middle: Array, variance: Array) -> None:
        """With S measured, 1 − Eᵀ A⁻¹ E is 0 along what neither measurements nor constraints hold."""
        n = len(variance)
        measured, across = middle[:n, :n] + np.diag(variance), middle[:n, n:]
        held = middle[n:, n:] - across.T @ np.linalg.solve(measured, across)
        free = int((np.linalg.eigvalsh(np.eye(len(held)) - held) < _HELD).sum())
        if free:
            raise ConvergenceError(_singular(free))


def rows_fit(rows: int, unknowns: int) -> bool:
    """Whether so many constraints and measurements, a few dense vectors each, leave enough memory."""
    return 32 * rows * unknowns < _MEMORY_SHARE * physical_memory()


def _inverse(matrix: Array) -> Array:
    """Of a symmetric matrix, indefinite perhaps, whose rows may differ in size by orders of magnitude."""
    size = np.abs(matrix).max(1, initial=0.0)
    scale = 1 / np.sqrt(np.where(size > 0, size, 1.0))
    return np.asarray(np.linalg.inv(matrix * np.outer(scale, scale)) * np.outer(scale, scale))


def _singular(defect: int) -> str:
    return (
        f"the problem is singular: its matrix has a rank defect of {defect}; fix parameters, add constraints "
        "or a presigma"
    )
