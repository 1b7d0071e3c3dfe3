"""A training of a system, its figures of merit on events that it has not seen, and those of the baselines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.trackfinding.data import TrackfindingData
from alignnet.trackfinding.filters import convolutions_until, filter_figure, maximised
from alignnet.trackfinding.metrics import Mean, joined
from alignnet.trackfinding.module import TrackFinder
from alignnet.trackfinding.objectives.likelihood import LineLikelihood
from alignnet.trackfinding.objectives.objective import Objective
from alignnet.trackfinding.pictures import learning_curve
from alignnet.training.callbacks import Checkpoints
from alignnet.training.checkpoint import AtomicCheckpointIO

log = logging.getLogger("alignnet.trackfinding")

Baseline = Callable[[Any], Any]
"""Track finding without learning: a batch to an answer of the objective."""


class LearningMonitor(L.Callback):
    """A line an epoch, the learning curve, and pictures in TensorBoard.

    Args:
        figure_every: epochs between pictures; 0 for none.
        filters: number of the convolution whose filters are pictured too, at the end.
    """

    def __init__(self, figure_every: int = 1, filters: int | None = None) -> None:
        if figure_every < 0:
            raise ConfigError(f"figure_every is {figure_every}; expected epochs, 0 for no pictures")
        self.figure_every, self.filters = figure_every, filters
        self.history: list[dict[str, float]] = []
        self.cpu_seconds, self._started = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs."""
        return {"history": self.history, "cpu_seconds": self.cpu_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a history."""
        self.history, self.cpu_seconds = list(state_dict["history"]), float(state_dict["cpu_seconds"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count this process's time, of all its threads."""
        self._started = time.process_time()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how far it is, and draw."""
        assert isinstance(pl_module, TrackFinder)
        self.cpu_seconds += time.process_time() - self._started
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        place = {"epoch": float(trainer.current_epoch), "events": float(pl_module.events)}
        self.history.append({**place, "cpu_minutes": self.cpu_seconds / 60, **values})
        if not trainer.is_global_zero:
            return
        merits = ", ".join(f"{m} {values[f'val/{m}']:.4f}" for m in pl_module.objective.merits)
        log.info("epoch %d: train loss %.4f, val %s", trainer.current_epoch,
                 values.get("train/loss_epoch", float("nan")), merits)  # fmt: skip
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if self.figure_every and (last or trainer.current_epoch % self.figure_every == 0):
            self._draw(trainer, pl_module, last)

    def _draw(self, trainer: L.Trainer, module: TrackFinder, last: bool) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        data: TrackfindingData = trainer.datamodule  # type: ignore[attr-defined]
        figures = pictures(module, data)
        names = [f"val/{name}" for name in module.objective.merits]
        figures["learning"] = learning_curve(self.history, names)
        if last and self.filters is not None:
            figures["filters"] = filter_pictures(module, data, self.filters)
        for tag, figure in figures.items():
            trainer.logger.experiment.add_figure(tag, figure, trainer.current_epoch)


def pictures(module: TrackFinder, data: TrackfindingData) -> dict[str, Figure]:
    """What the objective shows of the first events of the validation."""
    training = module.training
    module.eval()
    with torch.no_grad():
        batch = module.transfer_batch_to_device(data.batches["validation"][0], module.device, 0)
        figures = module.objective.show(module.objective.output(module.system, batch), batch)
    module.train(training)
    return figures


def filter_pictures(module: TrackFinder, data: TrackfindingData, number: int) -> Figure:
    """What excites the filters of a convolution most, on images of the data's size."""
    layers = convolutions_until(module.system, number)
    size = data.batches["validation"][0].image.shape[-1]  # type: ignore[union-attr]
    return filter_figure(maximised(layers.cpu(), size, torch.Generator().manual_seed(0)))


def make_trainer(folder: Path, options: Mapping[str, Any], monitor: LearningMonitor) -> L.Trainer:
    """The trainer of a run in `folder`, where checkpoints/ and tensorboard/ go.

    Raises:
        ConfigError: `options` are not arguments of `lightning.Trainer`.
    """
    try:
        return L.Trainer(
            logger=TensorBoardLogger(str(folder), name="tensorboard", version=""),
            callbacks=[monitor, Checkpoints(folder / "checkpoints", "val/loss")],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(folder),
            **options,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error


def tested(trainer: L.Trainer, module: TrackFinder, data: TrackfindingData) -> dict[str, float]:
    """Figures of merit of the system as it is, on the test events.

    Where the objective estimates errors these are calibrated first, with the validation events; figures with
    errors as they were trained are there too, as "…_as_trained".
    """
    trainer.test(module, datamodule=data, verbose=False)
    figures = module.figures_of_merit()
    if not isinstance(module.objective, LineLikelihood):
        return figures
    module.objective.calibrate(*estimated(module, data))
    trainer.test(module, datamodule=data, verbose=False)
    return module.figures_of_merit() | {f"{name}_as_trained": value for name, value in figures.items()}


def estimated(module: TrackFinder, data: TrackfindingData) -> tuple[Tensor, Tensor]:
    """Residuals (tracks, 2) and errors (tracks, 3) of all lines of the validation events."""
    objective = module.objective
    assert isinstance(objective, LineLikelihood)
    module.eval()
    with torch.no_grad():
        batches = (module.transfer_batch_to_device(b, module.device, 0) for b in data.val_dataloader())
        parts = [objective.residuals(objective.output(module.system, b), b) for b in batches]
    residual, spread = zip(*parts, strict=True)
    return torch.cat(residual).cpu(), torch.cat(spread).cpu()


def baseline_figures(
    baselines: Mapping[str, Baseline], objective: Objective, data: TrackfindingData
) -> dict[str, dict[str, float]]:
    """Figures of merit of each baseline, on the test events."""
    sums: dict[str, dict[str, Mean]] = {name: {} for name in baselines}
    for batch in data.test_dataloader() if baselines else ():
        for name, find in baselines.items():
            sums[name] = joined(sums[name], objective.score(find(batch), batch))
    return {name: {k: mean.value() for k, mean in score.items()} for name, score in sums.items()}
