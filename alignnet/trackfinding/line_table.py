"""All lines that leave different pixels, found by those of their seed layers.

A grid of entries and exits makes lines; those with the same pixels in all layers are one, which weighs as
much as they are many, and so has the chance that a track drawn from the toy's law leaves these pixels.
Seeds given, only a few hundred lines are left of some hundred thousand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LineTable(NamedTuple):
    """Lines sorted by the code of their seed layers' pixels."""

    pixel: Tensor  # (lines, layers) uint8
    weight: Tensor  # (lines,) float32: part of all lines of the grid
    codes: Tensor  # (patterns,) int64: codes of seed patterns, ascending
    start: Tensor  # (patterns + 1,) int64: first line of each pattern
    width: int
    seeds: int

    def candidates(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Lines through seeds.

        Args:
            seeds: (events, seeds) int64 pixels of the seed layers.

        Returns:
            (events, candidates) rows of the table, as many as the event with the most has, and which of them
            are candidates. Seeds that no line of the grid has get those of the next pattern.
        """
        pattern = torch.searchsorted(self.codes, code_of(seeds, self.width))
        pattern = pattern.clamp(max=len(self.codes) - 1)
        start, count = self.start[pattern], (self.start[1:] - self.start[:-1])[pattern]
        offset = torch.arange(int(count.max()), device=seeds.device)
        valid = offset < count[:, None]
        return torch.where(valid, start[:, None] + offset, start[:, None]), valid


def code_of(seeds: Tensor, width: int) -> Tensor:
    """One number for the pixels of the seed layers (…, seeds)."""
    power = width ** torch.arange(seeds.shape[-1], device=seeds.device)
    return (seeds.long() * power).sum(-1)


def line_table(layers: int, width: int, seeds: int, step: float, span: int) -> LineTable:
    """Make the table of a toy.

    Args:
        layers: how many.
        width: pixels of a layer, 255 at most.
        seeds: layers that give the pattern.
        step: distance of entries and exits on the grid [pixels].
        span: layers between entry and exit: of slopes (exit − entry)/span.
    """
    place = torch.arange(step / 2, width, step, dtype=torch.float64)
    entry, exit_ = torch.meshgrid(place, place, indexing="ij")
    slope = ((exit_ - entry) / span).flatten()
    position = entry.flatten()[:, None] + slope[:, None] * torch.arange(layers)
    pixel = position.floor().clamp(0, width - 1).to(torch.uint8)
    pixel, weight = distinct(pixel)
    code = code_of(pixel[:, :seeds], width)
    order = code.argsort(stable=True)
    codes, counts = torch.unique_consecutive(code[order], return_counts=True)
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return LineTable(pixel[order], weight[order], codes, start, width, seeds)


def distinct(pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without repetitions, and what part of all rows each one was.

    Rows are told apart by a random 64-bit number: two in 10⁵ rows agree by chance with a probability of 10⁻⁹.
    """
    rng = torch.Generator().manual_seed(0)
    factor = torch.randint(-(2**62), 2**62, (pixel.shape[1],), generator=rng)
    hashed = torch.zeros(len(pixel), dtype=torch.int64)
    for layer in range(pixel.shape[1]):
        hashed += factor[layer] * (pixel[:, layer].long() + 1)
    _, inverse, count = torch.unique(hashed, return_inverse=True, return_counts=True)
    row = torch.empty(len(count), dtype=torch.int64)
    row[inverse] = torch.arange(len(pixel))
    return pixel[row], count.float() / len(pixel)
