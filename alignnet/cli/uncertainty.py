"""What a training run works out of its errors, from the configuration, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger

from omegaconf import DictConfig

from alignnet.cli.progress import INTERVAL, tracked
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
        weak_modes=wanted.mode_aim is not None,
        watch=lambda draws, what, total: tracked(draws, what, total, 1, log),
        step=_now_and_then(log),
    )


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
