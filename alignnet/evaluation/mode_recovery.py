"""What a training's data say of each weak mode: how much of it was found, and how well it could be.

The amplitude of a mode is a linear form p of the sensors' displacement (`ModeAmplitudes`), so its error is
that of the form, σ² = pᵀ C p with C the covariance of the answer: one solution of the linear system a mode.
A mode with an error as large as the amplitude that matters is invisible, whatever the answer says of it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.constrained import minimised
from alignnet.solvers.levels import Hierarchical, Preconditioner
from alignnet.training.priors import theta_forms


class ModeRecovery(NamedTuple):
    """One weak mode."""

    name: str
    true: float  # its amplitude in the truth [cm at the edge]
    found: float  # and in the answer
    error: float  # expected of it, priors included

    @property
    def fraction(self) -> float:
        """The part of it that was found; NaN where there was none."""
        return self.found / self.true if self.true else float("nan")

    def visible(self, within: float) -> bool:
        """Whether the data at hand tell its amplitude to `within` [cm]."""
        return self.error < within


def mode_recoveries(
    detector: Detector,
    sensors: SensorLayer,
    system: tuple[Hierarchical, Preconditioner],
    answer: Tensor,
    truth: Tensor,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> list[ModeRecovery]:
    """The modes that a detector can tell apart.

    Args:
        detector: the nominal places.
        sensors: the model of the answer.
        system: linearised at the answer (`GaussNewton.system`).
        answer, truth: local sixes (sensors, 6).
        tolerance: of each solution.
        max_iterations: of each solution.
    """
    amplitudes = ModeAmplitudes(detector, sensors.free.any(-1))
    hierarchy, inverse = system
    errors = []
    for form in theta_forms(sensors, amplitudes.forms):
        force = hierarchy.collect(form.to(hierarchy.weight))
        solution = minimised(hierarchy, force, inverse, tolerance, max_iterations)
        errors.append(float((force * solution.x).sum().clamp_min(0).sqrt()))
    there, here = (amplitudes(local.cpu()).tolist() for local in (truth, answer))
    return [ModeRecovery(*row) for row in zip(amplitudes.names, there, here, errors, strict=True)]
