"""All unknowns of an alignment in one vector: the sensors' own, then the six of every volume, level by level.

A stage of a schedule moves some of them. Θ follows from all, composed parents first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignnet.errors import CheckpointError
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes
from alignnet.sensors.composition import Composition
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.levels import Level
from alignnet.training.schedule import Stage


class Unknowns:
    """How the vector is laid out.

    Args:
        detector: the nominal places.
        sensors: the model.
        levels: above the sensors.
        basis: motions of the sensors that their own unknowns are (sensors, dof, unknowns); None where these
            are displacements in Θ.
    """

    def __init__(
        self, detector: Detector, sensors: SensorLayer, levels: list[Level], basis: Tensor | None
    ) -> None:
        self.sensors, self.levels, self.basis = sensors, levels, basis
        self.volumes = [Volumes.of(detector, level.name) for level in levels]
        self._composition = Composition(detector, sensors, self.volumes)
        self._sizes = [sensors.theta.numel(), *(6 * level.n_groups for level in levels)]

    def __len__(self) -> int:
        return sum(self._sizes)

    def begin(self, state: dict[str, Any], theta: Tensor) -> None:
        """Give an optimiser's state its `x` and `start`, Θ at x = 0, unless it has them.

        Raises:
            CheckpointError: it was left by a version that laid volumes out otherwise.
        """
        if "start" in state:
            return
        if "x" in state and self.levels:
            raise CheckpointError(
                "the checkpoint is of a version whose volumes had no frames of their own; start a new run "
                "from its places: sensors.start=DIR/alignment.root"
            )
        state["x"] = state.get("x", theta.new_zeros(len(self), dtype=torch.float64))
        state["start"] = theta.clone() - self.parts(state["x"])[0].to(theta)

    def parts(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The sensors' displacements in their volumes (sensors, dof), and the levels' sixes (volumes, 6)."""
        own, *rest = x.split(self._sizes)
        moved = own.view(self.sensors.theta.shape)
        if self.basis is not None:
            moved = (self.basis @ moved[..., None]).squeeze(-1) * self.sensors.free
        return moved, [part.view(-1, 6) for part in rest]

    def moving(self, stage: Stage) -> Tensor:
        """Which of them the system of a stage has; those of sensors are always there."""
        kinds = [True, *(stage.moves(level.name) for level in self.levels)]
        device = self.sensors.theta.device
        flags = [torch.full((n,), kind, device=device) for n, kind in zip(self._sizes, kinds, strict=True)]
        return torch.cat(flags)

    def theta(self, start: Tensor, x: Tensor) -> Tensor:
        """Θ of the sensors (sensors, dof), where it is `start` at x = 0."""
        own, sixes = self.parts(x)
        return self._composition(start + own.to(start), sixes)
