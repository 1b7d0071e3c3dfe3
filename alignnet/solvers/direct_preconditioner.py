"""The inverse of the alignment's matrix by a sparse factorisation, in the place of its blocks' inverses.

Conjugate gradients then take a few iterations however many sensors there are, with or without levels. Motions
that neither tracks nor priors know of are taken out of what it returns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.solvers.assembled import AssembledProblem
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.elimination_tree import EliminationTree
from alignnet.solvers.hierarchy_matrix import hierarchy_matrix
from alignnet.solvers.levels import Hierarchical, Preconditioner
from alignnet.solvers.scaled_problem import inverse_root
from alignnet.solvers.sparse_cholesky import SparseCholesky, factorise

_NULL = 1e-9
"""Energy of a motion, in unknowns that make each block 1, below which nothing is known of it."""


class DirectPreconditioner(Preconditioner):
    """`Preconditioner` from a factorisation of the whole matrix.

    Args:
        hierarchy: of an assembled problem.
        matrix: its matrix of sensors and volumes, which is used up.
        tree: how to factor that.
        precision: "float64" or "float32" of the factor.
    """

    def __init__(
        self, hierarchy: Hierarchical, matrix: BlockMatrix, tree: EliminationTree, precision: str = "float64"
    ) -> None:
        super().__init__(hierarchy, with_levels=False)
        self.scale = inverse_root(matrix.diagonal_blocks)
        scaled = matrix.scaled(self.scale)
        self.factor = factorise(scaled, tree, precision)
        if precision == "float32" and len(self.factor.propped):  # too coarse to tell what is null
            self.factor = factorise(scaled, tree)
        self.null = _null_vectors(self.factor)
        self.n_null = self.null.shape[1]

    def __call__(self, vector: Tensor) -> Tensor:
        """The inverse times packed unknowns: x = T y for the unknowns y = (δ, x_l), so A⁻¹ = T M⁻¹ Tᵀ."""
        return self._packed(vector, lambda scaled: self._seen(self.factor.solve(self._seen(scaled))))

    def on_all(self, vector: Tensor) -> Tensor:
        """The same, and null vectors as they are, in scaled unknowns."""
        return self(vector) + self._packed(vector, lambda scaled: scaled - self._seen(scaled))

    def _packed(self, vector: Tensor, of_scaled: Callable[[Array], Array]) -> Tensor:
        h, (first, *rest) = self.hierarchy, vector.double().split(self.hierarchy._sizes)
        force = first.view_as(h.own) * h.own
        parts = [
            part.view(level.n_groups, -1) - level.restrict(force)
            for part, level in zip(rest, h.levels, strict=True)
        ]
        scaled = np.einsum("bij,bi->bj", self.scale, torch.cat([force, *parts]).numpy())
        found = of_scaled(scaled.ravel()).reshape(scaled.shape)
        solved = torch.from_numpy(np.einsum("bij,bj->bi", self.scale, found))
        moved, *volumes = solved.split([len(h.own), *(level.n_groups for level in h.levels)])
        for part, level in zip(volumes, h.levels, strict=True):
            moved = moved - level.prolong(part)
        return torch.cat([(moved * h.own).flatten(), *(part.flatten() for part in volumes)]).to(vector)

    def _seen(self, x: Array) -> Array:
        """Scaled unknowns without the null vectors."""
        return x - self.null @ (self.null.T @ x)


def _null_vectors(factor: SparseCholesky) -> Array:
    """Orthonormal null vectors of the scaled matrix A (unknowns, defect).

    With A + E Eᵀ factored, N = (A + E Eᵀ)⁻¹ E spans them where the props E were needed: Nᵀ A N = K − K², with
    K = Eᵀ N.
    """
    unit = factor.props
    if not unit.shape[1]:
        return unit
    found = factor.solve(unit)
    k = unit.T @ found
    q, r = np.linalg.qr(found)
    inverse = np.linalg.inv(r)
    energy, turn = np.linalg.eigh(inverse.T @ (k - k @ k) @ inverse)
    return np.asarray(q @ turn[:, energy < _NULL])


def direct_preconditioner(hierarchy: Hierarchical, precision: str) -> DirectPreconditioner | None:
    """The preconditioner, or None where it does not apply.

    It takes an assembled matrix, priors on the sensors if these move within volumes, which have as many
    unknowns each, and enough memory.
    """
    problem = hierarchy.problem
    n_own = hierarchy.own.numel()
    held = bool((hierarchy.weight[:n_own] > 0).any()) or not hierarchy.levels or not bool(hierarchy.own.any())
    even = all(level.basis.shape[-1] == hierarchy.own.shape[-1] for level in hierarchy.levels)
    if not isinstance(problem, AssembledProblem) or hierarchy.basis is not None or not (held and even):
        return None
    matrix = hierarchy_matrix(hierarchy, of_all_ranks(problem.matrices))
    tree = EliminationTree.of(matrix)
    if not tree.fits(matrix.width, np.dtype(precision).itemsize * _ranks()):
        return None
    return DirectPreconditioner(hierarchy, matrix, tree, precision)


def of_all_ranks(matrices: list[BlockMatrix]) -> BlockMatrix:
    """The sum of this rank's matrices and those of all others, in the same order on every rank."""
    if len(matrices) > 1:
        matrices = [_added(matrices)]
    if _ranks() == 1:
        return matrices[0]
    gathered: list[BlockMatrix | None] = [None] * _ranks()
    dist.all_gather_object(gathered, matrices[0])
    return _added([matrix for matrix in gathered if matrix is not None])


def _added(matrices: list[BlockMatrix]) -> BlockMatrix:
    rows = len(matrices[0])
    key = np.concatenate([matrix.row * rows + matrix.column for matrix in matrices])
    place, which = np.unique(key, return_inverse=True)
    values = np.zeros((len(place), *matrices[0].values.shape[1:]))
    first = 0
    for matrix in matrices:  # each has every place once
        values[which[first : first + len(matrix.column)]] += matrix.values
        first += len(matrix.column)
    return BlockMatrix.of_pairs(place // rows, place % rows, values, rows)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
