"""A preconditioner for a system with penalties: few collective displacements of which little is expected.

With M the system without them and a penalty ½ |Cᵀδ|², C a column c/σ each (Sherman, Morrison and Woodbury):

    (M + C Cᵀ)⁻¹ = M⁻¹ − R (1 + Cᵀ R)⁻¹ Rᵀ,        R = M⁻¹ C .
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.solvers.levels import Preconditioner


class PenalisedPreconditioner(Preconditioner):
    """The inverse for a system whose penalties its preconditioner does not know.

    Args:
        inner: M⁻¹ of the system without penalties.
    """

    def __init__(self, inner: Preconditioner) -> None:
        self.hierarchy, self.inner = inner.hierarchy, inner
        self.sensors = inner.sensors
        forms = self.hierarchy.penalties
        self.reach = torch.stack([inner.on_all(self.hierarchy.collect(form)) for form in forms])  # Rᵀ
        self._inverse = torch.linalg.inv(torch.eye(len(forms)).to(self.reach) + self._of(self.reach))
        self.n_null = max(inner.n_null - self._n_settled(), 0)

    def __call__(self, vector: Tensor) -> Tensor:
        """The inverse times packed unknowns."""
        return self._without(self.inner(vector), vector) if not self.inner.n_null else self.on_all(vector)

    def on_all(self, vector: Tensor) -> Tensor:
        """The same, but positive on motions that nothing knows of, too."""
        return self._without(self.inner.on_all(vector), vector)

    def _without(self, found: Tensor, vector: Tensor) -> Tensor:
        return found - (self._inverse @ (self.reach @ vector)) @ self.reach

    def _of(self, rows: Tensor) -> Tensor:
        """Cᵀ of packed unknowns in rows, (penalties, rows)."""
        h = self.hierarchy
        return torch.stack([h.penalised(h.expand(row)) for row in rows], -1)

    def _n_settled(self) -> int:
        """How many of the motions that nothing else knows of the penalties settle."""
        if not self.inner.n_null:
            return 0
        h = self.hierarchy
        seen = torch.stack([self.inner(h.collect(form)) for form in h.penalties])
        null = self._of(self.reach - seen)
        scale = self._of(self.reach).diagonal().clamp_min(1e-300).rsqrt()
        return int(torch.linalg.matrix_rank(null * scale[:, None] * scale, atol=1e-6, hermitian=True))
