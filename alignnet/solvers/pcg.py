"""Preconditioned conjugate gradients, and the block-Jacobi preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.errors import ConvergenceError

_ROUNDING = 1e-10
"""Of the first rᵀM⁻¹r: by so much it may fall below 0. Constraints that take most of r leave its rounding."""


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found, and whether to trust it."""

    x: Tensor  # (sensors, dof)
    iterations: int
    residual: float  # |Hx − b| / |b| in the preconditioned norm
    converged: bool


class BlockJacobi:
    """B⁻¹: the inverse of each sensor's block, damped towards its diagonal where hits leave it singular.

    Args:
        blocks: (sensors, dof, dof).
        damping: relative to each diagonal element.
    """

    def __init__(self, blocks: Tensor, damping: float = 1e-9) -> None:
        diagonal = blocks.diagonal(dim1=-2, dim2=-1)
        scale = diagonal.clamp_min(1e-30).rsqrt()
        scaled = blocks * scale[:, :, None] * scale[:, None, :]
        values, vectors = torch.linalg.eigh(scaled)
        seen = (diagonal > 0).any(-1, keepdim=True)
        inverse = torch.where(seen & (values > damping), 1 / values.clamp_min(damping), 0.0)
        self.inverse = (
            (vectors * inverse[:, None]) @ vectors.transpose(-1, -2) * scale[:, :, None] * scale[:, None, :]
        )

    def __call__(self, vector: Tensor) -> Tensor:
        """B⁻¹ times a vector (sensors, dof)."""
        return (self.inverse @ vector[..., None]).squeeze(-1)


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    b: Tensor,
    preconditioner: Callable[[Tensor], Tensor],
    tolerance: float = 1e-6,
    max_iterations: int = 200,
    enough: float = 0.0,
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Solve matrix · x = b for a symmetric positive (semi)definite matrix.

    Stops when √(rᵀM⁻¹r) has fallen by `tolerance`, when rᵀM⁻¹r is no more than `enough`, or after
    `max_iterations`; `Solution.converged` is False for the last of these.

    Raises:
        ConvergenceError: a number became non-finite, or the matrix or preconditioner is not positive.
    """
    x, r = torch.zeros_like(b), b.clone()
    z = preconditioner(r)
    p, rho = z.clone(), float((r * z).sum())
    start, iteration = _checked(rho, enough, 0), 0
    rho = start
    goal = max(tolerance**2 * start, enough)
    while iteration < max_iterations and rho > goal:
        q = matrix(p)
        curvature = float((p * q).sum())
        if not curvature > 0:
            if iteration and curvature >= -1e-12 * start:
                break
            raise ConvergenceError(
                f"conjugate gradients met the curvature {curvature:.3g} in iteration {iteration}"
            )
        x, r = x + rho / curvature * p, r - rho / curvature * q
        z = preconditioner(r)
        rho, last = _checked(float((r * z).sum()), max(_ROUNDING * start, enough), iteration), rho
        p, iteration = z + rho / last * p, iteration + 1
        if progress is not None:
            progress(iteration, (rho / start) ** 0.5)
    residual = (rho / start) ** 0.5 if start > 0 else 0.0
    return Solution(x, iteration, residual, rho <= goal)


def _checked(rho: float, rounding: float, iteration: int) -> float:
    """rᵀM⁻¹r, finite and, but for rounding, not below 0."""
    if not -rounding <= rho < float("inf"):
        raise ConvergenceError(f"conjugate gradients met the norm {rho:.3g} in iteration {iteration}")
    return max(rho, 0.0)
