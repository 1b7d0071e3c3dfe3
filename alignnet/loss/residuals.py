"""Residuals of hits against the paths of their tracks, and their sums per layer, over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.loss.chi2 import Chi2, HelixChi2


@torch.no_grad()
def path_residual(loss: HelixChi2, chi2: Chi2) -> Tensor:
    """Predicted minus measured with the kinks of the path fitted too, (tracks, hits, 2) [cm].

    With correlated noise V = σ² + S, S of the scatterers, the helix of the fit is the track as it started;
    far out the path strays from it by millimetres, which V knows. What is left at the most likely path is
    σ² V⁻¹ r, σ²/w in the place of σ² where hits have weights (NaN for w = 0). Where the noise of the hits is
    independent there are no kinks, and this is the residual r itself.
    """
    whitening = chi2.fit.whitening
    if whitening.factor is None:
        return chi2.residual
    rows = whitening(chi2.residual.to(whitening.factor).flatten(1, 2))
    variance = loss.noise.variance(chi2.batch)
    if chi2.fit.hit_weight is not None:
        variance = variance / torch.where(chi2.fit.hit_weight > 0, chi2.fit.hit_weight, torch.nan)[..., None]
    return variance * whitening.transposed(rows).unflatten(1, (-1, 2))


class LayerSums:
    """Count, sum and sum of squares of residuals per layer and coordinate; adds over batches and ranks."""

    def __init__(self, layer: Tensor) -> None:
        self.layers = sorted(set(layer.tolist()))
        index = {number: i for i, number in enumerate(self.layers)}
        self.index = torch.tensor([index[number] for number in layer.tolist()])
        self.sums = torch.zeros(len(self.layers), 2, 3, dtype=torch.float64)

    def add(self, residual: Tensor, sensor: Tensor, keep: Tensor) -> None:
        """Add residuals (tracks, hits, 2) of sensors (tracks, hits) where `keep` (tracks, hits)."""
        rows, values = self.index[sensor[keep].cpu()], residual[keep].detach().cpu().double()
        moments = torch.stack([torch.ones_like(values), values, values.square()], -1)
        self.sums.index_add_(0, rows, moments)

    def mean_and_width(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (layers, 2) [cm]; NaN where there was no hit."""
        count, first, second = self.sums.unbind(-1)
        mean = first / count
        return mean, (second / count - mean.square()).clamp_min(0).sqrt()
