"""One linear step of a Millepede problem, in unknowns that make each block of the matrix the unit matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alignnet.data.steering import Combination
from alignnet.data.tracks import Array
from alignnet.errors import ConvergenceError, SchemaError
from alignnet.solvers.direct import DirectSystem, rows_fit
from alignnet.solvers.elimination_tree import EliminationTree
from alignnet.solvers.front_kernels import assemble
from alignnet.solvers.jit import pays
from alignnet.solvers.projected import Constraints, Solved, SparseRows, solve
from alignnet.solvers.record_tables import Labels, Reduced

FLAT = 1e-10
"""Directions of a block in which it is weaker than this part of its diagonal are not determined by it."""

_SINGLE = 30_000
"""Unknowns beyond which the first factorisation is in single precision."""

_ROUGH_ITERATIONS = 60

_QUICK, _DENSE = 1000, 3000
"""Unknowns of a dense matrix that takes as long as reading the sparse one's kernels, and as a compiler."""


@dataclass(frozen=True)
class Parameters:
    """What the steering text says of the labels that the files have."""

    start: Array
    presigma: Array
    free: Array
    entries: Array
    strength: float = 1.0  # what multiplies 1/presigma²

    @property
    def weight(self) -> Array:
        """Of the prior about the start, 0 for none (parameters,)."""
        held = self.free & (self.presigma > 0)
        return np.where(held, self.strength / np.where(held, self.presigma, 1.0) ** 2, 0.0)


