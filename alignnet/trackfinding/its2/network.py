"""A message-passing network that classifies edges between hits by what is before, behind and beside them.

Edges (pairs of hits) have features, which three kinds of sums change in turn: over the cells in which
an edge is the outer one, over those in which it is the inner one (does it go on from something, and does
something go on from it), and over the edges that begin or end in the same hits (its rivals, as a particle
leaves a layer once). A message over a cell depends on both edges and on how well they agree, and is weighed
by a gate. Changes are added to the features. Gathers and `index_add` do all of it: graphs may have any size,
and many are one flat table.

Interaction networks (Battaglia et al., 2016) classify edges of hit graphs since HEP.TrkX (arXiv:1810.06111);
here messages go from edge to edge: whether two edges agree is known well, and a single hit says little.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignnet.trackfinding.its2.features import N_CELL, N_EDGE
from alignnet.trackfinding.its2.graph import Graph


class Links(NamedTuple):
    """How the edges of a graph hang together; all int64."""

    pairs: Tensor  # (2, edges) rows of inner and outer hits
    inner: Tensor  # (cells,) rows of inner edges
    outer: Tensor  # (cells,) rows of outer edges

    @classmethod
    def of(cls, graph: Graph) -> Links:
        """Of a graph."""
        return cls(graph.pairs, graph.cells.inner, graph.cells.outer)


class TrackletNetwork(nn.Module):
    """Classifies edges; 26,589 parameters with 42 features and one set of weights for all turns.

    Args:
        hidden: features of an edge.
        iterations: turns.
    """

    def __init__(self, hidden: int = 42, iterations: int = 4) -> None:
        super().__init__()
        self.hidden, self.iterations = hidden, iterations
        self.embed = two_layers(N_EDGE, hidden, hidden)
        self.message = two_layers(2 * hidden + N_CELL, hidden, 2 * hidden + 2)
        self.rival = nn.Linear(hidden, 2 * hidden)
        self.update = two_layers(5 * hidden, hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.score = two_layers(hidden, hidden, 1)

    def forward(self, links: Links, edge: Tensor, cell: Tensor) -> Tensor:
        """Logits of edges (edges,).

        Args:
            links: what is joined to what.
            edge: features of edges (edges, N_EDGE).
            cell: features of cells (cells, N_CELL).
        """
        h = self.embed(edge)
        for _ in range(self.iterations):
            from_inside, from_outside = self._along(h, links, cell)
            rivals = self._rivals(h, links)
            h = h + self.update(torch.cat([self.norm(h), from_inside, from_outside, *rivals], -1))
        return self.score(self.norm(h))[:, 0]

    def _along(self, h: Tensor, links: Links, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the messages that edges get over cells, from the inside and from the outside."""
        joined = torch.cat([h.index_select(0, links.inner), h.index_select(0, links.outer), cell], -1)
        out, back, gates = self.message(joined).split([self.hidden, self.hidden, 2], -1)
        gate_out, gate_back = gates.sigmoid().split(1, -1)
        nothing = torch.zeros_like(h)
        return (
            nothing.index_add(0, links.outer, gate_out * out),
            nothing.index_add(0, links.inner, gate_back * back),
        )

    def _rivals(self, h: Tensor, links: Links) -> list[Tensor]:
        """Sums over the other edges that begin in the same hit, and over those that end in the same hit."""
        n_hits = int(links.pairs.max()) + 1 if links.pairs.numel() else 0
        shares = self.rival(h).relu().split(self.hidden, -1)
        sums = []
        for hit, share in zip(links.pairs, shares, strict=True):
            total = share.new_zeros(n_hits, self.hidden).index_add(0, hit, share)
            sums.append(total.index_select(0, hit) - share)
        return sums


def two_layers(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """A hidden layer with rectifiers, and what follows from it."""
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))
