"""Pairs of hits that one particle from the beam line may have made, without a loop over hits.

Hits are in order of event, layer and azimuth, which is one ascending number a hit. The partners of a hit in
another layer are those within a window of azimuth: a range of rows that `searchsorted` finds, a second one
where the window reaches across ±π. Curvature and z₀ of the pairs then decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.tracklets import Errors, tracklets_of

_BLOCK = 16.0  # azimuths of a layer in an event, and windows that begin or end a turn away, fit into it
_STEEPEST = 3.0  # tan λ
_COARSEST = 20e-4  # [cm] resolution


@dataclass(frozen=True)
class Windows:
    """How far apart two hits may be.

    Args:
        errors: of tracklets.
        n_sigma: by so many of their errors curvature and z₀ may be outside their limits.
        z_max: vertices are within ± this where they are not known [cm].
        vertex_error: how well a vertex that is known is known, along the beam line [cm].
    """

    errors: Errors
    n_sigma: float = 4.0
    z_max: float = 25.0
    vertex_error: float = 0.02

    def pairs(self, hits: Hits, inner: int, outer: int, vertex_z: Tensor | None) -> Tensor:
        """Pairs of hits of two layers, (2, pairs) rows in order of the inner hit.

        Args:
            hits: sorted as `Hits` are.
            inner: layer.
            outer: a layer further out.
            vertex_z: of each event (events,) [cm], NaN where it is not known, or None for all of them.
        """
        first, second = (hits.layer == layer for layer in (inner, outer))
        if not bool(first.any() and second.any()):
            return torch.zeros(2, 0, dtype=torch.int64)
        near, far = hits.radius[first], hits.radius[second]
        sine = 0.5 * self._kappa_limit(near, far, inner) * (far.max() - near.min())
        reach = 1.1 * float(sine.clamp_max(0.9).asin()) + 1e-9
        return self.chosen(hits, within(hits, first, outer, reach), vertex_z)

    def chosen(self, hits: Hits, pairs: Tensor, vertex_z: Tensor | None) -> Tensor:
        """Those of some pairs (2, pairs) whose curvature and z₀ one particle may have."""
        errors, found = self.errors, tracklets_of(hits, pairs)
        lowest = torch.full_like(found.kappa, errors.kappa_max)
        width = errors.of_kappa(hits, pairs, lowest, found.tan_lambda)
        inside = found.kappa.abs() < errors.kappa_max + self.n_sigma * width
        first, second = hits.position[pairs, :2]
        inside &= (first * second).sum(-1) > 0  # not across the beam
        pairs, found, width = pairs[:, inside], type(found)(*(f[inside] for f in found)), width[inside]
        if vertex_z is None:
            return pairs[:, found.z0.abs() < self.z_max]
        kappa, vertex = found.kappa.abs() + width, vertex_z[hits.event[pairs[0]]]
        sigma = torch.hypot(
            errors.of_z0(hits, pairs, kappa, found.tan_lambda), torch.full_like(kappa, self.vertex_error)
        )
        near = (found.z0 - vertex).abs() < self.n_sigma * sigma
        return pairs[:, torch.where(vertex.isnan(), found.z0.abs() < self.z_max, near)]

    def _kappa_limit(self, near: Tensor, far: Tensor, inner: int) -> Tensor:
        """A curvature [1/cm] beyond those that `chosen` lets pass, of hits at these radii."""
        errors, r1, r2 = self.errors, near.min(), far.min()
        gap = (far.min() - near.max()).clamp_min(0.1)
        lowest = torch.tensor(errors.kappa_max, dtype=torch.float64)
        slopes = torch.tensor([0.0, _STEEPEST], dtype=torch.float64)
        theta2 = (errors.scattering(lowest, slopes) * (1 + slopes.square())).max()
        kink = theta2 * (errors.matter.reach[inner] / r1.square() + errors.matter.own.max()) / r2.square()
        hit = 2 * (_COARSEST**2 + errors.systematic**2) / (r1 * gap).square()
        return lowest + 2 * self.n_sigma * (kink + (errors.beam_width / (r1 * r2)) ** 2 + hit).sqrt()


def within(hits: Hits, chosen: Tensor, outer: int, reach: float) -> Tensor:
    """Pairs of chosen hits with those of a layer in the same event that are near in azimuth.

    Args:
        hits: sorted as `Hits` are.
        chosen: which hits look for partners (hits,) bool.
        outer: the partners' layer.
        reach: largest difference of azimuths, below π.

    Returns:
        (2, pairs) rows of the hit and of its partner.
    """
    phi, n_layers = hits.phi, int(hits.layer.max()) + 1
    key = (hits.event * n_layers + hits.layer) * _BLOCK + phi
    rows = chosen.nonzero().squeeze(-1)
    target = (hits.event[rows] * n_layers + outer) * _BLOCK
    centre = torch.cat([phi[rows], phi[rows] - 2 * torch.pi * phi[rows].sign()])
    rows, target = rows.repeat(2), target.repeat(2)
    start = torch.searchsorted(key, target + (centre - reach).clamp_min(-torch.pi - 1e-9))
    stop = torch.searchsorted(key, target + (centre + reach).clamp_max(torch.pi + 1e-9), right=True)
    found = ranges(start, (stop - start).clamp_min(0))
    pairs = torch.stack([rows[found[0]], found[1]])
    return pairs[:, torch.argsort(pairs[0], stable=True)]


def ranges(start: Tensor, count: Tensor) -> Tensor:
    """All members of ranges: (2, members), the number of the range and start, start + 1, …"""
    owner = torch.repeat_interleave(torch.arange(len(count)), count)
    before = torch.cumsum(count, 0) - count
    return torch.stack([owner, torch.arange(len(owner)) - before[owner] + start[owner]])
