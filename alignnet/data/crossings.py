"""Which sensors a helix crosses, for every track at once and for any detector that is a table of sensors.

A track's point on the mean surface of a layer names a few candidates (`data.sensor_grid`). For these its
straight continuation, and for what is left of them the exact path to the plane, decide whether it passes
through the active area

    |u − centre_u| ≤ half_u,   |v − centre_v| ≤ half_v.

Tracks that are too steep for the grid, and layers without such a surface, are tried against all sensors of
the layer. Where sensors overlap there are several crossings in a layer. A barrel layer is crossed on the way
in and on the way out. Each plane is crossed once; sheets that are bent or deformed are met where they are,
and the straight continuation is tried at both of its points on a bent one. What is not found: crossings of a
particle that curls back before the layer's mean cylinder, or after it has left, and of one that has turned by
more than half a circle before it comes to a disc.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.meeting import is_flat, landed, line_starts, local_point, met, repeated
from alignnet.data.sensor_grid import MARGIN, Cylinder, Surface, extents, grid_on, mean_surface
from alignnet.geometry.detector import Detector
from alignnet.physics.helix import Helix, move, path_to_axis, point, tangent

_PAIRS = 1_000_000  # of a track and a sensor, tried together


class Crossings(NamedTuple):
    """Where tracks cross sensors, one row a crossing, sorted by track and path length."""

    track: Tensor  # (crossings,) row of the helix
    sensor: Tensor  # (crossings,) row of the detector
    uv: Tensor  # (crossings, 2) local position [cm]
    s: Tensor  # (crossings,) path length from the helix's reference point [cm]


class Layer:
    """Sensors that a track crosses together: a plane, or one of the two passages through a barrel layer."""

    def __init__(self, detector: Detector, sensors: Tensor) -> None:
        self.detector, self.sensors = detector, sensors
        self.flat = is_flat(detector, sensors)
        self.surface = mean_surface(detector, sensors)
        if self.surface is not None:
            low, high, self.depth = extents(self.surface, detector, sensors)
            self.low, self.high = low.amin(0), high.amax(0)
            if isinstance(self.surface, Cylinder):
                self.low[0], self.high[0] = -torch.inf, torch.inf
            self.grids = [grid_on(self.surface, detector, sensors, limit) for limit in self.surface.limits]

    def on_the_way_in(self) -> Layer:
        """The other passage through a barrel layer: the same sensors and grids."""
        other = copy(self)
        if isinstance(self.surface, Cylinder):
            other.surface = replace(self.surface, outward=not self.surface.outward)
        return other

    def path(self, helix: Helix) -> Tensor:
        """About where each track meets the layer, (tracks,) [cm]: what orders the layers."""
        if self.surface is not None:
            return self._reach(self.surface, helix)
        centre = self.detector.translation[self.sensors].mean(0)
        return ((centre - helix.position) * helix.direction).sum(-1).clamp_min(1e-9)

    def _reach(self, surface: Surface, helix: Helix) -> Tensor:
        """Path length [cm] to the surface; to its innermost point where it only grazes the outer sensors."""
        s = surface.path(helix)
        missed = ~torch.isfinite(s)
        if not (isinstance(surface, Cylinder) and missed.any()):
            return s
        innermost = path_to_axis(helix, torch.zeros_like(helix.position))
        height = surface.coordinates(point(helix, innermost))[:, 2]
        return torch.where(missed & (height >= 0) & (height < self.depth), innermost, s)

    def near(self, helix: Helix, margin: float = MARGIN) -> Crossings:
        """Crossings ahead of the reference points with active areas widened by `margin` ≤ MARGIN [cm]."""
        surface = self.surface
        reach = torch.zeros_like(helix.omega) if surface is None else self._reach(surface, helix)
        met = torch.isfinite(reach)
        here = move(helix, torch.where(met, reach, 0.0))
        parts = [self._straight(here, *pairs) for pairs in self._pairs(here, met)]
        track, sensor, start = (torch.cat(column) for column in zip(*parts, strict=True))
        found = self._exact(here, track, sensor, start, margin)
        found = found._replace(s=found.s + reach[found.track])
        found = _sorted(Crossings(*(column[found.s > 0] for column in found)))
        if self.flat:
            return found
        return Crossings(*(column[~repeated(found.track, found.sensor, found.s)] for column in found))

    def _pairs(self, here: Helix, met: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tracks and sensors to try together: from the grids, and all sensors for the steepest tracks."""
        rest = met
        if self.surface is not None:
            slopes = self.surface.slopes(here.position, here.direction)
            coordinates = self.surface.coordinates(here.position)
            for grid in self.grids:
                rows = (rest & (slopes <= grid.limit).all(-1)).nonzero().squeeze(-1)
                found = grid.candidates(coordinates[rows])
                row, column = (found >= 0).nonzero(as_tuple=True)
                yield rows[row], found[row, column]
                rest = rest & (slopes > grid.limit).any(-1)
            rest = rest & self._in_reach(self.surface, coordinates[:, :2], slopes)
        for part in torch.split(rest.nonzero().squeeze(-1), max(1, _PAIRS // len(self.sensors))):
            yield part.repeat_interleave(len(self.sensors)), self.sensors.repeat(len(part))

    def _in_reach(self, surface: Surface, coordinates: Tensor, slopes: Tensor) -> Tensor:
        """Whether paths may come to where the layer has sensors at all, (tracks,)."""
        reach = surface.reach(slopes, self.depth)
        return ((coordinates > self.low - reach) & (coordinates < self.high + reach)).all(-1)

    def _straight(self, here: Helix, track: Tensor, sensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs whose straight continuation comes near the sensor, and its length [cm]."""
        position, direction = here.position[track], here.direction[track]
        s = line_starts(self.detector, sensor, Helix(position, direction, here.omega[track]), self.flat)
        track, sensor = (index[:, None].expand_as(s).flatten() for index in (track, sensor))
        s, position, direction = s.flatten(), here.position[track], here.direction[track]
        uv = local_point(self.detector, sensor, position + s[:, None] * direction)
        bend = here.omega[track].abs() * s.square()
        keep = _outside(self.detector, sensor, uv) <= MARGIN + bend
        return track[keep], sensor[keep], s[keep]

    def _exact(self, here: Helix, track: Tensor, sensor: Tensor, start: Tensor, margin: float) -> Crossings:
        helix = Helix(*(field[track] for field in here))
        s, uv, _ = met(self.detector, sensor, helix, start, self.flat)
        place = point(helix, s)
        # Newton's search from a far-away, nearly parallel plane may end elsewhere: no crossing.
        keep = landed(self.detector, sensor, helix, s, self.flat) & (
            _outside(self.detector, sensor, uv) <= margin
        )
        if isinstance(self.surface, Cylinder):
            # A crossing belongs to the way in or to the way out, also where all sensors were tried.
            outward = (place[:, :2] * tangent(helix, s)[:, :2]).sum(-1) > 0
            keep &= outward == self.surface.outward
        return Crossings(track[keep], sensor[keep], uv[keep], s[keep])


def layers_of(detector: Detector) -> list[Layer]:
    """The layers as tracks meet them: barrels on the way in and on the way out, discs at +z and −z apart."""
    layers = []
    for number in detector.layers:
        rows = (detector.layer == number).nonzero().squeeze(-1)
        behind = detector.translation[rows, 2] < 0
        planar = bool((detector.rotation[rows, 2, 1].abs() > 0.8).all())
        layers += [
            Layer(detector, part)
            for part in ((rows[behind], rows[~behind]) if planar else (rows,))
            if len(part)
        ]
        if isinstance(layers[-1].surface, Cylinder):
            layers.insert(-1, layers[-1].on_the_way_in())
    return layers


def crossings(detector: Detector, helix: Helix) -> Crossings:
    """All crossings of helices (tracks,) with active areas ahead of their reference points, without matter.

    Args:
        detector: the sensors where they really are.
        helix: float64 states.
    """
    parts = [layer.near(helix, margin=0.0) for layer in layers_of(detector)]
    return _sorted(Crossings(*(torch.cat(column) for column in zip(*parts, strict=True))))


def in_active_area(detector: Detector, sensor: Tensor, uv: Tensor) -> Tensor:
    """Whether local points (n, 2) lie in the active areas of the sensors of these rows (n,)."""
    return _outside(detector, sensor, uv) <= 0


def _outside(detector: Detector, sensor: Tensor, uv: Tensor) -> Tensor:
    """How far [cm] points are outside the active area, the larger of u and v; negative inside."""
    return ((uv - detector.centre[sensor]).abs() - detector.half[sensor]).amax(-1)


def _sorted(found: Crossings) -> Crossings:
    order = torch.from_numpy(np.lexsort((found.s.numpy(), found.track.numpy())))
    return Crossings(*(column[order] for column in found))
