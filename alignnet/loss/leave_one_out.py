"""How far each hit is from where the others say it should be, whatever its own weight.

With V the covariance of a track's residuals r, J their derivatives by the track and
M = V⁻¹ − V⁻¹J (JᵀV⁻¹J)⁻¹ JᵀV⁻¹, the residual of hit i to the track fitted without it is M_ii⁻¹ (M r)_i with
covariance M_ii⁻¹ (2×2 blocks). Of that, σ²/w_i is the hit's own, so that with all of its weight it would be

    C_i = M_ii⁻¹ − σ_i² (1/w_i − 1)        and        t_i² = r_(i)ᵀ C_i⁻¹ r_(i)

is the drop of χ² when hit i is left out: of two degrees of freedom, and independent of w_i (deletion
residuals: R. D. Cook, S. Weisberg, Residuals and Influence in Regression, 1982, 2.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.plane import Plane
from alignnet.physics.trackfit import solve

if TYPE_CHECKING:
    from alignnet.loss.chi2 import Fit, HelixChi2


def pulls(loss: HelixChi2, planes: Plane, fit: Fit, batch: Batch, tau: float = 0.0) -> Tensor:
    """√(t²/2) of each hit (tracks, hits); NaN for padding and for hits that the others do not check.

    Args:
        loss: gives residuals and their derivatives; where it fits origins, these are held in place.
        planes: of the hits.
        fit: the tracks, with the weights of their hits.
        batch: the hits.
        tau: added in quadrature to every hit's resolution in this fit [cm].
    """
    own, force = _metric(loss, planes, fit, batch)
    diagonal = own.diagonal(dim1=-2, dim2=-1)
    known = torch.linalg.det(own) > 1e-9 * diagonal.prod(-1).clamp_min(1e-30)
    eye = torch.eye(2, dtype=own.dtype, device=own.device)
    inverse = torch.linalg.inv(torch.where(known[..., None, None], own, eye))
    residual = (inverse @ force[..., None]).squeeze(-1)
    expected = inverse - torch.diag_embed(_given_away(loss, fit, batch, tau))
    good = known & (expected.diagonal(dim1=-2, dim2=-1) > 0).all(-1) & (torch.linalg.det(expected) > 0)
    expected = torch.where(good[..., None, None], expected, eye)
    square = (residual * torch.linalg.solve(expected, residual)).sum(-1)
    return torch.where(good & batch.is_hit & fit.ok[:, None], (0.5 * square).clamp_min(0).sqrt(), torch.nan)


def _given_away(loss: HelixChi2, fit: Fit, batch: Batch, tau: float) -> Tensor:
    """σ² (1/w − 1) (tracks, hits, 2) [cm²]."""
    variance = loss.noise.variance(batch) + tau**2
    if fit.hit_weight is None:
        return torch.zeros_like(variance)
    return variance * (1 / fit.hit_weight - 1)[..., None]


def _metric(loss: HelixChi2, planes: Plane, fit: Fit, batch: Batch) -> tuple[Tensor, Tensor]:
    """M_ii (tracks, hits, 2, 2) [1/cm²] and (M r)_i (tracks, hits, 2) [1/cm]."""
    r, j, _ = loss.rows(planes, fit, batch)
    used = fit.ok[:, None]
    r, j = torch.where(used, r, 0.0).double(), torch.where(used[..., None], j, 0.0).double()
    n_rows = 2 * batch.is_hit.shape[1]
    eye = torch.eye(n_rows, dtype=torch.float64, device=r.device).expand(len(r), -1, -1)
    rows = fit.whitening.to(torch.float64)(eye) * used[..., None]
    rows = torch.cat([rows, rows.new_zeros(len(r), r.shape[1] - n_rows, n_rows)], 1)
    rows = rows - j @ solve(j, rows)[0]
    force = (rows.transpose(-1, -2) @ r[..., None]).unflatten(1, (-1, 2)).squeeze(-1)
    own = rows.unflatten(2, (-1, 2)).permute(0, 2, 3, 1)  # (tracks, hits, 2, rows)
    return own @ own.transpose(-1, -2), force
