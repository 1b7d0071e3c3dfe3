"""Noise: hits that no particle made, and that belong to no track.

Each sensor has a Poisson number of them an event, the same mean for all, evenly over its active area. They
are kept beside the tracks, whose hits they leave as they are: what looks for tracks takes both, what aligns
takes tracks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignnet.data.streams import Streams
from alignnet.data.tracks import Array
from alignnet.geometry.detector import Detector

NOISE = 5000
"""The purpose for which noise draws random numbers."""


@dataclass(frozen=True)
class NoiseHits:
    """Hits that belong to no track.

    Args:
        event: event number, int64 (hits,), ascending.
        sensor: row in the `Detector`, int64 (hits,).
        uv: local position [cm], float64 (hits, 2).
        sigma: its resolution [cm], float64 (hits, 2).
    """

    event: Array
    sensor: Array
    uv: Array
    sigma: Array

    def __len__(self) -> int:
        return len(self.event)

    def select(self, rows: Array) -> NoiseHits:
        """Some of the hits."""
        return NoiseHits(self.event[rows], self.sensor[rows], self.uv[rows], self.sigma[rows])

    @classmethod
    def joined(cls, parts: Sequence[NoiseHits]) -> NoiseHits:
        """Several tables as one."""
        columns = zip(*((part.event, part.sensor, part.uv, part.sigma) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    @classmethod
    def none(cls) -> NoiseHits:
        """No hits."""
        whole, pairs = np.zeros(0, dtype=np.int64), np.zeros((0, 2))
        return cls(whole, whole, pairs, pairs)


def noise_hits(
    detector: Detector,
    n_events: int,
    first_event: int,
    mean: float,
    resolution: Sequence[float],
    streams: Streams,
) -> NoiseHits:
    """Noise of some events.

    Args:
        detector: in whose sensors it is.
        n_events: events, numbered from `first_event`.
        first_event: number of the first one.
        mean: hits per sensor and event.
        resolution: σ of u and v [cm], which a hit says it has.
        streams: of these events.
    """
    count = streams.poisson(n_events, mean * len(detector), NOISE).numpy()
    total = int(count.sum())
    even = streams.uniform(total, 3, NOISE).numpy()
    event = np.repeat(np.arange(n_events), count)
    sensor = (even[:, 0] * len(detector)).astype(np.int64)
    centre, half = detector.centre.numpy()[sensor], detector.half.numpy()[sensor]
    order = np.lexsort((sensor, event))
    uv = centre + half * (2 * even[:, 1:] - 1)
    sigma = np.broadcast_to(np.asarray(resolution, dtype=np.float64), (total, 2)).copy()
    return NoiseHits(event + first_event, sensor, uv, sigma).select(order)
