"""Track states from hits by Gauss–Newton, batched, and with them the events' common origins.

A residual is predicted minus measured in the sensor's plane, r = (u, v) components of x(s*) − x_measured with
s* where the track crosses the plane. At fixed planes

    dr/dδ = (u, v) · [ ∂x/∂δ − t (n·∂x/∂δ)/(n·t) ]

by the implicit-function theorem. Each step solves the normal equations of the whitened residuals; where
events' origins v are fitted too, the vertex rows also depend on v and the tracks of an event are coupled
through it. Tracks are eliminated first (A⊥ = A − J (JᵀJ)⁻¹ Jᵀ A, the 3×3 system of v remains), so the answer
is that of the joint fit (Billoir, NIM 225 (1984) 352).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.geometry.plane import Plane
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix


def residuals(helix: Helix, planes: Plane, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Predicted minus measured (tracks, hits, 2) [cm], and the path lengths (tracks, hits) [cm].

    `helix` has the batch shape (tracks,), `planes` (tracks, hits). Differentiable in the planes and the
    helix.
    """
    states = hx.expand(helix)
    steps = 4 if near is None else 1
    s = hx.path_to_plane(states, planes.origin, planes.normal, near, steps)
    return planes.components(hx.point(states, s) - planes.origin), s


def derivatives(helix: Helix, planes: Plane, s: Tensor, n_parameters: int) -> Tensor:
    """dr/dδ (tracks, hits, 2, n_parameters) at the path lengths `s` (tracks, hits)."""
    change = hx.state_derivative(helix, s, n_parameters)
    t = hx.tangent(hx.expand(helix), s)
    slope = planes.slopes(t)
    along = (planes.normal[..., None] * change).sum(-2)
    u, v = ((axis[..., None] * change).sum(-2) for axis in (planes.u, planes.v))
    return torch.stack([u - slope[..., 0:1] * along, v - slope[..., 1:2] * along], -2)


class EventOrigins(NamedTuple):
    """Origins of the events that are fitted with their tracks, and what was known of them before."""

    position: Tensor  # (events, 3) [cm]
    prior: Tensor  # (events, 3) [cm]
    weight: Tensor  # inverse covariance of the prior (events, 3, 3) [1/cm²]
    event: Tensor  # event of each track (tracks,)


def solve(jacobian: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of each track; columns of J are scaled to unit length before the Cholesky factorisation.

    Args:
        jacobian: J, whitened (tracks, rows, parameters).
        rows: right-hand sides, whitened (tracks, rows, columns).

    Returns:
        (JᵀJ)⁻¹ Jᵀ rows (tracks, parameters, columns), and where the hits determine the track (tracks,).
    """
    scale = jacobian.square().sum(-2).sqrt().clamp_min(1e-30)
    scaled = jacobian / scale[:, None]
    normal = scaled.transpose(-1, -2) @ scaled
    factor, info = torch.linalg.cholesky_ex(normal)
    ok = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1).amin(-1) > 1e-7)
    eye = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    factor = torch.where(ok[:, None, None], factor, eye)
    right = (scaled.transpose(-1, -2) @ rows) * ok[:, None, None]
    return torch.cholesky_solve(right, factor) / scale[..., None], ok


def step(
    whitened: Tensor, jacobian: Tensor, origins: EventOrigins | None, towards_origin: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """One Gauss–Newton step.

    Args:
        whitened: residuals (tracks, rows).
        jacobian: d whitened / d δ (tracks, rows, parameters).
        origins: the events' origins where they are fitted.
        towards_origin: d whitened / d origin (tracks, rows, 3), with `origins`.

    Returns:
        δ (tracks, parameters), the origins' move (events, 3) or None, and where it is determined (tracks,).
    """
    if origins is None or towards_origin is None:
        solution, ok = solve(jacobian, whitened[..., None])
        return -solution.squeeze(-1), None, ok
    rows = torch.cat([whitened[..., None], towards_origin], -1)
    solution, ok = solve(jacobian, rows)
    # A track that its hits do not determine tells nothing of the origin.
    left = torch.where(ok[:, None, None], rows - jacobian @ solution, 0.0)
    move = -origin_solve(left[..., 1:], left[..., 0], origins)
    change = (solution[..., 1:] @ move[origins.event][..., None].to(solution)).squeeze(-1)
    return -(solution[..., 0] + change), move, ok


def origin_solve(projected: Tensor, left: Tensor, origins: EventOrigins) -> Tensor:
    """S⁻¹ g of each event (events, 3), S = Σ A⊥ᵀA⊥ + W, g = Σ A⊥ᵀ r⊥ + W (v − v₀)."""
    projected, left = projected.to(origins.weight), left.to(origins.weight)
    weight = projected.transpose(-1, -2) @ projected
    force = (projected.transpose(-1, -2) @ left[..., None]).squeeze(-1)
    pull = (origins.weight @ (origins.position - origins.prior)[..., None]).squeeze(-1)
    matrix = origins.weight.index_add(0, origins.event, weight)
    return torch.linalg.solve(matrix, pull.index_add(0, origins.event, force))
