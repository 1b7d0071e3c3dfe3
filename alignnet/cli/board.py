"""The figures of the report in TensorBoard: of some tracks while it trains, of all of them at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.data.event_table import EventTable, SomeEvents
from alignnet.data.tracks import Tracks
from alignnet.evaluation import plots
from alignnet.evaluation.figures import figures_of
from alignnet.evaluation.levels import level_metrics
from alignnet.evaluation.map_panels import all_layers
from alignnet.evaluation.stream import events_of
from alignnet.evaluation.summary import Evaluation
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.training.board import Board
from alignnet.training.robust_schedule import begin_epoch

SAMPLE = 2000
"""Tracks of the figures while it trains: seconds, whatever the run has."""


@dataclass(frozen=True)
class TrainingFigures:
    """Figures of a run that goes on, by their tags.

    Args:
        evaluation: the run's; of its tracks the first `SAMPLE` are evaluated.
    """

    evaluation: Evaluation

    def __call__(
        self, detector: Detector, local: Tensor, history: Sequence[Mapping[str, float]]
    ) -> dict[str, Figure]:
        """The report's figures but the least known motions, with the sensors where they are now.

        Args:
            detector: the nominal places.
            local: where the sensors are now (sensors, 6).
            history: a row an epoch.
        """
        return {
            "correction_maps": all_layers(detector, local),
            "convergence": plots.convergence(history),
            "steps": plots.steps(history),
            **figures_of(self.numbers(local)),
        }

    def numbers(self, local: Tensor) -> dict[str, Any]:
        """What the sample says with the sensors at `local`, nested as in metrics.json."""
        some = first_events(self.evaluation.tracks, self.evaluation.detector, SAMPLE)
        now = replace(self.evaluation, tracks=some, after=local)
        with _own_scales(now.loss):
            sums = now.stream().run(now.sums)
        metrics: dict[str, Any] = {}
        for found in sums.values():
            metrics |= found.metrics()
        if "levels" in now.numbers:
            summaries = sums["residuals"].summaries
            metrics |= level_metrics(
                now.detector, {name: summary.sensors for name, summary in summaries.items()}
            )
        return metrics


def first_events(tracks: Tracks | EventTable, detector: Detector, n_tracks: int) -> EventTable:
    """The first events that have `n_tracks` tracks or more together; all where there are fewer."""
    table = events_of(tracks, detector)
    return SomeEvents(table, table.first(np.arange(len(table)), n_tracks))


@contextmanager
def _own_scales(loss: HelixChi2) -> Iterator[None]:
    """Robust weights as in an evaluation; then those of the epoch again."""
    both = (loss.weights, loss.hit_weights)
    of_epoch = [(weights.epoch, weights.scale) for weights in both]
    begin_epoch(loss, None)
    try:
        yield
    finally:
        for weights, (epoch, scale) in zip(both, of_epoch, strict=True):
            weights.epoch, weights.scale = epoch, scale


def show_evaluation(trainer: L.Trainer, metrics: Mapping[str, Any], every: bool = True) -> None:
    """Add the figures of an evaluation that there are numbers for.

    Args:
        trainer: with the run's logger.
        metrics: nested as in metrics.json.
        every: also those that nobody has asked for by a key: all but the least known motions.
    """
    if not isinstance(trainer.logger, Board):
        return
    figures = figures_of(metrics if every else {"spectrum": metrics.get("spectrum")})
    if every and metrics.get("residuals"):
        figures["residuals_per_layer"] = plots.residuals_per_layer(metrics["residuals"])
    for tag, figure in figures.items():
        trainer.logger.add_figure(tag, figure, trainer.current_epoch)
    trainer.logger.flush()
