"""What the network sees of edges and cells: numbers of order 1 that rotations and reflections do not change.

Nothing depends on the azimuth of an event's axes. κ and tan λ enter by their magnitudes, and differences by
whether they make these grow, so that mirror images (φ → −φ with charges exchanged, z → −z) look the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alignnet.trackfinding.its2.graph import Graph
from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.tracklets import Errors

N_EDGE, N_CELL = 16, 14
_LAYERS = 7


def edge_features(hits: Hits, graph: Graph, errors: Errors) -> Tensor:
    """Of each edge (edges, N_EDGE) float32.

    Seven are 1 for the layer of the inner hit and 0 for the others, then: 1 where a layer is skipped; radius
    and |z| of the inner hit; |κ| in units of the largest; |tan λ|; the logarithm of κ's error; z₀ from the
    vertex in units of its error, with the sign of tan λ, and 1 where no vertex is known; the logarithm of the
    number of hits.
    """
    inner, outer = graph.pairs
    found = graph.tracklets
    kappa, dip = found.kappa, found.tan_lambda
    limit = errors.kappa_max
    sigma = errors.of_kappa(hits, graph.pairs, kappa, dip)
    nowhere = torch.full_like(kappa, torch.nan)
    vertex = nowhere if graph.vertex_z is None else graph.vertex_z[hits.event[inner]]
    off = (found.z0 - vertex) / errors.of_z0(hits, graph.pairs, kappa.abs() + sigma, dip)
    off = torch.where(dip < 0, -off, off).clamp(-8, 8).nan_to_num(0.0) / 4
    count = torch.bincount(hits.event, minlength=1).double()
    columns = [
        (hits.layer[outer] - hits.layer[inner] > 1).double(),
        hits.radius[inner] / 40,
        hits.z[inner].abs() / 40,
        (kappa.abs() / limit).clamp_max(4),
        dip.abs().clamp_max(8),
        (sigma / limit).log().clamp(-8, 4) / 4,
        off,
        vertex.isnan().double(),
        count[hits.event[inner]].clamp_min(1).log() / 10,
    ]
    return torch.cat([F.one_hot(hits.layer[inner], _LAYERS), torch.stack(columns, -1)], -1).float()


def cell_features(hits: Hits, graph: Graph, errors: Errors) -> Tensor:
    """Of each cell (cells, N_CELL) float32.

    Seven are 1 for the layer of the middle hit, then: the pulls of curvature and dip, their magnitudes, the
    root of the sum of their squares, |κ| of the outer edge, and whether one of the edges skips a layer.
    """
    cells, (first, second) = graph.cells, hits.layer[graph.pairs]
    span = second - first
    pulls = torch.stack([cells.pull_kappa, cells.pull_dip], -1) / 4
    kappa = (graph.tracklets.kappa[cells.outer].abs() / errors.kappa_max).clamp_max(4)
    skips = (span[cells.inner] + span[cells.outer] > 2).double()
    more = torch.stack([pulls.norm(dim=-1), kappa, skips], -1)
    middle = F.one_hot(second[cells.inner], _LAYERS)
    return torch.cat([middle, pulls, pulls.abs(), more], -1).float()
