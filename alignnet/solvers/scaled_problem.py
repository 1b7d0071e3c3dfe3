"""One linear step of a Millepede problem, in unknowns that make each block of the matrix the unit matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alignnet.data.steering import Combination
from alignnet.data.tracks import Array
from alignnet.errors import ConvergenceError, SchemaError
from alignnet.solvers.projected import Constraints, Solved, SparseRows, solve
from alignnet.solvers.records import Labels, Reduced

FLAT = 1e-10
"""Directions of a block in which it is weaker than this part of its diagonal are not determined by it."""

SINGULAR = 1e-11
"""Part of the largest pivot or eigenvalue below which one of the scaled matrix is taken to be 0."""


@dataclass(frozen=True)
class Parameters:
    """What the steering text says of the labels that the files have."""

    start: Array
    presigma: Array
    free: Array
    entries: Array


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
        sigma = parameters.presigma[unknown >= 0]
        weight = np.where(sigma > 0, 1 / np.where(sigma > 0, sigma, 1.0) ** 2, 0.0)
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

    def multiply(self, x: Array) -> Array:
        """The scaled matrix, with the survey, times vectors."""
        product = self.matrix @ x
        if len(self._survey):
            weight = self._weight.reshape(-1, *[1] * (x.ndim - 1))
            product = product + self._survey.transposed(weight * (self._survey @ x))
        return product

    def solve(self, tolerance: float, max_iterations: int) -> Solved:
        """The scaled step.

        Raises:
            ConvergenceError: it does not converge.
        """
        r = self._missing if len(self._exact) else None
        solved = solve(self.multiply, self.b, self._exact, r, tolerance, max_iterations)
        if not solved.converged:
            raise ConvergenceError(
                f"conjugate gradients stopped after {solved.iterations} iterations with the gradient at "
                f"{solved.residual:.1e} of its start (asked: {tolerance:.0e}): the problem is singular or "
                "nearly so; fix parameters, add constraints or a presigma, or allow more iterations"
            )
        return solved

    def factor_times(self, x: Array) -> Array:
        """Unknowns of scaled ones."""
        return np.einsum("bij,bj->bi", self.factor, x.reshape(len(self.factor), -1)).ravel()

    def drop(self, x: Array) -> float:
        """By how much χ² falls with the scaled step x."""
        return float(2 * self.b @ x - x @ self.multiply(x))

    def errors(self) -> Array:
        """Standard deviation of each unknown, from the dense inverse matrix under the constraints.

        Raises:
            ConvergenceError: the matrix is singular.
        """
        keep = np.flatnonzero((np.abs(self.factor).sum(1) > 0).ravel())
        full = self.matrix.dense()[np.ix_(keep, keep)]
        if len(self._survey):
            rows = self._survey.dense()[:, keep]
            full += rows.T @ (self._weight[:, None] * rows)
        frozen = self._exact.orthonormal()[:, keep]  # these directions get 1 in the matrix, 0 in its inverse
        along = frozen @ full
        full += frozen.T @ (np.eye(len(frozen)) + along @ frozen.T) @ frozen
        full -= frozen.T @ along + along.T @ frozen
        root, failed = torch.linalg.cholesky_ex(torch.from_numpy(full))
        pivots = root.diagonal().square()
        if failed or not float(pivots.min()) > SINGULAR * float(pivots.max()):
            values = torch.linalg.eigvalsh(torch.from_numpy(full))
            null = int((values <= SINGULAR * values[-1]).sum())
            raise ConvergenceError(
                f"the problem is singular: its matrix has a rank defect of {null}; fix parameters, add "
                "constraints or a presigma"
            )
        covariance = torch.cholesky_inverse(root).numpy() - frozen.T @ frozen
        return self._unscaled(keep, covariance)

    def _unscaled(self, keep: Array, covariance: Array) -> Array:
        """Standard deviations from the covariance of the scaled unknowns that are kept."""
        width, out = self.factor.shape[-1], np.zeros(len(self.b))
        block, first = np.unique(keep // width, return_index=True)
        last = np.append(first[1:], len(keep))
        for i, begin, end in zip(block.tolist(), first.tolist(), last.tolist(), strict=True):
            own = self.factor[i][:, keep[begin:end] % width]
            out[i * width : (i + 1) * width] = ((own @ covariance[begin:end, begin:end]) * own).sum(1)
        return np.sqrt(np.maximum(out, 0.0))

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
