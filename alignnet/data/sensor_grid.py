"""The reference surface of a layer, and the grid on it that tells which sensors a track may hit from there.

Bent sensors are entered by points along their arcs.

A layer whose normals lie across z (a barrel) has its mean cylinder, with coordinates (R φ, z); one whose
normals lie along z (a telescope's plane, a disc) its mean plane, with (x, y). Each sensor is entered into
every cell of a grid in these coordinates from which a track of a slope up to the grid's limit can reach it,
wherever it stands above or below the surface: for such tracks the grid is complete, however the sensors are
tilted or misaligned. A layer has a fine grid for usual tracks and a coarse one for steep ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.physics.helix import Helix, path_to_axis, path_to_cylinder

MARGIN = 0.05
"""How far [cm] outside its active area a sensor still counts as near a track."""

_CELLS = 1_000_000  # at most, a layer


class Surface(Protocol):
    """A surface that every track of a layer crosses once."""

    @property
    def limits(self) -> tuple[tuple[float, float], ...]:
        """Slopes up to which the layer's grids are complete, the usual tracks' first."""
        ...

    def path(self, helix: Helix) -> Tensor:
        """Path length [cm] to the surface, (tracks,); not finite where it is never met."""
        ...

    def coordinates(self, position: Tensor) -> Tensor:
        """Two coordinates along the surface and the height above it [cm], (..., 3) → (..., 3)."""
        ...

    def slopes(self, position: Tensor, direction: Tensor) -> Tensor:
        """How steep paths are at points of the surface, (..., 3) twice → (..., 2), at least 0."""
        ...

    def reach(self, slopes: Tensor, depth: float) -> Tensor:
        """How far [cm] along the coordinates paths of these slopes, or less, get within `depth`; (..., 2)."""
        ...


@dataclass(frozen=True)
class Cylinder:
    """A cylinder about z that is crossed on the way out or, with `outward` False, on the way in."""

    radius: float  # [cm]
    outward: bool = True

    limits = ((0.6, 2.6), (float("inf"), 4.0))

    def path(self, helix: Helix) -> Tensor:
        """Path length [cm] to the crossing, (tracks,); not finite where the cylinder is never met."""
        radius = torch.full_like(helix.omega, self.radius)
        # From outside, a line along the path may miss a cylinder that the path itself crosses further on.
        outside = helix.position[:, :2].norm(dim=-1) > self.radius
        start = torch.where(outside, path_to_axis(helix, torch.zeros_like(helix.position)), 0.0)
        if self.outward:
            return path_to_cylinder(helix, radius, start)
        backwards = Helix(helix.position, -helix.direction, -helix.omega)
        return -path_to_cylinder(backwards, radius, -start)

    def coordinates(self, position: Tensor) -> Tensor:
        """(R φ, z, r − R) [cm], (..., 3) → (..., 3)."""
        x, y, z = position.unbind(-1)
        return torch.stack([self.radius * torch.atan2(y, x), z, torch.hypot(x, y) - self.radius], -1)

    def slopes(self, position: Tensor, direction: Tensor) -> Tensor:
        """Tangent of the angle to the radial direction, and |p_z|/p_T; (..., 3) twice → (..., 2)."""
        (x, y, _), (tx, ty, tz) = position.unbind(-1), direction.unbind(-1)
        return torch.stack([(x * ty - y * tx) / (x * tx + y * ty), tz / torch.hypot(tx, ty)], -1).abs()

    def reach(self, slopes: Tensor, depth: float) -> Tensor:
        """How far [cm] in R φ and z paths of these slopes, or less, get within `depth`; (..., 2) → (..., 2).

        Inwards, a line that passes the axis at b turns by asin(b/r) − asin(b/R): the most where it just
        touches the inner edge of the layer, r = b. Outwards the paths get less far.
        """
        inner = self.radius - depth
        b = (self.radius * slopes[..., 0].atan().sin()).clamp_max(inner)
        turn = (b / inner).asin() - (b / self.radius).asin()
        chord = (self.radius**2 - b.square()).sqrt() - (inner**2 - b.square()).clamp_min(0.0).sqrt()
        return 1.1 * torch.stack([self.radius * turn, slopes[..., 1] * chord], -1)

    def normal(self, position: Tensor) -> Tensor:
        """Radial unit vectors, (..., 3)."""
        flat = position * torch.tensor([1.0, 1.0, 0.0], dtype=position.dtype)
        return torch.nn.functional.normalize(flat, dim=-1)


@dataclass(frozen=True)
class Plane:
    """A plane across z."""

    z: float  # [cm]

    limits = ((0.5, 0.5), (4.0, 4.0))

    def path(self, helix: Helix) -> Tensor:
        """Path length [cm] to the plane, (tracks,); not finite along it, or where it has turned back."""
        s = (self.z - helix.position[:, 2]) / helix.direction[:, 2]
        return torch.where((helix.omega * s).abs() <= torch.pi, s, torch.inf)

    def coordinates(self, position: Tensor) -> Tensor:
        """(x, y, z − z of the plane) [cm], (..., 3) → (..., 3)."""
        return position - torch.tensor([0.0, 0.0, self.z], dtype=position.dtype)

    def slopes(self, position: Tensor, direction: Tensor) -> Tensor:
        """|dx/dz| and |dy/dz|, (..., 3) twice → (..., 2)."""
        return (direction[..., :2] / direction[..., 2:]).abs()

    def reach(self, slopes: Tensor, depth: float) -> Tensor:
        """How far [cm] in x and y paths of these slopes, or less, get within `depth`; (..., 2) → (..., 2)."""
        return 1.05 * slopes * depth


@dataclass(frozen=True)
class Grid:
    """Sensors by cell, for tracks of slopes up to `limit`."""

    limit: Tensor  # (2,)
    table: Tensor  # (cells, candidates) rows of the detector, −1 where there are fewer
    low: Tensor  # (2,) [cm]
    step: Tensor  # (2,) [cm]
    shape: tuple[int, int]

    def candidates(self, coordinates: Tensor) -> Tensor:
        """Rows of the sensors that tracks at these coordinates (tracks, 2 or 3) may hit; −1 is none."""
        cell = ((coordinates[:, :2] - self.low) / self.step).floor().long()
        outside = ((cell < 0) | (cell >= torch.tensor(self.shape))).any(-1)
        found = self.table[torch.where(outside, 0, cell[:, 0] * self.shape[1] + cell[:, 1])]
        return torch.where(outside[:, None], -1, found)


def mean_surface(detector: Detector, sensors: Tensor) -> Surface | None:
    """The surface of the sensors of these rows; None where they look in other ways or are spread too far."""
    normal, corners = detector.rotation[sensors, :, 1], _outline(detector, sensors)
    bent = bool((detector.surface.curvature[sensors] != 0).any())
    if not bent and (normal[:, 2].abs() > 0.8).all():
        low, high = float(corners[..., 2].min()), float(corners[..., 2].max())
        size = 2 * float(detector.half[sensors].median(0).values.min())
        return Plane((low + high) / 2) if high - low < max(2 * size, 4 * MARGIN) else None
    upright = detector.rotation[sensors, 2, 2].abs() > 0.95 if bent else normal[:, 2].abs() < 0.3
    if upright.all():
        low, high = _radii(detector, sensors, corners)
        return Cylinder((low + high) / 2) if low > 0.7 * high else None
    return None


def grid_on(surface: Surface, detector: Detector, sensors: Tensor, limit: tuple[float, float]) -> Grid:
    """The grid of the sensors of these rows on their mean surface, complete for slopes up to `limit`."""
    slopes = torch.tensor(limit, dtype=torch.float64)
    low, high, depth = extents(surface, detector, sensors)
    slack = surface.reach(slopes, depth)
    low, high = low - slack, high + slack
    start, end = low.amin(0), high.amax(0)
    around = isinstance(surface, Cylinder)
    if isinstance(surface, Cylinder):
        half = torch.pi * surface.radius
        start[0], end[0] = -half, half
    step = (high - low).median(0).values / 3
    step = step * max(1.0, float(((end - start) / step).prod() / _CELLS) ** 0.5)
    shape = ((end - start) / step).ceil().long().clamp_min(1)
    step = (end - start) / shape
    first = ((low - start) / step).floor().long()
    last = ((high - start) / step).floor().long()
    last[:, int(around) :] = last[:, int(around) :].minimum((shape - 1)[int(around) :])
    span = (last - first + 1).minimum(shape)
    row, a, b = _cells(first, span)
    table = _padded(a % shape[0] * shape[1] + b, sensors[row], int(shape.prod()))
    return Grid(slopes, table, start, step, (int(shape[0]), int(shape[1])))


def _cells(first: Tensor, span: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every cell of blocks of `span` cells from `first`, both (blocks, 2): block and the two cell numbers."""
    count = span.prod(-1)
    row = torch.arange(len(count)).repeat_interleave(count)
    inside = torch.arange(int(count.sum())) - (count.cumsum(0) - count)[row]
    return row, first[row, 0] + inside // span[row, 1], first[row, 1] + inside % span[row, 1]


