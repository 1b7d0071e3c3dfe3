"""What a run shows while it trains: TensorBoard scalars and figures, and checkpoints at the end of epochs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.recovery import Recovery, difference
from alignnet.training.board import Board
from alignnet.training.figures import correction_figure, residual_figure
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton
from alignnet.units import UM

log = logging.getLogger("alignnet.training")
COORDINATES = ("u", "v", "w")
MoreFigures = Callable[[Detector, Tensor, Sequence[Mapping[str, float]]], Mapping[str, Figure]]


class AlignmentMonitor(L.Callback):
    """Scalars and figures of the alignment, for TensorBoard and for the history in metrics.json.

    Args:
        truth: the true local six (sensors, 6) of a simulation, or None.
        figure_every: epochs between figures; 0 for none.
        figures: further figures by their tags, of the detector, the local six (sensors, 6) and the history.
    """

    def __init__(
        self, truth: Tensor | None = None, figure_every: int = 5, figures: MoreFigures | None = None
    ) -> None:
        if figure_every < 0:
            raise ConfigError(f"figure_every is {figure_every}; expected epochs, 0 for no figures")
        self.truth, self.figure_every, self.figures = truth, figure_every, figures
        self.history: list[dict[str, float]] = []
        self._last: Tensor | None = None
        self._recovery: Recovery | None = None

    def state_dict(self) -> dict[str, Any]:
        """The history, so that a resumed run continues it."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a history."""
        self.history = list(state_dict["history"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the sensors were."""
        assert isinstance(pl_module, AlignmentModule)
        self._last = pl_module.sensors.local()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The gradient's norm."""
        assert isinstance(pl_module, AlignmentModule)
        gradients = [weight.grad for weight in pl_module.weights if weight.grad is not None]
        if gradients:
            pl_module.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step size, residuals, remaining misalignment, Gauss–Newton's report, figures, history."""
        assert isinstance(pl_module, AlignmentModule)
        assert self._last is not None
        local = pl_module.sensors.local()
        step = (local - self._last)[:, :3].square().mean().sqrt()
        pl_module.log("train/step_um", float(step) / UM, prog_bar=True)
        self._log_residuals(pl_module)
        self._log_gauss_newton(pl_module)
        if self.truth is not None:
            self._log_remaining(pl_module, local)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.history.append({"epoch": float(trainer.current_epoch), **metrics})
        if self.figure_every and trainer.current_epoch % self.figure_every == 0 and trainer.is_global_zero:
            self._add_figures(trainer, pl_module, local)

    def _log_residuals(self, module: AlignmentModule) -> None:
        """Residuals per layer of the validation before; here the module has summed them over ranks."""
        if not module.layer_sums.sums.any():
            return
        mean, width = module.layer_sums.mean_and_width()
        for i, layer in enumerate(module.layer_sums.layers):
            for k, coordinate in enumerate("uv"):
                module.log(f"residual_mean_um/layer{layer}_{coordinate}", float(mean[i, k]) / UM)
                module.log(f"residual_width_um/layer{layer}_{coordinate}", float(width[i, k]) / UM)

    def _log_gauss_newton(self, module: AlignmentModule) -> None:
        optimizer = module.optimizer
        if not isinstance(optimizer, GaussNewton) or optimizer.report is None:
            return
        report, solution = optimizer.report, optimizer.report.solution
        module.log("train/gradient_norm", report.gradient)
        module.log("solver/iterations", float(solution.iterations))
        module.log("solver/residual", solution.residual)
        module.log("solver/expected_chi2_drop", report.expected_drop)
        if not solution.converged:
            log.info(
                "conjugate gradients stopped after %d iterations at a residual of %.1e (tolerance %.1e)",
                solution.iterations, solution.residual, optimizer.tolerance,
            )  # fmt: skip

    def _log_remaining(self, module: AlignmentModule, local: Tensor) -> None:
        assert self.truth is not None
        if self._recovery is None:
            every = torch.ones(len(module.detector), dtype=torch.bool)
            columns = max(local.shape[1], self.truth.shape[1])
            self._recovery = Recovery(module.detector, every, columns=columns)
        left = self._recovery.per_layer(difference(local, self.truth, module.detector))
        for layer, values in left.items():
            for coordinate, value in zip(COORDINATES, values, strict=True):
                module.log(f"remaining_um/layer{layer}_{coordinate}", value / UM)

    def _add_figures(self, trainer: L.Trainer, module: AlignmentModule, local: Tensor) -> None:
        if isinstance(trainer.logger, Board):
            board, epoch = trainer.logger, trainer.current_epoch
            board.add_figure("corrections", correction_figure(module.detector, local), epoch)
            board.add_figure("residuals", residual_figure(module.layer_sums), epoch)
            more = self.figures(module.detector, local, self.history) if self.figures else {}
            for name, figure in more.items():
                board.add_figure(name, figure, epoch)


class Checkpoints(ModelCheckpoint):
    """`last.ckpt` after every epoch, `best.ckpt` by χ²/ndf of validation (of training without validation).

    Args:
        folder: where they go.
        monitor: what best means.
    """

    def __init__(self, folder: str | Path, monitor: str = "val/chi2_per_ndf") -> None:
        super().__init__(
            dirpath=str(folder),
            filename="best",
            monitor=monitor,
            mode="min",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save both; Lightning's own `save_last` leaves out the epochs that are not the best so far."""
        super().on_train_epoch_end(trainer, pl_module)
        if not getattr(trainer, "fast_dev_run", False):
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")


class ProgressLine(L.Callback):
    """One line an epoch in the log: χ²/ndf of training and validation, and the step."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how far it is."""
        m = trainer.callback_metrics
        parts = [
            f"{k.split('/')[0]} χ²/ndf {float(m[k]):.4g}"
            for k in ("train/chi2_per_ndf", "val/chi2_per_ndf")
            if k in m
        ]
        step = f", step {float(m['train/step_um']):.3g} µm" if "train/step_um" in m else ""
        if trainer.is_global_zero:
            log.info("epoch %d: %s%s", trainer.current_epoch, ", ".join(parts), step)
