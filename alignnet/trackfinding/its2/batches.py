"""Graphs of simulated events to train on: of few tracks or many, with a vertex or without, aligned or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import misaligned
from alignnet.trackfinding.its2.events import Particles, SimulatedEvents
from alignnet.trackfinding.its2.features import cell_features, edge_features
from alignnet.trackfinding.its2.graph import Graph, GraphBuilder, true_edges
from alignnet.trackfinding.its2.hits import Hits, global_position, in_order


class TrackGraphs(NamedTuple):
    """Graphs of events as a network sees them, and the truth."""

    hits: Hits
    particles: Particles
    graph: Graph
    edge: Tensor  # features of edges (edges, N_EDGE) float32
    cell: Tensor  # features of cells (cells, N_CELL) float32
    truth: Tensor  # (edges,) float32: 1 where true
    skips: bool  # whether there are edges that skip a layer
    systematic: float  # [cm] what the errors of hits were enlarged by

    @property
    def n_events(self) -> int:
        """How many events there are."""
        return self.hits.n_events


class GraphEvents:
    """Draws graphs.

    Args:
        events: simulated events; their sensors are where they are believed to be.
        builders: arguments of `GraphBuilder` but the detector; each batch takes one of them at random. With a
            `systematic`, staves are believed to be off their places by as much (Gaussian, in u, v and w).

    Raises:
        ConfigError: there is no builder, or a value cannot be used.
    """

    def __init__(
        self,
        events: SimulatedEvents,
        builders: Sequence[Mapping[str, Any]] = ({},),
    ) -> None:
        if not builders:
            raise ConfigError("graphs: builders is empty; expected arguments of a GraphBuilder, or {}")
        self.events = events
        try:
            self.builders = [GraphBuilder(events.detector, **settings) for settings in builders]
        except TypeError as error:
            raise ConfigError(f"graphs: {error}") from error
        self.stave = events.detector.groups("stave")[0]

    def sample(self, n_events: int, rng: torch.Generator) -> TrackGraphs:
        """So many events, which depend on the generator's state alone."""
        builder = self.builders[int(torch.randint(len(self.builders), (1,), generator=rng))]
        found = self.events.draw(n_events, rng)
        hits = found.hits
        if builder.systematic:
            hits = seen_by(self._believed(builder.systematic, rng), hits)
        return graphs_of(hits, found.particles, builder)

    def _believed(self, systematic: float, rng: torch.Generator) -> Detector:
        """Where sensors are believed to be, by whom staves have been displaced."""
        n_staves = int(self.stave.max()) + 1
        local = torch.zeros(len(self.stave), 6, dtype=torch.float64)
        moved = systematic * torch.randn(n_staves, 3, generator=rng, dtype=torch.float64)
        local[:, :3] = moved[self.stave]
        return misaligned(self.events.detector, local)


def graphs_of(hits: Hits, particles: Particles, builder: GraphBuilder) -> TrackGraphs:
    """The graphs of events with their features."""
    graph, errors = builder(hits), builder.windows.errors
    edge, cell = edge_features(hits, graph, errors), cell_features(hits, graph, errors)
    truth = true_edges(hits, graph.pairs).float()
    return TrackGraphs(hits, particles, graph, edge, cell, truth, builder.skip, builder.systematic)


def seen_by(detector: Detector, hits: Hits) -> Hits:
    """The same hits where another detector has their sensors."""
    return in_order(hits._replace(position=global_position(detector, hits.sensor, hits.uv)))
