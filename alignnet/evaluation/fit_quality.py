"""How well tracks fit: distributions of χ²/ν and of its p-value, which is flat where the weights are right.

The p-value of a track is the chance of a larger χ² at its ν. A good fit spreads them evenly over 0 … 1; tails
that the noise model lacks, and sensors out of place, heap them up at 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignnet.evaluation.fitted_tracks import FittedTracks
from alignnet.evaluation.statistics import number

CHI2_EDGES = np.linspace(0.0, 5.0, 101)
"""Bins of χ²/ν; the last has all beyond."""

P_BINS = 1000
"""Even bins of the p-value, 0 to 1."""


class FitQuality:
    """Histograms of χ²/ν and of its p-value."""

    def __init__(self) -> None:
        self.chi2, self.p_value = np.zeros(len(CHI2_EDGES) - 1), np.zeros(P_BINS)

    def add(self, tracks: FittedTracks) -> None:
        """Add the tracks of a batch that are used."""
        used = (tracks.weight > 0) & (tracks.ndf > 0)
        chi2, ndf = tracks.chi2[used].double().cpu(), tracks.ndf[used].double().cpu()
        rows = (chi2 / ndf / CHI2_EDGES[1]).clamp_max(len(self.chi2) - 1).long()
        self.chi2 += torch.bincount(rows, minlength=len(self.chi2)).numpy()
        rows = (torch.special.gammaincc(0.5 * ndf, 0.5 * chi2) * P_BINS).clamp_max(P_BINS - 1).long()
        self.p_value += torch.bincount(rows, minlength=P_BINS).numpy()

    def merge(self, other: FitQuality) -> None:
        """Add what another has seen."""
        self.chi2 += other.chi2
        self.p_value += other.p_value

    @property
    def ks_distance(self) -> float:
        """Largest distance of the p-values' cumulative distribution to the even one, at the bins' edges."""
        n = self.p_value.sum()
        if not n:
            return float("nan")
        return float(np.abs(np.cumsum(self.p_value) / n - np.arange(1, P_BINS + 1) / P_BINS).max())

    def metrics(self) -> dict[str, Any]:
        """For metrics.json: both histograms, the p-values' in 50 bins, and numbers."""
        n = self.p_value.sum()
        return {
            "n_tracks": round(n),
            "chi2_per_ndf_edges": CHI2_EDGES.tolist(),
            "chi2_per_ndf_counts": self.chi2.astype(int).tolist(),
            "p_value_counts": self.p_value.reshape(50, -1).sum(-1).astype(int).tolist(),
            "p_value_ks_distance": number(self.ks_distance),
            "p_value_below_1_percent": number(self.p_value[: P_BINS // 100].sum() / n) if n else None,
        }
