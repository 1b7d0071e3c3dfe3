"""From hits to tracks: a graph, the edges that are kept, chains of them, helices, each hit to one track.

What a network and an automaton do differently is which edges they keep; all else is the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.trackfinding.its2.ambiguities import quality_of, resolved
from alignnet.trackfinding.its2.features import cell_features, edge_features
from alignnet.trackfinding.its2.fit import Fitted, TrackFit, joined
from alignnet.trackfinding.its2.graph import Graph, GraphBuilder
from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.network import Links, TrackletNetwork
from alignnet.trackfinding.its2.overlaps import with_overlaps
from alignnet.trackfinding.its2.roads import roads, without_one

EdgeScorer = Callable[[Hits, Graph], Tensor]
"""Gives each edge of a graph a score from 0 to 1, (edges,)."""


class Found(NamedTuple):
    """What a finder has made of some events."""

    tracks: Fitted
    graph: Graph
    score: Tensor  # (edges,) of the graph's edges, 0 to 1
    seconds: dict[str, float]  # of this process, by what they were spent on


class NetworkScorer:
    """Scores edges with a network.

    Args:
        network: trained on graphs of a builder with the same settings.
        builder: whose errors the features are in units of.
    """

    def __init__(self, network: TrackletNetwork, builder: GraphBuilder) -> None:
        self.network, self.errors = network.eval(), builder.windows.errors

    @torch.no_grad()
    def __call__(self, hits: Hits, graph: Graph) -> Tensor:
        """The probability of each edge to be true, (edges,)."""
        edge, cell = edge_features(hits, graph, self.errors), cell_features(hits, graph, self.errors)
        return self.network(Links.of(graph), edge, cell).sigmoid().double()


@dataclass(frozen=True)
class Finder:
    """Finds tracks.

    Args:
        builder: of graphs.
        scorer: of edges.
        fit: of chains of hits.
        threshold: edges with a higher score are kept.
        cell_limit: largest pull between edges of a chain.
        min_hits: layers with a hit in a track.
        max_chi2_per_ndf: of a track. A longer chain beyond it is tried again without each of its hits.
        overlaps: take up second hits in a layer, where sensors overlap.

    Raises:
        ConfigError: a value cannot be used.
    """

    builder: GraphBuilder
    scorer: EdgeScorer
    fit: TrackFit
    threshold: float = 0.5
    cell_limit: float = 8.0
    min_hits: int = 5
    max_chi2_per_ndf: float = 4.0
    overlaps: bool = True

    def __post_init__(self) -> None:
        if self.min_hits < 4:
            raise ConfigError(f"finder: min_hits is {self.min_hits}; expected 4 or more, three fit any helix")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"finder: threshold is {self.threshold}; expected a score from 0 to below 1")

    def __call__(self, hits: Hits) -> Found:
        """The tracks of events, in any number at once."""
        clock = Clock()
        graph = self.builder(hits)
        clock.add("graph")
        score = self.scorer(hits, graph)
        clock.add("edges")
        tracks = self.from_edges(hits, graph, score)
        clock.add("tracks")
        return Found(tracks, graph, score, clock.seconds)

    def from_edges(self, hits: Hits, graph: Graph, score: Tensor) -> Fitted:
        """Tracks of edges that have their scores."""
        tracks = self.resolve(hits, self.candidates(hits, self.chains(graph, score)))
        if self.overlaps:
            tracks = with_overlaps(hits, tracks, self.fit, self.max_chi2_per_ndf)
        return tracks

    def chains(self, graph: Graph, score: Tensor) -> Tensor:
        """Chains of hits over edges that are kept, (chains, layers), −1 after the last hit."""
        kept = score > self.threshold
        cells = graph.cells.within(self.cell_limit)
        cells = cells.take((kept[cells.inner] & kept[cells.outer]).nonzero().squeeze(-1))
        return roads(graph.pairs, cells, len(self.builder.detector.layers), self.min_hits)

    def candidates(self, hits: Hits, chains: Tensor) -> Fitted:
        """Chains that are good tracks, and those that are without one of their hits."""
        fitted = self.fit(hits, chains)
        good = self.is_good(fitted)
        shorter = self.fit(hits, without_one(chains[~good], self.min_hits))
        better = shorter.take(self.is_good(shorter).nonzero().squeeze(-1))
        return joined(fitted.take(good.nonzero().squeeze(-1)), better)

    def is_good(self, fitted: Fitted) -> Tensor:
        """Whether fits are those of tracks (tracks,)."""
        return fitted.ok & (fitted.chi2 < self.max_chi2_per_ndf * fitted.ndf)

    def resolve(self, hits: Hits, candidates: Fitted) -> Fitted:
        """Candidates that share no hit."""
        quality = quality_of(candidates.n_hits, candidates.chi2, candidates.ndf)
        return candidates.take(resolved(candidates.chain, quality, hits.n_hits))


class Clock:
    """Adds up this process's time, of all its threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def add(self, name: str) -> None:
        """Put the time since the last call to a name."""
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
