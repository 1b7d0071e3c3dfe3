"""Simulated events to find tracks in: all hits, what they are of, and which particles should be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.noise import NoiseHits
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.trackfinding.its2.hits import NOISE, Hits, hits_of


class Particles(NamedTuple):
    """What made hits; each field (particles,), in the order of the tracks that the hits' `particle` names."""

    event: Tensor  # int64, from 0
    pt: Tensor  # [GeV/c] at production
    eta: Tensor  # pseudorapidity
    displacement: Tensor  # transverse distance of the production from the collision, or the beam line [cm]
    n_layers: Tensor  # layers with a hit, int64

    def reconstructable(self, min_layers: int = 5, max_displacement: float = 0.1) -> Tensor:
        """Which of them a finder should find: those of the collision with hits in enough layers."""
        return (self.n_layers >= min_layers) & (self.displacement <= max_displacement)


@dataclass(frozen=True)
class Events:
    """Hits of some events with what made them, and where these come from."""

    hits: Hits
    particles: Particles
    tracks: Tracks
    noise: NoiseHits


def events_of(tracks: Tracks, noise: NoiseHits, detector: Detector) -> Events:
    """Events of simulated tracks and noise, seen by who believes the sensors where `detector` has them.

    Raises:
        ConfigError: the tracks have no truth.
    """
    if "momentum" not in tracks.truth:
        raise ConfigError("the tracks have no truth_momentum: figures of merit need simulated events")
    numbers = np.unique(np.concatenate([tracks.event, noise.event]))
    hits = hits_of(tracks, noise, detector, numbers)
    momentum = torch.from_numpy(tracks.truth["momentum"])
    pt = momentum[:, :2].norm(dim=-1)
    origin = tracks.truth.get("vertex", np.zeros_like(tracks.truth["position"]))
    displacement = torch.from_numpy(tracks.truth["position"] - origin)[:, :2].norm(dim=-1)
    made = hits.particle != NOISE
    seen = torch.zeros(len(tracks), len(detector.layers), dtype=torch.bool)
    seen[hits.particle[made], hits.layer[made]] = True
    event = torch.from_numpy(np.searchsorted(numbers, tracks.event))
    particles = Particles(event, pt, torch.asinh(momentum[:, 2] / pt), displacement, seen.sum(-1))
    return Events(hits, particles, tracks, noise)


class SimulatedEvents:
    """Events of a detector with one collision each, their multiplicities drawn from a list.

    Args:
        multiplicities: tracks of an event; each event has one of these with equal chances.
        noise_per_sensor: mean number of noise hits of a sensor in an event.
        hit_efficiency: chance that a crossing of a sensor makes a hit.
        misalignment: of a detector, the local six (sensors, 6) by which the sensors are off the places where
            they are believed to be; None for a perfect detector.
        b_z: field along z [T].
        gun: the particles; its number of tracks is not used.

    Raises:
        ConfigError: a value cannot be used.
    """

    def __init__(
        self,
        multiplicities: Sequence[int] = (200,),
        noise_per_sensor: float = 0.005,
        hit_efficiency: float = 0.99,
        misalignment: Callable[[Detector], Tensor] | None = None,
        b_z: float = 0.5,
        gun: ParticleGun | None = None,
    ) -> None:
        if not multiplicities or min(multiplicities) < 1:
            raise ConfigError(f"events: multiplicities are {list(multiplicities)}; expected numbers >= 1")
        self.detector, self.multiplicities = its2(b_z=b_z), tuple(multiplicities)
        local = None if misalignment is None else misalignment(self.detector)
        gun = ParticleGun(spectrum="thermal", pt_max=10.0, vertex_resolution=None) if gun is None else gun
        self.simulations = {
            n: Simulation(
                replace(gun, n_tracks_per_event=n), self.detector, local, min_hits=1,
                noise_per_sensor=noise_per_sensor, hit_efficiency=hit_efficiency,
            )
            for n in self.multiplicities
        }  # fmt: skip

    def draw(self, n_events: int, rng: torch.Generator) -> Events:
        """So many events, which depend on the generator's state alone."""
        seed = int(torch.randint(2**62, (1,), generator=rng))
        which = torch.randint(len(self.multiplicities), (n_events,), generator=rng).tolist()
        tracks, noise = [], []
        for number, k in enumerate(which):
            simulation = self.simulations[self.multiplicities[k]]
            simulation.seed = seed
            tracks.append(simulation.chunk(number, 1, number))
            noise.append(simulation.noise(number, 1, number))
        return events_of(concatenate(tracks), NoiseHits.joined(noise), self.detector)
