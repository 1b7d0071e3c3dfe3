"""Where simulated particles come from: collisions along a beam line, a test beam, or cosmic rays.

A source makes the particles of a given number of events at their production, from the random numbers of a
`Streams`. Lengths in cm, momenta in GeV/c, angles in rad; every source is built from plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignnet.data.streams import Streams
from alignnet.errors import ConfigError
from alignnet.units import PION_MASS

MUON_MASS = 0.1056583755
"""Muon [GeV/c²] (PDG 2024)."""

CHUNK_EVENTS = 2000
"""Events that are simulated together, but where a source wants otherwise."""

COLLISION, COSMIC, BEAM = 0, 1, 2
"""The `kind` of a track."""

SPECTRA = ("log_uniform", "power", "thermal")
"""What `ParticleGun.spectrum` may be."""


class Particles(NamedTuple):
    """Particles at their production, in order of their events."""

    event: Tensor  # (particles,) int64, from 0
    position: Tensor  # (particles, 3) [cm]
    momentum: Tensor  # (particles, 3) [GeV/c]
    charge: Tensor  # (particles,) ±1
    mass: Tensor  # (particles,) [GeV/c²]
    pdg: Tensor  # (particles,) PDG code
    vertex: Tensor | None = None  # (particles, 3) what is known of the event's vertex [cm]
    vertex_cov: Tensor | None = None  # (particles, 6) xx, xy, yy, xz, yz, zz [cm²]
    collision: Tensor | None = None  # (particles, 3) the true vertex, where `position` may be another [cm]
    mother: Tensor | None = None  # (particles,) number in its event of what decayed to it, -1 for nothing
    mother_pdg: Tensor | None = None  # (particles,) its PDG code, 0 for nothing


class Source(Protocol):
    """Makes particles."""

    @property
    def kind(self) -> int:
        """0 collision, 1 cosmic, 2 beam."""
        ...

    @property
    def chunk_events(self) -> int:
        """Events that are made and simulated together."""
        ...

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """The particles of `n_events` events.

        Args:
            streams: the random numbers of this chunk of events.
            first_event: number of its first event, for a source that reads them one after another.
            b_z: field along z [T], for one whose charged particles decay on their way.
        """
        ...


@dataclass(frozen=True)
class ParticleGun:
    """Collisions: a few particles from one vertex an event, flat in azimuth and in pseudorapidity.

    Args:
        n_tracks_per_event: particles of an event.
        pt_min: lowest transverse momentum [GeV/c].
        pt_max: highest.
        spectrum: dN/dp_T: "log_uniform" 1/p_T, "power" p_T^−power, or "thermal" p_T exp(−m_T/temperature).
        power: exponent of "power".
        temperature: of "thermal" [GeV].
        eta_max: pseudorapidities lie within ± this.
        charges: drawn from these with equal chances.
        mass: [GeV/c²].
        pdg: PDG code of the particle with charge +1.
        vertex_mean: centre of the interaction region [cm].
        vertex_sigma: its widths [cm].
        vertex_resolution: by how much the vertex given to a fit is smeared [cm], whatever the tracks are;
            None gives no vertex.

    Raises:
        ConfigError: a value cannot be used.
    """

    n_tracks_per_event: int = 8
    pt_min: float = 0.2
    pt_max: float = 5.0
    spectrum: str = "log_uniform"
    power: float = 4.0
    temperature: float = 0.25
    eta_max: float = 1.2
    charges: Sequence[int] = (-1, 1)
    mass: float = PION_MASS
    pdg: int = 211
    vertex_mean: Sequence[float] = (0.0, 0.0, 0.0)
    vertex_sigma: Sequence[float] = (50e-4, 50e-4, 5.0)
    vertex_resolution: Sequence[float] | None = (15e-4, 15e-4, 20e-4)
    kind: int = COLLISION
    chunk_events: ClassVar[int] = CHUNK_EVENTS

    def __post_init__(self) -> None:
        _require(self.n_tracks_per_event >= 1, "n_tracks_per_event", self.n_tracks_per_event, "at least 1")
        _check_range("pt", self.pt_min, self.pt_max)
        _require(self.spectrum in SPECTRA, "spectrum", self.spectrum, f"one of {', '.join(SPECTRA)}")
        _require(self.temperature > 0, "temperature", self.temperature, "a number > 0")
        _require(self.eta_max >= 0, "eta_max", self.eta_max, "a number >= 0")
        _check_particle(self.mass, self.charges)
        check_vertices(self.vertex_mean, self.vertex_sigma, self.vertex_resolution)

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """The particles of `n_events` events."""
        event = torch.arange(n_events).repeat_interleave(self.n_tracks_per_event)
        vertices = draw_vertices(
            n_events, self.vertex_mean, self.vertex_sigma, self.vertex_resolution, streams
        )
        momentum = self._momentum(streams.uniform(len(event), 3, 1))
        charge = _charges(self.charges, len(event), streams)
        found = _particles(event, vertices.true[event], momentum, charge, self.mass, self.pdg)
        return with_vertices(found, vertices)

    def _momentum(self, draw: Tensor) -> Tensor:
        pt = np.geomspace(self.pt_min, self.pt_max, 4097)
        density = {
            "log_uniform": 1 / pt,
            "power": pt**-self.power,
            "thermal": pt * np.exp((self.mass - np.hypot(pt, self.mass)) / self.temperature),
        }[self.spectrum]
        phi, eta = 2 * torch.pi * draw[:, 1], self.eta_max * (2 * draw[:, 2] - 1)
        return _from_density(pt, density, draw[:, 0])[:, None] * torch.stack(
            [phi.cos(), phi.sin(), eta.sinh()], -1
        )


@dataclass(frozen=True)
class Beam:
    """A test beam along +z, without a vertex.

    Args:
        momentum: [GeV/c].
        momentum_spread: relative r.m.s. of the momentum.
        divergence: r.m.s. of the slopes dx/dz and dy/dz [rad], one number or two.
        spot: r.m.s. of x and y at `start_z` [cm], one number or two.
        centre: mean x and y [cm].
        start_z: where the particles start [cm]; must be upstream of the first plane.
        n_tracks_per_event: particles of an event.
        charge: of every particle.
        mass: [GeV/c²].
        pdg: PDG code of the particle with charge +1.

    Raises:
        ConfigError: a value cannot be used.
    """

    momentum: float = 5.0
    momentum_spread: float = 0.0
    divergence: float | Sequence[float] = 1e-3
    spot: float | Sequence[float] = 0.5
    centre: Sequence[float] = (0.0, 0.0)
    start_z: float = -10.0
    n_tracks_per_event: int = 1
    charge: int = 1
    mass: float = PION_MASS
    pdg: int = 211
    kind: int = BEAM
    chunk_events: ClassVar[int] = CHUNK_EVENTS

    def __post_init__(self) -> None:
        _require(self.momentum > 0, "momentum", self.momentum, "a number > 0")
        _require(
            0 <= self.momentum_spread < 0.2, "momentum_spread", self.momentum_spread, "at least 0, below 0.2"
        )
        _require(self.n_tracks_per_event >= 1, "n_tracks_per_event", self.n_tracks_per_event, "at least 1")
        _check_particle(self.mass, (self.charge,))
        _check_numbers("divergence", _pair(self.divergence), 2, low=0.0)
        _check_numbers("spot", _pair(self.spot), 2, low=0.0)
        _check_numbers("centre", self.centre, 2)

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """The particles of `n_events` events."""
        event = torch.arange(n_events).repeat_interleave(self.n_tracks_per_event)
        draw = streams.normal(len(event), 5, 0)
        spread = _numbers(self.centre) + _numbers(_pair(self.spot)) * draw[:, :2]
        position = torch.cat([spread, torch.full((len(event), 1), self.start_z, dtype=torch.float64)], -1)
        slope = torch.cat([_numbers(_pair(self.divergence)) * draw[:, 2:4], torch.ones_like(draw[:, :1])], -1)
        p = self.momentum * (1 + self.momentum_spread * draw[:, 4:])
        charge = torch.full((len(event),), float(self.charge), dtype=torch.float64)
        momentum = p * slope / slope.norm(dim=-1, keepdim=True)
        return _particles(event, position, momentum, charge, self.mass, self.pdg)


@dataclass(frozen=True)
class Cosmics:
    """Cosmic muons from above (−y), cos² of the zenith angle in intensity; one an event, without a vertex.

    Each aims at a point of the horizontal plane through the beam line, as a straight line.

    Args:
        p_min: lowest momentum [GeV/c].
        p_max: highest.
        power: dN/dp = p^−power.
        half_x: the points aimed at lie within ± this [cm].
        half_z: within ± this along the beam line [cm].
        distance: how far before its point a particle starts [cm]: outside the detector.
        charges: drawn from these with equal chances.
        mass: [GeV/c²].
        pdg: PDG code of the particle with charge +1.

    Raises:
        ConfigError: a value cannot be used.
    """

    p_min: float = 2.0
    p_max: float = 100.0
    power: float = 2.7
    half_x: float = 35.0
    half_z: float = 60.0
    distance: float = 100.0
    charges: Sequence[int] = (-1, 1)
    mass: float = MUON_MASS
    pdg: int = -13
    kind: int = COSMIC
    chunk_events: ClassVar[int] = CHUNK_EVENTS

    def __post_init__(self) -> None:
        _check_range("p", self.p_min, self.p_max)
        _check_particle(self.mass, self.charges)
        _check_numbers("half_x, half_z, distance", (self.half_x, self.half_z, self.distance), 3, low=0.0)

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """The particles of `n_events` events."""
        draw = streams.uniform(n_events, 5, 1)
        p = np.geomspace(self.p_min, self.p_max, 4097)
        cosine, azimuth = draw[:, 1] ** 0.25, 2 * torch.pi * draw[:, 2]  # through a horizontal plane: cos³
        sine = (1 - cosine.square()).sqrt()
        direction = torch.stack([sine * azimuth.cos(), -cosine, sine * azimuth.sin()], -1)
        x, z = self.half_x * (2 * draw[:, 3] - 1), self.half_z * (2 * draw[:, 4] - 1)
        position = torch.stack([x, torch.zeros_like(x), z], -1) - self.distance * direction
        momentum = _from_density(p, p**-self.power, draw[:, 0])[:, None] * direction
        charge = _charges(self.charges, n_events, streams)
        return _particles(torch.arange(n_events), position, momentum, charge, self.mass, self.pdg)


class Vertices(NamedTuple):
    """Where events happen, and what is known of it."""

    true: Tensor  # (events, 3) [cm]
    seen: Tensor | None  # (events, 3) [cm]
    width: Tensor | None  # (3,) by which it is smeared [cm]


def draw_vertices(
    n_events: int,
    mean: Sequence[float],
    sigma: Sequence[float],
    resolution: Sequence[float] | None,
    streams: Streams,
) -> Vertices:
    """Gaussian vertices about `mean` [cm], and, where there is a `resolution`, the same smeared by it."""
    draw = streams.normal(n_events, 6, 0)
    true = _numbers(mean) + _numbers(sigma) * draw[:, :3]
    if resolution is None:
        return Vertices(true, None, None)
    width = _numbers(resolution)
    return Vertices(true, true + width * draw[:, 3:], width)


def with_vertices(particles: Particles, vertices: Vertices) -> Particles:
    """Particles with what is known of their events' vertices."""
    if vertices.seen is None or vertices.width is None:
        return particles
    covariance = torch.zeros(len(particles.event), 6, dtype=torch.float64)
    covariance[:, [0, 2, 5]] = vertices.width.square()
    return particles._replace(vertex=vertices.seen[particles.event], vertex_cov=covariance)


