"""Batches of toy events: what a system sees, and the truth that it is scored with.

Positions are in pixels, layers are numbered from 0; a track is a straight line, its hit in layer l the pixel
floor(entry + slope · l). There is no momentum, no scattering and no inefficiency in these toys.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class SeededEvents(NamedTuple):
    """Events whose seed layers hold one track alone; its hits in the other layers are to be found."""

    image: Tensor  # (events, layers, pixels) or (events, layers, pixels, pixels), float32: 1 where lit
    pixel: Tensor  # (events, layers) int64: the track's pixel, numbered along the flattened layer
    line: Tensor  # (events, 2) entry, slope; in 3D (events, 4) both coordinates' entries, then slopes


class LineEvents(NamedTuple):
    """Images of several tracks, with the lines that made them, by rising intercept."""

    image: Tensor  # (events, layers, pixels) float32: 1 where lit
    clean: Tensor  # the same without noise
    lines: Tensor  # (events, tracks, 2) intercept [pixels], slope [pixels a layer]; 0 where absent
    present: Tensor  # (events, tracks) bool: which are tracks; these come first


class SegmentGraphs(NamedTuple):
    """Graphs of hits, with edges between hits of adjacent layers; all graphs in one flat table."""

    hits: Tensor  # (hits, features) float32, of order 1
    edges: Tensor  # (2, edges) int64: row of the inner and of the outer hit
    truth: Tensor  # (edges,) float32: 1 where both are of one track
    graph: Tensor  # (hits,) int64: number of the event


Batch = SeededEvents | LineEvents | SegmentGraphs


class Toy(Protocol):
    """A toy detector: draws events."""

    def sample(self, n_events: int, rng: torch.Generator) -> Batch:
        """So many events, which depend on the generator's state alone."""
        ...


def n_events_of(batch: Any) -> int:
    """How many events a batch has."""
    if hasattr(batch, "n_events"):
        return int(batch.n_events)
    if isinstance(batch, SegmentGraphs):
        return int(batch.graph.max()) + 1 if len(batch.graph) else 0
    return len(batch.image)
