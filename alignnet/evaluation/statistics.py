"""Means and widths of distributions with tails; histograms from micrometres to centimetres.

The **core** of a distribution is the Gaussian that its part within ± WINDOW standard deviations fits: mean
m and width s with

    Σ z 1(|z| < k) = 0,     Σ (z² − c²) 1(|z| < k) = 0,     z = (x − m)/s,  k = WINDOW,

c² = E[z² | |z| < k] of a Gaussian, so that a Gaussian's s is its standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alignnet.data.tracks import Array

WINDOW = 2.5
"""Half-width of the core, in standard deviations."""

_DENSITY = math.exp(-(WINDOW**2) / 2) / math.sqrt(2 * math.pi)
_INSIDE = math.erf(WINDOW / math.sqrt(2))
CORE_VARIANCE = 1 - 2 * WINDOW * _DENSITY / _INSIDE
"""Mean square of a Gaussian of width 1 within its core."""

HALF_WIDTH = 2 * 0.674490
"""Width of the interval with half of a Gaussian's values, in standard deviations."""

_CENTRAL = 0.682689  # of a Gaussian within one standard deviation


@dataclass(frozen=True)
class Core:
    """The Gaussian core of n values."""

    mean: float
    width: float
    pull: Array  # (x − mean)/width (n,)


def gaussian_core(values: Array, iterations: int = 50) -> Core:
    """The core of `values` (n,), from a start at the shortest interval that holds half of them.

    (P. J. Rousseeuw & A. M. Leroy, Statistica Neerlandica 42 (1988) 103: it bears tails of nearly as many.)
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return Core(math.nan, math.nan, values)
    ordered, half = np.sort(values), (len(values) - 1) // 2 + 1
    lengths = ordered[half - 1 :] - ordered[: len(values) - half + 1]
    first = int(lengths.argmin())
    mean, width = ordered[first : first + half].mean(), max(float(lengths[first]) / HALF_WIDTH, 1e-300)
    for _ in range(iterations):
        inside = values[np.abs(values - mean) < WINDOW * width]
        if not len(inside):
            break
        last, mean, width = (
            (mean, width),
            float(inside.mean()),
            max(float(inside.std()) / math.sqrt(CORE_VARIANCE), 1e-300),
        )
        if abs(mean - last[0]) + abs(width - last[1]) < 1e-9 * width:
            break
    return Core(mean, width, (values - mean) / width)


class Histogram:
    """Counts of values per group and column, in even bins of asinh(x / scale): fine at 0, coarse far out.

    One fixed table serves micrometres and centimetres, so that quantiles need no second pass over the data.

    Args:
        groups: how many.
        scale: where the bins turn from equal to proportional widths.
        largest: values beyond ± this are counted in the last bins.
        step: width of a bin in asinh(x / scale): the relative width of bins far out.
    """

    def __init__(self, groups: int, scale: float, largest: float, step: float = 0.04) -> None:
        half = math.ceil(math.asinh(largest / scale) / step)
        self.scale, self.step, self.half = scale, step, half
        self.edges = scale * torch.sinh(torch.arange(-half, half + 1, dtype=torch.float64) * step)
        self.counts = torch.zeros(groups, 2, 2 * half, dtype=torch.float64)

    def add(self, values: Tensor, group: Tensor) -> None:
        """Count values (n, 2), one for each column, of groups (n,); what is not finite is left out."""
        values = values.detach().cpu().double()
        bins = (
            (torch.asinh(values / self.scale) / self.step)
            .floor()
            .nan_to_num(0.0)
            .clamp(-self.half, self.half - 1)
        )
        column = torch.arange(2)
        index = ((group.cpu()[:, None] * 2 + column) * 2 * self.half + bins.long() + self.half)[
            values.isfinite()
        ]
        self.counts.view(-1).add_(torch.bincount(index, minlength=self.counts.numel()))

    def quantile(self, fraction: float) -> Tensor:
        """Quantiles of each group and column (groups, 2), linear within a bin; NaN where there is nothing."""
        total = self.counts.sum(-1)
        below = torch.nn.functional.pad(self.counts.cumsum(-1), (1, 0))
        wanted = fraction * total
        row = (torch.searchsorted(below, wanted[..., None], right=True) - 1).clamp(0, 2 * self.half - 1)
        inside = (wanted[..., None] - below.gather(-1, row)) / self.counts.gather(-1, row).clamp_min(1e-300)
        low, high = self.edges[row], self.edges[row + 1]
        return torch.where(total > 0, (low + inside.clamp(0, 1) * (high - low)).squeeze(-1), torch.nan)

    def core_width(self) -> Tensor:
        """Half the central 68.27 % interval (groups, 2); of a Gaussian, its standard deviation."""
        return 0.5 * (self.quantile(0.841345) - self.quantile(0.158655))

    def within(self) -> Tensor:
        """68.27 % of the values lie within ± this of 0 (groups, 2); of a Gaussian about 0, its width."""
        folded = Histogram(len(self.counts), self.scale, self.edges[-1].item(), self.step)
        folded.counts[..., self.half :] = self.counts[..., self.half :] + self.counts[..., : self.half].flip(
            -1
        )
        return folded.quantile(_CENTRAL)

    def within_of_widths(self) -> Tensor:
        """The same (groups, 2) of values of which each is Gaussian about 0, with the widths counted here."""
        width = (0.5 * (self.edges[1:] + self.edges[:-1])).clamp_min(1e-300)
        part = self.counts / self.counts.sum(-1, keepdim=True)
        low, high = torch.zeros(part.shape[:-1], dtype=torch.float64), width[-1].expand(part.shape[:-1])
        for _ in range(60):
            middle = 0.5 * (low + high)
            inside = (part * torch.erf(middle[..., None] / (2**0.5 * width))).sum(-1)
            low, high = (
                torch.where(inside < _CENTRAL, middle, low),
                torch.where(inside < _CENTRAL, high, middle),
            )
        return torch.where(part.isfinite().all(-1), middle, torch.nan)


def number(value: float | Tensor) -> float | None:
    """A number for JSON: None where it is not finite."""
    plain = float(value)
    return plain if math.isfinite(plain) else None
