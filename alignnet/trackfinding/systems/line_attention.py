"""Attention over lines: seeded hit classification by a network that knows that tracks are straight.

Every line that leaves the seeds' pixels is a hypothesis. A small network scores each one by the pixels that
it finds lit along it, a softmax over the hypotheses weighs them, and the weights flow back to the pixels of
each layer: a Hough transform of the seeded track whose votes are learned, with the posterior's mean in the
place of the maximum. The hypotheses are those of a grid of entries and exits, equal ones merged
(`line_table.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignnet.trackfinding.line_table import LineTable, line_table


class Hypotheses(nn.Module):
    """The lines of one coordinate, as buffers that no checkpoint keeps.

    Args:
        layers: of the toy.
        width: pixels of a layer.
        seeds: layers, from the first, that hold the track alone.
        step: distance of entries, and of exits, on the grid [pixels].
        span: layers between entry and exit.
    """

    pixel: Tensor
    weight: Tensor
    codes: Tensor
    start: Tensor

    def __init__(self, layers: int, width: int, seeds: int, step: float, span: int) -> None:
        super().__init__()
        self.width, self.seeds = width, seeds
        table = line_table(layers, width, seeds, step, span)
        for name in ("pixel", "weight", "codes", "start"):
            self.register_buffer(name, getattr(table, name), persistent=False)

    def forward(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Lines through seeds.

        Args:
            seeds: (events, seeds) int64 pixels of the seed layers.

        Returns:
            (events, lines, layers) int64 pixels, and (events, lines) ln of the lines' weights, −∞ for none.
        """
        table = LineTable(self.pixel, self.weight, self.codes, self.start, self.width, self.seeds)
        rows, valid = table.candidates(seeds)
        return self.pixel[rows].long(), self.weight[rows].log().masked_fill(~valid, -torch.inf)


class LineAttention2D(nn.Module):
    """Attention over the lines of one-dimensional layers.

    Args:
        layers: of the toy.
        width: pixels of a layer.
        seeds: layers, from the first, that hold the track alone.
        step: of the hypotheses' grid [pixels].
        blocks: parts of the track, from the first layer to the last, whose lit pixels are counted apart.
        hidden: of the network that scores a hypothesis by these counts.
    """

    def __init__(
        self,
        layers: int = 50,
        width: int = 50,
        seeds: int = 5,
        step: float = 0.1,
        blocks: int = 10,
        hidden: int = 16,
    ) -> None:
        super().__init__()
        self.hypotheses = Hypotheses(layers, width, seeds, step, layers)
        self.blocks = blocks
        self.score = nn.Sequential(nn.Linear(blocks, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        self.votes = Votes(layers)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels)."""
        pixel, prior = self.hypotheses(image[:, : self.hypotheses.seeds].argmax(-1))
        pixel = pixel.transpose(1, 2)
        lit = image.gather(2, pixel)  # (events, layers, lines)
        counts = F.adaptive_avg_pool1d(lit.transpose(1, 2), self.blocks)
        score = self.score(counts)[..., 0] + self.sharpness * lit.sum(1) + prior
        weight = score.softmax(1)[:, None].expand(-1, image.shape[1], -1)
        return self.votes(torch.zeros_like(image).scatter_add(2, pixel, weight), image)


class LineAttention3D(nn.Module):
    """Attention over pairs of a line in x and one in y, which pass the planes' pixels together.

    Args:
        layers: planes of the toy.
        width: pixels of a plane along each direction.
        seeds: planes, from the first, that hold the track alone.
        step: of the hypotheses' grid [pixels].
    """

    def __init__(self, layers: int = 10, width: int = 32, seeds: int = 3, step: float = 0.125) -> None:
        super().__init__()
        self.width = width
        self.hypotheses = Hypotheses(layers, width, seeds, step, layers - 1)
        self.sharpness = nn.Parameter(torch.full((layers,), 3.0))
        self.votes = Votes(layers)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, planes, pixels)."""
        seeds = image[:, : self.hypotheses.seeds].flatten(2).argmax(-1)
        (x, prior_x), (y, prior_y) = self.hypotheses(seeds // self.width), self.hypotheses(seeds % self.width)
        passes_x, passes_y = (F.one_hot(pixel, self.width).float().transpose(1, 2) for pixel in (x, y))
        along_x = passes_x @ image  # (events, planes, lines in x, pixels in y)
        weighted = along_x * self.sharpness[:, None, None]
        # summed over planes and pixels at once: one product of matrices an event
        score = weighted.transpose(1, 2).flatten(2) @ passes_y.transpose(1, 2).flatten(2).transpose(1, 2)
        score = score + prior_x[:, :, None] + prior_y[:, None]
        weight = score.flatten(1).softmax(1).view_as(score)[:, None]
        return self.votes((passes_x.transpose(2, 3) @ weight @ passes_y).flatten(2), image.flatten(2))


class Votes(nn.Module):
    """Weights of pixels to logits: their logarithm, and what a lit pixel adds, for each layer.

    Args:
        layers: of the toy.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.scale, self.lit = nn.Parameter(torch.ones(layers)), nn.Parameter(torch.ones(layers))
        self.floor = nn.Parameter(torch.full((layers,), -7.0))

    def forward(self, weight: Tensor, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels) of weights and images of this shape."""
        known = torch.logaddexp(weight.clamp(min=1e-12).log(), self.floor[:, None])
        return known * self.scale[:, None] + image * self.lit[:, None]
