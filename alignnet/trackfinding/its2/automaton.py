"""The classical finder of links: a cellular automaton, as in ALICE O2's ITS tracking.

A tracklet is kept if it is part of a chain of tracklets that agree one with the next, within so many of their
errors, and that is long enough for a track.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alignnet.trackfinding.its2.graph import Graph
from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.roads import chain_lengths


@dataclass(frozen=True)
class Automaton:
    """Scores edges by the chains that they are part of.

    Args:
        n_sigma: largest pull of curvature and of dip between tracklets that agree.
        min_hits: of a chain.
    """

    n_sigma: float = 5.0
    min_hits: int = 5

    def __call__(self, hits: Hits, graph: Graph) -> Tensor:
        """1 for edges of long chains and 0 for others, (edges,)."""
        n_layers = int(hits.layer.max()) + 1 if hits.n_hits else 2
        cells = graph.cells.within(self.n_sigma)
        inwards, outwards = chain_lengths(cells, graph.n_edges, n_layers)
        return (inwards + outwards >= self.min_hits).double()
