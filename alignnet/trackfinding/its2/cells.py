"""Cells: pairs of tracklets that share a hit, three hits of one particle perhaps, and how well the two agree.

A particle's tracklets (a, b) and (b, c) would have one curvature and one dip, but for scattering and
resolution. To first order, with the radii r and differences Δ of them, their differences are

    κ:      2 θ_q r_q [1/(r_b r_c) − 1/(r_a r_b)] / cos λ  (q up to a),   2 θ_b / (r_c cos λ),
            2 σ_b [1/(r_b r_c) − 1/(r_a r_b)],
            2 σ_a/(r_a Δ_ab),   2 σ_b/r_b (1/Δ_ab + 1/Δ_bc),   2 σ_c/(r_c Δ_bc)
    tan λ:  θ_b / cos² λ,   σ_a/Δ_ab,   σ_b (1/Δ_ab + 1/Δ_bc),   σ_c/Δ_bc

and what scattering in a layer that one of the two skips adds.
Pulls are differences over the root of the sum of squares, with θ of the momentum that the tracklets have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.pairs import ranges
from alignnet.trackfinding.its2.tracklets import Errors, Tracklets


class Cells(NamedTuple):
    """Pairs of tracklets with a common hit; each field (cells,)."""

    inner: Tensor  # int64 row of the inner tracklet
    outer: Tensor  # int64 row of the outer tracklet
    pull_kappa: Tensor  # outer minus inner curvature over its error; > 0: |κ| grows
    pull_dip: Tensor  # the same of tan λ; > 0: |tan λ| grows

    def take(self, rows: Tensor) -> Cells:
        """Some of the cells."""
        return Cells(*(column[rows] for column in self))

    def within(self, limit: float) -> Cells:
        """Those whose pulls are within ± `limit`."""
        near = (self.pull_kappa.abs() < limit) & (self.pull_dip.abs() < limit)
        return self.take(near.nonzero().squeeze(-1))


def cells_of(hits: Hits, pairs: Tensor, found: Tracklets, errors: Errors, limit: float) -> Cells:
    """All cells whose pulls are within ± `limit`.

    Args:
        hits: what pairs refer to.
        pairs: (2, pairs) rows of inner and outer hits.
        found: the pairs' tracklets.
        errors: of tracklets.
        limit: largest |pull| of curvature and of dip.
    """
    inner, outer = joints(pairs, hits.n_hits)
    kappa_error, dip_error, sign = _errors(hits, pairs, found, errors, inner, outer)
    pull_kappa = (found.kappa[outer] - found.kappa[inner]) / kappa_error * sign[0]
    pull_dip = (found.tan_lambda[outer] - found.tan_lambda[inner]) / dip_error * sign[1]
    return Cells(inner, outer, pull_kappa, pull_dip).within(limit)


def joints(pairs: Tensor, n_hits: int) -> tuple[Tensor, Tensor]:
    """Rows of pairs that end in a hit, and of pairs that begin there: all combinations, (cells,) each."""
    order = torch.argsort(pairs[0], stable=True)
    count = torch.bincount(pairs[0], minlength=n_hits)
    start = torch.cumsum(count, 0) - count
    inner, member = ranges(start[pairs[1]], count[pairs[1]])
    return inner, order[member]


def _errors(
    hits: Hits, pairs: Tensor, found: Tracklets, errors: Errors, inner: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Errors of the differences of κ and tan λ, and in which direction these grow."""
    a, b, c = pairs[0, inner], pairs[1, inner], pairs[1, outer]
    radius, variance, layer = hits.radius, errors.variance(hits), hits.layer
    r_a, r_b, r_c = radius[a], radius[b], radius[c]
    ab, bc = 1 / (r_b - r_a), 1 / (r_c - r_b)
    kappa, dip = found.kappa[outer], found.tan_lambda[outer]
    secant2 = 1 + dip.square()
    theta2 = errors.scattering(kappa, dip)
    origin = (1 / (r_b * r_c) - 1 / (r_a * r_b)).square()
    matter, kink = errors.matter, theta2 * secant2
    in_kappa, in_dip = _skipped(layer[a], layer[b], r_a, r_b, r_c, errors)
    kappa2 = origin * (kink * matter.reach[layer[a]] + errors.beam_width**2)
    kappa2 = kappa2 + kink * (matter.own[layer[b]] / r_c.square() + in_kappa)
    kappa2 = kappa2 + kink * errors.between(hits, torch.stack([b, c])) / r_c.square()
    for hit, weight in ((a, ab / r_a), (b, (ab + bc) / r_b), (c, bc / r_c)):
        kappa2 = kappa2 + variance[hit, 0] * weight.square()
    dip2 = kink * secant2 * (matter.own[layer[b]] + in_dip + errors.between(hits, torch.stack([b, c])))
    for hit, weight in ((a, ab), (b, ab + bc), (c, bc)):
        dip2 = dip2 + variance[hit, 1] * weight.square()
    sign = (torch.where(kappa < 0, -1.0, 1.0), torch.where(dip < 0, -1.0, 1.0))
    return 2 * kappa2.sqrt(), dip2.sqrt(), sign


def _skipped(
    layer_a: Tensor, layer_b: Tensor, r_a: Tensor, r_b: Tensor, r_c: Tensor, errors: Errors
) -> tuple[Tensor, Tensor]:
    """x/X0 of a layer at r_m between a and b, by its squared effects on the differences of κ/2 and tan λ."""
    matter, skips = errors.matter, layer_b - layer_a > 1
    r_m, own = matter.radius[layer_a + 1], torch.where(skips, matter.own[layer_a + 1], 0.0)
    turn = r_m / (r_b * r_c) - (r_b - r_m) / (r_b * (r_b - r_a))
    return own * turn.square(), own * ((r_m - r_a) / (r_b - r_a)).square()
