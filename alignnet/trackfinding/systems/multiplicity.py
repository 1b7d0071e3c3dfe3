"""Counting tracks by how many share each pixel.

Where two tracks cross they share pixels, so that a layer shows fewer lit pixels than there are tracks; with
many tracks every layer does. Dilated convolutions, which see a crossing from before it to after it, say of
each lit pixel how many tracks it has. Each layer's sum is then an estimate of the number of tracks, with a
variance of its own, and the layers vote.

What is certain need not be learned: a track lights one pixel of a layer, so there are as many tracks as the
most lit layer has pixels, or more. How many more is a matter of how many layers have as many, which a small
network weighs before the votes.
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


class Excess(nn.Module):
    """How many tracks more there are than the most lit layer shows, by how many pixels the others show.

    Args:
        most: the largest number of tracks.
        classes: 0, 1, … more that are told apart; as many as the last class and beyond it are alike.
        depths: layers with 0, 1, … pixels fewer than the most lit one are counted apart.
        hidden: of the network.
    """

    def __init__(self, most: int, classes: int = 4, depths: int = 6, hidden: int = 32) -> None:
        super().__init__()
        self.most, self.depths = most, depths
        self.weigh = nn.Sequential(
            nn.Linear(depths + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Logits of numbers of tracks (events, most + 1)."""
        lit = image.sum(2)
        most_lit = lit.amax(1, keepdim=True)
        fewer = torch.arange(self.depths, device=image.device)
        layers = (most_lit[..., None] - lit[..., None] == fewer).float().mean(1)
        logits = self.weigh(torch.cat([layers, most_lit / self.most], 1)).log_softmax(1)
        more = torch.arange(self.most + 1, device=image.device) - most_lit.long()
        chosen = logits.gather(1, more.clamp(0, logits.shape[1] - 1))
        return chosen.masked_fill(more < 0, IMPOSSIBLE)


IMPOSSIBLE = -30.0
"""Logit of fewer tracks than a layer has lit pixels; finite, since noise may light some."""


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
        self.layers.to(memory_format=torch.channels_last)  # twice as fast
        self.out = nn.Conv2d(channels, classes, 1)
        self.excess = Excess(most)
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
        return CountOutput(self._votes(multiplicity, image) + self.excess(image), multiplicity)

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
