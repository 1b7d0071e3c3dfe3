"""Simulated tracks: particles through matter and a misaligned detector, to measured hits.

A particle goes from layer to layer, in the order in which its unscattered path meets them, along a helix.
Where it crosses a sensor or a passive cylinder it is turned by two independent Gaussian angles of Highland's
width (thickness x/X0 / |cos incidence|, with the logarithm) and loses energy: the mean of Bethe and Bloch in
silicon of as many radiation lengths, with fluctuations by Moyal's law of the width of Landau's. A hit is
where it meets the plane of the sensor **as it really stands**; its measured position is smeared there, and
some hits are lost.

Not simulated: matter beyond the detector table's (dead edges, services, air, a thickness that varies over a
sensor), the tails of multiple scattering but as `scattering_tail` models them, energy loss in anything but
silicon, bremsstrahlung, decays of what goes through the detector, nuclear interactions, secondary particles
of these, fields that are not uniform or not along z, particles that curl back, pile-up, charge sharing,
merged clusters, wrong hits other than `outlier_fraction` and `wrong_track_fraction` (noise is of no track),
and any dependence of the resolution on angle or place.

Everything is in float64. Equal seeds give equal particles, kinks and smearing whatever the detector and its
misalignment (`data.streams`), so that simulations can be compared hit by hit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from alignnet.data.dead import Dead
from alignnet.data.noise import NoiseHits, noise_hits
from alignnet.data.sources import Particles, Source
from alignnet.data.streams import Streams
from alignnet.data.tracks import Tracks, concatenate
from alignnet.data.transport import Transport, TrueHits
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import misaligned

MEASUREMENT = 2000
"""First number of the purposes for which measurements draw random numbers."""

WRONG_TRACK = 3000
"""The purpose of choosing tracks of which no hit is right."""

TAIL = 7000
"""First number of the purposes for which hits with a wider resolution are chosen."""


class Simulation:
    """Makes `Tracks` of a source in a misaligned detector.

    Args:
        source: where particles come from: `ParticleGun`, `Beam`, `Cosmics`, `Collisions` or `StoredEvents`.
        detector: the nominal places. Hits refer to its rows.
        misalignment: the local six (sensors, 6) [cm, rad] that bring the sensors to where they really are;
            None is a perfect detector.
        hit_resolution: σ of the measured u and v [cm], one number or two.
        hit_efficiency: chance that a crossing makes a hit; the matter is there in any case.
        smearing: False leaves the measured position exact (with the same `sigma` column).
        scattering: multiple scattering.
        energy_loss: energy loss and its fluctuations.
        min_hits: tracks with fewer are dropped, and with them events without tracks.
        outlier_fraction: part of the hits that belong to something else.
        outlier_width: these are displaced evenly within ± this in u and v [cm].
        wrong_track_fraction: part of the tracks all of whose hits do, as if joined from different particles.
        noise_per_sensor: mean number of hits of a sensor in an event that no particle made (`noise`).
        dead: sensors that make no hits, (sensors,) bool (`dead.Dead`); their matter is there. None: none.
        hit_tail: part of the hits whose resolution is `tail_scale` times wider than `sigma` says.
        scattering_tail: part of the crossings of matter whose angle is `tail_scale` times as large.
        tail_scale: of both.
        seed: ≥ 0.

    Raises:
        ConfigError: a value cannot be used.
        GeometryError: the misalignment has another shape, or a sensor is bent.
    """

    def __init__(
        self,
        source: Source,
        detector: Detector,
        misalignment: Tensor | None = None,
        *,
        hit_resolution: float | Sequence[float] = 5e-4,
        hit_efficiency: float = 0.99,
        smearing: bool = True,
        scattering: bool = True,
        energy_loss: bool = True,
        min_hits: int = 3,
        outlier_fraction: float = 0.0,
        outlier_width: float = 0.1,
        wrong_track_fraction: float = 0.0,
        noise_per_sensor: float = 0.0,
        dead: Dead | None = None,
        hit_tail: float = 0.0,
        scattering_tail: float = 0.0,
        tail_scale: float = 5.0,
        seed: int = 0,
    ) -> None:
        pair = hit_resolution if isinstance(hit_resolution, Sequence) else (hit_resolution, hit_resolution)
        _require(len(pair) == 2 and min(pair) > 0, "hit_resolution", hit_resolution, "one or two numbers > 0")
        _require(0 <= hit_efficiency <= 1, "hit_efficiency", hit_efficiency, "a number between 0 and 1")
        _require(0 <= outlier_fraction <= 1, "outlier_fraction", outlier_fraction, "a number between 0 and 1")
        wrong = wrong_track_fraction
        _require(0 <= wrong <= 1, "wrong_track_fraction", wrong, "a number between 0 and 1")
        _require(noise_per_sensor >= 0, "noise_per_sensor", noise_per_sensor, "a number >= 0")
        _require(0 <= hit_tail <= 1, "hit_tail", hit_tail, "a number between 0 and 1")
        _require(0 <= scattering_tail <= 1, "scattering_tail", scattering_tail, "a number between 0 and 1")
        _require(tail_scale > 0, "tail_scale", tail_scale, "a number > 0")
        _require(min_hits >= 1, "min_hits", min_hits, "at least 1")
        _require(seed >= 0, "seed", seed, "a whole number >= 0")
        self.source, self.seed, self.min_hits, self.smearing = source, seed, min_hits, smearing
        self.resolution = torch.tensor([float(value) for value in pair], dtype=torch.float64)
        self.hit_efficiency = hit_efficiency
        self.outlier_fraction, self.outlier_width = outlier_fraction, outlier_width
        self.wrong_track_fraction, self.noise_per_sensor = wrong_track_fraction, noise_per_sensor
        self.hit_tail, self.tail_scale = hit_tail, tail_scale
        self.alive = torch.ones(len(detector), dtype=torch.bool) if dead is None else ~dead(detector)
        self.actual = _placed(detector, misalignment)
        tail = (scattering_tail, tail_scale)
        self.transport = Transport(self.actual, scattering, energy_loss, tail)

    def moved(self, detector: Detector, misalignment: Tensor) -> Simulation:
        """The same simulation with the sensors at other places: particles, kinks and smearing stay.

        Args:
            detector: the nominal places.
            misalignment: the local six (sensors, 6).
        """
        other = copy(self)
        other.actual = _placed(detector, misalignment)
        before = self.transport
        other.transport = Transport(other.actual, before.scattering, before.energy_loss, before.tail)
        return other

    def generate(
        self,
        n_events: int,
        progress: Callable[[int, int], None] | None = None,
        chunk_events: int | None = None,
    ) -> Tracks:
        """All tracks of `n_events` events in memory; `progress(done, n_events)` is told how far it is."""
        parts, step = [], self.source.chunk_events if chunk_events is None else chunk_events
        for index, part in enumerate(self.chunks(n_events, step)):
            parts.append(part)
            if progress is not None:
                progress(min((index + 1) * step, n_events), n_events)
        return concatenate(parts)

    def chunks(self, n_events: int, chunk_events: int | None = None) -> Iterator[Tracks]:
        """The same tracks in chunks of events, by default the source's, of bounded memory.

        A chunk depends on the seed and on its number only, not on how many there are; another `chunk_events`
        gives other numbers.
        """
        step = self.source.chunk_events if chunk_events is None else chunk_events
        _require(n_events >= 1, "n_events", n_events, "at least 1")
        _require(step >= 1, "chunk_events", step, "at least 1")
        for index, first in enumerate(range(0, n_events, step)):
            yield self.chunk(index, min(step, n_events - first), first)

    @torch.no_grad()
    def chunk(self, index: int, n_events: int, first_event: int = 0) -> Tracks:
        """Chunk number `index` alone, its events numbered from `first_event`: for work in parallel."""
        streams = Streams(self.seed, index)
        particles = self.source.particles(n_events, streams, first_event, float(self.actual.b_z))
        hits = self.transport(particles, streams)
        made, uv = self._measure(hits, len(particles.event), streams)
        hits, uv = TrueHits(*(column[made] for column in hits)), uv[made]
        tracks = self._tracks(particles, hits, uv, first_event)
        return tracks.select(tracks.hits_per_track >= self.min_hits)

    def noise(self, index: int, n_events: int, first_event: int = 0) -> NoiseHits:
        """The noise in the events of `chunk` with the same arguments; tracks do not depend on it."""
        streams, resolution = Streams(self.seed, index), self.resolution.tolist()
        return noise_hits(self.actual, n_events, first_event, self.noise_per_sensor, resolution, streams)

    def _measure(self, hits: TrueHits, n_tracks: int, streams: Streams) -> tuple[Tensor, Tensor]:
        """Which crossings make a hit (hits,), and where it is measured (hits, 2)."""
        normal = torch.zeros(len(hits.slot), 2, dtype=torch.float64)
        even = torch.zeros(len(hits.slot), 4, dtype=torch.float64)
        for slot in np.unique(hits.slot.numpy()).tolist():
            rows = (hits.slot == slot).nonzero().squeeze(-1)
            normal[rows] = streams.normal(n_tracks, 2, MEASUREMENT, slot)[hits.track[rows]]
            even[rows] = streams.uniform(n_tracks, 4, MEASUREMENT, slot)[hits.track[rows]]
            if self.hit_tail:
                wide = streams.uniform(n_tracks, 1, TAIL, slot)[hits.track[rows]] < self.hit_tail
                normal[rows] *= torch.where(wide, self.tail_scale, 1.0)
        uv = hits.uv + self.resolution * normal if self.smearing else hits.uv
        elsewhere = self.outlier_width * (2 * even[:, 2:] - 1)
        lost = streams.uniform(n_tracks, 1, WRONG_TRACK)[hits.track] < self.wrong_track_fraction
        uv = torch.where((even[:, 1:2] < self.outlier_fraction) | lost, uv + elsewhere, uv)
        return (even[:, 0] < self.hit_efficiency) & self.alive[hits.sensor], uv

    def _tracks(self, particles: Particles, hits: TrueHits, uv: Tensor, first_event: int) -> Tracks:
        n = len(particles.event)
        count = np.bincount(hits.track.numpy(), minlength=n)
        truth = {
            "position": particles.position.numpy(),
            "momentum": particles.momentum.numpy(),
            "q": particles.charge.numpy().astype(np.int8),
            "pdg": particles.pdg.numpy().astype(np.int32),
            "hit_uv": hits.uv.numpy(),
        }
        history = {
            "vertex": particles.collision,
            "mother": particles.mother,
            "mother_pdg": particles.mother_pdg,
        }
        truth |= {name: column.numpy() for name, column in history.items() if column is not None}
        return Tracks(
            event=particles.event.numpy() + first_event,
            offset=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            sensor=hits.sensor.numpy(),
            uv=uv.numpy(),
            sigma=self.resolution.expand_as(uv).numpy().copy(),
            vertex=None if particles.vertex is None else particles.vertex.numpy(),
            vertex_cov=None if particles.vertex_cov is None else particles.vertex_cov.numpy(),
            p=particles.momentum.norm(dim=-1).numpy(),
            mass=particles.mass.numpy(),
            kind=np.full(n, self.source.kind, dtype=np.int8),
            truth=truth,
        )


def _placed(detector: Detector, misalignment: Tensor | None) -> Detector:
    """The detector as it really stands."""
    return detector if misalignment is None else misaligned(detector, misalignment)


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"simulation: {name} is {value!r}, expected {expected}")
