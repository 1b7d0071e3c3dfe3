"""Edges of graphs without learning: those that a straight continuation on both sides supports."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.events import SegmentGraphs


class Straightest:
    """An edge is of a track where on each side that has a layer an edge goes on in its direction.

    Args:
        cut: largest change of the slope, in units of the layers' width a layer.
    """

    def __init__(self, cut: float = 0.006) -> None:
        self.cut = cut

    def __call__(self, batch: SegmentGraphs) -> Tensor:
        """1 for edges of tracks, 0 for others (edges,)."""
        inner, outer = batch.edges
        slope = batch.hits[outer, 1] - batch.hits[inner, 1]
        bend_in = self._least_bend(batch, slope, inner, outer)
        bend_out = self._least_bend(batch, slope, outer, inner)
        return ((bend_in < self.cut) & (bend_out < self.cut)).float()

    def _least_bend(self, batch: SegmentGraphs, slope: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """Of each edge, the least bend to an edge whose end `other` is this one's `own`; 0 at the rim."""
        order = other.argsort(stable=True)
        count = torch.bincount(other, minlength=len(batch.hits))
        first = count.cumsum(0) - count
        k = torch.arange(int(count.max()), device=own.device)
        rows = (first[own][:, None] + k).clamp(max=len(order) - 1)
        bend = (slope[order[rows]] - slope[:, None]).abs()
        least = bend.masked_fill(k >= count[own][:, None], torch.inf).amin(1)
        return torch.where(count[own] == 0, torch.zeros_like(least), least)
