"""Counting tracks by how many share each pixel.

Where two tracks cross they share pixels, so that a layer shows fewer lit pixels than there are tracks; with
many tracks every layer does. Dilated convolutions, which see a crossing from before it to after it, say of
each lit pixel how many tracks it has. Each layer's sum is then an estimate of the number of tracks, with a
variance of its own, and the layers vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CountOutput(NamedTuple):
    """What a multiplicity counter says."""

    tracks: Tensor  # (events, most + 1) logits of numbers of tracks
    multiplicity: Tensor  # (events, classes, layers, pixels) logits of 1, 2, … tracks in a lit pixel


class MultiplicityCounter(nn.Module):
    """Tracks of each pixel, and from them the number of tracks.

    Args:
        most: the largest number of tracks.
        channels: of the convolutions.
        dilations: of the 3 × 3 convolutions, one after another.
        classes: tracks of a pixel that are told apart; the last class is so many or more.
    """

    def __init__(
        self,
        most: int = 16,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4, 8, 2, 1),
        classes: int = 4,
    ) -> None:
        super().__init__()
        self.most = most
        inputs = [2, *[channels] * (len(dilations) - 1)]
        self.layers = nn.ModuleList(
            nn.Conv2d(size, channels, 3, padding=d, dilation=d)
            for size, d in zip(inputs, dilations, strict=True)
        )
        self.out = nn.Conv2d(channels, classes, 1)
        self.log_variance = nn.Parameter(torch.tensor(-2.0))  # of a layer's sum, besides what its pixels say
        self.trust = nn.Parameter(torch.tensor(0.0))  # ln of what a layer's vote counts, since layers agree
        self.outliers = nn.Parameter(torch.tensor(-5.0))  # ln of the chance of a layer that says nothing

    def forward(self, image: Tensor) -> CountOutput:
        """Logits of the number of tracks, and of each pixel's."""
        inside = torch.ones_like(image)  # which the padding is not
        maps = torch.stack([image, inside], 1)
        for k, layer in enumerate(self.layers):
            step = F.relu(layer(maps))
            maps = step if k == 0 else maps + step
        multiplicity = self.out(maps)
        return CountOutput(self._votes(multiplicity, image), multiplicity)

    def _votes(self, multiplicity: Tensor, image: Tensor) -> Tensor:
        chance = multiplicity.softmax(1)
        n = torch.arange(1.0, chance.shape[1] + 1, device=image.device)[:, None, None]
        mean = (chance * n).sum(1)
        variance = (chance * n**2).sum(1) - mean**2
        mean, variance = ((value * image).sum(2)[..., None] for value in (mean, variance))
        width2 = variance + self.log_variance.exp()
        count = torch.arange(self.most + 1.0, device=image.device)
        vote = -((count - mean) ** 2) / (2 * width2) - width2.log() / 2  # (events, layers, counts)
        return self.trust.exp() * torch.logaddexp(vote, self.outliers).sum(1)
