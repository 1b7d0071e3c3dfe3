"""What a run writes for TensorBoard, where a full disk is one error and not one of each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from alignnet.data.atomic import is_full, room_named
from alignnet.errors import ConfigError


class Board(TensorBoardLogger):
    """TensorBoard's logger; where there is no room for its file it says so once, and writes no more.

    TensorBoard writes in a thread of its own, whose error appears at a later call, or inside of advice on
    what can be logged. Here the call that meets it raises ConfigError, which names the folder.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_full = False
        _silence_writers()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Scalars of one step."""
        self._write(lambda: super(Board, self).log_metrics(metrics, step))

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        """One picture."""
        self._write(lambda: self.experiment.add_figure(tag, figure, step))

    def flush(self) -> None:
        """Write what waits."""
        self._write(lambda: self.experiment.flush())

    def save(self) -> None:
        """Write what waits, and the hyperparameters."""
        self._write(lambda: super(Board, self).save())

    def finalize(self, status: str) -> None:
        """Close the file."""
        self._write(lambda: super(Board, self).finalize(status))

    def _write(self, call: Callable[[], object]) -> None:
        if self._is_full:  # it has been said
            return
        try:
            with room_named(self.log_dir):
                _without_advice(call)
        except ConfigError:
            self._is_full = True
            raise


def _without_advice(call: Callable[[], object]) -> None:
    """Lightning takes every error for a value that TensorBoard cannot show; a full disk is none."""
    try:
        call()
    except ValueError as error:
        if error.__cause__ is not None and is_full(error.__cause__):
            raise error.__cause__ from None
        raise


def _silence_writers() -> None:
    """Let the writer's thread say nothing of a full disk: its next call says it."""
    hook = threading.excepthook
    if getattr(hook, "is_silent", False):
        return

    def silent(arguments: threading.ExceptHookArgs) -> None:
        of_writer = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (of_writer and arguments.exc_value is not None and is_full(arguments.exc_value)):
            hook(arguments)

    silent.is_silent = True  # type: ignore[attr-defined]
    threading.excepthook = silent
