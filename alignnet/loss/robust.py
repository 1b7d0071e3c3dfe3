"""Weights that keep wrong matches from pulling the sensors: their formulas, schedule, scale and limit.

With x the pull of a track or of a hit over a scale, the weight is

    huber:  1 for x ≤ c, c/x beyond          cauchy: 1/(1 + (x/c)²)          cut: 1 for x ≤ c, 0 beyond

and is a constant of the step (iteratively reweighted least squares: P. J. Huber, Robust Statistics, 1981;
P. W. Holland, R. E. Welsch, Commun. Stat. A6 (1977) 813). `huber_cauchy` and `huber_cut` begin with Huber,
whose minimum is unique, and go on with what forgets a wrong match altogether.

The pull of a track is x² = χ²/ν. Its scale is 1, or, where the start is bad, the `quantile` of χ²/ν if that
is larger: at first the weights only rank the tracks, and they sharpen by themselves as the alignment
improves. The quantile is that of the batch, but for the kinds with a schedule, which use one for the epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.errors import ConfigError

KINDS = ("none", "huber", "cauchy", "cut", "huber_cauchy", "huber_cut")


def robust_weight(kind: str, x: Tensor, threshold: float) -> Tensor:
    """The weight, in [0, 1], of pulls x ≥ 0 of any shape; NaN for NaN, but 0 with a cut.

    Args:
        kind: "huber", "cauchy" or "cut".
        x: pulls over their scale.
        threshold: c.
    """
    if kind == "huber":
        return torch.where(x <= threshold, torch.ones_like(x), threshold / x)
    return 1 / (1 + (x / threshold).square()) if kind == "cauchy" else (x <= threshold).to(x)


class Weights:
    """What weights of tracks and of hits have in common: kind, schedule, scale, and how much may be lost.

    Args:
        key: where they stand in the configuration.
        kind: one of `KINDS`.
        quantile: which quantile of x² sets the scale while it asks for more than 1; null for a scale of 1.
        switch_epoch: the first epoch (from 0) of the second kind of a schedule.
        max_rejected: part of all weight that may be lost in an epoch of training.

    Attributes:
        epoch: of the training that goes on; None elsewhere, where a schedule has come to its end.
        scale: of x in this epoch; None elsewhere, where each batch has its own.

    Raises:
        ConfigError: a value cannot be used.
    """

    def __init__(
        self, key: str, kind: str, quantile: float | None, switch_epoch: int, max_rejected: float
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"{key}.kind is {kind!r}; choose from {list(KINDS)}")
        if quantile is not None and not 0 < quantile < 1:
            raise ConfigError(f"{key}.quantile is {quantile}; expected a number between 0 and 1, or null")
        if not switch_epoch >= 0:
            raise ConfigError(f"{key}.switch_epoch is {switch_epoch}; expected an epoch ≥ 0")
        if not 0 < max_rejected <= 1:
            raise ConfigError(f"{key}.max_rejected is {max_rejected}; expected a part > 0, at most 1")
        self.key, self.kind, self.quantile = key, kind, quantile
        self.switch_epoch, self.max_rejected = switch_epoch, max_rejected
        self.epoch: int | None = None
        self.scale: float | None = None

    @property
    def now(self) -> str:
        """The kind in this epoch: "none", "huber", "cauchy" or "cut"."""
        first, _, second = self.kind.partition("_")
        return second if second and self.settled else first

    @property
    def settled(self) -> bool:
        """Whether the kind will not change any more."""
        return "_" not in self.kind or self.epoch is None or self.epoch >= self.switch_epoch

    @property
    def per_epoch(self) -> bool:
        """Whether training measures one scale for an epoch."""
        return "_" in self.kind and self.quantile is not None

    @property
    def per_batch(self) -> bool:
        """Whether a track's weight depends on the others of its batch."""
        return self.kind != "none" and self.quantile is not None and self.scale is None


class TrackWeights(Weights):
    """Weight of each track by its χ²/ν.

    Args:
        kind: "none", "huber", "cauchy", "cut", "huber_cauchy" or "huber_cut".
        threshold: c, in units of √(χ²/ν).
        quantile: which quantile of χ²/ν sets the scale while above 1; null for a scale of 1.
        switch_epoch: of a schedule.
        max_rejected: part of the tracks' weight that may be lost.
    """

    def __init__(
        self,
        kind: str = "none",
        threshold: float = 2.0,
        quantile: float | None = None,
        switch_epoch: int = 2,
        max_rejected: float = 0.5,
    ) -> None:
        super().__init__("loss.weights", kind, quantile, switch_epoch, max_rejected)
        if not threshold > 0:
            raise ConfigError(f"loss.weights.threshold is {threshold}; expected a number > 0")
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, chi2: Tensor, ndf: Tensor) -> Tensor:
        """Weights in [0, 1] of tracks with these χ² and ν, each (tracks,); NaN for a track to leave out."""
        if self.kind == "none" or not len(chi2):
            return torch.ones_like(chi2)
        ratio = chi2 / ndf.clamp_min(1)
        return robust_weight(self.now, (ratio / self._scale(ratio)).sqrt(), self.threshold)

    def _scale(self, ratio: Tensor) -> float:
        """Of χ²/ν."""
        if self.quantile is None:
            return 1.0
        return max(1.0, float(ratio.nanquantile(self.quantile)) if self.scale is None else self.scale**2)
