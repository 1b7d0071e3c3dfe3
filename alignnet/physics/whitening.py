"""Weights of a track's residuals: the matrix L⁻¹ with L Lᵀ = V, so that χ² = |L⁻¹ r|²."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Whitening(NamedTuple):
    """L⁻¹ of each track's covariance; one of the two is set. Padding rows carry no weight.

    `inverse_sigma` (tracks, rows) [1/cm] where rows are independent, `factor` (tracks, rows, rows), lower
    triangular, where they are not.
    """

    inverse_sigma: Tensor | None
    factor: Tensor | None

    @classmethod
    def independent(cls, variance: Tensor, is_row: Tensor) -> Whitening:
        """Weights 1/σ of rows with these variances (tracks, rows) [cm²]; 0 where `is_row` is False."""
        inverse = torch.where(is_row, variance, torch.ones_like(variance)).rsqrt()
        return cls(inverse * is_row, None)

    @classmethod
    def correlated(cls, covariance: Tensor, is_row: Tensor) -> Whitening:
        """Weights of rows with this covariance (tracks, rows, rows) [cm²]; padding rows are cut off.

        A covariance that is not positive definite gives no weight to the track (see `usable`).
        """
        both = is_row[:, :, None] & is_row[:, None, :]
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        lower, info = torch.linalg.cholesky_ex(torch.where(both, covariance, eye))
        usable = (info == 0)[:, None, None] & lower.isfinite().all((-1, -2), keepdim=True)
        lower = torch.where(usable, lower, eye)
        factor = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
        return cls(None, factor * is_row[:, :, None] * usable)

    @property
    def usable(self) -> Tensor:
        """Where a track has weights: its covariance was finite and positive definite (tracks,)."""
        field = self.inverse_sigma if self.factor is None else self.factor.diagonal(dim1=-2, dim2=-1)
        assert field is not None
        return field.isfinite().all(-1) & (field > 0).any(-1)

    def __call__(self, rows: Tensor) -> Tensor:
        """L⁻¹ times residuals (tracks, rows) or derivatives (tracks, rows, columns)."""
        if self.inverse_sigma is not None:
            return rows * (self.inverse_sigma if rows.dim() == 2 else self.inverse_sigma[..., None])
        assert self.factor is not None
        return (self.factor @ rows[..., None]).squeeze(-1) if rows.dim() == 2 else self.factor @ rows

    def transposed(self, rows: Tensor) -> Tensor:
        """L⁻ᵀ times whitened rows (tracks, rows) or (tracks, rows, columns)."""
        if self.inverse_sigma is not None:
            return self(rows)
        assert self.factor is not None
        back = self.factor.transpose(-1, -2)
        return (back @ rows[..., None]).squeeze(-1) if rows.dim() == 2 else back @ rows

    def to(self, dtype: torch.dtype) -> Whitening:
        """The same weights in another floating-point type."""
        return Whitening(*(None if field is None else field.to(dtype) for field in self))
