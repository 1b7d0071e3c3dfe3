"""Least squares on the centres of a track's pixels: what a fit without a search reaches."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.drawing import pixels_of, positions
from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.systems.lines import LineOutput


class TruePixels:
    """A straight-line fit to the true pixels of each track, which no method that has to find them is given.

    Args:
        size: layers, and pixels of each.
        scale: factor of slopes.
    """

    def __init__(self, size: int = 50, scale: float = 25.0) -> None:
        self.size, self.scale = size, scale

    def __call__(self, batch: LineEvents) -> LineOutput:
        """The lines."""
        place = positions(batch.lines[..., 0], batch.lines[..., 1], self.size)
        centre = pixels_of(place, self.size) + 0.5
        return LineOutput(fitted(centre, torch.ones_like(centre)) * torch.tensor([1.0, self.scale]))


def fitted(centre: Tensor, weight: Tensor) -> Tensor:
    """Weighted straight-line fits.

    Args:
        centre: (…, layers) measured positions of layers 0, 1, …
        weight: of each, with two above zero at least.

    Returns:
        (…, 2) intercept and slope. A pixel's centre is on average half a pixel's width from where the track
        enters it, in no direction: these estimates are unbiased.
    """
    layer = torch.arange(centre.shape[-1], dtype=centre.dtype, device=centre.device)
    total = weight.sum(-1, keepdim=True).clamp(min=1e-9)
    mean_layer, mean = (
        (weight * layer).sum(-1, keepdim=True) / total,
        (weight * centre).sum(-1, keepdim=True) / total,
    )
    lever = layer - mean_layer
    spread = (weight * lever**2).sum(-1).clamp(min=1e-9)
    slope = (weight * lever * (centre - mean)).sum(-1) / spread
    return torch.stack([mean[..., 0] - slope * mean_layer[..., 0], slope], -1)
