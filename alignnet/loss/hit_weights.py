"""Weights of single hits: one wrong hit costs its track a hit, not the track.

A hit of weight w has the intrinsic variance σ²/w, before the covariance V of its track is formed from it;
scattering stays as it is. So w = 1 is the hit as it was, w = 0 a track without it, and the χ² of a fit and of
the loss is rᵀV(w)⁻¹r with the same w, a constant of the step. With the kinks of the path as unknowns this is
an M-estimate of path and hits together, as in Millepede's `outlierdownweighting` of broken lines.

The weight follows from the pull x = √(t²/2) of the hit to the track *without* it (`leave_one_out`), which a
wrong hit cannot hide by pulling its track along. For good hits x² is exponential with mean 1, so that x is
above Millepede's thresholds 1.345 (Huber) and 2.3849 (Cauchy) for 16 and 0.3 % of them; a single coordinate
is in 18 and 1.7 % of the cases.

A wrong hit spoils what is expected of the good ones, but leaving it out lowers χ² more than leaving out any
of these. So hits are searched in passes, each followed by a fit: in the first the worst hit is left out, if
it is beyond the threshold of a cut, in the second the two worst, and so on; hits may come back. Then all
hits get the weights of the kind in use.

Where sensors are off by much more than the resolution, every pull is large. For the search, and for the pulls
that weights follow from, σ² is therefore σ² + τ², with τ such that the median pull (or another quantile) is
that of good hits: 0 once the sensors are at their places. χ² itself has no τ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.geometry.plane import Plane
from alignnet.loss.fit_part import FitPart, part_of, put_back
from alignnet.loss.leave_one_out import pulls
from alignnet.loss.robust import Weights, robust_weight
from alignnet.physics.trackfit import residuals

if TYPE_CHECKING:
    from alignnet.loss.chi2 import Fit, HelixChi2

_LEAST = 1e-8  # what a hit that is left out keeps during the search, so that it can come back
_WIDEST = 1.0  # [cm] the largest τ
_ROUNDS = 6  # in which τ is found
_AS_EXPECTED = 1.2  # a ratio of squared pulls to those of good hits up to which τ is 0


class HitWeights(Weights):
    """Weight of each hit by its pull to the track without it.

    Args:
        kind: "none", "huber", "cauchy", "cut", "huber_cauchy" or "huber_cut".
        huber, cauchy, cut: thresholds c of each, in units of the pull; the last is that of the search, too.
        quantile: which quantile of x² is to be that of good hits, by τ; null for τ = 0.
        passes: of the search, the most wrong hits of a track that it finds.
        switch_epoch: of a schedule.
        max_lost: a track whose hits have lost more than this part of their weight is left out.
        max_rejected: part of all hits' weight that may be lost.

    Attributes:
        scale: τ in this epoch of training [cm]; None elsewhere, where each batch has its own.
    """

    def __init__(
        self,
        kind: str = "none",
        huber: float = 1.345,
        cauchy: float = 2.3849,
        cut: float = 4.0,
        quantile: float | None = 0.5,
        passes: int = 3,
        switch_epoch: int = 2,
        max_lost: float = 0.4,
        max_rejected: float = 0.333,
    ) -> None:
        super().__init__("loss.hit_weights", kind, quantile, switch_epoch, max_rejected)
        self.thresholds = {"huber": huber, "cauchy": cauchy, "cut": cut}
        for name, threshold in self.thresholds.items():
            if not threshold > 0:
                raise ConfigError(f"loss.hit_weights.{name} is {threshold}; expected a number > 0")
        if passes < 1:
            raise ConfigError(f"loss.hit_weights.passes is {passes}; expected at least 1")
        if not 0 < max_lost <= 1:
            raise ConfigError(f"loss.hit_weights.max_lost is {max_lost}; expected a part > 0, at most 1")
        self.passes, self.max_lost = passes, max_lost

    @property
    def per_epoch(self) -> bool:
        """Whether training measures one scale for an epoch."""
        return self.kind != "none" and self.quantile is not None

    @torch.no_grad()
    def refit(self, loss: HelixChi2, planes: Plane, first: Fit, batch: Batch) -> Fit:
        """The fit with the weights of its hits; tracks that keep all of their weight stay as they are.

        Args:
            loss: fits tracks.
            planes: of the hits.
            first: the fit with weights of 1.
            batch: the hits.
        """
        x, fit = self._searched(loss, planes, first, batch)
        weight = torch.where(x.isnan(), 1.0, robust_weight(self.now, x, self.thresholds[self.now]))
        first = first._replace(hit_weight=torch.ones_like(weight))
        changed = ((weight < 1) & batch.is_hit).any(-1)
        if not changed.any():
            return first
        part = part_of(changed, planes, fit._replace(hit_weight=weight), batch)
        assert part.fit.hit_weight is not None
        fit = reweighted(loss, part.planes, part.fit, part.batch, part.fit.hit_weight)
        fit = loss.at_minimum(part.planes, fit, part.batch)
        return put_back(first, part._replace(fit=fit))

    def search(
        self, loss: HelixChi2, planes: Plane, first: Fit, batch: Batch, tau: float
    ) -> tuple[Tensor, Fit]:
        """Pulls of hits (tracks, hits) to tracks without wrong ones, and these tracks; arguments as `refit`.

        Args:
            tau: τ [cm].
        """
        fit = first._replace(hit_weight=torch.ones_like(batch.uv[..., 0]))
        if tau:
            assert fit.hit_weight is not None
            fit = reweighted(loss, planes, fit, batch, fit.hit_weight, tau)
            fit = loss.refit(planes, fit, batch, 1)
        x = pulls(loss, planes, fit, batch, tau)
        doubtful = (x > self.thresholds["cut"]).any(-1)
        if not doubtful.any():
            return x, fit
        part = part_of(doubtful, planes, fit, batch)
        found, some = self._without_worst(loss, part, x[part.rows], tau)
        return x.index_copy(0, part.rows, found), put_back(fit, part._replace(fit=some))

    def _without_worst(self, loss: HelixChi2, part: FitPart, x: Tensor, tau: float) -> tuple[Tensor, Fit]:
        """Pulls and fit of tracks without their worst hits, one more in each pass."""
        _, planes, fit, batch = part
        for k in range(self.passes):
            x = x.nan_to_num(-1.0)
            worst = torch.argsort(x, dim=-1, descending=True, stable=True).argsort(-1) <= k
            weight = torch.where(worst & (x > self.thresholds["cut"]), _LEAST, 1.0)
            fit = reweighted(loss, planes, fit, batch, weight.to(x), tau)
            fit = loss.refit(planes, fit, batch, 1)
            x = pulls(loss, planes, fit, batch, tau)
        return x, fit

    def tau(self, quantile: Callable[[float], float]) -> float:
        """τ [cm], from the quantile of x² that is found with a τ."""
        assert self.quantile is not None
        expected = -math.log1p(-self.quantile)
        if not quantile(0.0) > _AS_EXPECTED * expected:
            return 0.0
        tau = _WIDEST
        for _ in range(_ROUNDS):
            ratio = quantile(tau) / expected
            tau = min(tau * math.sqrt(ratio), _WIDEST)
            if 1 / _AS_EXPECTED < ratio < _AS_EXPECTED or not tau > 0:
                break
        return tau

    def weight_of_tracks(self, hit_weight: Tensor, is_hit: Tensor) -> Tensor:
        """1 for a track that keeps enough of its hits' weight (tracks, hits), else 0; (tracks,)."""
        kept = (hit_weight * is_hit).sum(-1) / is_hit.sum(-1).clamp_min(1)
        return (kept >= 1 - self.max_lost).to(hit_weight)

    def _searched(self, loss: HelixChi2, planes: Plane, first: Fit, batch: Batch) -> tuple[Tensor, Fit]:
        """`search` with the τ of the epoch, or of the batch."""
        part = self.quantile
        if part is None or self.scale is not None:
            return self.search(loss, planes, first, batch, self.scale or 0.0)
        found: dict[float, tuple[Tensor, Fit]] = {}

        def quantile(tau: float) -> float:
            found[tau] = self.search(loss, planes, first, batch, tau)
            return float(found[tau][0].square().nanquantile(part))

        tau = self.tau(quantile)
        return found[tau] if tau in found else self.search(loss, planes, first, batch, tau)


def reweighted(
    loss: HelixChi2, planes: Plane, fit: Fit, batch: Batch, weight: Tensor, tau: float = 0.0
) -> Fit:
    """A fit with V formed anew at its tracks from these weights of hits (tracks, hits); not yet refitted."""
    _, s = residuals(fit.helix, planes, fit.s)
    whitening = loss.noise(fit.helix, planes, s, batch, weight, tau)
    return fit._replace(whitening=whitening, ok=fit.ok & whitening.usable, s=s, hit_weight=weight)
