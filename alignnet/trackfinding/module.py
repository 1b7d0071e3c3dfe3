"""The LightningModule of all systems: no physics and no architecture, an `Objective` knows the task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from alignnet.errors import ConfigError, ConvergenceError
from alignnet.trackfinding.data import TrackfindingData
from alignnet.trackfinding.events import n_events_of
from alignnet.trackfinding.metrics import Mean, joined
from alignnet.trackfinding.objectives.objective import Objective


class TrackFinder(L.LightningModule):
    """Trains a system for an objective.

    Args:
        system: the network.
        objective: loss, answers and scores.
        optimizer: makes the optimiser of given parameters.
        cosine: lower the learning rate to zero over the whole training, along half a cosine, after a rise
            over its first twentieth; otherwise it stays as it is.
    """

    def __init__(
        self,
        system: nn.Module,
        objective: Objective,
        optimizer: Callable[..., torch.optim.Optimizer],
        cosine: bool = True,
    ) -> None:
        super().__init__()
        self.system, self.objective = system, objective
        self.make_optimizer, self.cosine = optimizer, cosine
        self.sums: dict[str, Mean] = {}
        self.events = 0  # trained on so far

    def configure_optimizers(self) -> Any:
        """The optimiser, and the learning rate's schedule.

        Raises:
            ConfigError: it does not take one of its values.
        """
        try:
            optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer: {error}") from error
        if not self.cosine:
            return optimizer
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """New events, and the objective's stage."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, TrackfindingData):
            data.begin_epoch(self.current_epoch)
        if hasattr(self.objective, "begin_epoch"):
            self.objective.begin_epoch(self.current_epoch)

    def training_step(self, batch: Any) -> Tensor:
        """The loss of a batch.

        Raises:
            ConvergenceError: it is not finite.
        """
        loss = self.objective.loss(self.objective.output(self.system, batch), batch)
        if not torch.isfinite(loss):
            raise ConvergenceError(
                f"the loss became {float(loss)} after {self.events:,} events; lower optimizer.lr"
            )
        n_events = n_events_of(batch)
        self.events += n_events
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=n_events)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to sum."""
        self.sums = {}

    def validation_step(self, batch: Any) -> None:
        """Add a batch's scores to the sums."""
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of merit as val/…"""
        self.log_dict({f"val/{name}": value for name, value in self.figures_of_merit().items()})

    def on_test_epoch_start(self) -> None:
        """Begin to sum."""
        self.sums = {}

    def test_step(self, batch: Any) -> None:
        """Add a batch's scores to the sums."""
        self._add(batch)

    def figures_of_merit(self) -> dict[str, float]:
        """Means of what was summed, over all ranks."""
        if dist.is_available() and dist.is_initialized():
            everyone: list[dict[str, Mean]] = [{}] * dist.get_world_size()
            dist.all_gather_object(everyone, self.sums)
            self.sums = {}
            for part in everyone:
                self.sums = joined(self.sums, part)
        return {name: mean.value() for name, mean in self.sums.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember how many events were trained on."""
        checkpoint["trackfinding"] = {"events": self.events}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.events = int(checkpoint.get("trackfinding", {}).get("events", 0))

    def _add(self, batch: Any) -> None:
        output = self.objective.output(self.system, batch)
        n_events = n_events_of(batch)
        loss = Mean(float(self.objective.loss(output, batch)) * n_events, n_events)
        score = self.objective.score(self.objective.answer(output, batch), batch)
        self.sums = joined(self.sums, {**score, "loss": loss})


def warm_cosine(step: int, steps: int) -> float:
    """The learning rate's factor at a step: up over the first twentieth, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))
