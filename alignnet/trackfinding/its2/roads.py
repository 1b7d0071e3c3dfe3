"""Roads: chains of tracklets that agree one with the next, from where none precedes to where none follows.

The automaton counts, in steps that all tracklets take at once, how many tracklets the longest chain outwards
of each has. Roads begin where no tracklet agrees inwards, and follow one of those that continue
the longest chain; where several do, the road forks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.its2.cells import Cells
from alignnet.trackfinding.its2.pairs import ranges


def chain_lengths(cells: Cells, n_pairs: int, n_layers: int) -> tuple[Tensor, Tensor]:
    """How many tracklets the longest chains in- and outwards of each have, itself among them; (pairs,)."""
    inwards, outwards = (torch.ones(n_pairs, dtype=torch.int64) for _ in range(2))
    for _ in range(n_layers - 2):
        inwards = inwards.scatter_reduce(0, cells.outer, inwards[cells.inner] + 1, "amax")
        outwards = outwards.scatter_reduce(0, cells.inner, outwards[cells.outer] + 1, "amax")
    return inwards, outwards


def roads(pairs: Tensor, cells: Cells, n_layers: int, min_hits: int) -> Tensor:
    """Chains of hits (roads, layers), rows of hits from the inside out, −1 after the last.

    Args:
        pairs: (2, pairs) rows of inner and outer hits.
        cells: which pairs agree.
        n_layers: of the detector.
        min_hits: shorter roads are left out.
    """
    n_pairs = pairs.shape[1]
    inwards, outwards = chain_lengths(cells, n_pairs, n_layers)
    follows = outwards[cells.outer] + 1 == outwards[cells.inner]
    cells = cells.take(follows.nonzero().squeeze(-1))
    order = torch.argsort(cells.inner, stable=True)
    count = torch.bincount(cells.inner, minlength=n_pairs)
    start = torch.cumsum(count, 0) - count
    last = ((inwards == 1) & (outwards + 1 >= min_hits)).nonzero().squeeze(-1)
    chain = [pairs[0, last], pairs[1, last]]
    for _ in range(n_layers - 2):
        goes_on = last >= 0
        tail = last.clamp_min(0)
        some = torch.where(goes_on, count[tail], 0)
        road, member = ranges(start[tail], some.clamp_min(1))
        moved = some[road] > 0
        last = torch.full_like(road, -1)
        last[moved] = cells.outer[order[member[moved]]]
        chain = [column[road] for column in chain]
        chain.append(torch.where(moved, pairs[1, last.clamp_min(0)], -1))
    return torch.stack(chain, -1)


def without_one(chains: Tensor, min_hits: int) -> Tensor:
    """All chains with one hit fewer, (chains', layers), of those that keep enough of them."""
    count = (chains >= 0).sum(-1)
    long = chains[count > min_hits]
    left_out = long[:, None].repeat(1, chains.shape[1], 1)
    where = torch.arange(chains.shape[1])
    left_out[:, where, where] = -1
    shorter = left_out[(long >= 0)]
    return shorter.gather(1, torch.argsort((shorter < 0).long(), dim=1, stable=True))
