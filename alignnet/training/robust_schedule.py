"""Robust weights over a training: their kind and scale in each epoch, and the limit of what they may take.

A start that is 300 µm off gives every hit a pull of 60, and weights would leave nothing. So before each epoch
a sample of its tracks says how large pulls are at the sensors' present places (`HitWeights.tau`, and the
quantile of χ²/ν for tracks). This depends on places and epoch only, so that a run that goes on finds the
same, and on joint batches, so that several ranks find the same too: they add up counts in narrow bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import ConvergenceError
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.robust import Weights
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import all_reduced

_TRACKS = 1500  # of the sample, over all ranks
_LOWEST, _WIDTH, _BINS = -6.0, 0.005, 6000  # bins in log10 of squared pulls


def begin_epoch(loss: HelixChi2, epoch: int | None) -> None:
    """Set the kinds of an epoch; None ends the schedule, and each batch has its own scale again."""
    for weights in (loss.weights, loss.hit_weights):
        weights.epoch, weights.scale = epoch, None


@torch.no_grad()
def measure_scales(loss: HelixChi2, sensors: SensorLayer, batches: Iterable[Batch]) -> None:
    """Set the scales of an epoch from this rank's share of its first batches.

    Args:
        loss: whose weights they are; fits the tracks.
        sensors: where they are now.
        batches: of the epoch, in its order.
    """
    hits, tracks = loss.hit_weights, loss.weights
    if not (hits.per_epoch or tracks.per_epoch):
        return
    sample = _sample(batches)
    if hits.per_epoch:
        hits.scale = hits.tau(_quantile_of_hits(loss, sensors, sample))
    if tracks.per_epoch:
        tracks.scale = max(
            1.0, _quantile((_track_chi2(loss, sensors, part) for part in sample), tracks) ** 0.5
        )


def check_rejected(weights: Weights, what: str, used: float, count: float, epoch: int) -> None:
    """Stop where weights have taken more than they may.

    Args:
        weights: their kind and limit.
        what: "tracks" or "hits".
        used: sum of the weights.
        count: how many there are.
        epoch: of the training.

    Raises:
        ConvergenceError: names epoch, part, limit and what to do.
    """
    lost = 1 - used / max(count, 1.0)
    if weights.kind != "none" and lost > weights.max_rejected:
        raise ConvergenceError(
            f"{what} have lost {lost:.3f} of their weight in epoch {epoch}, more than "
            f"{weights.key}.max_rejected={weights.max_rejected:g}; the last good checkpoint is kept. "
            f"Look at the data; begin with {weights.key}.kind=huber_cauchy and a quantile for the scale, set "
            "loss.noise.systematic if resolutions are too small, or raise the limit"
        )


def used_fractions(loss: HelixChi2, sums: Mapping[str, float], epoch: int | None = None) -> dict[str, float]:
    """Part of the weight of tracks and hits that is used; beyond a limit in training, an error.

    Args:
        loss: whose weights they are.
        sums: "weight", "tracks", "hit_weight" and "hits" of a pass over all ranks.
        epoch: of training, where the limits hold.
    """
    if epoch is not None:
        check_rejected(loss.weights, "tracks", sums["weight"], sums["tracks"], epoch)
        check_rejected(loss.hit_weights, "hits", sums["hit_weight"], sums["hits"], epoch)
    return {
        "used_fraction": sums["weight"] / max(sums["tracks"], 1.0),
        "used_hit_fraction": sums["hit_weight"] / max(sums["hits"], 1.0),
    }


def _sample(batches: Iterable[Batch]) -> list[Batch]:
    """Whole events of the first batch, chosen by their numbers, with some `_TRACKS` tracks over all ranks."""
    batch = next(iter(batches))
    n_tracks = float(all_reduced(torch.tensor(float(batch.n_tracks), dtype=torch.float64)))
    every = max(round(n_tracks / _TRACKS), 1)
    chosen = batch.event_number * 2654435761 % 2**32 % every == 0
    rows = chosen[batch.event].nonzero().squeeze(-1)
    fields = batch._asdict().items()
    return Batch(*(field if name == "event_number" else field[rows] for name, field in fields)).by_length()


def _quantile_of_hits(loss: HelixChi2, sensors: SensorLayer, sample: list[Batch]) -> Callable[[float], float]:
    """The quantile of x² with a τ, from fits that have no weights."""
    hits = loss.hit_weights
    planes = [sensors.planes(part.uv, part.sensor) for part in sample]
    fits = [loss.fit_without_hit_weights(p, part) for p, part in zip(planes, sample, strict=True)]

    def quantile(tau: float) -> float:
        found = (hits.search(loss, *three, tau)[0] for three in zip(planes, fits, sample, strict=True))
        return _quantile((x.square() for x in found), hits)

    return quantile


def _track_chi2(loss: HelixChi2, sensors: SensorLayer, batch: Batch) -> Tensor:
    """χ²/ν (tracks,), NaN where there is none."""
    chi2 = loss(sensors, batch)
    return torch.where(chi2.fit.ok, (chi2.track + chi2.vertex) / chi2.ndf.clamp_min(1), torch.nan)


def _quantile(values: Iterable[Tensor], weights: Weights) -> float:
    """The quantile of positive values of all ranks, linear within a bin; 0 without any."""
    assert weights.quantile is not None
    counts = torch.zeros(_BINS, dtype=torch.float64)
    for some in values:
        index = ((some[some.isfinite()].double().clamp_min(1e-300).log10() - _LOWEST) / _WIDTH).long()
        counts += torch.bincount(index.clamp(0, _BINS - 1).cpu(), minlength=_BINS)
    counts = all_reduced(counts)
    if not counts.any():
        return 0.0
    total = counts.cumsum(0)
    goal = weights.quantile * float(total[-1])
    k = int((total < goal).sum())
    inside = (goal - float(total[k] - counts[k])) / max(float(counts[k]), 1.0)
    return float(10 ** (_LOWEST + _WIDTH * (k + inside)))
