"""What the network is trained for, edges between successive hits of one particle, and tracks made of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.geometry.its2 import its2
from alignnet.trackfinding.its2.automaton import Automaton
from alignnet.trackfinding.its2.batches import TrackGraphs
from alignnet.trackfinding.its2.finder import Finder
from alignnet.trackfinding.its2.fit import TrackFit
from alignnet.trackfinding.its2.graph import GraphBuilder
from alignnet.trackfinding.its2.network import Links
from alignnet.trackfinding.its2.pictures import event_display
from alignnet.trackfinding.its2.scoring import edge_scores, track_scores
from alignnet.trackfinding.metrics import Mean


class EdgeAnswer(NamedTuple):
    """Scores of edges, and how tightly chains of those that are kept must agree."""

    score: Tensor  # (edges,) 0 to 1; above one half they are kept
    cell_limit: float  # largest pull between edges of a chain


class TrackEdges:
    """Binary cross-entropy of edges.

    Args:
        tracks: build tracks too, fit them, and score them; otherwise edges alone.
        b_z: field along z [T].
    """

    merits: tuple[str, ...] = ("loss", "edge_purity", "edge_efficiency")

    def __init__(self, tracks: bool = True, b_z: float = 0.5) -> None:
        self.detector = its2(b_z=b_z)
        self.tracks = tracks

    def output(self, system: nn.Module, batch: TrackGraphs) -> Tensor:
        """Logits of edges (edges,)."""
        logits: Tensor = system(Links.of(batch.graph), batch.edge, batch.cell)
        return logits

    def loss(self, output: Tensor, batch: TrackGraphs) -> Tensor:
        """A mean over edges."""
        return F.binary_cross_entropy_with_logits(output, batch.truth)

    def answer(self, output: Tensor, batch: TrackGraphs) -> EdgeAnswer:
        """Probabilities of edges to be true."""
        return EdgeAnswer(output.detach().sigmoid(), 8.0)

    def score(self, answer: EdgeAnswer, batch: TrackGraphs) -> dict[str, Mean]:
        """Purity and efficiency of edges; efficiency, fakes and duplicates of tracks."""
        scores = edge_scores(batch.hits, batch.graph, answer.score > 0.5, batch.skips)
        # Tracks are fitted where the events have their sensors, and not where a systematic has put them.
        if not self.tracks or batch.systematic:
            return scores
        builder, fit = GraphBuilder(self.detector), TrackFit(self.detector)
        finder = Finder(builder, lambda hits, graph: answer.score, fit, cell_limit=answer.cell_limit)
        found = finder.from_edges(batch.hits, batch.graph, answer.score)
        pt = fit.transverse_momentum(found)
        whole = track_scores(batch.hits, found.chain, pt, batch.particles, bins=())
        return {**scores, **whole}

    def show(self, output: Tensor, batch: TrackGraphs) -> dict[str, Figure]:
        """The first event across the beam: all edges, those that are kept, and the true ones."""
        return {"event": event_display(batch, output.detach().sigmoid())}


class AutomatonBaseline:
    """The cellular automaton on the same graphs.

    Args:
        n_sigma: largest pull between tracklets that agree.
        min_hits: of a chain.
    """

    def __init__(self, n_sigma: float = 5.0, min_hits: int = 5) -> None:
        self.automaton = Automaton(n_sigma, min_hits)

    def __call__(self, batch: TrackGraphs) -> EdgeAnswer:
        """1 for edges that are kept."""
        with torch.no_grad():
            return EdgeAnswer(self.automaton(batch.hits, batch.graph), self.automaton.n_sigma)
