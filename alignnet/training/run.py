"""A training run: trainer, callbacks, checkpoints, resume; what `alignnet train` and notebooks share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from rich import get_console
from torch import Tensor

from alignnet.data.datamodule import AlignmentData
from alignnet.errors import CheckpointError, ConfigError
from alignnet.training.averaging import PartitionAveraging
from alignnet.training.board import Board
from alignnet.training.callbacks import AlignmentMonitor, Checkpoints, ProgressLine
from alignnet.training.checkpoint import AtomicCheckpointIO, check_complete, load_checkpoint
from alignnet.training.convergence import ConvergenceMonitor
from alignnet.training.module import AlignmentModule

LAST = "last.ckpt"


def make_trainer(
    folder: Path,
    options: Mapping[str, Any],
    callbacks: list[L.Callback],
    early_stop: Mapping[str, Any] | None = None,
    averaging: PartitionAveraging | None = None,
    validates: bool = True,
    tensorboard: bool = True,
    stop_when_converged: bool = True,
) -> L.Trainer:
    """The trainer of a run in `folder`.

    Args:
        folder: checkpoints/ and tensorboard/ go there.
        options: keyword arguments of `lightning.Trainer`.
        callbacks: besides checkpoints and the progress display.
        early_stop: keyword arguments of Lightning's `EarlyStopping` on χ²/ndf, or None.
        averaging: train locally and average Θ.
        validates: whether there are validation events.
        tensorboard: whether to log for TensorBoard.
        stop_when_converged: whether Gauss–Newton ends before the last epoch once it has converged.
    """
    _require_whole("trainer.max_epochs", options.get("max_epochs", 1))
    _require_whole("early_stop.patience", (early_stop or {}).get("patience", 1))
    monitor = "val/chi2_per_ndf" if validates else "train/chi2_per_ndf"
    display: list[L.Callback] = [ProgressLine(), ConvergenceMonitor(stop_when_converged)]
    settings = dict(options) if validates else {**options, "limit_val_batches": 0}
    console = get_console()
    settings["enable_progress_bar"] = options.get("enable_progress_bar", True) and (
        console.is_terminal or console.is_jupyter
    )
    if settings["enable_progress_bar"]:
        display.append(RichProgressBar(leave=False))
    if averaging is not None:
        settings["strategy"] = averaging
    try:
        if early_stop is not None:
            display.append(
                EarlyStopping(
                    monitor=monitor, mode="min", check_on_train_epoch_end=not validates, **early_stop
                )
            )
        return L.Trainer(
            logger=Board(str(folder), name="tensorboard", version="") if tensorboard else False,
            callbacks=[*callbacks, *display, Checkpoints(folder / "checkpoints", monitor)],
            plugins=[AtomicCheckpointIO()],
            use_distributed_sampler=False,
            default_root_dir=str(folder),
            **settings,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error


def _require_whole(key: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key} is {value!r}; expected a whole number of at least 1")


def fit(
    trainer: L.Trainer, module: AlignmentModule, data: AlignmentData, resume: Path | None = None
) -> AlignmentMonitor:
    """Train, from the last checkpoint of the run `resume` where given; returns the monitor with the history.

    Raises:
        CheckpointError: there is no such checkpoint, or it is of another detector or parametrisation.
        ConvergenceError: the cost became non-finite; checkpoints are left as they were.
        KeyboardInterrupt: Ctrl-C; the last checkpoint is whole.
    """
    checkpoint = None if resume is None else last_checkpoint(resume)
    if checkpoint is not None:
        content = load_checkpoint(checkpoint)
        module.on_load_checkpoint(content)
        check_complete(content, checkpoint)
        done = int(content["epoch"]) + 1
        if trainer.max_epochs is not None and trainer.max_epochs < done:
            raise ConfigError(f"trainer.max_epochs is {trainer.max_epochs}; the run has done {done} already")
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning has put things away, and would exit in silence
            raise KeyboardInterrupt from None
        raise
    if isinstance(trainer.strategy, PartitionAveraging):
        trainer.strategy.average(module)
    return next(c for c in trainer.callbacks if isinstance(c, AlignmentMonitor))  # type: ignore[attr-defined]


def last_checkpoint(run: Path) -> Path:
    """The last checkpoint of a run's folder.

    Raises:
        CheckpointError: the folder has none.
    """
    path = run / "checkpoints" / LAST
    if not path.is_file():
        raise CheckpointError(
            f"{run}: no checkpoints/{LAST} there; give the folder of a training run (hydra.run.dir)"
        )
    return path


def load_theta(module: AlignmentModule, path: Path) -> Tensor:
    """Put the sensors where a checkpoint has them; returns their local six.

    Raises:
        CheckpointError: damaged, or of another detector or parametrisation.
    """
    content = load_checkpoint(path)
    module.on_load_checkpoint(content)
    module.load_state_dict(content["state_dict"], strict=False)
    return module.sensors.local()
