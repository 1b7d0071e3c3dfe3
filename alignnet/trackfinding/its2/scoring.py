"""Figures of merit of found tracks and edges.

* A particle is *reconstructable* if it was produced within 1 mm of the collision, across the beam line, and
  has hits in at least 5 layers.
* A track is of the particle that most of its hits are of. It is *matched* if these are more than 75 % of its
  hits ("LHC"), and *perfect* if all hits of the track are of the particle and all layers where the particle
  has hits are in the track. By *double majority* it is matched if more than half of its hits are the
  particle's and these are in more than half of the layers where the particle has hits.
* Efficiency is the fraction of reconstructable particles that a track is matched to; p_T is the particle's.
* Fake rate is the fraction of tracks that are not matched ("LHC"), duplicate rate the fraction of tracks that
  are matched to a particle which has another one already; p_T is the track's.
* Edges: purity is the fraction of kept edges that are true, efficiency the fraction of true edges that are
  kept, of all of them, those that are in no graph too. An edge is true if it joins hits of one particle in
  successive layers, or across a layer where the particle has none. Those of particles that are not
  reconstructable, or slow, count.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.trackfinding.its2.events import Particles
from alignnet.trackfinding.its2.graph import Graph, n_true_edges, true_edges
from alignnet.trackfinding.its2.hits import NOISE, Hits
from alignnet.trackfinding.metrics import Mean

PT_BINS = (0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 10.0)
"""Edges of the bins in p_T [GeV/c] of figures of merit."""

PT_MIN = 0.3
"""Lowest p_T of the figures without bins [GeV/c]."""


class Match(NamedTuple):
    """What tracks are of; each field (tracks,)."""

    particle: Tensor  # int64, which most hits are of; NOISE for tracks of noise alone
    matched: Tensor  # more than 75 % of the track's hits are the particle's
    majority: Tensor  # more than half of them, in more than half of the particle's layers
    perfect: Tensor  # all of them, in all of the particle's layers


def match(hits: Hits, chain: Tensor, particles: Particles) -> Match:
    """Compare tracks (tracks, hits), rows of hits, −1 for none, with particles."""
    is_hit = chain >= 0
    particle = torch.where(is_hit, hits.particle[chain.clamp_min(0)], NOISE)
    equal = (particle[:, :, None] == particle[:, None]) & is_hit[:, None] & (particle != NOISE)[:, :, None]
    count, column = equal.sum(-1).max(-1)
    best = particle.gather(1, column[:, None])[:, 0]
    mine = is_hit & (particle == best[:, None]) & (best != NOISE)[:, None]
    layers = torch.zeros(len(chain), 64, dtype=torch.bool)
    rows = torch.arange(len(chain))[:, None].expand_as(chain)
    layers[rows[mine], hits.layer[chain[mine]]] = True
    n_layers = layers.sum(-1)
    has = particles.n_layers[best.clamp_min(0)]
    n_hits = is_hit.sum(-1)
    return Match(
        torch.where(count > 0, best, NOISE),
        4 * count > 3 * n_hits,
        (2 * count > n_hits) & (2 * n_layers > has),
        (count == n_hits) & (n_layers == has),
    )


def track_scores(
    hits: Hits, chain: Tensor, track_pt: Tensor, particles: Particles, bins: Sequence[float] = PT_BINS
) -> dict[str, Mean]:
    """Efficiencies, fake and duplicate rates of tracks.

    Args:
        hits: of some events.
        chain: (tracks, hits) rows of hits, −1 for none.
        track_pt: as fitted (tracks,) [GeV/c].
        particles: of the same events.
        bins: edges in p_T, or none; the last bin has all beyond.

    Returns:
        "efficiency", "efficiency_majority", "efficiency_perfect", "fakes", "duplicates" above PT_MIN, and
        "efficiency/0.3-0.4" and the like in bins.
    """
    found = match(hits, chain, particles)
    target = particles.reconstructable()
    kinds = {"efficiency": found.matched, "efficiency_majority": found.majority}
    kinds |= {"efficiency_perfect": found.perfect}
    has = {name: _any_of(found.particle, good, len(target)) for name, good in kinds.items()}
    again = found.matched & ~_first_of(found.particle, found.matched)
    scores = {name: Mean.of(good[target & (particles.pt > PT_MIN)]) for name, good in has.items()}
    seen = track_pt > PT_MIN
    scores |= {"fakes": Mean.of(~found.matched[seen]), "duplicates": Mean.of(again[seen])}
    for low, high in itertools.pairwise((*bins[:-1], float("inf")) if bins else ()):
        name = f"{low:g}-{high:g}"
        of_particles = target & (particles.pt > low) & (particles.pt <= high)
        of_tracks = (track_pt > low) & (track_pt <= high)
        scores[f"efficiency/{name}"] = Mean.of(has["efficiency"][of_particles])
        scores[f"fakes/{name}"] = Mean.of(~found.matched[of_tracks])
        scores[f"duplicates/{name}"] = Mean.of(again[of_tracks])
    return scores


def edge_scores(hits: Hits, graph: Graph, kept: Tensor, skip: bool) -> dict[str, Mean]:
    """Purity and efficiency of kept edges (edges,) bool, and of the graph before.

    Args:
        skip: whether true edges across a layer without a hit count.
    """
    true, total = true_edges(hits, graph.pairs), n_true_edges(hits, skip)
    return {
        "edge_purity": Mean.of(true[kept]),
        "edge_efficiency": Mean(float((true & kept).sum()), float(total)),
        "graph_purity": Mean.of(true),
        "graph_efficiency": Mean(float(true.sum()), float(total)),
    }


def values(scores: Mapping[str, Mean]) -> dict[str, float]:
    """The figures themselves."""
    return {name: mean.value() for name, mean in scores.items()}


def _any_of(particle: Tensor, good: Tensor, n_particles: int) -> Tensor:
    """Which particles have a good track (particles,)."""
    has = torch.zeros(n_particles, dtype=torch.bool)
    has[particle[good & (particle != NOISE)]] = True
    return has


def _first_of(particle: Tensor, matched: Tensor) -> Tensor:
    """Which matched tracks are the first of their particle (tracks,)."""
    rows = matched.nonzero().squeeze(-1)
    order = particle[rows].argsort(stable=True)
    ordered = particle[rows][order]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = torch.zeros_like(matched)
    first[rows[order[starts]]] = True
    return first
