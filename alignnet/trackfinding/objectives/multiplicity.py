"""Counting by multiplicities: the tracks of an event, and those of each lit pixel, learned together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.drawing import pixels_of, positions
from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.metrics import Mean
from alignnet.trackfinding.objectives.images import count_score
from alignnet.trackfinding.pictures import confusion, image_answers
from alignnet.trackfinding.systems.multiplicity import CountOutput


class CountingByMultiplicity:
    """Numbers of tracks, and of tracks in each lit pixel.

    Args:
        most: the largest number of tracks.
        pixels: how much the cross-entropy of the pixels, a mean over those that are lit, counts beside that
            of
            the events.
    """

    merits: tuple[str, ...] = ("loss", "count")

    def __init__(self, most: int = 16, pixels: float = 10.0) -> None:
        self.most, self.pixels = most, pixels

    def output(self, system: nn.Module, batch: LineEvents) -> CountOutput:
        """Numbers of tracks of events and of pixels."""
        return system(batch.image)

    def loss(self, output: CountOutput, batch: LineEvents) -> Tensor:
        """Both cross-entropies."""
        truth = multiplicity(batch)
        lit = truth > 0
        classes = (truth[lit] - 1).clamp(max=output.multiplicity.shape[1] - 1)
        pixels = F.cross_entropy(output.multiplicity.movedim(1, -1)[lit], classes)
        return F.cross_entropy(output.tracks, batch.present.sum(1)) + self.pixels * pixels

    def answer(self, output: CountOutput, batch: LineEvents) -> Tensor:
        """The number of tracks of each event, int64 (events,)."""
        return output.tracks.argmax(1)

    def score(self, answer: Tensor, batch: LineEvents) -> dict[str, Mean]:
        """As `count_score`."""
        return count_score(answer, batch.present.sum(1))

    def show(self, output: CountOutput, batch: LineEvents) -> dict[str, Figure]:
        """Numbers found against true ones; images, pixels said to have several tracks, and those that do."""
        several = (output.multiplicity.argmax(1) + 1) * (batch.image > 0)
        return {
            "confusion": confusion(self.answer(output, batch), batch.present.sum(1), self.most),
            "events": image_answers(batch, several.float(), multiplicity(batch).float()),
        }


def multiplicity(batch: LineEvents) -> Tensor:
    """How many tracks each pixel has: int64 (events, layers, pixels)."""
    layers, width = batch.clean.shape[1:]
    pixel = pixels_of(positions(batch.lines[..., 0], batch.lines[..., 1], layers), width)
    hit = batch.present[..., None].expand_as(pixel).long().transpose(1, 2)
    counts = torch.zeros_like(batch.clean, dtype=torch.int64).scatter_add_(2, pixel.transpose(1, 2), hit)
    return counts * (batch.clean > 0)
