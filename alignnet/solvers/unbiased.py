"""Residuals of hits against their tracks fitted without them.

With V the covariance of a track's residuals and M = V⁻¹ − V⁻¹J(JᵀV⁻¹J)⁻¹JᵀV⁻¹, the residual of hit i
against the track fitted without it is M_ii⁻¹ (M r)_i with covariance M_ii⁻¹ (2×2 blocks): exact for a
linear fit, with the correlations of scattering (the kinks that the other hits show are predicted too), and
no refit. Where the event's origin is fitted as well, M is that of the joint fit: its part that the origin
follows is projected out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.loss.chi2 import Chi2, HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import Block, linearise_at


class Unbiased(NamedTuple):
    """Residuals of hits against tracks fitted without them; NaN for padding and where nothing is left."""

    residual: Tensor  # (tracks, hits, 2) [cm]
    expected: Tensor  # their expected width (tracks, hits, 2) [cm]


@torch.no_grad()
def unbiased(loss: HelixChi2, sensors: SensorLayer, chi2: Chi2) -> Unbiased:
    """Unbiased residuals of a batch at the fit of its χ²."""
    batch = chi2.batch
    block = linearise_at(loss, sensors, sensors.planes(batch.uv, batch.sensor), chi2.fit, batch)
    return unbiased_of(loss, without_origins(block), chi2)


def without_origins(block: Block) -> Block:
    """Tracks with the metric of the joint fit where their events' origins are fitted too."""
    if not len(block.origin_inverse):
        return block
    origin = block.towards_origin @ block.origin_inverse[block.event]
    return block._replace(metric=block.metric - origin @ block.towards_origin.transpose(-1, -2))


@torch.no_grad()
def unbiased_of(loss: HelixChi2, block: Block, chi2: Chi2) -> Unbiased:
    """The same from the linearised tracks, origins projected out."""
    own = block.own_metric()
    determined = torch.linalg.det(own) > 1e-9 * own.diagonal(dim1=-2, dim2=-1).prod(-1).clamp_min(1e-30)
    eye = torch.eye(2, dtype=own.dtype, device=own.device)
    inverse = torch.linalg.inv(torch.where(determined[..., None, None], own, eye))
    inverse = torch.where(determined[..., None, None], inverse, torch.nan)
    residual = (inverse @ block.force.unflatten(1, (-1, 2))[..., None]).squeeze(-1)
    # The metric carries the track's robust weight, which says nothing about how far its hits stray.
    variance = inverse.diagonal(dim1=-2, dim2=-1) * chi2.weight[:, None, None]
    if chi2.fit.hit_weight is not None:  # nor does the hit's own
        variance = variance - loss.noise.variance(chi2.batch) * (1 / chi2.fit.hit_weight - 1)[..., None]
    return Unbiased(residual, variance.clamp_min(0).sqrt())