def _padded(cell: Tensor, sensor: Tensor, n_cells: int) -> Tensor:
    """The sensors of each cell as rows of a table, filled up with −1."""
    order = cell.argsort(stable=True)
    cell, sensor = cell[order], sensor[order]
    count = torch.bincount(cell, minlength=n_cells)
    rank = torch.arange(len(cell)) - (count.cumsum(0) - count)[cell]
    table = torch.full((n_cells, int(count.max())), -1)
    table[cell, rank] = sensor
    return table


def extents(surface: Surface, detector: Detector, sensors: Tensor) -> tuple[Tensor, Tensor, float]:
    """Lowest and highest coordinates of each sensor (sensors, 2), and how far from the surface they get [cm].

    Around a cylinder the coordinates of a sensor may go beyond ±π R.
    """
    corners = _outline(detector, sensors)
    coordinates = surface.coordinates(corners)
    along, depth = coordinates[..., :2].clone(), float(coordinates[..., 2].abs().max())
    middle = corners.shape[1] // 2 if corners.shape[1] > 4 else 0
    if isinstance(surface, Cylinder):
        around = 2 * torch.pi * surface.radius
        turn = along[..., 0] - along[:, middle, None, 0]
        along[..., 0] -= around * (turn / around).round()
        low, high = _radii(detector, sensors, corners)
        depth = max(surface.radius - low, high - surface.radius)
    return along.amin(1) - MARGIN, along.amax(1) + MARGIN, depth


