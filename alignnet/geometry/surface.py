"""Sensors that are not flat: bent about local z, and displaced along their normals by Legendre modes.

A point of the sheet is named by u, the length along the arc from the local origin, and v, along local z. With
the curvature k = 1 / `curvature_radius` (0 for a flat sensor), θ = k u and a displacement h along the normal,

    l = ( sin θ / k,  (1 − cos θ) / k,  v ) + h · ( −sin θ, cos θ, 0 ),      h = Σ a_ij P_i(s̃₁) P_j(s̃₂),

P_i Legendre's polynomials, s̃ ∈ [−1, 1]² the normalised position and a_ij amplitudes [cm]. A radius > 0 bends
the sheet towards +w (local y), so that the axis of the cylinder is the line x = 0, y = radius; < 0 away from
it. The rigid motion of the sensor acts on l. Written with sin(x)/x, so that k = 0 is the flat sensor exactly.

Modes of order i + j < 2 are motions of a flat sensor, and are left out: an order of 2 has the three bows (20,
11, 02), one of 3 four more, and so on. In tables of local sixes amplitudes are columns after the six.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry import rigid

LARGEST_ORDER = 8


class Surface(NamedTuple):
    """Shapes of sensors' sheets in their local frames; all fields share the batch shape."""

    curvature: Tensor  # (...) 1 / radius [1/cm], 0 for flat
    half: Tensor  # (..., 2) half-lengths of the active area [cm]
    centre: Tensor  # (..., 2) its centre [cm]
    amplitude: Tensor  # (..., modes) [cm]

    def at(self, rows: Tensor) -> Surface:
        """The shapes of these rows, of any shape."""
        return Surface(*(field.index_select(0, rows.flatten()).unflatten(0, rows.shape) for field in self))

    def spread(self) -> Surface:
        """The same shapes with another axis of one, to broadcast against several points of each."""
        return Surface(self.curvature[..., None], *(field[..., None, :] for field in self[1:]))

    def modes(self, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P_i P_j of each mode at `uv` [cm] (..., 2), and its derivatives by u and v [1/cm]; (..., modes)."""
        order = order_of(self.amplitude.shape[-1])
        (p, dp), (q, dq) = (legendre(x, order) for x in ((uv - self.centre) / self.half).unbind(-1))
        i, j = (torch.tensor(index, device=uv.device) for index in zip(*mode_numbers(order), strict=True))
        p, dp, q, dq = p[..., i], dp[..., i], q[..., j], dq[..., j]
        return p * q, dp * q / self.half[..., :1], p * dq / self.half[..., 1:]

    def height(self, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h [cm] at `uv` (..., 2), and its derivatives by u and v; (...)."""
        if not self.amplitude.shape[-1]:
            zero = torch.zeros_like(uv[..., 0])
            return zero, zero, zero
        value, by_u, by_v = ((self.amplitude * part).sum(-1) for part in self.modes(uv))
        return value, by_u, by_v

    def point(self, uv: Tensor) -> Tensor:
        """Local points [cm] (..., 3) at `uv` (..., 2)."""
        x, y = bent(uv[..., 0], self.curvature)
        normal, height = self.normal(uv), self.height(uv)[0]
        return torch.stack(torch.broadcast_tensors(x, y, uv[..., 1]), -1) + height[..., None] * normal

    def normal(self, uv: Tensor) -> Tensor:
        """Unit normals of the sheet without its modes, along which these displace it (..., 3)."""
        angle = self.curvature * uv[..., 0]
        parts = torch.broadcast_tensors(-angle.sin(), angle.cos(), torch.zeros_like(uv[..., 1]))
        return torch.stack(parts, -1)

    def axes(self, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors of the tangent plane and its normal, u, v and w = v×u, in local x, y, z (..., 3).

        u is along the sheet's lines of constant v.
        """
        height, by_u, by_v = self.height(uv)
        normal = self.normal(uv)
        nx, ny, nz = normal.unbind(-1)
        along = torch.stack([ny, -nx, nz], -1) * (1 - self.curvature * height)[..., None]
        z = torch.stack([torch.zeros_like(nx), torch.zeros_like(nx), torch.ones_like(nx)], -1)
        u = _unit(along + by_u[..., None] * normal)
        w = _unit(torch.linalg.cross(z + by_v[..., None] * normal, u))
        return u, torch.linalg.cross(u, w), w


def bent(u: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Local x = sin(ku)/k and y = (1 − cos ku)/k [cm] of arc lengths u [cm], exact at k = 0."""
    square = (curvature * u).square()
    half = rigid.sinc_of_square(square / 4)
    return u * rigid.sinc_of_square(square), 0.5 * curvature * u.square() * half.square()


def curvature_of(radius: Tensor) -> Tensor:
    """1 / radius [1/cm], 0 where the radius is 0: a flat sensor."""
    return torch.where(radius == 0, 0.0, 1 / torch.where(radius == 0, 1.0, radius))


def legendre(x: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """P_0 … P_order and their derivatives at x (...), (..., order + 1) each."""
    p, d = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    for n in range(1, order):
        p.append(((2 * n + 1) * x * p[n] - n * p[n - 1]) / (n + 1))
        d.append(d[n - 1] + (2 * n + 1) * p[n])
    return torch.stack(p[: order + 1], -1), torch.stack(d[: order + 1], -1)


def mode_numbers(order: int) -> list[tuple[int, int]]:
    """(i, j) of the modes of orders 2 to `order`, the lowest first."""
    return [(n - j, j) for n in range(2, order + 1) for j in range(n + 1)]


def mode_names(order: int) -> tuple[str, ...]:
    """What the amplitudes are called: w20, w11, w02, w30, …"""
    return tuple(f"w{i}{j}" for i, j in mode_numbers(order))


def n_modes(order: int) -> int:
    """Number of modes of an order: 0, 3, 7, 12, …; ConfigError for what is no order."""
    if (
        isinstance(order, bool)
        or not isinstance(order, int)
        or order not in (0, *range(2, LARGEST_ORDER + 1))
    ):
        raise ConfigError(
            f"sensors.surface_order is {order!r}, expected 0 for none, or 2 (three bows) to {LARGEST_ORDER}"
        )
    return len(mode_numbers(order))


def order_of(modes: int) -> int:
    """The order that has so many modes; GeometryError where none has."""
    orders = {n_modes(order): order for order in (0, *range(2, LARGEST_ORDER + 1))}
    if modes not in orders:
        raise GeometryError(f"{modes} amplitudes of a surface, expected one of {sorted(orders)}")
    return orders[modes]


def column_names(columns: int) -> tuple[str, ...]:
    """Names of the columns of a table of local sixes, amplitudes of surfaces after them."""
    return (*rigid.LOCAL_NAMES, *mode_names(order_of(columns - 6)))


def padded(local: Tensor, columns: int) -> Tensor:
    """A table of local sixes with amplitudes of 0 up to so many columns, and never fewer than it has."""
    return torch.nn.functional.pad(local, (0, max(0, columns - local.shape[-1])))


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True)
