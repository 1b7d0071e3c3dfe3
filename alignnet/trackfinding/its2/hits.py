"""All hits of some events in one flat table, in order of event, layer and azimuth, and what made them.

Finders see a hit's place where the sensors are believed to be; which particle made it is kept for training
and for figures of merit only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.noise import NoiseHits
from alignnet.data.tracks import Array, Tracks
from alignnet.geometry.detector import Detector

NOISE = -1
"""The particle of a hit that none has made."""


class Hits(NamedTuple):
    """Hits of events 0, 1, …, sorted by event, layer and azimuth."""

    event: Tensor  # (hits,) int64, from 0
    layer: Tensor  # (hits,) int64, from 0, inside out
    sensor: Tensor  # (hits,) int64, row of the detector
    uv: Tensor  # (hits, 2) measured local position [cm]
    sigma: Tensor  # (hits, 2) its resolution [cm]
    position: Tensor  # (hits, 3) global position [cm]
    particle: Tensor  # (hits,) int64, row of the track that made it, or NOISE

    @property
    def n_hits(self) -> int:
        """How many hits there are."""
        return len(self.event)

    @property
    def radius(self) -> Tensor:
        """Distance from the z axis, (hits,) [cm]."""
        return self.position[:, :2].norm(dim=-1)

    @property
    def phi(self) -> Tensor:
        """Azimuth in (−π, π], (hits,)."""
        return torch.atan2(self.position[:, 1], self.position[:, 0])

    @property
    def z(self) -> Tensor:
        """Position along the beam line, (hits,) [cm]."""
        return self.position[:, 2]

    @property
    def n_events(self) -> int:
        """How many events there are, counted up to the last one with a hit."""
        return int(self.event.max()) + 1 if len(self.event) else 0

    def take(self, rows: Tensor) -> Hits:
        """Some of the hits, or the same ones in another order."""
        return Hits(*(column[rows] for column in self))


def hits_of(tracks: Tracks, noise: NoiseHits, detector: Detector, event_numbers: Array) -> Hits:
    """All hits of some events, those of tracks and those of none.

    Args:
        tracks: what particles made; the row of a track is the number of its particle.
        noise: what no particle made.
        detector: where the sensors are believed to be.
        event_numbers: of the events, ascending; hits of others are left out.
    """
    event = np.concatenate([tracks.event[tracks.track_of_hit], noise.event])
    sensor = torch.from_numpy(np.concatenate([tracks.sensor, noise.sensor]).astype(np.int64))
    uv = torch.from_numpy(np.concatenate([tracks.uv, noise.uv]))
    sigma = torch.from_numpy(np.concatenate([tracks.sigma, noise.sigma]).astype(np.float64))
    particle = np.concatenate([tracks.track_of_hit, np.full(len(noise), NOISE)])
    rank = np.searchsorted(event_numbers, event).clip(max=max(len(event_numbers) - 1, 0))
    known = torch.from_numpy(event_numbers[rank] == event)
    number = {layer: k for k, layer in enumerate(detector.layers)}
    layer = torch.tensor([number[layer] for layer in detector.layer.tolist()])[sensor]
    position = global_position(detector, sensor, uv)
    found = Hits(torch.from_numpy(rank), layer, sensor, uv, sigma, position, torch.from_numpy(particle))
    return in_order(found.take(known.nonzero().squeeze(-1)))


def in_order(hits: Hits) -> Hits:
    """The hits by event, layer and azimuth."""
    order = np.lexsort((hits.phi.numpy(), hits.layer.numpy(), hits.event.numpy()))
    return hits.take(torch.from_numpy(order))


def global_position(detector: Detector, sensor: Tensor, uv: Tensor) -> Tensor:
    """Where local points (hits, 2) of sensors (hits,) are, (hits, 3) [cm]."""
    axes = detector.rotation[sensor]
    return detector.translation[sensor] + uv[:, :1] * axes[:, :, 0] + uv[:, 1:] * axes[:, :, 2]
