"""Parameters of the lines of an image, by rising intercept; and whether there are so many.

Slopes are multiplied by `scale` (25 as published, so that both parameters have similar spread), and all
errors are of scaled slopes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.metrics import Mean
from alignnet.trackfinding.pictures import line_answers
from alignnet.trackfinding.systems.lines import LineOutput


class Lines:
    """Intercepts and slopes by least squares, a mean over the tracks that there are.

    Args:
        scale: factor of slopes.
        stops: train the output that says whether there is such a track, by a binary cross-entropy that is
            added; otherwise the number of tracks is taken as known.
    """

    def __init__(self, scale: float = 25.0, stops: bool = False) -> None:
        self.scale, self.stops = scale, stops
        self.merits: tuple[str, ...] = ("loss", "mse", *(["count"] if stops else []))

    def target(self, batch: LineEvents) -> Tensor:
        """Intercept and scaled slope (events, tracks, 2)."""
        return batch.lines * torch.tensor([1.0, self.scale], device=batch.lines.device)

    def output(self, system: nn.Module, batch: LineEvents) -> LineOutput:
        """What the network says."""
        return system(batch.image)

    def loss(self, output: LineOutput, batch: LineEvents) -> Tensor:
        """Squared errors, a mean over both parameters of all tracks, and the cross-entropy."""
        error = (output.lines - self.target(batch))[batch.present].square()
        loss = error.sum() / max(1, error.numel())
        if self.stops:
            loss = loss + F.binary_cross_entropy_with_logits(required(output.present), batch.present.float())
        return loss

    def answer(self, output: LineOutput, batch: LineEvents) -> LineOutput:
        """The output itself: a baseline gives one too."""
        return output

    def score(self, answer: LineOutput, batch: LineEvents) -> dict[str, Mean]:
        """Squared errors "mse", of each parameter too; with a stop "count", right numbers of tracks."""
        error = (answer.lines - self.target(batch))[batch.present].square()
        score = {
            "mse": Mean.of(error),
            "mse_intercept": Mean.of(error[:, 0]),
            "mse_slope": Mean.of(error[:, 1]),
        }
        if answer.present is not None:
            score["count"] = Mean.of(n_found(answer.present) == batch.present.sum(1))
        return score

    def show(self, output: LineOutput, batch: LineEvents) -> dict[str, Figure]:
        """Images with lines."""
        shown = batch.present
        if output.present is not None:
            shown = torch.arange(shown.shape[1]) < n_found(output.present)[:, None].cpu()
        lines = output.lines.detach() / torch.tensor([1.0, self.scale], device=output.lines.device)
        return {"events": line_answers(batch, lines, shown)}


def n_found(present: Tensor) -> Tensor:
    """Tracks before the first that is said not to be there: int64 (events,)."""
    return (present > 0).long().cumprod(1).sum(1)


def required(value: Any) -> Tensor:
    """An output that the loss needs.

    Raises:
        TypeError: the system was made without it.
    """
    if value is None:
        raise TypeError("the system emits no such output; set its stops or errors")
    return value
