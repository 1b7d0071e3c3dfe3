"""Each hit to one track: of candidates that share hits, the longest, or of equally long ones the best fit.

A candidate that is the best of all that want any of its hits is taken; those that want one of them are
dropped. This is done for all candidates at once, and again with what is left, until nothing is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resolved(chain: Tensor, quality: Tensor, n_hits: int) -> Tensor:
    """Rows of the candidates that are taken, ascending.

    Args:
        chain: (candidates, hits) rows of hits, −1 for none.
        quality: (candidates,) larger is better.
        n_hits: how many hits there are.
    """
    order = torch.argsort(quality, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    open_, taken = torch.ones(len(chain), dtype=torch.bool), torch.zeros(len(chain), dtype=torch.bool)
    used = torch.zeros(n_hits + 1, dtype=torch.bool)
    slots = torch.where(chain >= 0, chain, n_hits)
    while bool(open_.any()):
        rows = open_.nonzero().squeeze(-1)
        best = torch.full((n_hits + 1,), len(chain), dtype=torch.int64)
        wanted = slots[rows]
        best = best.scatter_reduce(0, wanted.flatten(), rank[rows].repeat_interleave(chain.shape[1]), "amin")
        wins = ((best[wanted] == rank[rows][:, None]) | (wanted == n_hits)).all(-1)
        taken[rows[wins]] = True
        used[wanted[wins].flatten()] = True
        used[n_hits] = False
        open_[rows] = ~wins & ~used[wanted].any(-1)
    return taken.nonzero().squeeze(-1)


def quality_of(n_hits: Tensor, chi2: Tensor, ndf: Tensor) -> Tensor:
    """How good candidates are: the number of hits counts first, then χ²/ndf."""
    return n_hits - (chi2 / ndf.clamp_min(1)).clamp(0, 1e3) / 1.001e3
