"""Counting by lines: the tracks of an event, and those of each token, learned together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.metrics import Mean
from alignnet.trackfinding.objectives.images import count_score
from alignnet.trackfinding.pictures import confusion
from alignnet.trackfinding.systems.line_tokens import CountOutput


class CountingByLines:
    """Numbers of tracks, their expected number with its variance, and those of each token.

    Args:
        most: the largest number of tracks.
        tokens: how much the tokens count, the likelihood of Poisson numbers, summed over an event's, beside
            the cross-entropy of its number of tracks and the normal likelihood of the tokens' sum.
    """

    merits: tuple[str, ...] = ("loss", "count")

    def __init__(self, most: int = 16, tokens: float = 0.3) -> None:
        self.most, self.tokens = most, tokens

    def output(self, system: nn.Module, batch: LineEvents) -> CountOutput:
        """Numbers of tracks of events and of tokens."""
        return system(batch.image)

    def loss(self, output: CountOutput, batch: LineEvents) -> Tensor:
        """All three."""
        n_tracks = batch.present.sum(1)
        error = n_tracks - output.density.sum(1)
        total = (error**2 / output.variance + output.variance.log()).mean() / 2
        truth = lines_of(batch).gather(1, output.cell)
        poisson = F.poisson_nll_loss(output.density, truth, log_input=False, reduction="none").sum(1).mean()
        return F.cross_entropy(output.tracks, n_tracks) + total + self.tokens * poisson

    def answer(self, output: CountOutput, batch: LineEvents) -> Tensor:
        """The number of tracks of each event, int64 (events,)."""
        return output.tracks.argmax(1)

    def score(self, answer: Tensor, batch: LineEvents) -> dict[str, Mean]:
        """As `count_score`."""
        return count_score(answer, batch.present.sum(1))

    def show(self, output: CountOutput, batch: LineEvents) -> dict[str, Figure]:
        """Numbers found against true ones."""
        return {"confusion": confusion(self.answer(output, batch), batch.present.sum(1), self.most)}


def lines_of(batch: LineEvents) -> Tensor:
    """How many tracks each line of the grid is nearest to (events, entries · exits)."""
    events, layers, width = batch.clean.shape
    entry = batch.lines[..., 0]
    ends = torch.stack([entry, entry + layers * batch.lines[..., 1]], -1).long().clamp(0, width - 1)
    cell = ends[..., 0] * width + ends[..., 1]
    return torch.zeros(events, width**2, device=entry.device).scatter_add_(1, cell, batch.present.float())
