"""Counting tracks by the lines that they are.

Where tracks cross they share pixels, so that a layer may show fewer lit pixels than there are tracks; with
many tracks every layer may. As lines, by entry and exit, they lie apart. The lines of a grid along which most
pixels are lit become tokens, a dozen for each track; a network that sees the lit pixels along a line and
along those beside it, block by block, says how many tracks it stands for, and how sure that is.

What is certain need not be learned: a track lights one pixel of a layer, so there are as many tracks as the
most lit layer has pixels, or more. How many more, a second network says by the tokens' sum, and by how many
layers show as many pixels as the most lit one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMPOSSIBLE = -30.0
"""Logit of fewer tracks than a layer has lit pixels; finite, since noise may light some."""


class CountOutput(NamedTuple):
    """What a counter of lines says."""

    tracks: Tensor  # (events, most + 1) logits of numbers of tracks
    density: Tensor  # (events, tokens) tracks that each token stands for
    cell: Tensor  # (events, tokens) int64: its line, by entry · size + exit
    variance: Tensor  # (events,) of the sum of the density


class LineSums(nn.Module):
    """How many pixels are lit along each line of a grid of entries and exits, a pixel apart.

    Args:
        size: layers, and pixels of each; a line's exit is one layer beyond the last.
        blocks: parts of a line, from the first layer to the last, that are summed apart.
    """

    pixels: Tensor

    def __init__(self, size: int, blocks: int) -> None:
        super().__init__()
        self.size, self.blocks = size, blocks
        place, layer = torch.arange(size) + 0.5, torch.arange(size)
        entry, exit_ = torch.meshgrid(place, place, indexing="ij")
        position = entry[..., None] + (exit_ - entry)[..., None] * layer / size
        pixel = (position.floor().long() + layer * size).view(size**2, blocks, size // blocks)
        self.register_buffer("pixels", pixel.transpose(0, 1).flatten(0, 1).int(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Part of the pixels that is lit (events, blocks, entries, exits)."""
        table = image.flatten(1).t().contiguous()  # a row for each pixel: events are summed together
        sums = F.embedding_bag(self.pixels, table, mode="sum")
        return sums.view(self.blocks, self.size, self.size, -1).movedim(-1, 0) * (self.blocks / self.size)


class LineTokenCounter(nn.Module):
    """Tracks of each likely line, and from them the number of tracks.

    Args:
        most: the largest number of tracks.
        size: layers, and pixels of each; a multiple of `blocks`.
        blocks: parts of a line that are looked at apart.
        reach: lines beside it that a token sees, in entries and exits.
        tokens: lines that are looked at.
        hidden: of both networks.
    """

    beside: Tensor

    def __init__(
        self,
        most: int = 16,
        size: int = 64,
        blocks: int = 8,
        reach: int = 2,
        tokens: int = 96,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.most, self.reach, self.n_tokens = most, reach, tokens
        self.sums = LineSums(size, blocks)
        row = torch.arange(2 * reach + 1)
        self.register_buffer("beside", (row[:, None] * (size + 2 * reach) + row).flatten(), persistent=False)
        self.token = _network(blocks * len(self.beside), hidden, 2)
        self.excess = _network(DEPTHS + 4, hidden // 2, EXCESSES)
        self.log_variance = nn.Parameter(torch.tensor(-3.0))  # of the sum, besides what the tokens say

    def forward(self, image: Tensor) -> CountOutput:
        """Logits of the number of tracks, and the tokens' shares."""
        seen, cell = self.tokens(image)
        density, spread = F.softplus(self.token(seen)).unbind(-1)
        variance = spread.sum(1) + self.log_variance.exp()
        return CountOutput(self._count(image, density.sum(1), variance), density, cell, variance)

    @torch.no_grad()
    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What each token sees (events, tokens, numbers), and its line (events, tokens)."""
        size, reach = self.sums.size, self.reach
        sums = self.sums(image)
        cell = sums.mean(1).flatten(1).topk(self.n_tokens, dim=1, sorted=False).indices
        first = cell // size * (size + 2 * reach) + cell % size  # in the padded grid
        place = (first[..., None] + self.beside).flatten(1)
        padded = F.pad(sums, (reach, reach, reach, reach)).flatten(2)
        seen = padded.gather(2, place[:, None].expand(-1, padded.shape[1], -1))
        seen = seen.unflatten(2, (self.n_tokens, -1)).transpose(1, 2).flatten(2)
        return seen - TYPICAL, cell

    def _count(self, image: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        lit = image.sum(2)
        most_lit = lit.amax(1, keepdim=True)
        layers = (
            (most_lit[..., None] - lit[..., None] == torch.arange(DEPTHS, device=lit.device)).float().mean(1)
        )
        above, variance = mean[:, None] - most_lit, variance[:, None]
        sure = (above / variance.sqrt()).clamp(-5, 5)
        logits = self.excess(torch.cat([layers, most_lit / self.most, above, variance.log(), sure], 1))
        more = torch.arange(self.most + 1, device=lit.device) - most_lit.long()
        chosen = logits.log_softmax(1).gather(1, more.clamp(0, EXCESSES - 1))
        return chosen.masked_fill(more < 0, IMPOSSIBLE)


DEPTHS, EXCESSES = 6, 4
"""Layers with 0 to 5 pixels fewer than the most lit one are counted; 0 to 3 tracks more are told apart."""

TYPICAL = 0.3
"""Lit part of lines that are tracks and of those beside them, which is taken off."""


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
