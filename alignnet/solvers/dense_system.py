"""A small linear system as dense matrices: the reference for what draws and iterations find."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.solvers.levels import Hierarchical


class DenseSystem(NamedTuple):
    """H with priors, and what its unknowns move."""

    matrix: Tensor  # (unknowns, unknowns)
    motion: Tensor  # displacement of the sensors by each unknown (unknowns, sensors, dof)
    acts: Tensor  # which of all packed unknowns these are

    def of(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A function of packed unknowns as one of these."""

        def applied(x: Tensor) -> Tensor:
            packed = x.new_zeros(len(self.acts))
            packed[self.acts] = x
            return function(packed)

        return applied


def dense_system(system: Hierarchical) -> DenseSystem:
    """The matrix from products with unit vectors; unknowns that do nothing are left out."""
    unit = torch.eye(len(system), dtype=system.weight.dtype, device=system.weight.device)
    motion = torch.stack([system.expand(one) for one in unit])
    acts = (motion.flatten(1) != 0).any(-1) | (system.weight > 0)
    matrix = torch.stack([system(one) for one in unit[acts]] or [unit[0]])[:, acts][: int(acts.sum())]
    return DenseSystem((matrix + matrix.T) / 2, motion[acts], acts)