class ScaledProblem:
    """The problem of one iteration in unknowns in which each block of the matrix is 1."""

    def __init__(
        self,
        reduced: Reduced,
        labels: Labels,
        parameters: Parameters,
        unknown: Array,
        at: Array,
        exact: tuple[SparseRows, list[tuple[Combination, Array]]],
        survey: tuple[SparseRows, list[tuple[Combination, Array]]],
    ) -> None:
        matrix, gradient = reduced.matrix, reduced.gradient.copy()
        width, inside = matrix.width, unknown[unknown >= 0]
        weight = parameters.weight[unknown >= 0]
        diagonal = matrix.values[matrix.start[:-1]]
        diagonal[inside // width, inside % width, inside % width] += weight
        matrix.values[matrix.start[:-1]] = diagonal
        gradient[inside] -= weight * (at - parameters.start)[unknown >= 0]
        self.factor = inverse_root(diagonal)
        self.determined = int((np.abs(self.factor).sum(1) > 0).sum())
        if self.determined < len(inside):
            self._refuse_flat(unknown, labels)
        self.matrix = matrix.scaled(self.factor)
        self._exact = Constraints(*exact[0].scaled(self.factor), exact[0].size)
        self._missing = np.array([one.value - one.factors @ at[rows] for one, rows in exact[1]])
        self._survey = SparseRows(*survey[0].scaled(self.factor), survey[0].size)
        self._weight = np.array([one.sigma**-2 for one, _ in survey[1]])
        short = np.array([one.value - one.factors @ at[rows] for one, rows in survey[1]])
        self.b = self._transposed(gradient)
        if len(self._survey):
            self.b = self.b + self._survey.transposed(self._weight * short)
        self._refuse_dependent([one for one, _ in exact[1]])
        self.inverse: DirectSystem | None = None

    @cached_property
    def tree(self) -> EliminationTree | None:
        """How to factor the matrix; None where that is not to be done."""
        if not rows_fit(len(self._exact) + len(self._survey), len(self.b)):
            return None
        size = len(self.b)
        if size <= _DENSE and not pays(assemble, size**3, _DENSE**3, _QUICK**3):
            return EliminationTree.dense(len(self.matrix))
        tree = EliminationTree.of(self.matrix)
        return tree if tree.fits(self.matrix.width, 8) else None

    def multiply(self, x: Array) -> Array:
        """The scaled matrix, with the survey, times vectors."""
        product = self.matrix @ x
        if len(self._survey):
            weight = self._weight.reshape(-1, *[1] * (x.ndim - 1))
            product = product + self._survey.transposed(weight * (self._survey @ x))
        return product

    def solve(
        self,
        tolerance: float,
        max_iterations: int,
        double: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Solved:
        """The scaled step: conjugate gradients preconditioned with a factorisation, where it fits in memory.

        Large problems are factored in single precision; where that is too coarse, in double precision.

        Args:
            tolerance: of the gradient, against its start.
            max_iterations: of conjugate gradients.
            double: factor in double precision at once, because errors will need that factor.
            progress: told, again and again, what part of a factorisation was done since.

        Raises:
            ConvergenceError: it does not converge, or the problem is singular.
        """
        if self.tree is None:
            return self._converged(self._iterate(None, tolerance, max_iterations), tolerance)
        if self.determined > _SINGLE and not double:
            rough = self._rough(progress)
            if rough is not None:
                solved = self._iterate(rough, tolerance, min(_ROUGH_ITERATIONS, max_iterations))
                if solved.converged:
                    return solved
        self.inverse = self._direct("float64", progress)
        return self._converged(self._iterate(self.inverse, tolerance, max_iterations), tolerance)

    def _iterate(self, inverse: DirectSystem | None, tolerance: float, max_iterations: int) -> Solved:
        r = self._missing if len(self._exact) else None
        if inverse is None:
            return solve(self.multiply, self.b, self._exact, r, tolerance, max_iterations)
        return solve(self.multiply, self.b, self._exact, r, tolerance, max_iterations, inverse)

    def _converged(self, solved: Solved, tolerance: float) -> Solved:
        if not solved.converged:
            raise ConvergenceError(
                f"conjugate gradients stopped after {solved.iterations} iterations with the gradient at "
                f"{solved.residual:.1e} of its start (asked: {tolerance:.0e}): the problem is singular or "
                "nearly so; fix parameters, add constraints or a presigma, or allow more iterations"
            )
        return solved

    def _rough(self, progress: Callable[[float], None] | None) -> DirectSystem | None:
        try:
            return self._direct("float32", progress)
        except (ConvergenceError, np.linalg.LinAlgError):
            return None

    def _direct(self, precision: str, progress: Callable[[float], None] | None) -> DirectSystem:
        assert self.tree is not None
        return DirectSystem(
            self.matrix, self.tree, self._exact, self._survey, self._weight, precision, progress
        )

    def factor_times(self, x: Array) -> Array:
        """Unknowns of scaled ones."""
        return np.einsum("bij,bj->bi", self.factor, x.reshape(len(self.factor), -1)).ravel()

    def drop(self, x: Array) -> float:
        """By how much the objective (χ², priors and measurements) falls with the scaled step x."""
        return float(2 * self.b @ x - x @ self.multiply(x))

    def require_errors(self) -> None:
        """Refuse to solve what no errors can be made of; ConvergenceError."""
        if self.tree is None:
            raise ConvergenceError(
                f"no errors: the matrix' factor, or {len(self._exact) + len(self._survey)} constraints and "
                "measurements as dense vectors, would be too large for this machine's memory; use errors=none"
            )

    def errors(self, progress: Callable[[float], None] | None = None) -> Array:
        """Standard deviation of each unknown, from the exact inverse under the constraints.

        Args:
            progress: told the same of the factorisation, if that is still to be done, and of the inverse.

        Raises:
            ConvergenceError: the matrix is singular, or its factor does not fit in memory.
        """
        self.require_errors()
        if self.inverse is None:
            self.inverse = self._direct("float64", progress)
        covariance = self.inverse.covariance(progress)
        variance = np.einsum("bij,bjk,bik->bi", self.factor, covariance, self.factor, optimize=True)
        return np.sqrt(np.maximum(variance, 0.0)).ravel()

    def gradient_left(self, x: Array) -> float:
        """Norm of the gradient at the scaled step x over that at 0, both under the constraints."""
        left = np.linalg.norm(self._exact.project(self.b - self.multiply(x)))
        return float(left) / max(float(np.linalg.norm(self._exact.project(self.b))), 1e-300)

    def _transposed(self, gradient: Array) -> Array:
        return np.einsum("bij,bi->bj", self.factor, gradient.reshape(len(self.factor), -1)).ravel()

    def _refuse_flat(self, unknown: Array, labels: Labels) -> None:
        width = self.factor.shape[-1]
        rank = (np.abs(self.factor).sum(1) > 0).sum(1)
        size = np.bincount(unknown[unknown >= 0] // width, minlength=len(rank))
        block = int(np.flatnonzero(rank < size)[0])
        some = labels.label[(unknown >= 0) & (unknown // width == block)]
        raise ConvergenceError(
            f"the problem is singular: parameters {some[0]} to {some[-1]} are {size[block]}, and their "
            f"records determine {rank[block]} of them ({int((rank < size).sum())} such groups); fix some, "
            "give a presigma, or raise `entries`"
        )

    def _refuse_dependent(self, wanted: list[Combination]) -> None:
        for i in self._exact.dependent():
            known = self._exact @ self._exact.shortest(self._missing)
            agrees = abs(known[i] - self._missing[i]) <= 1e-6 * max(np.abs(self._missing).max(), 1e-300)
            what = "follows from those before it" if agrees else "contradicts those before it"
            raise SchemaError(
                f"{wanted[i].line}: the constraint {what}, or all of its parameters are fixed; take it out"
            )


def inverse_root(blocks: Array) -> Array:
    """F of each block B with FᵀBF = 1, or 0 in the columns of directions in which B is flat."""
    scale = np.sqrt(np.einsum("bii->bi", blocks))
    scale = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
    values, vectors = np.linalg.eigh(blocks * scale[:, :, None] * scale[:, None, :])
    root = np.where(values > FLAT, 1 / np.sqrt(np.maximum(values, FLAT)), 0.0)
    return scale[:, :, None] * vectors * root[:, None, :]
