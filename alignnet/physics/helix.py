"""A charged particle in a uniform field along z, and where its path meets a plane, an axis or a cylinder.

With s the path length [cm] from a reference point, t the unit direction there and h = ωs/2,

    x(s) = x0 + s [ t_z ẑ + sinc(h) ( cos h · t_⊥ + sin h · ẑ×t_⊥ ) ]
    t(s) = t_z ẑ + cos 2h · t_⊥ + sin 2h · ẑ×t_⊥
    ω    = −CURVATURE · B_z · q/p                     turning per unit path [1/cm]

There is no radius 1/ω anywhere, so the straight line ω = 0 is an ordinary point with finite derivatives, and
the frame has no preferred direction: beams along z, cosmics and collision tracks are described alike.
A fit moves the state by five local numbers, in the plane across the path at the reference point:

    δ = (a1, a2, b1, b2, δω):  x0 += a1 e1 + a2 e2,  t ← unit(t + b1 e1 + b2 e2),  ω += δω

with e1 horizontal (ẑ×t) and e2 = t×e1. `Perigee` is the same state in the five numbers that reports use.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.units import CURVATURE


class Helix(NamedTuple):
    """Track states at their reference points; every field shares the same batch shape."""

    position: Tensor  # (..., 3) [cm]
    direction: Tensor  # (..., 3) unit vector
    omega: Tensor  # (...) turning of the direction about z per unit path [1/cm]


class Perigee(NamedTuple):
    """The five parameters at the point of closest approach to an axis along z; each field (...).

    position = reference + (−d0 sin φ0, d0 cos φ0, z0), as in ACTS and ALICE O2.
    """

    d0: Tensor  # signed transverse distance [cm]
    z0: Tensor  # z there, relative to the reference point [cm]
    phi0: Tensor  # azimuth of the momentum [rad]
    tan_lambda: Tensor  # p_z / p_T
    q_over_pt: Tensor  # [1/(GeV/c)]; 0 without a field


def turned(direction: Tensor, angle: Tensor) -> Tensor:
    """Directions (..., 3) rotated about z by `angle` (...)."""
    x, y, z = direction.unbind(-1)
    c, s = angle.cos(), angle.sin()
    return torch.stack(torch.broadcast_tensors(c * x - s * y, s * x + c * y, z), -1)


def chord(direction: Tensor, omega: Tensor, s: Tensor) -> Tensor:
    """x(s) − x0 of a path that starts along `direction`: linear in it; (..., 3), (...), (...) → (..., 3)."""
    half = 0.5 * omega * s
    x, y, z = (s[..., None] * turned(direction, half)).unbind(-1)
    shrink = sinc(half)
    return torch.stack(torch.broadcast_tensors(shrink * x, shrink * y, z), -1)


def point(helix: Helix, s: Tensor) -> Tensor:
    """Position [cm] after the path length `s` [cm] (...), shape (..., 3)."""
    return helix.position + chord(helix.direction, helix.omega, s)


def tangent(helix: Helix, s: Tensor) -> Tensor:
    """Unit direction after the path length `s` [cm] (...), shape (..., 3)."""
    return turned(helix.direction, helix.omega * s)


def expand(helix: Helix) -> Helix:
    """The same states with a trailing axis of one before the coordinates, to broadcast against points."""
    return Helix(helix.position[..., None, :], helix.direction[..., None, :], helix.omega[..., None])


def path_to_plane(
    helix: Helix, origin: Tensor, normal: Tensor, start: Tensor | None = None, steps: int = 4
) -> Tensor:
    """Path length [cm] at which helices (...) cross planes (origin, normal), each (..., 3).

    Newton's method on normal · (x(s) − origin) = 0 from `start` (default: where the straight line crosses).
    The search runs outside the graph and one last step inside it: by the implicit-function theorem that step
    carries the exact first derivatives with respect to helix and plane. A path parallel to the plane gives a
    non-finite length.
    """
    with torch.no_grad():
        if start is None:
            ahead = ((origin - helix.position) * normal).sum(-1)
            start = ahead / (helix.direction * normal).sum(-1)
        s = start
        for _ in range(steps):
            s = _newton_to_plane(helix, origin, normal, s)
    return _newton_to_plane(helix, origin, normal, s)


def _newton_to_plane(helix: Helix, origin: Tensor, normal: Tensor, s: Tensor) -> Tensor:
    distance = ((point(helix, s) - origin) * normal).sum(-1)
    return s - distance / (tangent(helix, s) * normal).sum(-1)


def path_to_axis(helix: Helix, reference: Tensor) -> Tensor:
    """Path length [cm] to the closest transverse approach to the axis along z through `reference`.

    Closed form, κ s_T = atan2(−κ t̂·d, 1 + κ n̂·d) with n̂ = ẑ×t̂ and d the distance from the axis, written so
    that κ = 0 is regular; (..., 3) → (...).
    """
    transverse = helix.direction[..., :2]
    c = transverse.norm(dim=-1)
    d = (helix.position - reference)[..., :2]
    along = (transverse * d).sum(-1) / c
    across = (transverse[..., 0] * d[..., 1] - transverse[..., 1] * d[..., 0]) / c
    kappa = helix.omega / c
    reach = along / (1 + kappa * across)
    return -reach * arctan_ratio(kappa * reach) / c


def path_to_cylinder(helix: Helix, radius: Tensor, start: Tensor | None = None, steps: int = 5) -> Tensor:
    """Path length [cm] of the outward crossing of cylinders of `radius` [cm] about the z axis; (...) each.

    Non-finite where the path never reaches the cylinder. Carries no derivatives.
    """
    with torch.no_grad():
        s = torch.zeros_like(helix.omega * radius) if start is None else start
        for _ in range(steps):
            here, along = point(helix, s)[..., :2], tangent(helix, s)[..., :2]
            r2, slope = here.square().sum(-1), (here * along).sum(-1)
            speed2 = along.square().sum(-1)
            root = (slope.square() + speed2 * (radius.square() - r2)).sqrt()
            s = s + (root - slope) / speed2
        # A line from inside always reaches the cylinder: the search ends somewhere even if the path does not.
        missed = (point(helix, s)[..., :2].norm(dim=-1) - radius).abs() > 1e-4 * radius
        return torch.where(missed, torch.nan, s)


def move(helix: Helix, s: Tensor) -> Helix:
    """The same paths with their reference points moved by the path length `s` [cm] (...)."""
    return Helix(point(helix, s), tangent(helix, s), helix.omega)


def frame(direction: Tensor) -> tuple[Tensor, Tensor]:
    """The two unit vectors across directions (..., 3): e1 = ẑ×t (x̂×t within 8° of the z axis), e2 = t×e1."""
    beam = direction[..., 2:3].abs() > 0.99
    z = torch.tensor([0.0, 0.0, 1.0], dtype=direction.dtype, device=direction.device)
    x = torch.tensor([1.0, 0.0, 0.0], dtype=direction.dtype, device=direction.device)
    e1 = torch.linalg.cross(torch.where(beam, x, z).expand_as(direction), direction)
    e1 = e1 / e1.norm(dim=-1, keepdim=True)
    return e1, torch.linalg.cross(direction, e1)


def updated(helix: Helix, delta: Tensor) -> Helix:
    """States moved by local changes `delta` (..., 5) or, with ω kept, (..., 4)."""
    e1, e2 = frame(helix.direction)
    position = helix.position + delta[..., 0:1] * e1 + delta[..., 1:2] * e2
    direction = helix.direction + delta[..., 2:3] * e1 + delta[..., 3:4] * e2
    direction = direction / direction.norm(dim=-1, keepdim=True)
    omega = helix.omega + delta[..., 4] if delta.shape[-1] == 5 else helix.omega
    return Helix(position, direction, omega)


def state_derivative(helix: Helix, s: Tensor, n_parameters: int = 5) -> Tensor:
    """d x(s) / d δ at fixed path lengths `s` (..., n), shape (..., n, 3, n_parameters); 4 leaves ω out.

    d x/d b_i = chord(e_i), and d x/d ω = ∫ s' ẑ×t(s') ds' = s² (C ẑ×t_⊥ − D t_⊥), C and D of x = ωs.
    """
    e1, e2 = (e[..., None, :].expand(*s.shape, 3) for e in frame(helix.direction))
    omega = helix.omega[..., None].expand_as(s)
    columns = [e1, e2, chord(e1, omega, s), chord(e2, omega, s)]
    if n_parameters == 5:
        x, y, _ = helix.direction[..., None, :].expand(*s.shape, 3).unbind(-1)
        c, d = _moment_cos(omega * s), _moment_sin(omega * s)
        columns.append(
            s.square()[..., None] * torch.stack([-c * y - d * x, c * x - d * y, torch.zeros_like(x)], -1)
        )
    return torch.stack(columns, -1)


def perigee(helix: Helix, reference: Tensor, b_z: float) -> Perigee:
    """The five parameters at the closest approach to the axis along z through `reference` (..., 3) [cm]."""
    here = move(helix, path_to_axis(helix, reference))
    x, y, z = (here.position - reference).unbind(-1)
    tx, ty, tz = here.direction.unbind(-1)
    c = torch.hypot(tx, ty)
    d0 = (tx * y - ty * x) / c
    curvature = here.omega / c
    q_over_pt = -curvature / (CURVATURE * b_z) if b_z else torch.zeros_like(curvature)
    return Perigee(d0, z, torch.atan2(ty, tx), tz / c, q_over_pt)


def from_perigee(five: Perigee, reference: Tensor, b_z: float) -> Helix:
    """The state of five perigee parameters; inverse of `perigee`."""
    cos_lambda = 1 / torch.sqrt(1 + five.tan_lambda.square())
    cx, sx = five.phi0.cos(), five.phi0.sin()
    position = reference + torch.stack([-five.d0 * sx, five.d0 * cx, five.z0], -1)
    direction = torch.stack([cos_lambda * cx, cos_lambda * sx, cos_lambda * five.tan_lambda], -1)
    return Helix(position, direction, -CURVATURE * b_z * five.q_over_pt * cos_lambda)


def from_momentum(position: Tensor, momentum: Tensor, charge: Tensor, b_z: float) -> Helix:
    """The state of particles at `position` (..., 3) [cm], `momentum` (..., 3) [GeV/c], `charge` (...) [e]."""
    p = momentum.norm(dim=-1)
    return Helix(position, momentum / p[..., None], -CURVATURE * b_z * charge / p)


def momentum_of(helix: Helix, b_z: float) -> Tensor:
    """|p| [GeV/c] of unit charges, (...); infinite for a straight path."""
    return (CURVATURE * b_z / helix.omega).abs()


def sinc(x: Tensor) -> Tensor:
    """sin(x)/x, smooth at 0 in every derivative (torch.sinc has a NaN second derivative there)."""
    x2 = x.square()
    series = 1 - x2 / 6 * (1 - x2 / 20 * (1 - x2 / 42 * (1 - x2 / 72)))
    small = x2 < 2.5e-3
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, series, safe.sin() / safe)


def arctan_ratio(x: Tensor) -> Tensor:
    """arctan(x)/x, smooth at 0."""
    x2 = x.square()
    series = 1 - x2 * (1 / 3 - x2 * (1 / 5 - x2 * (1 / 7 - x2 * (1 / 9 - x2 / 11))))
    small = x2 < 2.5e-3
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, series, safe.atan() / safe)


def _moment_cos(x: Tensor) -> Tensor:
    """(1/s²) ∫ s' cos(ωs') ds' = sin(x)/x − ½ (sin(x/2)/(x/2))² with x = ωs."""
    return sinc(x) - 0.5 * sinc(0.5 * x).square()


def _moment_sin(x: Tensor) -> Tensor:
    """(1/s²) ∫ s' sin(ωs') ds' = (sin x − x cos x)/x²; its series below |x| = 0.3, where that cancels."""
    x2 = x.square()
    series = x / 3 * (1 - x2 / 10 * (1 - x2 / 28 * (1 - x2 / 54 * (1 - x2 / 88))))
    small = x2 < 0.09
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, series, (safe.sin() - safe * safe.cos()) / safe.square())
