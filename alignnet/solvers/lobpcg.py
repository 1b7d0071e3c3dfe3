"""The lowest eigenpairs of A x = λ B x, from products with A and B alone.

Locally optimal block preconditioned conjugate gradients (Knyazev 2001): each iteration takes the best
combinations of the present vectors X, their preconditioned residuals W and the last directions P, by
Rayleigh's quotient. Combinations are made from an orthonormal basis of the three, in which directions that
have become dependent are left out (Duersch et al. 2018), so that it goes on to full accuracy. Directions
that A and B both ignore do no harm: they are never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConvergenceError

Product = Callable[[Tensor], Tensor]

_REFRESH = 10  # iterations after which products are worked out anew, before rounding errors add up

_DEPENDENT = 1e-13
"""Eigenvalue of the vectors' Gram matrix, its diagonal 1, below which a combination of them is left out."""


class Eigenpairs(NamedTuple):
    """Lowest eigenvalues, ascending, and their vectors."""

    values: Tensor  # λ (pairs,)
    vectors: Tensor  # XᵀBX = 1 (size, pairs)
    residual: Tensor  # rᵀMr of each, the order of λ's error, over what may be left of it (pairs,)
    iterations: int
    converged: bool


def lowest_eigenpairs(
    a: Product,
    b: Product,
    precondition: Product,
    energy: Product,
    start: Tensor,
    wanted: int,
    width: int,
    tolerance: float = 1e-3,
    floor: float = 1e-12,
    max_iterations: int = 300,
    progress: Callable[[int, float], None] | None = None,
) -> Eigenpairs:
    """The lowest `wanted` eigenpairs of A x = λ B x.

    Args:
        a, b: products with the symmetric matrices, (size, vectors) → the same.
        precondition: an approximate inverse M of A, the same way.
        energy: a scale for λ of each vector, (size, vectors) → (vectors,).
        start: vectors whose span it starts from (size, vectors).
        wanted: eigenpairs.
        width: vectors that it goes on with, at least `wanted`; some more converge faster.
        tolerance, floor: an eigenpair has converged when rᵀMr, r its residual, is below `tolerance` of λ, or
            below `floor` of its energy.
        progress: called with the iteration and the largest residual over these.

    Raises:
        ConvergenceError: a number became non-finite.
    """
    state, _ = _combined([_part(start, a, b)], width)
    directions: Part | None = None
    for iteration in range(max_iterations + 1):
        if iteration % _REFRESH == _REFRESH - 1:
            state = state._replace(ax=a(state.x), bx=b(state.x))
            directions = None if directions is None else _part(directions[0], a, b)
        r = state.ax - state.bx * state.values
        w = precondition(r)
        allowed = torch.maximum(tolerance * state.values.abs(), floor * energy(state.x))
        residual = ((r * w).sum(0).abs() / allowed)[:wanted]
        if not residual.isfinite().all():
            raise ConvergenceError(
                f"eigenvectors: a number became non-finite in iteration {iteration}; "
                "fix degrees of freedom that have no hits, or give them a prior"
            )
        if progress is not None:
            progress(iteration, float(residual.max()))
        if float(residual.max()) <= 1 or iteration == max_iterations:
            break
        w = w - state.x @ (state.bx.T @ w)
        parts = [(state.x, state.ax, state.bx), _part(w, a, b)]
        state, directions = _combined(parts if directions is None else [*parts, directions], width)
    converged = bool((residual <= 1).all())
    return Eigenpairs(state.values[:wanted], state.x[:, :wanted], residual, iteration, converged)


Part = tuple[Tensor, Tensor, Tensor]
"""Vectors, and A and B times them."""


def _part(vectors: Tensor, a: Product, b: Product) -> Part:
    return vectors, a(vectors), b(vectors)


class _Ritz(NamedTuple):
    values: Tensor
    x: Tensor
    ax: Tensor
    bx: Tensor


def _combined(parts: list[Part], k: int) -> tuple[_Ritz, Part | None]:
    """The k lowest Ritz pairs in the span of the parts, and their share from all parts but the first."""
    s, a_s, b_s = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
    scale = (s * b_s).sum(0)
    scale = torch.where(scale > 0, scale.clamp_min(1e-300).rsqrt(), 0.0)
    sizes, vectors = torch.linalg.eigh(_symmetric((s * scale).T @ (b_s * scale)))
    keep = sizes > _DEPENDENT * sizes[-1]
    basis = scale[:, None] * vectors[:, keep] * sizes[keep].rsqrt()
    values, rotation = torch.linalg.eigh(_symmetric(basis.T @ (s.T @ a_s) @ basis))
    c = basis @ rotation[:, :k]
    pairs = _Ritz(values[:k], s @ c, a_s @ c, b_s @ c)
    n = parts[0][0].shape[1]
    return pairs, (s[:, n:] @ c[n:], a_s[:, n:] @ c[n:], b_s[:, n:] @ c[n:]) if len(parts) > 1 else None


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
