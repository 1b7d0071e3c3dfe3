"""Gaussian cores from histograms that keep the sum of each bin's values; errors by leaving groups out.

A core as `alignnet.evaluation.statistics` defines it needs, of the values within a window, their number, sum
and sum of squares. Whole bins give these from their counts and sums (within a bin, values spread evenly about
their mean); the two bins that the window's ends cut are taken as even. So one pass in bounded memory gives
what all values would, to about a thousandth of a width.

Values are dealt to `GROUPS` groups, those that fluctuate together (the tracks of an event) to one. With θ_k
the answer without group k, its error is √((K − 1)/K Σ (θ_k − θ̄)²), the delete-a-group jackknife (P. S. Kott,
J. Official Statistics 17 (2001) 521), known itself to 1/√(2K) = 12.5 %. Leaving the same tracks out of all
geometries gives the errors of their differences and ratios, too.
"""

from __future__ import annotations

import math

import numpy as np

from alignnet.data.tracks import Array
from alignnet.evaluation.statistics import CORE_VARIANCE, HALF_WIDTH, WINDOW

GROUPS = 32
"""Groups of events for errors."""

_ITERATIONS, _STARTS = 60, 10


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


class Below:
    """What bins hold (rows, bins), summed up to any point.

    Args:
        bins: the bins.
        parts: quantities that spread evenly over each bin.
    """

    def __init__(self, bins: Bins, *parts: Array) -> None:
        self.bins, self.parts = bins, parts
        self.sums = [np.pad(np.cumsum(part, -1), ((0, 0), (1, 0))) for part in parts]
        self.rows = np.arange(len(parts[0]))

    def cut(self, end: Array) -> tuple[Array, Array]:
        """The bin that each row's end cuts, and which part of its width is below (rows,)."""
        bin_ = self.bins.row(end)
        low, high = self.bins.edges[bin_], self.bins.edges[bin_ + 1]
        return bin_, np.clip((end - low) / (high - low), 0.0, 1.0)

    def __call__(self, end: Array) -> list[Array]:
        """Sums of all quantities below each row's end (rows,)."""
        bin_, part = self.cut(end)
        return [
            total[self.rows, bin_] + part * held[self.rows, bin_]
            for total, held in zip(self.sums, self.parts, strict=True)
        ]

    def between(self, low: Array, high: Array) -> list[Array]:
        """Sums of all quantities between two ends (rows,)."""
        return [more - less for more, less in zip(self(high), self(low), strict=True)]


class Moments(Below):
    """Number, sum and sum of squares of values, from how many a bin has and their sum (rows, bins)."""

    def __init__(self, bins: Bins, counts: Array, totals: Array) -> None:
        width = np.diff(bins.edges)
        super().__init__(
            bins, counts, totals, totals**2 / np.maximum(counts, 1e-300) + counts * width**2 / 12
        )

    def __call__(self, end: Array) -> list[Array]:
        """Moments of the values below each row's end (rows,)."""
        bin_, part = self.cut(end)
        low, inside = self.bins.edges[bin_], part * np.diff(self.bins.edges)[bin_]
        n, middle = part * self.parts[0][self.rows, bin_], low + 0.5 * inside
        more = (n, n * middle, n * (middle**2 + inside**2 / 12))
        return [total[self.rows, bin_] + extra for total, extra in zip(self.sums, more, strict=True)]


def window(mean: Array, width: Array) -> tuple[Array, Array]:
    """Ends of the cores with these means and widths; empty where there is none."""
    mean, width = np.nan_to_num(mean), np.nan_to_num(width)
    return mean - WINDOW * width, mean + WINDOW * width


def cores(bins: Bins, counts: Array, totals: Array) -> tuple[Array, Array]:
    """Mean and width of the core of each histogram (rows,); NaN of none.

    Args:
        counts: how many values each bin has (rows, bins).
        totals: their sums (rows, bins).
    """
    n = counts.sum(-1)
    mean, width = _shortest_half(bins, counts)
    moments = Moments(bins, counts, totals)
    for _ in range(_ITERATIONS):
        inside, first, second = moments.between(*window(mean, width))
        last = mean, width
        mean = first / np.maximum(inside, 1e-300)
        variance = second / np.maximum(inside, 1e-300) - mean**2
        width = np.sqrt(np.maximum(variance, 0.0) / CORE_VARIANCE)
        moved = np.abs(mean - last[0]) + np.abs(width - last[1])
        if not (moved > 1e-7 * width).any():
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
    """The group of each event number, int64, as if drawn by lot, and always the same."""
    mixed = event.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(64 - GROUPS.bit_length() + 1)).astype(np.int64)


def _shortest_half(bins: Bins, counts: Array) -> tuple[Array, Array]:
    """The middle of the shortest interval with half of the values, and the width of a Gaussian with it."""
    ends = np.stack([_quantile(bins, counts, fraction) for fraction in np.linspace(0, 1, 2 * _STARTS + 1)])
    low, high = ends[: _STARTS + 1], ends[_STARTS:]
    best = (high - low).argmin(0), np.arange(len(counts))
    return 0.5 * (low[best] + high[best]), np.maximum((high[best] - low[best]) / HALF_WIDTH, 1e-300)


def _quantile(bins: Bins, counts: Array, fraction: float) -> Array:
    below = np.pad(np.cumsum(counts, -1), ((0, 0), (1, 0)))
    wanted = fraction * below[:, -1:]
    row = np.clip((below <= wanted).sum(-1) - 1, 0, len(bins) - 1)
    rows = np.arange(len(counts))
    part = (wanted[:, 0] - below[rows, row]) / np.maximum(counts[rows, row], 1e-300)
    low, high = bins.edges[row], bins.edges[row + 1]
    return np.asarray(low + np.clip(part, 0, 1) * (high - low))
