"""What every objective offers, so that one LightningModule and one report serve all of them."""

from __future__ import annotations

from typing import Any, Protocol

from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.metrics import Score


class Objective(Protocol):
    """What a system is trained for.

    A system gives an output; `answer` turns it into what a baseline gives too, so that both are scored by
    the same lines.
    """

    merits: tuple[str, ...]  # the figures of merit that a line of progress and a learning curve show

    def output(self, system: nn.Module, batch: Any) -> Any:
        """What the system says of a batch."""
        ...

    def loss(self, output: Any, batch: Any) -> Tensor:
        """What training lowers: a scalar, a mean over events."""
        ...

    def answer(self, output: Any, batch: Any) -> Any:
        """The output as an answer: pixels, numbers of tracks, lines."""
        ...

    def score(self, answer: Any, batch: Any) -> Score:
        """How good an answer is, in sums over the batch."""
        ...

    def show(self, output: Any, batch: Any) -> dict[str, Figure]:
        """Pictures of input, scores and answer, by their tags."""
        ...
