"""Residuals of hits into sums and histograms, compiled where that pays; nothing is kept of a hit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alignnet.evaluation.statistics import Histogram
from alignnet.loss.residuals import LayerSums
from alignnet.physics.jit import Array, compiled, is_finite, pays

KINDS = ("biased", "unbiased")


class SensorSums:
    """Count, sum and sum of squares of biased and unbiased residuals of each sensor.

    Args:
        n: how many sensors.
    """

    def __init__(self, n: int) -> None:
        self.sums = torch.zeros(n, len(KINDS), 2, 3, dtype=torch.float64)

    def add(self, biased: Tensor, unbiased: Tensor, sensor: Tensor, keep: Tensor) -> None:
        """Add (tracks, hits, 2) of sensors (tracks, hits) where `keep` (tracks, hits) and finite."""
        for k, values in enumerate((biased, unbiased)):
            if add_hits_pays(values):
                arrays = (field.contiguous().numpy() for field in (values, sensor, keep))
                add_to_sensors(*arrays, self.sums[:, k].numpy())
                continue
            good = keep & values.isfinite().all(-1)
            some = values[good].double().cpu()
            moments = torch.stack([torch.ones_like(some), some, some.square()], -1)
            self.sums[:, k].index_add_(0, sensor[good].cpu(), moments)

    def merge(self, other: SensorSums) -> None:
        """Add what another has seen of other hits."""
        self.sums += other.sums

    @property
    def count(self) -> Tensor:
        """Hits of each sensor (sensors,)."""
        return self.sums[:, 0, 0, 0]

    def mean_and_width(self, kind: str, group: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (sensors or groups, 2) [cm]; NaN where there was no hit.

        Args:
            kind: "biased" or "unbiased".
            group: of each sensor, −1 for none; by default each is one.
        """
        count, first, second = self.of_groups(kind, group).unbind(-1)
        mean = first / count
        return mean, (second / count - mean.square()).clamp_min(0).sqrt()

    def of_groups(self, kind: str, group: Tensor | None = None) -> Tensor:
        """Count, sum and sum of squares of each sensor or group, (…, 2, 3)."""
        sums = self.sums[:, KINDS.index(kind)]
        if group is None:
            return sums
        inside = group >= 0
        empty = sums.new_zeros(int(group.max()) + 1, *sums.shape[1:])
        return empty.index_add_(0, group[inside], sums[inside])


def add_hits_pays(values: Tensor) -> bool:
    """Whether residuals (tracks, hits, 2) are better added by loops."""
    double = values.device.type == "cpu" and values.dtype == torch.float64
    return double and pays(add_to_groups, len(values))


def add_hits(values: Tensor, sensor: Tensor, keep: Tensor, sums: LayerSums, histogram: Histogram) -> None:
    """Add (tracks, hits, 2) of sensors (tracks, hits) to their groups, where `keep` and finite."""
    arrays = (field.contiguous().numpy() for field in (values, sensor, keep, sums.index))
    bins = (histogram.scale, histogram.step, histogram.half)
    add_to_groups(*arrays, bins, sums.sums.numpy(), histogram.counts.numpy())


@compiled
def add_to_groups(
    values: Array, sensor: Array, keep: Array, group: Array, bins: tuple[float, float, int],
    sums: Array, counts: Array,
) -> None:  # fmt: skip
    """Moments (groups, 2, 3) and counts (groups, 2, bins) of hits of sensors' groups (sensors,)."""
    scale, step, half = bins
    for t in range(values.shape[0]):
        for h in range(values.shape[1]):
            if not keep[t, h] or not is_finite(values[t, h, 0] + values[t, h, 1]):
                continue
            g = group[sensor[t, h]]
            for k in range(2):
                x = values[t, h, k]
                sums[g, k, 0] += 1.0
                sums[g, k, 1] += x
                sums[g, k, 2] += x * x
                place = math.floor(math.asinh(x / scale) / step)
                counts[g, k, int(min(max(place, -half), half - 1)) + half] += 1.0


@compiled
def add_to_sensors(values: Array, sensor: Array, keep: Array, sums: Array) -> None:
    """Moments (sensors, 2, 3) of hits."""
    for t in range(values.shape[0]):
        for h in range(values.shape[1]):
            if keep[t, h] and is_finite(values[t, h, 0] + values[t, h, 1]):
                for k in range(2):
                    x = values[t, h, k]
                    sums[sensor[t, h], k, 0] += 1.0
                    sums[sensor[t, h], k, 1] += x
                    sums[sensor[t, h], k, 2] += x * x