def check_vertices(mean: Sequence[float], sigma: Sequence[float], resolution: Sequence[float] | None) -> None:
    """Raise ConfigError for what `draw_vertices` cannot use."""
    _check_numbers("vertex_mean", mean, 3)
    _check_numbers("vertex_sigma", sigma, 3, low=0.0)
    if resolution is not None:
        _check_numbers("vertex_resolution", resolution, 3, low=1e-9)


def _particles(
    event: Tensor, position: Tensor, momentum: Tensor, charge: Tensor, mass: float, pdg: int
) -> Particles:
    """Particles of one kind and its antiparticle."""
    return Particles(event, position, momentum, charge, torch.full_like(charge, mass), pdg * charge.long())


def _from_density(grid: NDArray[np.float64], density: NDArray[np.float64], draw: Tensor) -> Tensor:
    """Numbers of this density from uniform ones, by the inverse of its integral."""
    steps = (density[1:] + density[:-1]) / 2 * np.diff(grid)
    integral = np.concatenate([[0.0], np.cumsum(steps)])
    return torch.from_numpy(np.interp(draw.numpy() * integral[-1], integral, grid))


def _charges(charges: Sequence[int], n: int, streams: Streams) -> Tensor:
    index = (streams.uniform(n, 1, 2)[:, 0] * len(charges)).long()
    return _numbers(charges)[index]


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _pair(value: float | Sequence[float]) -> Sequence[float]:
    return value if isinstance(value, Sequence) else (value, value)


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"source: {name} is {value!r}, expected {expected}")


def _check_range(name: str, low: float, high: float) -> None:
    good = 0 < low <= high < float("inf")
    _require(good, f"{name}_min, {name}_max", (low, high), f"0 < {name}_min <= {name}_max")


def _check_particle(mass: float, charges: Sequence[int]) -> None:
    _require(0 < mass < float("inf"), "mass", mass, "a number > 0")
    _require(len(charges) > 0 and set(charges) <= {-1, 1}, "charges", charges, "-1 and 1")


def _check_numbers(name: str, values: Sequence[float], n: int, low: float = -float("inf")) -> None:
    good = len(values) == n and all(low <= value < float("inf") for value in values)
    bound = "" if low == -float("inf") else f" >= {low:g}"
    _require(good, name, values, f"{n} numbers{bound}")
