"""What a training run works out of its errors, from the configuration, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from logging import Logger
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from alignnet.cli.progress import INTERVAL, tracked
from alignnet.evaluation import plots
from alignnet.training.uncertainty import Uncertainty


def uncertainty_of(config: DictConfig, log: Logger) -> Uncertainty:
    """The uncertainty that the key `evaluation` asks for.

    Args:
        config: of `alignnet train`.
        log: where it says how far it is.

    Raises:
        ConfigError: one of its values cannot be used.
    """
    wanted = config.evaluation
    return Uncertainty(
        errors=wanted.errors,
        n_draws=wanted.draws,
        n_modes=wanted.spectrum,
        watch=lambda draws, what, total: tracked(draws, what, total, 1, log),
        step=_now_and_then(log),
    )


def show_spectrum(trainer: L.Trainer, metrics: Mapping[str, Any]) -> None:
    """The picture of the least known motions in TensorBoard."""
    if metrics.get("spectrum") and isinstance(trainer.logger, TensorBoardLogger):
        figure = plots.spectrum(metrics["spectrum"])
        trainer.logger.experiment.add_figure("spectrum", figure, trainer.current_epoch)
        trainer.logger.experiment.flush()


def _now_and_then(log: Logger) -> Callable[[int, float], None]:
    """A line about the search for modes every few seconds."""
    said = time.monotonic()

    def step(iteration: int, residual: float) -> None:
        nonlocal said
        if time.monotonic() - said >= INTERVAL:
            said = time.monotonic()
            log.info(
                "least known motions: iteration %d, residual %.1e of what it may be", iteration, residual
            )

    return step
