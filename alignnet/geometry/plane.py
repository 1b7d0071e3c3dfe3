"""Planes with axes: where sensors' surfaces are, one for each hit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plane(NamedTuple):
    """Planes through `origin` with in-plane unit axes u, v and unit normal v×u; each field (..., 3)."""

    origin: Tensor  # a point of the plane [cm]; for a hit, the measured position
    u: Tensor
    v: Tensor
    normal: Tensor

    def to(self, dtype: torch.dtype) -> Plane:
        """The same planes in another floating-point type."""
        return Plane(*(field.to(dtype) for field in self))

    def detach(self) -> Plane:
        """The same planes without their history."""
        return Plane(*(field.detach() for field in self))

    def components(self, vector: Tensor) -> Tensor:
        """(u, v) components of vectors (..., 3), shape (..., 2)."""
        return torch.stack([(vector * self.u).sum(-1), (vector * self.v).sum(-1)], -1)

    def slopes(self, tangent: Tensor) -> Tensor:
        """t_u/t_n and t_v/t_n of directions (..., 3), shape (..., 2)."""
        return self.components(tangent) / (tangent * self.normal).sum(-1, keepdim=True)

    def joined(self, other: Plane) -> Plane:
        """These planes and, after them along the second-last axis, others."""
        return Plane(*(torch.cat([a, b], -2) for a, b in zip(self, other, strict=True)))
