"""Whole images without learning: the image as it is, nothing at all, and the most lit layer."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.events import LineEvents


def copied(batch: LineEvents) -> Tensor:
    """The pixels that are lit, as they are: bool (events, layers, pixels)."""
    return batch.image > 0


def nothing_lit(batch: LineEvents) -> Tensor:
    """No pixel: bool (events, layers, pixels)."""
    return torch.zeros_like(batch.image, dtype=torch.bool)


def most_lit_layer(batch: LineEvents) -> Tensor:
    """The largest number of lit pixels of any layer: int64 (events,)."""
    return batch.image.sum(2).amax(1).long()


def no_bins(batch: LineEvents, bins: int) -> Tensor:
    """No bin of intercept and slope: bool (events, bins, bins)."""
    return torch.zeros(len(batch.image), bins, bins, dtype=torch.bool, device=batch.image.device)