def _outline(detector: Detector, sensors: Tensor) -> Tensor:
    """Global corners of the active areas, widened by the margin (sensors, 4, 3); of bent ones 130 points."""
    n = 65 if bool((detector.surface.curvature[sensors] != 0).any()) else 2
    sign = torch.cartesian_prod(*(torch.linspace(-1, 1, k, dtype=torch.float64) for k in (n, 2)))
    uv = detector.centre[sensors][:, None] + sign * (detector.half[sensors] + MARGIN)[:, None]
    local = detector.surface.at(sensors).spread().point(uv)
    return detector.translation[sensors][:, None] + local @ detector.rotation[sensors].transpose(1, 2)


def _radii(detector: Detector, sensors: Tensor, outline: Tensor) -> tuple[float, float]:
    """Distances from the z axis between which all sensors lie: of the normals' feet, of the outlines."""
    far = outline[..., :2].norm(dim=-1)
    across = detector.rotation[sensors, :2, 1][:, None]
    foot = (outline[..., :2] * across).sum(-1).abs() / across.norm(dim=-1)
    bent = (detector.surface.curvature[sensors] != 0)[:, None]
    slack = MARGIN if bool(bent.any()) else 0.0
    return float(torch.where(bent, far, foot).min()) - slack, float(far.max()) + slack
