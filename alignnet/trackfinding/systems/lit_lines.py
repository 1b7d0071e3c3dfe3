"""All lines of an image whose pixels are lit, each way to go through the pixels once.

Branch and bound over entry and exit, as the fast Hough transform (Li, Lavin and Le Master, CVGIP 36 (1986)
139): within a cell of ± h in both no line is farther than h from the middle one in any layer, so that a cell
holds a lit line only where each layer has a lit pixel within h of that. What holds one is split in four,
until h is so small that the middle line stands for the cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FINEST = 1 / 128
"""Half of a cell's width in pixels where splitting ends: few ways through 64 layers are missed."""


LOOKS = slice(0, None, 8), slice(4, None, 8), slice(1, None, 2), slice(2, None, 4)
"""Layers that are looked at one after the other, each lot only for the cells that the ones before left."""


class LitLines(NamedTuple):
    """Lines of a batch of images, event after event."""

    event: Tensor  # (lines,) int64
    pixel: Tensor  # (lines, layers) int64


class _Cells(NamedTuple):
    event: Tensor  # (cells,) int64
    entry: Tensor  # (cells,) middle [pixels]
    exit: Tensor  # one layer beyond the last

    def select(self, rows: Tensor) -> _Cells:
        return _Cells(*(field[rows] for field in self))

    def split(self, half: float) -> _Cells:
        """Four of a half's width in place of each."""
        side = torch.tensor([-half, half], device=self.entry.device)
        entry = self.entry[:, None, None] + side[:, None] + torch.zeros_like(side)
        exit_ = self.exit[:, None, None] + side + torch.zeros_like(side)[:, None]
        return _Cells(self.event.repeat_interleave(4), entry.flatten(), exit_.flatten())

    def positions(self, layer: Tensor, layers: int) -> Tensor:
        """Where the middle lines meet some of the layers (cells, len(layer))."""
        return self.entry[:, None] + (self.exit - self.entry)[:, None] * (layer / layers)


@torch.no_grad()
def lit_lines(image: Tensor, most: int = 20_000) -> LitLines:
    """The lines that light nothing that is dark.

    Args:
        image: (events, layers, pixels), above 0 where it is lit.
        most: cells of an event that are followed; of more, as images full of noise have, evenly chosen ones.
    """
    events, layers, width = image.shape
    lit = image > 0
    before = F.pad(lit.int().cumsum(2, dtype=torch.int32), (1, 0)).flatten()  # how many are lit before each
    cells, half = _grid(events, width, image.device), 0.5
    while True:
        for some in LOOKS:
            cells = cells.select(_may_hold_one(before, cells, half, (layers, width), some))
        cells = cells.select(_evenly(cells.event, events, most))
        if half <= FINEST:
            break
        half /= 2
        cells = cells.split(half)
    layer = torch.arange(layers, device=image.device)
    pixel = cells.positions(layer, layers).floor().long().clamp(0, width - 1)
    every = lit.flatten()[(cells.event[:, None] * layers + layer) * width + pixel].all(1)
    rows = torch.cat([cells.event[every, None], pixel[every]], 1).unique(dim=0)  # sorted by event
    return LitLines(rows[:, 0], rows[:, 1:])


def _grid(events: int, width: int, device: torch.device) -> _Cells:
    place = torch.arange(width, device=device) + 0.5
    entry, exit_ = (axis.flatten() for axis in torch.meshgrid(place, place, indexing="ij"))
    event = torch.arange(events, device=device).repeat_interleave(len(entry))
    return _Cells(event, entry.repeat(events), exit_.repeat(events))


def _may_hold_one(before: Tensor, cells: _Cells, half: float, shape: tuple[int, int], some: slice) -> Tensor:
    """Whether some of the layers have a lit pixel within `half` of a cell's middle line: bool (cells,)."""
    layers, width = shape
    layer = torch.arange(layers, device=before.device)[some]
    position = cells.positions(layer, layers)
    low, high = ((position + side).int().clamp(0, width - 1) for side in (-half, half))
    first = (cells.event[:, None] * layers + layer).int() * (width + 1) + low
    seen = before.take(first.long()) < before.take((first + (high - low + 1)).long())
    return seen.all(1)


def _evenly(event: Tensor, events: int, most: int) -> Tensor:
    """Rows, of each event `most` at most; `event` is sorted."""
    count = torch.bincount(event, minlength=events)
    rank = torch.arange(len(event), device=event.device) - (count.cumsum(0) - count)[event]
    share = count[event].clamp(min=most)
    return torch.nonzero(rank * most // share != (rank - 1) * most // share).flatten()
