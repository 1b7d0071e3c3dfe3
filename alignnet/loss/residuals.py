"""Sums of residuals per layer, over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor


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
