"""Tracks and hits in memory: one flat table of hits, and for each track where its hits begin.

`Tracks` is what a file holds (numpy, so that it can be memory-mapped); `Batch` is what a loss sees (torch,
padded to the longest track of the batch, because the correlated noise model needs one small matrix a track).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Tracks:
    """Reconstructed tracks as flat tables; hits of track t are rows offset[t]:offset[t+1].

    Args:
        event: event number of each track, int64 (tracks,); tracks of one event are adjacent.
        offset: first hit of each track and the total, int64 (tracks + 1,).
        sensor: row of the hit's sensor in the `Detector`, int64 (hits,).
        uv: measured local position [cm], float64 (hits, 2).
        sigma: its intrinsic resolution [cm], float64 (hits, 2).
        vertex: the event's primary vertex [cm], float64 (tracks, 3), or None.
        vertex_cov: its covariance xx, xy, yy, xz, yz, zz [cm²], float64 (tracks, 6), or None.
        p: momentum estimate [GeV/c], float64 (tracks,), or None.
        mass: [GeV/c²], float64 (tracks,), or None (pion).
        kind: 0 collision, 1 cosmic, 2 beam, int8 (tracks,), or None.
        truth: the `truth_*` columns of simulated tracks without that prefix: position (tracks, 3), momentum
            (tracks, 3), q (tracks,), pdg (tracks,), hit_uv (hits, 2); of collisions with decays vertex
            (tracks, 3), mother (tracks,), mother_pdg (tracks,) too.
    """

    event: Array
    offset: Array
    sensor: Array
    uv: Array
    sigma: Array
    vertex: Array | None = None
    vertex_cov: Array | None = None
    p: Array | None = None
    mass: Array | None = None
    kind: Array | None = None
    truth: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.event)

    @property
    def n_hits(self) -> int:
        """Number of hits of all tracks."""
        return len(self.sensor)

    @property
    def hits_per_track(self) -> Array:
        """Number of hits of each track, (tracks,)."""
        return np.diff(self.offset)

    @property
    def track_of_hit(self) -> Array:
        """Row of each hit's track, (hits,)."""
        return np.repeat(np.arange(len(self)), self.hits_per_track)

    def select(self, rows: Array) -> Tracks:
        """The given tracks (a boolean mask, or rows in any order) with their hits."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        count = self.hits_per_track[rows]
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        hits = np.repeat(self.offset[:-1][rows] - offset[:-1], count) + np.arange(offset[-1])
        columns: dict[str, Any] = {
            k: None if (v := getattr(self, k)) is None else v[rows] for k in _PER_TRACK
        }
        truth = {k: v[hits] if k.startswith("hit_") else v[rows] for k, v in self.truth.items()}
        per_hit = {k: getattr(self, k)[hits] for k in _PER_HIT}
        return Tracks(offset=offset, truth=truth, **columns, **per_hit)

    def select_hits(self, keep: Array) -> Tracks:
        """The same tracks with only the hits of the boolean mask `keep` (hits,)."""
        count = np.bincount(self.track_of_hit[keep], minlength=len(self))
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        truth = {k: v[keep] if k.startswith("hit_") else v for k, v in self.truth.items()}
        return replace(self, offset=offset, truth=truth, **{k: getattr(self, k)[keep] for k in _PER_HIT})


_PER_TRACK = ("event", "vertex", "vertex_cov", "p", "mass", "kind")
_PER_HIT = ("sensor", "uv", "sigma")


def concatenate(parts: Sequence[Tracks]) -> Tracks:
    """Join tables of tracks; a column that any part lacks is dropped."""
    shift = np.cumsum([0, *[part.n_hits for part in parts]])
    offsets = [part.offset[:-1] + s for part, s in zip(parts, shift[:-1], strict=True)]
    columns: dict[str, Any] = {
        k: _joined([getattr(part, k) for part in parts]) for k in (*_PER_TRACK, *_PER_HIT)
    }
    shared = set.intersection(*[set(part.truth) for part in parts])
    truth = {k: np.concatenate([part.truth[k] for part in parts]) for k in sorted(shared)}
    return Tracks(offset=np.concatenate([*offsets, shift[-1:]]).astype(np.int64), truth=truth, **columns)


def _joined(columns: list[Array | None]) -> Array | None:
    present = [column for column in columns if column is not None]
    return np.concatenate(present) if len(present) == len(columns) else None
