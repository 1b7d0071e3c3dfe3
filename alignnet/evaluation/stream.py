"""One pass over tracks for every number of an evaluation: fitted in each geometry, added up, and forgotten.

Batches are dealt to as many threads as torch may use, each with sums of its own that are merged at the end:
the answer depends on the number of threads by rounding only, and memory not on the number of tracks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch, collate
from alignnet.data.event_table import Events, EventTable
from alignnet.data.tracks import Tracks
from alignnet.evaluation.fitted_tracks import FittedTracks, FreeTracks, TrackFitter
from alignnet.evaluation.overlap_pairs import pairs_of
from alignnet.evaluation.places import Places
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.physics.jit import in_threads

BATCH_EVENTS = 1000


@dataclass
class Passed:
    """A batch in all geometries."""

    batch: Batch
    fitted: dict[str, FittedTracks]
    true_vertex: Tensor | None  # of simulated collisions (tracks, 3) [cm]
    places: dict[str, Places]

    def free(self, name: str) -> FreeTracks:
        """Tracks fitted to their hits alone."""
        found = self.fitted[name].free
        assert found is not None
        return found

    def used(self, name: str) -> FreeTracks:
        """The same; usable are only those that have weight in the cost."""
        free = self.free(name)
        return replace(free, usable=free.usable & (self.fitted[name].weight > 0))

    def points(self, name: str) -> Tensor:
        """Measured positions (tracks, hits, 3) [cm]."""
        return self.places[name].planes(self.batch).origin


class Sums(Protocol):
    """What is kept of tracks."""

    def add(self, passed: Passed) -> None:
        """Add the tracks of a batch."""
        ...

    def merge(self, other: Self) -> None:
        """Add what another has seen of other tracks."""
        ...


class TrackStream:
    """Tracks that go by once, fitted in several geometries.

    Args:
        loss: the cost.
        detector: the nominal places.
        tracks: whole events, in memory or read as they go by.
        geometries: local sixes (sensors, 6) by name.
        free: fit tracks to their hits alone too.
        overlaps: leave out pairs of overlapping hits together, too.
        max_chi2_per_ndf: leave out tracks with a larger χ²/ν in the geometry `judge`.
        judge: the geometry that says so.
    """

    def __init__(
        self,
        loss: HelixChi2,
        detector: Detector,
        tracks: Tracks | EventTable,
        geometries: Mapping[str, Tensor],
        free: bool = True,
        overlaps: bool = True,
        max_chi2_per_ndf: float | None = None,
        judge: str = "after",
    ) -> None:
        self.events = events_of(tracks, detector)
        self._reading = threading.Lock()
        self.fitter = TrackFitter(loss, detector, free)
        self.places = {name: Places(detector, local) for name, local in geometries.items()}
        self.detector, self.overlaps = detector, overlaps
        self.limit, self.judge = max_chi2_per_ndf, judge
        self.n_rejected = 0

    def run(self, make: Callable[[], Mapping[str, Sums]]) -> dict[str, Any]:
        """Everything that goes by, added to the sums that `make` makes."""
        threads, n = torch.get_num_threads(), -(-len(self.events) // BATCH_EVENTS)
        parts = max(1, min(threads, n))
        torch.set_num_threads(1)  # a batch in each thread needs no more
        try:
            shares = [(dict(make()), range(k, n, parts)) for k in range(parts)]
            done = in_threads(self._some, shares)
        finally:
            torch.set_num_threads(threads)
        sums, self.n_rejected = done[0][0], sum(rejected for _, rejected in done)
        for other, _ in done[1:]:
            for name, one in sums.items():
                one.merge(other[name])
        return sums

    def _some(self, sums: dict[str, Any], batches: range) -> tuple[dict[str, Any], int]:
        torch.set_num_threads(1)
        rejected = 0
        for k in batches:
            passed, lost = self.passed(k)
            rejected += lost
            for one in sums.values():
                if passed.batch.n_tracks:
                    one.add(passed)
        return sums, rejected

    def passed(self, k: int) -> tuple[Passed, int]:
        """Batch number k, and how many of its tracks are left out."""
        rows = np.arange(k * BATCH_EVENTS, min((k + 1) * BATCH_EVENTS, len(self.events)))
        with self._reading:  # blocks of a cache come and go
            tracks = self.events.of(rows)
        batch, lost, truth = collate(tracks, self.detector, self.events.cylinders), 0, tracks.truth
        known = truth.get("vertex", truth.get("position"))  # of the collision, not of a decay
        vertex = None if known is None else torch.from_numpy(known)
        if self.limit is not None:
            fitted = self.fitter(self.places[self.judge], batch)
            kept = (fitted.chi2 <= self.limit * fitted.ndf).nonzero().squeeze(-1)
            lost = batch.n_tracks - len(kept)
            batch, vertex = batch.take(kept), None if vertex is None else vertex[kept]
        pairs = pairs_of(batch, self.detector) if self.overlaps else None
        fitted_in = {name: self.fitter(place, batch, pairs=pairs) for name, place in self.places.items()}
        return Passed(batch, fitted_in, vertex, self.places), lost


def events_of(tracks: Tracks | EventTable, detector: Detector) -> EventTable:
    """The events of tracks in memory, or those given."""
    return Events(tracks, detector) if isinstance(tracks, Tracks) else tracks
