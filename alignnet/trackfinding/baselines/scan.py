"""Line scan: of all lines that the seeds allow, the one with the most lit pixels."""

from __future__ import annotations

import torch

from alignnet.trackfinding.events import SeededEvents
from alignnet.trackfinding.line_table import line_table
from alignnet.trackfinding.metrics import FoundTrack


class LineScan:
    """The most lit line of a grid.

    Args:
        layers: of the toy.
        width: pixels of a layer.
        seeds: layers, from the first, that hold the track alone.
        step: distance of the lines' entries, and of their exits, on the grid [pixels].
    """

    def __init__(self, layers: int = 50, width: int = 50, seeds: int = 5, step: float = 0.25) -> None:
        self.table, self.seeds = line_table(layers, width, seeds, step, layers), seeds

    def __call__(self, batch: SeededEvents) -> FoundTrack:
        """The pixels of the line, and in each layer the lit pixel nearest to it."""
        image = batch.image
        rows, valid = self.table.candidates(image[:, : self.seeds].argmax(-1))
        pixel = self.table.pixel[rows].long()  # (events, candidates, layers)
        lit = image.gather(2, pixel.transpose(1, 2)).sum(1).masked_fill(~valid, -1)
        best = pixel[torch.arange(len(image)), lit.argmax(1)]
        distance = (torch.arange(image.shape[2]) - best[..., None]).abs() + 1e9 * (1 - image)
        return FoundTrack(best, distance.argmin(-1))
