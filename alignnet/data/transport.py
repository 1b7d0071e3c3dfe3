"""Particles on their way through a detector: helices from layer to layer, turned and slowed by matter.

Each particle meets the layers in the order of its unscattered path. In a layer the crossings with sensors are
found from its state in front of it; at each, in turn, the particle is moved onto the sensor's sheet, where it

* is turned by two independent Gaussian angles of Highland's width, thickness x/X0 / |cos incidence|;
* loses energy: Bethe's and Bloch's mean, fluctuating by Moyal's law with the core width of Landau's. Without
  changing direction, so that ω grows as p falls; a particle that has nothing left stops.

Passive cylinders do the same without a hit. Matter is that of the active areas and of the cylinders, as
silicon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.crossings import Layer, in_active_area, layers_of
from alignnet.data.meeting import met
from alignnet.data.sensor_grid import Cylinder
from alignnet.data.sources import Particles
from alignnet.data.streams import Streams
from alignnet.geometry.detector import Detector
from alignnet.physics.helix import Helix, from_momentum, move, updated
from alignnet.physics.material import energy_loss_width, highland, mean_energy_loss

TRANSPORT = 1000
"""First number of the purposes for which transport draws random numbers."""

TAIL = 6000
"""First number of the purposes for which crossings with a larger angle are chosen."""

MOYAL_MEAN, MOYAL_FWHM = 1.2703628, 3.5908058
"""Of −ln z² with a standard normal z, which follows Moyal's law."""

_FWHM = 2.3548200  # of a Gaussian, in units of its width
_COSINE_MIN = 0.05  # a path along a sensor is not infinitely long in it


class TrueHits(NamedTuple):
    """Crossings with active areas in the order of the tracks and along each of them."""

    track: Tensor  # (hits,) row of the particle
    sensor: Tensor  # (hits,) row of the detector
    uv: Tensor  # (hits, 2) true local position [cm]
    slot: Tensor  # (hits,) layer and count within it: what the hit's random numbers are drawn for


@dataclass(frozen=True)
class _Pipe:
    """A passage through a passive cylinder."""

    surface: Cylinder
    half_z: float  # [cm]
    x_over_x0: float

    def path(self, helix: Helix) -> Tensor:
        return self.surface.path(helix)


@dataclass
class _Flight:
    """Where all particles of a chunk are; changed in place."""

    helix: Helix
    p: Tensor  # (particles,) [GeV/c]
    mass: Tensor  # (particles,) [GeV/c²]
    alive: Tensor  # (particles,) bool

    def at(self, rows: Tensor) -> Helix:
        return Helix(*(field[rows] for field in self.helix))

    def put(self, rows: Tensor, helix: Helix) -> None:
        for field, value in zip(self.helix, helix, strict=True):
            field[rows] = value


