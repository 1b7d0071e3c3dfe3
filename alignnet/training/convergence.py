"""Whether the answer of a training has settled: a status that goes wherever the answer goes.

Gauss–Newton is judged by its last step δ = −H⁻¹g, four ways:

* its conjugate gradients came to their tolerance;
* δᵀHδ, the drop of Σχ² that the step expects, is small for each unknown. H⁻¹ is the covariance of the
  answer, so δᵀHδ over the number of unknowns is the mean square of the step in standard deviations: at 0.01
  the answer was a tenth of its statistical error from the minimum of this linearisation;
* the r.m.s. step is small in centimetres, which δᵀHδ does not see along modes that tracks hardly measure;
* the robust weights are those that the schedule ends with.

Other optimisers have no H to judge with: their status is "not judged".
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch

from alignnet.loss.chi2 import HelixChi2
from alignnet.solvers.pcg import Solution
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton, StepReport
from alignnet.units import UM

log = logging.getLogger("alignnet.training")


@dataclass(frozen=True)
class Convergence:
    """The status of a training."""

    converged: bool | None  # None: not judged
    reasons: tuple[str, ...]  # why (not)
    epochs: int  # that were done
    chi2_drop_per_unknown: float | None = None  # expected of the last step
    step_um: float | None = None  # r.m.s. of the translations
    residual: float | None = None  # of the last conjugate gradients
    iterations: int | None = None  # of these

    def plain(self) -> dict[str, Any]:
        """As plain values, for checkpoints and JSON."""
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Convergence:
        """Inverse of `plain`."""
        return cls(**{**values, "reasons": tuple(values["reasons"])})

    def __str__(self) -> str:
        word = {True: "converged", False: "not converged", None: "convergence is not judged"}[self.converged]
        return f"{word} after {self.epochs} epochs: {'; '.join(self.reasons)}"


def judged(optimizer: torch.optim.Optimizer, loss: HelixChi2, epochs: int) -> Convergence:
    """The status after the last step of an optimiser.

    Args:
        optimizer: of the training.
        loss: whose robust weights may have a schedule.
        epochs: that were done.
    """
    if not isinstance(optimizer, GaussNewton):
        return Convergence(None, (f"{type(optimizer).__name__} has no measure of it",), epochs)
    if optimizer.converged is None:
        return Convergence(None, ("optimizer.converged is null",), epochs)
    report = optimizer.report
    if report is None:
        return Convergence(False, ("no step was made",), epochs)
    checks = _checks(optimizer, report, loss)
    if not optimizer.on_last_stage:
        n, many = optimizer.stage_number + 1, len(optimizer.stages)
        checks = [(False, f"stage {n} of {many} of optimizer.schedule ({optimizer.stage})")]
    converged = all(good for good, _ in checks)
    reasons = tuple(text for good, text in checks if good == converged)
    if report.n_null:
        reasons += (f"{report.n_null} motions that no track or prior knows of stay as they were",)
    solution, drop = report.solution, report.expected_drop / report.unknowns
    return Convergence(
        converged, reasons, epochs, drop, report.step / UM, solution.residual, solution.iterations
    )


def settled(optimizer: GaussNewton, loss: HelixChi2) -> bool:
    """Whether what moves in this stage has come to rest; never where it is not judged."""
    if optimizer.converged is None or optimizer.report is None:
        return False
    return all(good for good, _ in _checks(optimizer, optimizer.report, loss))


def _checks(optimizer: GaussNewton, report: StepReport, loss: HelixChi2) -> list[tuple[bool, str]]:
    assert optimizer.converged is not None
    return [
        _check("expected Δχ² {:.2g} an unknown", report.expected_drop / report.unknowns, optimizer.converged),
        _check("step {:.2g} µm", report.step / UM, optimizer.converged_step / UM),
        _solved(report.solution, optimizer.tolerance),
        *(
            (False, f"{weights.key}.switch_epoch={weights.switch_epoch} has not come")
            for weights in (loss.weights, loss.hit_weights)
            if not weights.settled
        ),
    ]


def _check(text: str, value: float, limit: float) -> tuple[bool, str]:
    said = text.format(value)
    return value <= limit, said if value <= limit else f"{said}, above {limit:g}"


def _solved(solution: Solution, tolerance: float) -> tuple[bool, str]:
    """Whether conjugate gradients came to their end, a gain too small to matter included."""
    if solution.converged and not solution.iterations:
        return True, "the last step's equations were solved without conjugate gradients"
    if solution.converged:
        several = "s" if solution.iterations > 1 else ""
        return True, f"conjugate gradients done in {solution.iterations} iteration{several}"
    return False, (
        f"conjugate gradients at {solution.residual:.1g} after {solution.iterations} iterations, above "
        f"optimizer.tolerance={tolerance:g}"
    )


class ConvergenceMonitor(L.Callback):
    """Judges every epoch, logs it, and stops a training that has converged.

    Args:
        stop: whether to stop; with False only the status is kept.
    """

    def __init__(self, stop: bool = True) -> None:
        self.stop = stop
        self.status = Convergence(False, ("no epoch was done",), 0)
        self._chi2: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The status, and Σχ² of the last epoch."""
        return {"status": self.status.plain(), "chi2": self._chi2}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue."""
        self.status, self._chi2 = Convergence.of(state_dict["status"]), state_dict["chi2"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the status where a reader of the file finds it."""
        checkpoint["convergence"] = self.status.plain()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge an epoch after its last batch."""
        assert isinstance(pl_module, AlignmentModule)
        if not trainer.is_last_batch:
            return
        optimizer = pl_module.optimizer
        self.status = judged(optimizer, pl_module.loss, trainer.current_epoch + 1)
        values: dict[str, float] = {}
        if self.status.chi2_drop_per_unknown is not None:
            values["expected_chi2_drop_per_unknown"] = self.status.chi2_drop_per_unknown
            values["converged"] = float(bool(self.status.converged))
        if isinstance(optimizer, GaussNewton) and self._chi2 is not None:
            values["chi2_drop"] = self._chi2 - pl_module.train_chi2
        if isinstance(optimizer, GaussNewton) and optimizer.finish_epoch(settled(optimizer, pl_module.loss)):
            log.info("next stage of optimizer.schedule: %s", optimizer.stage)
        self._chi2 = pl_module.train_chi2
        for name, value in values.items():
            pl_module.log(f"solver/{name}", value, on_step=False, on_epoch=True, batch_size=1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop, on all ranks, where it has converged."""
        if trainer.strategy.reduce_boolean_decision(self.stop and bool(self.status.converged)):
            trainer.should_stop = True


def convergence_of(trainer: L.Trainer) -> Convergence:
    """The status of a training that `make_trainer`'s trainer has done."""
    return next(c.status for c in trainer.callbacks if isinstance(c, ConvergenceMonitor))  # type: ignore[attr-defined]
