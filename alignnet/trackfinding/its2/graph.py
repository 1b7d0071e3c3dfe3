"""Events as graphs: hits, pairs of hits in successive layers (edges), pairs of edges that share one (cells).

A particle that left no hit in a layer is followed by pairs that skip it. Most of the pairs that skip a layer
have a hit between them that agrees with both ends; these are left out, as the chain through that hit is
there. So are edges that agree with no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.trackfinding.its2.cells import Cells, cells_of
from alignnet.trackfinding.its2.hits import NOISE, Hits
from alignnet.trackfinding.its2.pairs import Windows
from alignnet.trackfinding.its2.tracklets import Errors, Matter, Tracklets, tracklets_of
from alignnet.trackfinding.its2.vertex import vertex_z


class Graph(NamedTuple):
    """Graphs of several events, as one that falls into parts."""

    pairs: Tensor  # (2, edges) int64 rows of inner and outer hits
    tracklets: Tracklets  # of the edges
    cells: Cells  # pairs of edges that agree
    vertex_z: Tensor | None  # (events,) [cm] as found, NaN where it was not; None if not looked for

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return self.pairs.shape[1]

    def pruned(self) -> Graph:
        """The same without edges that are in no cell."""
        used = torch.zeros(self.n_edges, dtype=torch.bool)
        used[self.cells.inner] = used[self.cells.outer] = True
        row = torch.cumsum(used, 0) - 1
        cells = self.cells._replace(inner=row[self.cells.inner], outer=row[self.cells.outer])
        tracklets = Tracklets(*(column[used] for column in self.tracklets))
        return Graph(self.pairs[:, used], tracklets, cells, self.vertex_z)


@dataclass(frozen=True)
class GraphBuilder:
    """Makes graphs of hits.

    Args:
        detector: where the sensors are believed to be.
        vertex: "found" looks for one vertex an event along the beam line and takes pairs that point to it;
            "unknown" takes all within ± 25 cm.
        skip: pairs that skip a layer too.
        systematic: added in quadrature to the resolution of every hit [cm].
        pt_min: lowest transverse momentum that is looked for [GeV/c].
        n_sigma: limits of pairs, in units of their errors.
        cell_limit: largest pull of curvature and dip in a cell.

    Raises:
        ConfigError: a value cannot be used.
    """

    detector: Detector
    vertex: Literal["found", "unknown"] = "found"
    skip: bool = True
    systematic: float = 0.0
    pt_min: float = 0.2
    n_sigma: float = 4.0
    cell_limit: float = 8.0

    def __post_init__(self) -> None:
        if self.vertex not in ("found", "unknown"):
            raise ConfigError(f"graph: vertex is {self.vertex!r}; choose found or unknown")
        for name in ("pt_min", "n_sigma", "cell_limit"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"graph: {name} is {getattr(self, name)}; expected a number > 0")
        if not self.systematic >= 0:
            raise ConfigError(f"graph: systematic is {self.systematic}; expected a length >= 0 [cm]")

    @property
    def windows(self) -> Windows:
        """The windows of pairs."""
        matter = Matter.of(self.detector)
        errors = Errors(matter, self.detector.b_z, systematic=self.systematic, pt_min=self.pt_min)
        return Windows(errors, self.n_sigma, vertex_error=max(0.02, self.systematic))

    def __call__(self, hits: Hits) -> Graph:
        """The graphs of events, with all cells within the limits."""
        windows, n_layers = self.windows, len(self.detector.layers)
        vertex = vertex_z(hits, windows) if self.vertex == "found" else None
        pairs = torch.cat([windows.pairs(hits, k, k + 1, vertex) for k in range(n_layers - 1)], 1)
        if self.skip:
            skipping = [windows.pairs(hits, k, k + 2, vertex) for k in range(n_layers - 2)]
            over = self._unspanned(hits, pairs, torch.cat(skipping, 1), windows.errors)
            pairs = torch.cat([pairs, over], 1)
        found = tracklets_of(hits, pairs)
        cells = cells_of(hits, pairs, found, windows.errors, self.cell_limit)
        return Graph(pairs, found, cells, vertex).pruned()

    def _unspanned(self, hits: Hits, pairs: Tensor, skipping: Tensor, errors: Errors) -> Tensor:
        """Those of the pairs that skip a layer whose ends are not the ends of a good cell."""
        cells = cells_of(hits, pairs, tracklets_of(hits, pairs), errors, 0.5 * self.cell_limit)
        spanned = pairs[0, cells.inner] * hits.n_hits + pairs[1, cells.outer]
        return skipping[:, ~torch.isin(skipping[0] * hits.n_hits + skipping[1], spanned)]


def true_edges(hits: Hits, pairs: Tensor) -> Tensor:
    """Which pairs join successive hits of one particle (edges,) bool.

    A pair that skips a layer is true if the particle left no hit in that layer.
    """
    first, second = hits.particle[pairs]
    same = (first == second) & (first != NOISE)
    layer = hits.layer[pairs]
    passed = torch.isin(first * 64 + layer[0] + 1, hits.particle * 64 + hits.layer)
    return same & ((layer[1] - layer[0] == 1) | ~passed)


def n_true_edges(hits: Hits, skip: bool) -> int:
    """How many true pairs there are, whether or not they are in a graph."""
    made = hits.particle != NOISE
    n_layers = int(hits.layer.max()) + 1
    key = hits.particle[made] * n_layers + hits.layer[made]
    count = torch.bincount(key, minlength=(int(hits.particle.max()) + 1) * n_layers).view(-1, n_layers)
    total = (count[:, 1:] * count[:, :-1]).sum()
    if skip:
        total = total + (count[:, 2:] * count[:, :-2] * (count[:, 1:-1] == 0)).sum()
    return int(total)
