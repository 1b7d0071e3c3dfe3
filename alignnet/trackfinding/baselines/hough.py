"""The Hough transform: how many lit pixels each line of a grid of entries and exits has.

Tracks are the lines with the most: the best one is taken, its pixels are put out, and the next is looked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.baselines.least_squares import fitted
from alignnet.trackfinding.drawing import positions
from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.objectives.images import histogram
from alignnet.trackfinding.systems.lines import LineOutput


def grid_lines(size: int, step: float) -> Tensor:
    """Intercepts and slopes (lines, 2) of a grid of entries and exits over the layers' width."""
    place = torch.arange(step / 2, size, step)
    entry, exit_ = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([entry, (exit_ - entry) / size], -1).flatten(0, 1)


def votes(image: Tensor, lines: Tensor) -> Tensor:
    """Lit pixels along each line: (events, lines) for images (events, layers, pixels)."""
    counts = torch.zeros(len(image), len(lines), device=image.device)
    pixel = positions(lines[:, 0], lines[:, 1], image.shape[1]).floor().long().clamp(0, image.shape[2] - 1)
    for layer in range(image.shape[1]):
        counts += image[:, layer][:, pixel[:, layer]]
    return counts


class HoughLines:
    """The lines with the most lit pixels, one after another, each refined by a fit to its pixels.

    Args:
        size: layers, and pixels of each.
        most: the largest number of tracks.
        scale: factor of slopes.
        step: distance of entries, and of exits, on the grid [pixels].
        enough: part of the layers in which a track's line must have a lit pixel; less is no track.
        road: half width of the road around a line, from which each layer gives the lit pixel nearest to it.
    """

    def __init__(
        self,
        size: int = 50,
        most: int = 3,
        scale: float = 25.0,
        step: float = 0.5,
        enough: float = 0.5,
        road: float = 1.5,
    ) -> None:
        self.grid, self.most, self.scale = grid_lines(size, step), most, scale
        self.enough, self.road = enough * size, road

    def __call__(self, batch: LineEvents) -> LineOutput:
        """Lines by rising intercept, those that are no track last."""
        left, lines, present = batch.image.clone(), [], []
        for _ in range(self.most):
            counts = votes(left, self.grid)
            best, row = counts.max(1)
            line = refined(batch.image, self.grid[row], self.road)
            lines.append(refined(batch.image, line, self.road))
            present.append(best >= self.enough)
            left = put_out(left, lines[-1])
        return _sorted(torch.stack(lines, 1), torch.stack(present, 1), self.scale)


class HoughBins:
    """Bins of intercept and slope that hold a line with all but a few of its pixels lit.

    Args:
        size: layers, and pixels of each.
        bins: of each parameter.
        cells: lines a bin is tried with, along each parameter.
        missing: pixels of a line that may be dark.
    """

    def __init__(self, size: int = 64, bins: int = 16, cells: int = 8, missing: int = 10) -> None:
        self.size, self.bins, self.missing = size, bins, missing
        part = (torch.arange(bins * cells) + 0.5) / (bins * cells)
        intercept, slope = torch.meshgrid(part * size, 2 * part - 1, indexing="ij")
        lines = torch.stack([intercept, slope], -1).flatten(0, 1)
        far = lines[:, 0] + lines[:, 1] * size
        self.lines = lines[(far >= 0) & (far <= size)]  # no track goes elsewhere
        place = (torch.stack([self.lines[:, 0] / size, (self.lines[:, 1] + 1) / 2], -1) * bins).long()
        self.bin = place[:, 0] * bins + place[:, 1]

    def __call__(self, batch: LineEvents) -> Tensor:
        """Bool (events, intercept, slope)."""
        full = votes(batch.image, self.lines) >= self.size - self.missing
        return histogram(self.bin.expand_as(full), full, self.bins) > 0


def refined(image: Tensor, line: Tensor, road: float) -> Tensor:
    """Least squares on the lit pixels nearest to lines, within a road.

    Args:
        image: (events, layers, pixels).
        line: (events, 2) intercept and slope.
        road: largest distance of a pixel's centre from the line.
    """
    place = positions(line[:, 0], line[:, 1], image.shape[1])
    centre = torch.arange(image.shape[2], device=image.device) + 0.5
    distance = (centre - place[..., None]).abs() + 1e9 * (1 - image)
    nearest, pixel = distance.min(-1)
    used = (nearest <= road).float()
    found = fitted(pixel + 0.5, used)
    return torch.where(used.sum(1, keepdim=True) >= 2, found, line)


def put_out(image: Tensor, line: Tensor) -> Tensor:
    """Images (events, layers, pixels) without the pixels on a line (events, 2)."""
    place = positions(line[:, 0], line[:, 1], image.shape[1])
    centre = torch.arange(image.shape[2], device=image.device) + 0.5
    return image * ((centre - place[..., None]).abs() > 0.6)


def _sorted(lines: Tensor, present: Tensor, scale: float) -> LineOutput:
    key = torch.where(present, lines[..., 0], torch.inf)
    order = key.argsort(1)
    lines = lines.gather(1, order[..., None].expand_as(lines)) * torch.tensor(
        [1.0, scale], device=lines.device
    )
    sign = present.gather(1, order).float() * 2 - 1
    return LineOutput(lines, present=sign)
