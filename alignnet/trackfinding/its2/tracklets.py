"""Two hits and the beam line make a helix: its curvature, its dip, its start, and how well they are known.

A circle through the beam line (x = y = 0) and two hits at radii r₁ < r₂, a distance d apart in the transverse
plane and at azimuths that differ by Δφ, has

    κ = 2 sin Δφ / d,    s(r) = (2/κ) asin(κ r / 2),    tan λ = (z₂ − z₁)/(s₂ − s₁),    z₀ = z₁ − s₁ tan λ.

What separates two hits of one particle from such a helix: scattering at radii r_q ≤ r₁ and, in a layer that
is skipped, between the two, by angles of width θ_q (Highland) across the path; the distance σ_b of the vertex
from the beam line; and resolutions σ. To first order these change

    κ by 2 θ_q r_q / (r₁ r₂ cos λ),  2 σ_b/(r₁ r₂),  2 σ/(r₁ Δr),  2 σ/(r₂ Δr),    Δr = r₂ − r₁,
    z₀ by θ_q r_q / cos² λ,  σ r₂/Δr,  σ r₁/Δr,

with which `Errors` are calculated, for a momentum that is estimated from κ itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import cylinders_of
from alignnet.geometry.detector import Detector
from alignnet.physics.helix import arctan_ratio
from alignnet.physics.material import highland
from alignnet.trackfinding.its2.hits import Hits
from alignnet.units import CURVATURE, PION_MASS


class Tracklets(NamedTuple):
    """Helices through pairs of hits and the beam line; each field (pairs,)."""

    kappa: Tensor  # turning to the left per transverse path [1/cm]
    tan_lambda: Tensor
    z0: Tensor  # z at the beam line [cm]


@dataclass(frozen=True)
class Matter:
    """What scatters between the beam line and each layer; tensors (layers,).

    Args:
        reach: Σ x/X0 r² of all that stands within the layer, with itself [cm²].
        own: x/X0 of the layer.
        radius: of the layer [cm].
    """

    reach: Tensor
    own: Tensor
    radius: Tensor

    @classmethod
    def of(cls, detector: Detector) -> Matter:
        """Of a detector whose layers are barrels."""
        cylinders = cylinders_of(detector)
        layers = torch.stack([(cylinders.layer == layer).nonzero()[0, 0] for layer in detector.layers])
        radius, own = cylinders.radius[layers], cylinders.x_over_x0[layers]
        inside = cylinders.radius <= radius[:, None]
        reach = (inside * cylinders.x_over_x0 * cylinders.radius.square()).sum(-1)
        return cls(reach, own, radius)


@dataclass(frozen=True)
class Errors:
    """How far tracklets stray from their particles' helices, and those of one particle from each other.

    Args:
        matter: of the detector.
        b_z: field along z [T].
        beam_width: σ of the vertices about the beam line, in x and in y [cm].
        systematic: added in quadrature to the resolution of every hit [cm], for what is not aligned yet.
        pt_min: lowest transverse momentum that is looked for [GeV/c].
    """

    matter: Matter
    b_z: float
    beam_width: float = 50e-4
    systematic: float = 0.0
    pt_min: float = 0.2

    @property
    def kappa_max(self) -> float:
        """|κ| at the lowest momentum [1/cm]."""
        return CURVATURE * abs(self.b_z) / self.pt_min

    def variance(self, hits: Hits) -> Tensor:
        """Squares of the resolutions in u and v (hits, 2) [cm²]."""
        return hits.sigma.square() + self.systematic**2

    def scattering(self, kappa: Tensor, tan_lambda: Tensor) -> Tensor:
        """θ² of x/X0 = 1, for thin layers [rad²]: Highland's logarithm is that of x/X0 = 1 %."""
        secant = (1 + tan_lambda.square()).sqrt()
        momentum = CURVATURE * abs(self.b_z) / kappa.abs().clamp(1e-5, 1.5 * self.kappa_max) * secant
        thin = torch.full_like(momentum, 0.01) * secant
        return highland(momentum, torch.full_like(momentum, PION_MASS), thin).square() / 0.01

    def of_kappa(self, hits: Hits, pairs: Tensor, kappa: Tensor, tan_lambda: Tensor) -> Tensor:
        """σ(κ) of tracklets of particles of this momentum, (pairs,) [1/cm].

        Args:
            pairs: (2, pairs) rows of inner and outer hits.
            kappa: what the momentum is estimated from, (pairs,) [1/cm].
            tan_lambda: (pairs,).
        """
        r1, r2 = hits.radius[pairs]
        v1, v2 = self.variance(hits)[pairs, 0]
        reach = self.matter.reach[hits.layer[pairs[0]]]
        kink = self.scattering(kappa, tan_lambda) * (1 + tan_lambda.square())
        from_origin = (kink * reach + self.beam_width**2) / (r1 * r2).square()
        between = kink * self.between(hits, pairs) / r2.square()
        return 2 * (from_origin + between + (v1 / r1.square() + v2 / r2.square()) / (r2 - r1).square()).sqrt()

    def of_z0(self, hits: Hits, pairs: Tensor, kappa: Tensor, tan_lambda: Tensor) -> Tensor:
        """σ(z₀), (pairs,) [cm]; arguments as of `of_kappa`."""
        r1, r2 = hits.radius[pairs]
        v1, v2 = self.variance(hits)[pairs, 1]
        reach = self.matter.reach[hits.layer[pairs[0]]]
        kink = self.scattering(kappa, tan_lambda) * (1 + tan_lambda.square()).square()
        kink = kink * (reach + self.between(hits, pairs) * r1.square())
        return (kink + (v1 * r2.square() + v2 * r1.square()) / (r2 - r1).square()).sqrt()

    def between(self, hits: Hits, pairs: Tensor) -> Tensor:
        """x/X0 of the layer that a pair skips, if it skips one, by how far it turns the pair (pairs,).

        A scatterer at r_m turns the line from a hit at r₁ to one at r₂ by (r₂ − r_m)/(r₂ − r₁) of its angle;
        the square of that is the factor.
        """
        first, second = hits.layer[pairs]
        r1, r2 = hits.radius[pairs]
        lever = (r2 - self.matter.radius[first + 1]) / (r2 - r1)
        return torch.where(second - first > 1, self.matter.own[first + 1] * lever.square(), 0.0)


def tracklets_of(hits: Hits, pairs: Tensor) -> Tracklets:
    """Helices through pairs of hits, (2, pairs) rows of the inner and the outer one, and the beam line."""
    first, second = hits.position[pairs]
    r1, r2 = hits.radius[pairs]
    d = (second - first)[:, :2].norm(dim=-1).clamp_min(1e-9)
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    kappa = 2 * cross / (r1 * r2 * d)
    s1, s2 = arc(kappa, r1), arc(kappa, r2)
    tan_lambda = (second - first)[:, 2] / (s2 - s1)
    return Tracklets(kappa, tan_lambda, first[:, 2] - s1 * tan_lambda)


def arc(kappa: Tensor, radius: Tensor) -> Tensor:
    """Transverse path from the beam line to a radius, (2/κ) asin(κ r/2); regular at κ = 0."""
    sine = (0.5 * kappa * radius).clamp(-0.99, 0.99)
    cosine = (1 - sine.square()).sqrt()
    return radius * arctan_ratio(sine / cosine) / cosine
