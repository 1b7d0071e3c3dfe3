"""Regression of line parameters from images of 50 × 50 pixels (HEP.TrkX: E1–E3, and uncertainties).

All give intercept [pixels] and slope [pixels a layer, times `LineToy`'s scale]; the targets are scaled by the
objective, the networks know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from alignnet.trackfinding.systems.images import Step, stack
from alignnet.trackfinding.systems.lstm_layer import OneBiasLSTM, dense


class LineOutput(NamedTuple):
    """What these networks say of an event."""

    lines: Tensor  # (events, tracks, 2) intercept, scaled slope
    spread: Tensor | None = None  # (events, tracks, 3) ln σ² of both, artanh of their correlation
    present: Tensor | None = None  # (events, tracks) logit that this one is a track


class OneLine(nn.Module):
    """Convolutions, then two dense layers without an activation between: 204,214 parameters.

    Args:
        size: layers, and pixels of each; even.
    """

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        layers, channels = stack(1, (8, 8, "pool", 16, 16))
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), dense(channels * (size // 2) ** 2, 20), dense(20, 2)
        )

    def forward(self, image: Tensor) -> LineOutput:
        """One line an event."""
        return LineOutput(self.layers(image[:, None])[:, None])


class SequenceHead(nn.Module):
    """Features to so many outputs of a sequence: dense, repeated, LSTM, dense.

    Args:
        features: of an event.
        hidden: of the dense layer and of the LSTM.
        tracks: steps of the sequence.
        outputs: of a step.
    """

    def __init__(self, features: int, hidden: int, tracks: int, outputs: int) -> None:
        super().__init__()
        self.tracks = tracks
        self.dense, self.lstm = dense(features, hidden), OneBiasLSTM(hidden, hidden)
        self.out = dense(hidden, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(events, tracks, outputs)."""
        repeated = self.dense(features)[:, None].expand(-1, self.tracks, -1)
        return self.out(self.lstm(repeated))


class LineSequence(nn.Module):
    """Convolutions and an LSTM that emits lines by rising intercept: 9,295,050 parameters.

    Args:
        tracks: how many are emitted.
        size: layers, and pixels of each; even.
        hidden: of the sequence head.
        steps: convolutions and poolings, one pooling among them.
        stops: emit also whether there is such a track: one more output of a step.
        errors: emit also errors and correlation, by a second head of the same kind: 18,578,253 parameters.
    """

    def __init__(
        self,
        tracks: int = 3,
        size: int = 50,
        hidden: int = 400,
        steps: Sequence[Step] = (8, 8, "pool", 32, 32),
        stops: bool = False,
        errors: bool = False,
    ) -> None:
        super().__init__()
        layers, channels = stack(1, steps)
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        features = channels * (size // 2 ** list(steps).count("pool")) ** 2
        self.lines = SequenceHead(features, hidden, tracks, 3 if stops else 2)
        self.spread = SequenceHead(features, hidden, tracks, 3) if errors else None

    def forward(self, image: Tensor) -> LineOutput:
        """Lines, and what else is emitted."""
        features = self.trunk(image[:, None])
        lines = self.lines(features)
        spread = None if self.spread is None else self.spread(features)
        return LineOutput(lines[..., :2], spread, lines[..., 2] if lines.shape[-1] == 3 else None)
