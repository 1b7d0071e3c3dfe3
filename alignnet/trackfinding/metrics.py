"""Figures of merit of track finding, as sums that can be added over batches.

HEP.TrkX printed two accuracies with two denominators: "pixel" leaves out the seed layers, "hit" in the
notebooks does not, although a seed layer has one lit pixel and is right for nothing. Here a name without a
suffix leaves them out; `_all_layers` is the notebooks' form. With L layers and S seeds the two are related by
without = (L · all − S)/(L − S).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Mean(NamedTuple):
    """A mean that can go on: the sum of values and how many."""

    total: float
    entries: float

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        """Of all entries of a tensor."""
        return cls(float(values.double().sum()), float(values.numel()))

    def plus(self, other: Mean) -> Mean:
        """Of the entries of both."""
        return Mean(self.total + other.total, self.entries + other.entries)

    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.entries if self.entries else float("nan")


Score = Mapping[str, Mean]


def joined(first: Score, second: Score) -> dict[str, Mean]:
    """Both, added up name by name."""
    nothing = Mean(0.0, 0.0)
    return {name: first.get(name, nothing).plus(second.get(name, nothing)) for name in {**first, **second}}


class FoundTrack(NamedTuple):
    """An answer to seeded events: a pixel of each of the last layers, two ways."""

    pixel: Tensor  # (events, layers answered) the best of all pixels
    hit: Tensor  # the best of the lit pixels; where none is lit, as `pixel`


def best_pixels(logits: Tensor, image: Tensor) -> FoundTrack:
    """The best pixel and the best lit pixel of each layer.

    Args:
        logits: (events, layers answered, pixels) scores; the layers answered are the last ones.
        image: (events, layers, …) 1 where lit.
    """
    seen = image.flatten(2)[:, -logits.shape[1] :] > 0
    pixel = logits.argmax(-1)
    hit = logits.masked_fill(~seen, -torch.inf).argmax(-1)
    return FoundTrack(pixel, torch.where(seen.any(-1), hit, pixel))


def seeded_accuracies(found: FoundTrack, truth: Tensor, seeds: int) -> dict[str, Mean]:
    """Accuracies of a seeded track's hits.

    Args:
        found: the answer; layers before its first count as right where they are seeds.
        truth: (events, layers) the track's pixels.
        seeds: layers, from the first, that hold the track alone.

    Returns:
        "pixel" and "hit": layers without seeds whose best pixel, or best lit pixel, is the track's; "track":
        all of these hits right; "pixel_all_layers" and "hit_all_layers": with the seeds that are answered.
    """
    skip = truth.shape[1] - found.pixel.shape[1]
    pixel, hit = found.pixel == truth[:, skip:], found.hit == truth[:, skip:]
    first = max(seeds - skip, 0)
    return {
        "pixel": Mean.of(pixel[:, first:]),
        "hit": Mean.of(hit[:, first:]),
        "track": Mean.of(hit[:, first:].all(1)),
        "pixel_all_layers": Mean.of(pixel),
        "hit_all_layers": Mean.of(hit),
    }


PARTS = {"covered_68": 0.6827, "covered_95": 0.9545}
"""Of a distribution, those within one and two standard deviations of one normal variable."""

NORMAL_RADIUS2 = {name: -2 * math.log(1 - part) for name, part in PARTS.items()}
"""Squared Mahalanobis radii of the ellipses that hold these parts of two normal variables."""


def squared_distances(residual: Tensor, covariance: Tensor) -> Tensor:
    """Squared Mahalanobis distances r·C⁻¹·r (tracks,) of residuals (tracks, 2)."""
    return (residual * torch.linalg.solve(covariance, residual)).sum(-1)


def squared_pulls(
    residual: Tensor, covariance: Tensor, radius2: Mapping[str, float] = NORMAL_RADIUS2
) -> dict[str, Mean]:
    """Pulls and coverage of errors of two correlated parameters.

    Args:
        residual: (tracks, 2) true minus found.
        covariance: (tracks, 2, 2) as estimated.
        radius2: squared Mahalanobis radii of the ellipses that should hold `PARTS`.

    Returns:
        "pull2_intercept", "pull2_slope": mean squares of residual/σ; "covered_68", "covered_95": how often
        both are inside the ellipse that should hold 68.27 or 95.45 %; "inside1_intercept", …: how often
        |residual| < σ, 68.27 % expected of a normal distribution.
    """
    pull = residual / covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    distance2 = squared_distances(residual, covariance)
    covered = {name: Mean.of(distance2 < radius2[name]) for name in PARTS}
    parts = {
        f"{what}_{name}": Mean.of(values[..., k])
        for k, name in enumerate(("intercept", "slope"))
        for what, values in (("pull2", pull.square()), ("inside1", pull.abs() < 1))
    }
    return {**parts, **covered}


def edge_counts(score: Tensor, truth: Tensor) -> dict[str, Mean]:
    """Accuracy, purity (precision) and efficiency (recall) of edges with a score above one half."""
    chosen, true = score > 0.5, truth > 0.5
    return {
        "accuracy": Mean.of(chosen == true),
        "purity": Mean.of(true[chosen]),
        "efficiency": Mean.of(chosen[true]),
    }
