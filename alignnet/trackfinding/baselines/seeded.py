"""Straight lines from the seeds: extrapolated once, or refitted after every layer (road following).

A least-squares line through pixel centres predicts the next layer; its pixel is the answer "pixel", the lit
pixel nearest to it the answer "hit". Both work in 2D and in 3D, where coordinates are fitted one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.events import SeededEvents
from alignnet.trackfinding.metrics import FoundTrack


class StraightLine:
    """Extrapolation of the seeds, or road following.

    Args:
        seeds: layers, from the first, that hold the track alone.
        follow: refit the line with the hit taken in each layer; otherwise it stays that of the seeds.
    """

    def __init__(self, seeds: int = 5, follow: bool = True) -> None:
        self.seeds, self.follow = seeds, follow

    def __call__(self, batch: SeededEvents) -> FoundTrack:
        """Go from layer to layer through all events at once."""
        image = batch.image
        centres, width = pixel_centres(image), image.shape[-1]
        chosen = [image[:, k].flatten(1).argmax(1) for k in range(self.seeds)]
        pixels = list(chosen)
        for layer in range(self.seeds, image.shape[1]):
            used = chosen if self.follow else chosen[: self.seeds]
            place = extrapolated(centres[torch.stack(used, 1)], layer)
            pixels.append(pixel_at(place, width))
            chosen.append(nearest_lit(place, centres, image[:, layer].flatten(1)))
        return FoundTrack(torch.stack(pixels, 1), torch.stack(chosen, 1))


def pixel_centres(image: Tensor) -> Tensor:
    """Places of the pixels of a layer (pixels, 1 or 2), for images (events, layers, …)."""
    sides = [torch.arange(n, dtype=torch.float32, device=image.device) + 0.5 for n in image.shape[2:]]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, -2)


def extrapolated(points: Tensor, layer: int) -> Tensor:
    """Where least-squares lines through points of layers 0, 1, … meet a layer.

    Args:
        points: (events, layers, coordinates).
        layer: number of the layer.
    """
    n = points.shape[1]
    lever = torch.arange(n, dtype=points.dtype, device=points.device) - (n - 1) / 2
    slope = (lever[:, None] * points).sum(1) / (lever**2).sum().clamp(min=1e-9)
    return points.mean(1) + slope * (layer - (n - 1) / 2)


def pixel_at(place: Tensor, width: int) -> Tensor:
    """Number of the pixel at a place (events, coordinates), the nearest one where that is outside."""
    index = place.floor().long().clamp(0, width - 1)
    return index[:, 0] if index.shape[1] == 1 else index[:, 0] * width + index[:, 1]


def nearest_lit(place: Tensor, centres: Tensor, lit: Tensor) -> Tensor:
    """Number of the lit pixel nearest to a place; where none is lit, of the nearest pixel.

    Args:
        place: (events, coordinates).
        centres: (pixels, coordinates).
        lit: (events, pixels) 1 where lit.
    """
    distance2 = (centres - place[:, None]).square().sum(-1)
    return (distance2 + 1e9 * (1 - lit)).argmin(1)
