"""The figures of the report in TensorBoard: some while it trains, the others when it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.evaluation import plots
from alignnet.evaluation.map_panels import all_layers
from alignnet.geometry.detector import Detector
from alignnet.training.board import Board

_FIGURES: dict[str, tuple[str, Callable[[Any], Figure]]] = {
    "dca": ("dca", plots.dca_mean_and_width),
    "truth": ("truth", plots.truth_recovery),
    "residuals": ("residuals_per_layer", plots.residuals_per_layer),
    "spectrum": ("spectrum", plots.spectrum),
}
"""Numbers of an evaluation, their tag, and what draws them."""


def training_figures(
    detector: Detector, local: Tensor, history: Sequence[Mapping[str, float]]
) -> dict[str, Figure]:
    """Figures of a run that goes on, by their tags.

    Args:
        detector: the nominal places.
        local: where the sensors are now (sensors, 6).
        history: a row an epoch.
    """
    return {
        "correction_maps": all_layers(detector, local),
        "convergence": plots.convergence(history),
        "steps": plots.steps(history),
    }


def show_evaluation(trainer: L.Trainer, metrics: Mapping[str, Any], every: bool = True) -> None:
    """Add the figures of an evaluation that there are numbers for.

    Args:
        trainer: with the run's logger.
        metrics: nested as in metrics.json.
        every: also those that nobody has asked for by a key: all but the least known motions.
    """
    if not isinstance(trainer.logger, Board):
        return
    for key, (tag, draw) in _FIGURES.items():
        if metrics.get(key) and (every or key == "spectrum"):
            trainer.logger.add_figure(tag, draw(metrics[key]), trainer.current_epoch)
    trainer.logger.flush()
