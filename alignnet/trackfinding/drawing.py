"""Lines through layers of pixels, and the images that they leave."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(rng: torch.Generator, high: float, *shape: int) -> Tensor:
    """Numbers in [0, high)."""
    return torch.rand(*shape, generator=rng) * high


def positions(entry: Tensor, slope: Tensor, layers: int) -> Tensor:
    """Where lines meet the layers: entry + slope · l, (..., layers) for entries and slopes (...)."""
    return entry[..., None] + slope[..., None] * torch.arange(layers, device=entry.device)


def pixels_of(position: Tensor, width: int) -> Tensor:
    """The pixel that holds a position inside [0, width); int64, and rounding never leaves the layer."""
    return position.floor().long().clamp(0, width - 1)


def lit(pixel: Tensor, present: Tensor, n_pixels: int) -> Tensor:
    """Images of hits.

    Args:
        pixel: (events, tracks, layers) int64.
        present: (events, tracks) or (events, tracks, layers) bool: which hits there are.
        n_pixels: of a layer.

    Returns:
        (events, layers, n_pixels) float32, 1 where at least one hit is.
    """
    events, _, layers = pixel.shape
    if present.ndim == 2:
        present = present[..., None].expand_as(pixel)
    nowhere = torch.full_like(pixel, n_pixels)  # a column that is cut off
    column = torch.where(present, pixel, nowhere).transpose(1, 2)
    image = torch.zeros(events, layers, n_pixels + 1, device=pixel.device)
    return image.scatter_(2, column, 1.0)[..., :n_pixels]


def with_noise(image: Tensor, probability: float, rng: torch.Generator, first_layer: int = 0) -> Tensor:
    """The images with every pixel from `first_layer` on lit besides with a probability."""
    if probability == 0:
        return image
    noise = torch.rand(image.shape, generator=rng) < probability
    noise[:, :first_layer] = False
    return torch.maximum(image, noise.float())
