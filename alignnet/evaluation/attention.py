"""Sensors that someone should look at, and why: what the average over a layer hides.

A sensor needs attention for

* `residuals`: the mean of its residuals differs from 0 by more than `SIGNIFICANT` standard errors, in u or v;
* `correction`: it was moved by more than `FAR` robust standard deviations of its layer off the median;
* `prior`: it moved by more than `BEYOND` widths of its prior against its volumes, which hardly any sensor
  does that is as well mounted as the prior says;
* `error`: the error of one of its translations is more than `UNCERTAIN` times its layer's median;
* `few hits`: it had too few hits of the training tracks to be aligned for itself. Where these are many they
  are counted for each layer and not named: the sample is small, and no sensor is to blame.

The worst are those that exceed one of these bounds by the largest factor; too few hits count as the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.units import MRAD, UM

SIGNIFICANT = 5.0
"""Standard errors of a mean residual; of 24,120 sensors without fault the largest is about 4.3."""

FAR = 10.0
"""Robust standard deviations of a layer's corrections; a tilted stave's ends are easily at half of it."""

BEYOND = 5.0
"""Widths of the prior."""

UNCERTAIN = 5.0
"""Times the median error of a layer."""

FEWEST = 10
"""Hits below which a mean residual is not judged."""

_ALIGNED, _FIXED, _TOO_FEW = 0, 1, 2  # of the branch `status`
_TRANSLATIONS = rigid.LOCAL_NAMES[:3]


@dataclass(frozen=True)
class SensorAnswer:
    """What an alignment says of each sensor besides its place."""

    n_hits: Tensor  # of training tracks (sensors,)
    status: Tensor  # 0 aligned, 1 fixed, 2 too few hits (sensors,)
    error: Tensor  # σ of the local six (sensors, 6), NaN where not known
    own: Tensor | None = None  # local six since the start, motions of volumes undone (sensors, 6)
    prior: tuple[float, float] | None = None  # widths of its translations [cm] and rotations [rad]


@dataclass(frozen=True)
class _Reason:
    """One of the reasons, for every sensor."""

    name: str
    excess: Tensor  # over its bound, 0 where it does not apply (sensors,)
    words: Callable[[int], str]  # of a sensor by its row


def sensor_metrics(
    detector: Detector,
    local: Tensor,
    residuals: tuple[Tensor, Tensor, Tensor],
    answer: SensorAnswer,
    most: int = 20,
) -> dict[str, Any]:
    """Numbers for metrics.json: how many sensors were aligned, and those that need attention.

    Args:
        detector: the nominal places.
        local: local six of the answer (sensors, 6).
        residuals: hits (sensors,), mean and standard deviation (sensors, 2) [cm] with the sensors there, as
            `ResidualSummary.sensor_table`.
        answer: status, hits and errors.
        most: how many of the worst are named.

    Returns:
        `{"n", "aligned", "fixed", "too_few_hits", "without_hits", "layer0": the same of a layer, …,
        "attention": {"n": sensors with another reason than few hits, "by_reason": {reason: sensors},
        "worst": [{"name", "sensor_id", "layer", "n_hits", "reasons": [words, …], "excess"}, …]}}`.
    """
    faults = [
        _of_residuals(*residuals),
        _of_corrections(detector, local),
        _of_priors(answer),
        _of_errors(detector, answer),
    ]
    few = _of_hits(answer)
    at_fault = torch.stack([reason.excess for reason in faults]).amax(0)
    reasons = [*faults, few]
    excess = torch.maximum(at_fault, few.excess) if (few.excess > 0).sum() <= most else at_fault
    rows = excess.argsort(descending=True, stable=True)[: min(most, int((excess > 0).sum()))]
    every = torch.ones(len(detector), dtype=torch.bool)
    layers = {f"layer{n}": _counts(answer, detector.layer == n) for n in detector.layers}
    return {
        **_counts(answer, every),
        **layers,
        "attention": {
            "n": int((at_fault > 0).sum()),
            "by_reason": {reason.name: int((reason.excess > 0).sum()) for reason in reasons},
            "worst": [_row(detector, answer, reasons, i) for i in rows.tolist()],
        },
    }


def _counts(answer: SensorAnswer, mine: Tensor) -> dict[str, int]:
    """How many of the sensors `mine` (sensors,) were aligned, and what became of the others."""
    status, hits = answer.status[mine], answer.n_hits[mine]
    return {
        "n": int(mine.sum()),
        "aligned": int((status == _ALIGNED).sum()),
        "fixed": int((status == _FIXED).sum()),
        "too_few_hits": int((status == _TOO_FEW).sum()),
        "without_hits": int(((hits == 0) & (status != _FIXED)).sum()),
    }


def _row(detector: Detector, answer: SensorAnswer, reasons: list[_Reason], i: int) -> dict[str, Any]:
    mine = [reason for reason in reasons if reason.excess[i] > 0]
    return {
        "name": detector.names[i],
        "sensor_id": int(detector.sensor_id[i]),
        "layer": int(detector.layer[i]),
        "n_hits": int(answer.n_hits[i]),
        "reasons": [reason.words(i) for reason in mine],
        "excess": max(float(reason.excess[i]) for reason in mine),
    }


def _of_residuals(hits: Tensor, mean: Tensor, width: Tensor) -> _Reason:
    error = width / hits.clamp_min(1.0).sqrt()[:, None]
    judged = (hits >= FEWEST)[:, None] & (error > 0)
    sigmas = torch.where(judged, mean.abs() / error, 0.0).nan_to_num(0.0)
    most, k = sigmas.max(-1)

    def words(i: int) -> str:
        c = int(k[i])
        return f"mean residual {'uv'[c]} is {float(mean[i, c]) / UM:.3g} µm, {float(most[i]):.1f} σ from 0"

    return _beyond("residuals", most, SIGNIFICANT, words)


def _of_corrections(detector: Detector, local: Tensor) -> _Reason:
    moved = local[:, :3]
    away, spread = torch.zeros_like(moved), torch.ones_like(moved)
    for layer in detector.layers:
        mine = detector.layer == layer
        away[mine] = moved[mine] - moved[mine].median(0).values
        spread[mine] = 1.4826 * away[mine].abs().median(0).values
    most, k = torch.where(spread > 0, away.abs() / spread, 0.0).max(-1)

    def words(i: int) -> str:
        c = int(k[i])
        name, size = _TRANSLATIONS[c], float(moved[i, c]) / UM
        return f"correction {name} is {size:.3g} µm, {float(most[i]):.1f} times its layer's spread off"

    return _beyond("correction", most, FAR, words)


def _of_priors(answer: SensorAnswer) -> _Reason:
    if answer.own is None or answer.prior is None:
        return _Reason("prior", torch.zeros(len(answer.status), dtype=torch.float64), str)
    own, (shift, turn) = answer.own, answer.prior
    most, k = (own.abs() / torch.tensor([shift] * 3 + [turn] * 3).to(own)).max(-1)

    def words(i: int) -> str:
        c, times = int(k[i]), float(most[i])
        unit, width, name = (UM, shift, "µm") if c < 3 else (MRAD, turn, "mrad")
        size = f"{rigid.LOCAL_NAMES[c]} is {float(own[i, c]) / unit:.3g} {name}"
        return f"its own {size}, {times:.1f} times the width of its prior, {width / unit:g} {name}"

    return _beyond("prior", most, BEYOND, words)


def _of_errors(detector: Detector, answer: SensorAnswer) -> _Reason:
    error = answer.error[:, :3]
    middle = torch.full_like(error, torch.nan)
    for layer in detector.layers:
        mine = (detector.layer == layer) & (answer.status == _ALIGNED)
        if mine.any():
            middle[mine] = error[mine].nanmedian(0).values
    most, k = torch.where(middle > 0, error / middle, 0.0).nan_to_num(0.0).max(-1)

    def words(i: int) -> str:
        c = int(k[i])
        name, size = _TRANSLATIONS[c], float(error[i, c]) / UM
        return f"error of {name} is {size:.3g} µm, {float(most[i]):.1f} times its layer's median"

    return _beyond("error", most, UNCERTAIN, words)


def _of_hits(answer: SensorAnswer) -> _Reason:
    few = (answer.status == _TOO_FEW).double()

    def words(i: int) -> str:
        n = int(answer.n_hits[i])
        return f"{n if n else 'no'} hit{'' if n == 1 else 's'} of training tracks: held by its volumes"

    return _Reason("few hits", few, words)


def _beyond(name: str, size: Tensor, bound: float, words: Callable[[int], str]) -> _Reason:
    return _Reason(name, torch.where(size > bound, size / bound, 0.0), words)
