"""Robust weights over a training: their kind and scale in each epoch, and the limit of what they may take.

A start that is 300 µm off gives every hit a pull of 60, and weights with a scale of 1 would leave nothing. So
before each epoch a sample of its tracks says how large pulls are at the sensors' present places, in rounds:
first without weights, then with those of the scale that was found, where wrong hits spoil fewer tracks. The
scale depends on places and epoch only, so that a run that goes on has the same, and on joint batches, so that
several ranks have the same too: they add up counts of pulls in narrow bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import ConvergenceError
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.leave_one_out import pulls
from alignnet.loss.robust import Weights
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import all_reduced

_ROUNDS = 3
_TRACKS = 4000  # of the sample, over all ranks
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
    both = [weights for weights in (loss.hit_weights, loss.weights) if weights.per_epoch]
    if not both:
        return
    sample = list(_sample(batches))
    for weights in both:
        weights.scale = math.inf
    for _ in range(_ROUNDS):
        counts = torch.zeros(2, _BINS, dtype=torch.float64)
        for batch in sample:
            for part in loss.parts(batch):
                counts += torch.stack([_counts(x2) for x2 in _squared_pulls(loss, sensors, part)])
        of_hits, of_tracks = all_reduced(counts)
        if loss.hit_weights.per_epoch:
            loss.hit_weights.scale = loss.hit_weights.scale_of(_quantile(of_hits, loss.hit_weights.quantile))
        if loss.weights.per_epoch:
            loss.weights.scale = max(1.0, _quantile(of_tracks, loss.weights.quantile) ** 0.5)


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


def _sample(batches: Iterable[Batch]) -> Iterator[Batch]:
    n_tracks = 0.0
    for batch in batches:
        yield batch
        n_tracks += float(all_reduced(torch.tensor(float(batch.n_tracks), dtype=torch.float64)))
        if n_tracks >= _TRACKS:
            return


def _squared_pulls(loss: HelixChi2, sensors: SensorLayer, batch: Batch) -> tuple[Tensor, Tensor]:
    """x² of hits and of tracks, NaN where there is none."""
    planes = sensors.planes(batch.uv, batch.sensor)
    fit = loss.fit(planes, batch)
    chi2 = loss.at(planes, fit, batch)
    of_tracks = torch.where(fit.ok, (chi2.track + chi2.vertex) / chi2.ndf.clamp_min(1), torch.nan)
    return pulls(loss, planes, fit, batch).square(), of_tracks


def _counts(x2: Tensor) -> Tensor:
    values = x2[x2.isfinite()].double().clamp_min(1e-300).log10()
    index = ((values - _LOWEST) / _WIDTH).long().clamp(0, _BINS - 1)
    return torch.bincount(index.flatten().cpu(), minlength=_BINS).double()


def _quantile(counts: Tensor, part: float | None) -> float:
    """The quantile of counted values, linear within a bin; 0 without any."""
    assert part is not None
    if not counts.any():
        return 0.0
    total = counts.cumsum(0)
    goal = part * float(total[-1])
    k = int((total < goal).sum())
    inside = (goal - float(total[k] - counts[k])) / max(float(counts[k]), 1.0)
    return float(10 ** (_LOWEST + _WIDTH * (k + inside)))
