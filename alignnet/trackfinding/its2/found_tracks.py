"""A file of hits to a file of found tracks, which an alignment reads as it reads any other.

The hits are those of trees `tracks` and `noise`; which track a hit is of is not looked at, except for figures
of merit where the file has the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from alignnet.data.noise import NoiseHits
from alignnet.data.root_noise import NoiseFile, has_noise
from alignnet.data.root_tracks import iterate_tracks
from alignnet.data.tracks import Array, Tracks
from alignnet.geometry.detector import Detector
from alignnet.trackfinding.its2.events import events_of
from alignnet.trackfinding.its2.finder import Finder, Found
from alignnet.trackfinding.its2.fit import Fitted, as_tracks
from alignnet.trackfinding.its2.hits import Hits, hits_of
from alignnet.trackfinding.its2.scoring import edge_scores, track_scores, values
from alignnet.trackfinding.metrics import Mean, joined


@dataclass
class Tally:
    """What finding has come to over the chunks of a file."""

    scores: dict[str, Mean] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    events: int = 0

    def add(self, found: Found, hits: Hits, scores: dict[str, Mean]) -> None:
        """Count a chunk."""
        self.scores = joined(self.scores, scores)
        self.events += hits.n_events
        for name, spent in found.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def figures(self) -> dict[str, float]:
        """Figures of merit, where there is a truth, and the time an event."""
        spent = {f"seconds_per_event/{k}": v / max(self.events, 1) for k, v in self.seconds.items()}
        return {**values(self.scores), **spent, "events": float(self.events)}


def found_tracks(
    path: str | Path, nominal: Detector, finder: Finder, tally: Tally, step: int = 2000
) -> Iterator[Tracks]:
    """Tracks found in the events of a file, chunk by chunk.

    Args:
        path: a file of docs/data-format.md.
        nominal: what its hits refer to; the finder's own detector stands where it is believed to be.
        finder: finds tracks.
        tally: to which figures of merit and times are added.
        step: about so many tracks of the file are read at once.

    Raises:
        SchemaError: the file does not follow the schema.
    """
    noise = NoiseFile(path, nominal) if has_noise(path) else None
    for tracks in iterate_tracks(path, nominal, step):
        numbers = np.unique(tracks.event)
        free = NoiseHits.none() if noise is None else noise.of(numbers)
        hits = hits_of(tracks, free, finder.builder.detector, numbers)
        found = finder(hits)
        tally.add(found, hits, scores_of(found, hits, tracks, free, finder))
        yield in_file_order(hits, found.tracks, numbers)


def scores_of(found: Found, hits: Hits, tracks: Tracks, noise: NoiseHits, finder: Finder) -> dict[str, Mean]:
    """Figures of merit of a chunk; none where the file has no truth."""
    if "momentum" not in tracks.truth:
        return {}
    events = events_of(tracks, noise, finder.builder.detector)
    pt = finder.fit.transverse_momentum(found.tracks)
    edges = edge_scores(hits, found.graph, found.score > finder.threshold, finder.builder.skip)
    return {**track_scores(hits, found.tracks.chain, pt, events.particles), **edges}


def in_file_order(hits: Hits, found: Fitted, numbers: Array) -> Tracks:
    """Found tracks as `Tracks`, by event, with the events' numbers in the file, and as collision tracks."""
    order = torch.argsort(hits.event[found.chain[:, 0]], stable=True) if len(found.chain) else None
    chain = found.chain if order is None else found.chain[order]
    tracks = as_tracks(hits, chain)
    return replace(tracks, event=numbers[tracks.event], kind=np.zeros(len(tracks), dtype=np.int8))
