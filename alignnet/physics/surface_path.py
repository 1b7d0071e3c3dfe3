"""Where a helix meets a sensor's sheet that is bent or deformed (`geometry.surface`).

A local point (x, y, z) has the arc length u of the sheet's point below it and a height d along the normal
there, which for an undeformed sheet of curvature k are

    θ = atan2(k x, 1 − k y),   u = θ / k,   d = (1 − ρ) / k,   ρ² = (k x)² + (1 − k y)² .

The path meets the sheet where d − h(u, v) = 0, which Newton's method solves on the path length; as for planes
the search runs outside the graph of derivatives and one last step inside it, so that by the implicit-function
theorem first derivatives are exact. No radius 1/k occurs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.geometry.surface import Surface
from alignnet.physics.helix import Helix, arctan_ratio, point, tangent


class Sheet(NamedTuple):
    """Sheets where they stand; all fields share the batch shape."""

    rotation: Tensor  # (..., 3, 3) local to global
    translation: Tensor  # (..., 3) [cm]
    surface: Surface

    def at(self, rows: Tensor) -> Sheet:
        """The sheets of these rows, of any shape, by one gather (`index_select`)."""
        curvature, half, centre, amplitude = self.surface
        columns = [self.rotation.flatten(-2), self.translation, curvature[..., None], half, centre, amplitude]
        packed = torch.cat(columns, -1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        turn, place, k, half, centre, amplitude = packed.split([9, 3, 1, 2, 2, amplitude.shape[-1]], -1)
        return Sheet(turn.unflatten(-1, (3, 3)), place, Surface(k.squeeze(-1), half, centre, amplitude))

    def point(self, uv: Tensor) -> Tensor:
        """Global points of the sheets at (u, v) [cm], (..., 2) → (..., 3)."""
        return self.translation + (self.rotation @ self.surface.point(uv)[..., None]).squeeze(-1)

    def local(self, position: Tensor) -> Tensor:
        """Local points of global ones, (..., 3)."""
        return _turned(position - self.translation, self.rotation)

    def local_direction(self, direction: Tensor) -> Tensor:
        """Local components of global directions, (..., 3)."""
        return _turned(direction, self.rotation)

    def coordinates(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(u, v) of the points of the undeformed sheets below global points, (..., 2), and d (...) [cm]."""
        return flattened(self.local(position), self.surface.curvature)

    def uv(self, position: Tensor) -> Tensor:
        """(u, v) [cm] of global points (..., 3), shape (..., 2)."""
        return self.coordinates(position)[0]

    def normal(self, uv: Tensor) -> Tensor:
        """Global unit normals at (u, v), (..., 2) → (..., 3)."""
        return (self.rotation @ self.surface.axes(uv)[2][..., None]).squeeze(-1)


def flattened(local: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """(u, v) and height d of local points (..., 3) about undeformed sheets; (..., 2) and (...) [cm].

    θ is taken as 2 arctan(k t) with t = x / (ρ + 1 − k y): regular at k = 0 and for |θ| < π.
    """
    x, y, z = local.unbind(-1)
    down = 1 - curvature * y
    rho = torch.sqrt((curvature * x).square() + down.square())
    t = x / (rho + down)
    u = 2 * t * arctan_ratio(curvature * t)
    height = (2 * y - curvature * (x.square() + y.square())) / (1 + rho)
    return torch.stack(torch.broadcast_tensors(u, z), -1), height


def path_to_sheet(helix: Helix, sheet: Sheet, start: Tensor, steps: int = 8) -> Tensor:
    """Path length [cm] at which helices (...) meet sheets (...), by Newton's method from `start` (...)."""
    with torch.no_grad():
        s = start
        for _ in range(steps):
            s = _newton(helix, sheet, s)[0]
    return _newton(helix, sheet, s)[0]


def height_above(helix: Helix, sheet: Sheet, s: Tensor) -> Tensor:
    """Distance from the deformed sheet, along the normal of the undeformed one, after the path length s."""
    return _newton(helix, sheet, s)[1]


def line_to_cylinder(helix: Helix, sheet: Sheet) -> Tensor:
    """Path lengths (..., 2) at which straight lines along helices meet the whole cylinders of sheets.

    The roots of 2 y − k (x² + y²) = 0, the nearer of two last; the first is infinite where k = 0, and both
    are not numbers where the line passes by.
    """
    (x, y, _), (dx, dy, _) = (
        part.unbind(-1) for part in (sheet.local(helix.position), sheet.local_direction(helix.direction))
    )
    k = sheet.surface.curvature
    a, b = -k * (dx.square() + dy.square()), 2 * (dy - k * (x * dx + y * dy))
    c = 2 * y - k * (x.square() + y.square())
    root = torch.sqrt(b.square() - 4 * a * c)
    q = -0.5 * (b + torch.where(b < 0, -root, root))
    return torch.stack([q / a, c / q], -1)


def _newton(helix: Helix, sheet: Sheet, s: Tensor) -> tuple[Tensor, Tensor]:
    """The next path length, and the height at this one."""
    uv, height = sheet.coordinates(point(helix, s))
    bump, by_u, by_v = sheet.surface.height(uv)
    nx, ny, _ = sheet.surface.normal(uv).unbind(-1)
    tx, ty, tz = sheet.local_direction(tangent(helix, s)).unbind(-1)
    along = (ny * tx - nx * ty) / (1 - sheet.surface.curvature * height)
    speed = nx * tx + ny * ty - by_u * along - by_v * tz
    return s - (height - bump) / speed, height - bump


def _turned(vector: Tensor, rotation: Tensor) -> Tensor:
    return (vector[..., None, :] @ rotation).squeeze(-2)