class Transport:
    """Takes particles through a detector.

    Args:
        detector: the sensors where they really are.
        scattering: multiple scattering.
        energy_loss: energy loss and its fluctuations.
        tail: part of the crossings whose angle is larger, and how many times.
    """

    def __init__(
        self,
        detector: Detector,
        scattering: bool = True,
        energy_loss: bool = True,
        tail: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.detector, self.scattering, self.energy_loss = detector, scattering, energy_loss
        self.tail = tail
        self.surfaces: list[Layer | _Pipe] = [*layers_of(detector), *_pipes(detector)]

    @torch.no_grad()
    def __call__(self, particles: Particles, streams: Streams) -> TrueHits:
        """The true hits of particles that leave their production points."""
        helix = from_momentum(particles.position, particles.momentum, particles.charge, self.detector.b_z)
        flight = _Flight(
            Helix(*(field.clone() for field in helix)),
            particles.momentum.norm(dim=-1),
            particles.mass,
            torch.ones(len(particles.event), dtype=torch.bool),
        )
        found = []
        for number, rows in self._steps(helix):
            surface = self.surfaces[number]
            if isinstance(surface, Layer):
                found += self._through_layer(flight, rows, surface, number, streams)
            else:
                self._through_pipe(flight, rows, surface, number, streams)
        return _joined(found)

    def _steps(self, helix: Helix) -> list[tuple[int, Tensor]]:
        """Which particles go through which surface, one after another for each particle."""
        path = torch.stack([surface.path(helix) for surface in self.surfaces], -1)
        path = torch.where(torch.isfinite(path) & (path > 0), path, torch.inf)
        # Stable: a grazing path meets the way in and the way out at one point, and the way in stands first.
        path, order = path.sort(dim=-1, stable=True)
        order = torch.where(torch.isfinite(path), order, -1)
        return [
            (number, (column == number).nonzero().squeeze(-1))
            for column in order.unbind(-1)
            for number in np.unique(column.numpy()).tolist()
            if number >= 0
        ]

    def _through_layer(
        self, flight: _Flight, rows: Tensor, layer: Layer, number: int, streams: Streams
    ) -> list[TrueHits]:
        near = layer.near(flight.at(rows))
        track, order = rows[near.track], _rank(near.track, len(rows))
        flown, count = torch.zeros_like(flight.p), torch.zeros(len(flight.p), dtype=torch.int64)
        kicks, hits = [], []
        # The next nearest sensor of every track at once: 1 for most, 2 or more where sensors overlap.
        for turn in range(int(order.max()) + 1 if len(order) else 0):
            kicks.append(self._kicks(flight, streams, number, turn))
            pick = (order == turn) & flight.alive[track]
            one, sensor = track[pick], near.sensor[pick]
            start = flight.at(one)
            s, uv, normal = met(self.detector, sensor, start, near.s[pick] - flown[one], layer.flat)
            here = move(start, s)
            hit = (s > 0) & in_active_area(self.detector, sensor, uv)
            one, sensor, here = one[hit], sensor[hit], Helix(*(field[hit] for field in here))
            kick = torch.stack(kicks)[count[one], one]
            self._interact(flight, one, here, normal[hit], self.detector.x_over_x0[sensor], kick)
            hits.append(TrueHits(one, sensor, uv[hit], number + len(self.surfaces) * count[one]))
            flown[one] += s[hit]
            count[one] += 1
        return hits

    def _through_pipe(
        self, flight: _Flight, rows: Tensor, pipe: _Pipe, number: int, streams: Streams
    ) -> None:
        rows = rows[flight.alive[rows]]
        start = flight.at(rows)
        s = pipe.path(start)
        here = move(start, torch.where(torch.isfinite(s), s, 0.0))
        crossed = torch.isfinite(s) & (s > 0) & (here.position[:, 2].abs() < pipe.half_z)
        rows, here = rows[crossed], Helix(*(field[crossed] for field in here))
        normal = pipe.surface.normal(here.position)
        kick = self._kicks(flight, streams, number, 0)[rows]
        self._interact(flight, rows, here, normal, torch.full_like(here.omega, pipe.x_over_x0), kick)

    def _kicks(self, flight: _Flight, streams: Streams, number: int, turn: int) -> Tensor:
        """Standard normal numbers for two angles and the energy loss, for every particle, (particles, 3)."""
        slot = number + len(self.surfaces) * turn
        kicks = streams.normal(len(flight.p), 3, TRANSPORT, slot)
        part, times = self.tail
        if part:
            wide = streams.uniform(len(flight.p), 1, TAIL, slot) < part
            kicks = torch.cat([kicks[:, :2] * torch.where(wide, times, 1.0), kicks[:, 2:]], -1)
        return kicks

    def _interact(
        self, flight: _Flight, rows: Tensor, here: Helix, normal: Tensor, x_over_x0: Tensor, kick: Tensor
    ) -> None:
        """Matter of thickness `x_over_x0` with this normal acts on particles that have arrived at `here`."""
        thickness = x_over_x0 / (here.direction * normal).sum(-1).abs().clamp_min(_COSINE_MIN)
        p, mass = flight.p[rows], flight.mass[rows]
        if self.scattering:
            angle = highland(p, mass, thickness)[:, None] * kick[:, :2]
            here = updated(here, torch.cat([torch.zeros_like(angle), angle], -1))
        if self.energy_loss:
            left = momentum_left(p, mass, thickness, kick[:, 2])
            flight.alive[rows] = left > 0
            left = torch.where(left > 0, left, p)
            here = here._replace(omega=here.omega * p / left)
            flight.p[rows] = left
        flight.put(rows, here)


def momentum_left(p: Tensor, mass: Tensor, x_over_x0: Tensor, draw: Tensor) -> Tensor:
    """Momentum [GeV/c] after silicon of this thickness along the path; 0 where the particle stops.

    The loss is mean + scale · (−ln z² − 1.27), Moyal's law for a standard normal `draw` z, with the full
    width at half maximum of Landau's law; at least 0. Its mean is Bethe's and Bloch's.
    """
    scale = energy_loss_width(p, mass, x_over_x0) * _FWHM / MOYAL_FWHM
    moyal = -draw.square().clamp_min(1e-30).log()
    loss = (mean_energy_loss(p, mass, x_over_x0) + scale * (moyal - MOYAL_MEAN)).clamp_min(0.0)
    energy = (torch.sqrt(p.square() + mass.square()) - loss).maximum(mass)
    return torch.sqrt((energy - mass) * (energy + mass))


def _pipes(detector: Detector) -> list[_Pipe]:
    columns = (detector.scatterers.radius, detector.scatterers.half_z, detector.scatterers.x_over_x0)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    return [_Pipe(Cylinder(r, outward), half_z, x) for r, half_z, x in rows for outward in (True, False)]


def _rank(track: Tensor, n: int) -> Tensor:
    """How many rows of the same track stand before each row; `track` is sorted."""
    count = torch.bincount(track, minlength=n)
    return torch.arange(len(track)) - (count.cumsum(0) - count)[track]


def _joined(found: list[TrueHits]) -> TrueHits:
    """All hits, sorted by track; those of one track are in order already."""
    empty = torch.zeros(0, dtype=torch.int64)
    parts = [TrueHits(empty, empty, torch.zeros(0, 2, dtype=torch.float64), empty), *found]
    joined = TrueHits(*(torch.cat(column) for column in zip(*parts, strict=True)))
    order = joined.track.argsort(stable=True)
    return TrueHits(*(column[order] for column in joined))
