"""Gaussian cores from histograms that keep the sum of the values in each bin, and errors by leaving groups out.

A core as `alignnet.evaluation.statistics` defines it needs, of the values within a window, their number, sum and
sum of squares. Whole bins give these from their counts and sums (within a bin, values spread evenly about
their mean); the two bins that the window's ends cut are taken as even. So one pass in bounded memory gives what
all values would, to about a thousandth of an error.

Values are dealt to `GROUPS` groups, those that fluctuate together (the tracks of an event) to one. With θ_k
the answer without group k, its error is √((K − 1)/K Σ (θ_k − θ̄)²), the delete-a-group jackknife (P. S. Kott,
J. Official Statistics 17 (2001) 521), known itself to 1/√(2K) = 12.5 %. Leaving the same tracks out of all
geometries gives the errors of their differences and ratios, too.
"""

from __future__ import annotations

import math

import numpy as np

from alignnet.data.tracks import Array
from alignnet.evaluation.statistics import CORE_VARIANCE, WINDOW

GROUPS = 32
"""Groups of events for errors."""

_ITERATIONS = 60


class Bins:
    """Even bins of asinh(x / scale), the outermost without end.

    Args:
        scale: where they turn from equal to proportional widths.
        largest: where the outermost begin, ±.
        step: width of a bin in asinh(x / scale).
    """

    def __init__(self, scale: float, largest: float, step: float) -> None:
        self.scale, self.step, self.half = scale, step, math.ceil(math.asinh(largest / scale) / step)
        self.edges = scale * np.sinh(np.arange(-self.half, self.half + 1) * step)

    def __len__(self) -> int:
        return 2 * self.half

    def place(self, x: Array) -> Array:
        """Where values lie, in bins and parts of them, at most half a bin beyond the last edges."""
        return np.clip(np.arcsinh(x / self.scale) / self.step + self.half, 0, 2 * self.half - 1e-9)

    def row(self, x: Array) -> Array:
        """The bin of each value, int64."""
        return self.place(x).astype(np.int64)


class Window:
    """Sums of histograms (rows, bins) between two ends, each row with its own."""

    def __init__(self, bins: Bins, low: Array, high: Array) -> None:
        self.bins, self.low, self.high = bins, low, high

    @classmethod
    def about(cls, bins: Bins, mean: Array, width: Array) -> Window:
        """Windows of cores with these means and widths; empty where there is none."""
        mean, width = np.nan_to_num(mean), np.nan_to_num(width)
        return cls(bins, mean - WINDOW * width, mean + WINDOW * width)

    def of(self, counts: Array, totals: Array) -> tuple[Array, Array, Array]:
        """Number, sum and sum of squares of the values inside (rows,), from what the bins hold (rows, bins)."""
        width = np.diff(self.bins.edges)
        squares = totals**2 / np.maximum(counts, 1e-300) + counts * width**2 / 12
        sums = [np.pad(np.cumsum(part, -1), ((0, 0), (1, 0))) for part in (counts, totals, squares)]
        ends = [self._below(end, counts, sums) for end in (self.low, self.high)]
        n, first, second = (high - low for low, high in zip(*ends, strict=True))
        return n, first, second

    def sum(self, values: Array) -> Array:
        """Of any other quantity that bins hold (rows, bins), the part inside (rows,)."""
        below = np.pad(np.cumsum(values, -1), ((0, 0), (1, 0)))
        rows = np.arange(len(values))
        ends = []
        for end in (self.low, self.high):
            bin_, part = self._cut(end)
            ends.append(below[rows, bin_] + part * values[rows, bin_])
        return np.asarray(ends[1] - ends[0])

    def _below(self, end: Array, counts: Array, sums: list[Array]) -> list[Array]:
        rows = np.arange(len(counts))
        bin_, part = self._cut(end)
        low, inside = self.bins.edges[bin_], part * np.diff(self.bins.edges)[bin_]
        n, middle = part * counts[rows, bin_], low + 0.5 * inside
        parts = (n, n * middle, n * (middle**2 + inside**2 / 12))
        return [total[rows, bin_] + more for total, more in zip(sums, parts, strict=True)]

    def _cut(self, end: Array) -> tuple[Array, Array]:
        """The bin that an end cuts, and which part of its width is below."""
        bin_ = self.bins.row(end)
        low, high = self.bins.edges[bin_], self.bins.edges[bin_ + 1]
        return bin_, np.clip((end - low) / (high - low), 0.0, 1.0)


def cores(bins: Bins, counts: Array, totals: Array) -> tuple[Array, Array]:
    """Mean and width of the core of each histogram (rows,); NaN of none.

    Args:
        counts: how many values each bin has (rows, bins).
        totals: their sums (rows, bins).
    """
    n = counts.sum(-1)
    low, mean, high = (_quantile(bins, counts, fraction) for fraction in (0.158655, 0.5, 0.841345))
    width = np.maximum(0.5 * (high - low), 1e-300)
    for _ in range(_ITERATIONS):
        inside, first, second = Window.about(bins, mean, width).of(counts, totals)
        last = mean, width
        mean = first / np.maximum(inside, 1e-300)
        variance = second / np.maximum(inside, 1e-300) - mean**2
        width = np.sqrt(np.maximum(variance, 0.0) / CORE_VARIANCE)
        moved = np.abs(mean - last[0]) + np.abs(width - last[1])
        if not (moved > 1e-9 * width).any():
            break
    return np.where(n > 0, mean, np.nan), np.where(n > 0, width, np.nan)


def jackknife(without: Array, used: Array) -> Array:
    """Standard errors from answers without a group each.

    Args:
        without: (groups, …).
        used: which groups had any values (groups,).
    """
    answers, k = without[used], int(used.sum())
    if k < 2:
        return np.full(without.shape[1:], np.nan)
    return np.asarray(np.sqrt((k - 1) / k * np.square(answers - answers.mean(0)).sum(0)))


def group_of(event: Array) -> Array:
    """The group of each event number, int64: of neighbouring events different ones, whatever else there is."""
    mixed = event.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(64 - GROUPS.bit_length() + 1)).astype(np.int64)


def _quantile(bins: Bins, counts: Array, fraction: float) -> Array:
    below = np.pad(np.cumsum(counts, -1), ((0, 0), (1, 0)))
    wanted = fraction * below[:, -1:]
    row = np.clip((below <= wanted).sum(-1) - 1, 0, len(bins) - 1)
    rows = np.arange(len(counts))
    part = (wanted[:, 0] - below[rows, row]) / np.maximum(counts[rows, row], 1e-300)
    low, high = bins.edges[row], bins.edges[row + 1]
    return np.asarray(low + np.clip(part, 0, 1) * (high - low))
