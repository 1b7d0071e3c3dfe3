"""Diagonal blocks of the inverse of a sparse matrix, exactly, from its Cholesky factor.

The elements of A⁻¹ where the factor has any follow from each other, parents before children (Takahashi, Fagan
& Chen, PICA 8 (1973); Erisman & Tinney, Commun. ACM 18 (1975) 177): for a supernode with the columns (L₁, L₂)
and Y = L₂ L₁⁻¹,

    Z₂₁ = −Z₂₂ Y,      Z₁₁ = L₁⁻ᵀ L₁⁻¹ + Yᵀ Z₂₂ Y,

with Z₂₂ a part of what its parent has. It takes twice the products of the factorisation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.solvers.jit import compiled
from alignnet.solvers.sparse_cholesky import SparseCholesky


def inverse_blocks(factor: SparseCholesky, progress: Callable[[float], None] | None = None) -> Array:
    """Blocks on the diagonal of (A + props)⁻¹, in the matrix' order (blocks, width, width).

    Args:
        factor: of A, in double precision.
        progress: told, again and again, what part of the work was done since.
    """
    t, width = factor.tree, factor.width
    out = np.empty((len(t.order), width, width))
    pending = np.bincount(t.parent[t.parent >= 0], minlength=len(t))
    fronts: dict[int, Array] = {}
    local = np.full(len(t.order), -1, dtype=np.int64)
    share = t.products / max(t.products.sum(), 1.0)
    for s in range(len(t) - 1, -1, -1):
        parent, above = int(t.parent[s]), np.zeros((0, 0))
        if parent >= 0:
            local[t.first[parent] : t.first[parent + 1]] = np.arange(t.columns[parent])
            rows = t.rows[t.offset[parent] : t.offset[parent + 1]]
            local[rows] = np.arange(t.columns[parent], t.columns[parent] + len(rows))
            where = local[t.rows[t.offset[s] : t.offset[s + 1]]]
            above = np.empty((len(where) * width, len(where) * width))
            _gather(fronts[parent], where, above, (0,) * width)
            pending[parent] -= 1
            if not pending[parent]:
                del fronts[parent]
        own, below = _inverse_columns(factor, s, torch.from_numpy(above))
        n = int(t.columns[s])
        blocks = own.view(n, width, n, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        out[t.order[t.first[s] : t.first[s + 1]]] = blocks.numpy()
        if pending[s]:
            front = np.empty((len(own) + len(below),) * 2)
            front[: len(own), : len(own)], front[len(own) :, : len(own)] = own.numpy(), below.numpy()
            front[len(own) :, len(own) :] = above
            fronts[s] = front
        if progress is not None:
            progress(float(share[s]))
    return out


def _inverse_columns(factor: SparseCholesky, s: int, above: Tensor) -> tuple[Tensor, Tensor]:
    """Z₁₁ and Z₂₁ of a supernode, with its Z₂₂."""
    corner, below = factor.columns(s)
    inverse = torch.linalg.solve_triangular(corner, torch.eye(len(corner), dtype=corner.dtype), upper=False)
    y = below @ inverse
    lower = above @ y
    return torch.addmm(inverse.mT @ inverse, y.mT, lower), -lower


@compiled
def _gather(front: Array, where: Array, out: Array, width: tuple[int, ...]) -> None:
    """Blocks `where` (ascending) of a symmetric matrix, stored as its lower triangle, as a full one."""
    n = len(width)
    for i in range(len(where)):
        for x in range(n):
            source = front[where[i] * n + x]
            for j in range(i):
                for y in range(n):
                    value = source[where[j] * n + y]
                    out[i * n + x, j * n + y] = value
                    out[j * n + y, i * n + x] = value
            for y in range(x + 1):
                value = source[where[i] * n + y]
                out[i * n + x, i * n + y] = value
                out[i * n + y, i * n + x] = value
