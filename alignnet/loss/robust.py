"""Weights of whole tracks that keep wrong matches from pulling the sensors.

With x² = χ²/ν of a track over its scale, the weight of its χ² is

    huber:  1 for x ≤ c, c/x beyond          cauchy: 1/(1 + (x/c)²)          cut: 1 for x ≤ c, 0 beyond

and is a constant of the step (iteratively reweighted least squares). The scale is 1, or, where the start is
bad, the `quantile` of χ²/ν of the batch if that is larger: at first the weights only rank the tracks, and
they sharpen by themselves as the alignment improves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.errors import ConfigError

KINDS = ("none", "huber", "cauchy", "cut")


class TrackWeights:
    """Weight of each track by its χ²/ν.

    Args:
        kind: "none", "huber", "cauchy" or "cut".
        threshold: c, in units of √(χ²/ν).
        quantile: which quantile of the batch's χ²/ν sets the scale while above 1; null for a scale of 1.
    """

    def __init__(self, kind: str = "none", threshold: float = 2.0, quantile: float | None = None) -> None:
        if kind not in KINDS:
            raise ConfigError(f"loss.weights.kind is {kind!r}; choose from {list(KINDS)}")
        if quantile is not None and not 0 < quantile < 1:
            raise ConfigError(
                f"loss.weights.quantile is {quantile}; expected a number between 0 and 1, or null"
            )
        if not threshold > 0:
            raise ConfigError(f"loss.weights.threshold is {threshold}; expected a number > 0")
        self.kind, self.threshold, self.quantile = kind, threshold, quantile

    @torch.no_grad()
    def __call__(self, chi2: Tensor, ndf: Tensor) -> Tensor:
        """Weights in [0, 1] of tracks with these χ² and ν, each (tracks,); NaN for a track to leave out."""
        if self.kind == "none" or not len(chi2):
            return torch.ones_like(chi2)
        ratio = chi2 / ndf.clamp_min(1)
        return self._weight((ratio / self._scale(ratio)).sqrt())

    def _scale(self, ratio: Tensor) -> float:
        return 1.0 if self.quantile is None else max(1.0, float(ratio.nanquantile(self.quantile)))

    def _weight(self, x: Tensor) -> Tensor:
        c = self.threshold
        if self.kind == "huber":
            return torch.where(x <= c, torch.ones_like(x), c / x)
        return 1 / (1 + (x / c).square()) if self.kind == "cauchy" else (x <= c).to(x)
