"""Two-body decays of a neutral particle of known mass: K⁰_S → π⁺π⁻, J/ψ → μ⁺μ⁻, D⁰ → K⁻π⁺; one an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alignnet.data.sources import CHUNK_EVENTS, COLLISION, Particles, check_vertices
from alignnet.data.streams import Streams
from alignnet.errors import ConfigError
from alignnet.units import PION_MASS


@dataclass(frozen=True)
class TwoBodyDecays:
    """Unpolarised decays, their mothers flat in azimuth and pseudorapidity, in 1/p_T; no vertex is given.

    Args:
        mass: of the mother [GeV/c²].
        width: r.m.s. of its mass [GeV/c²].
        lifetime: c τ [cm].
        daughters: masses of the positive and the negative one [GeV/c²].
        pdg: their PDG codes.
        pt_min, pt_max: transverse momenta of the mother [GeV/c].
        eta_max: its pseudorapidities lie within ± this.
        vertex_mean, vertex_sigma: of where it is produced [cm].

    Raises:
        ConfigError: a value cannot be used.
    """

    mass: float = 0.497611
    width: float = 0.0
    lifetime: float = 2.6844
    daughters: Sequence[float] = (PION_MASS, PION_MASS)
    pdg: Sequence[int] = (211, -211)
    pt_min: float = 0.5
    pt_max: float = 5.0
    eta_max: float = 0.9
    vertex_mean: Sequence[float] = (0.0, 0.0, 0.0)
    vertex_sigma: Sequence[float] = (50e-4, 50e-4, 5.0)
    kind: int = COLLISION
    chunk_events: ClassVar[int] = CHUNK_EVENTS

    def __post_init__(self) -> None:
        _require(
            len(self.daughters) == 2 and min(self.daughters) > 0,
            "daughters",
            self.daughters,
            "two masses > 0",
        )
        _require(len(self.pdg) == 2, "pdg", self.pdg, "two codes")
        _require(self.mass > sum(self.daughters), "mass", self.mass, "more than that of the daughters")
        _require(self.width >= 0, "width", self.width, "at least 0")
        _require(self.lifetime >= 0, "lifetime", self.lifetime, "at least 0")
        _require(
            0 < self.pt_min <= self.pt_max,
            "pt_min, pt_max",
            (self.pt_min, self.pt_max),
            "0 < pt_min <= pt_max",
        )
        _require(self.eta_max >= 0, "eta_max", self.eta_max, "at least 0")
        check_vertices(self.vertex_mean, self.vertex_sigma, None)

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """Both daughters of `n_events` decays."""
        flat, normal = streams.uniform(n_events, 6, 1), streams.normal(n_events, 4, 0)
        mother, mass = self._mother(flat), self.mass + self.width * normal[:, 3]
        least = 1.000001 * sum(self.daughters)
        momentum = torch.stack(_parted(mother, mass.clamp_min(least), self.daughters, flat[:, 3:5]), 1)
        start = (
            torch.tensor(self.vertex_mean).to(normal)
            + torch.tensor(self.vertex_sigma).to(normal) * normal[:, :3]
        )
        flown = -self.lifetime * torch.log1p(-flat[:, 5]) / mass  # c τ' / m: along the momentum
        place = start + flown[:, None] * mother
        two = torch.arange(n_events).repeat_interleave(2)
        return Particles(
            two,
            place[two],
            momentum.flatten(0, 1),
            torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n_events),
            torch.tensor(self.daughters, dtype=torch.float64).repeat(n_events),
            torch.tensor(self.pdg).repeat(n_events),
            collision=start[two],
        )

    def _mother(self, flat: Tensor) -> Tensor:
        pt = self.pt_min * (self.pt_max / self.pt_min) ** flat[:, 0]
        phi, eta = 2 * torch.pi * flat[:, 1], self.eta_max * (2 * flat[:, 2] - 1)
        return pt[:, None] * torch.stack([phi.cos(), phi.sin(), eta.sinh()], -1)


def _parted(mother: Tensor, mass: Tensor, daughters: Sequence[float], flat: Tensor) -> tuple[Tensor, Tensor]:
    """Momenta of two daughters, isotropic where the mother rests, each (decays, 3)."""
    one, two = daughters
    inside = (mass**2 - (one + two) ** 2) * (mass**2 - (one - two) ** 2)
    p = inside.sqrt() / (2 * mass)
    z, phi = 2 * flat[:, 0] - 1, 2 * torch.pi * flat[:, 1]
    across = (1 - z.square()).sqrt()
    rest = p[:, None] * torch.stack([across * phi.cos(), across * phi.sin(), z], -1)
    first = _boosted(rest, (p.square() + one**2).sqrt(), mother, mass)
    return first, mother - first


def _boosted(momentum: Tensor, energy: Tensor, mother: Tensor, mass: Tensor) -> Tensor:
    """Momenta in the frame in which the mother has its momentum."""
    total = (mother.square().sum(-1) + mass.square()).sqrt()
    along = (momentum * mother).sum(-1)
    factor = along / (mass * (total + mass)) + energy / mass
    return momentum + factor[:, None] * mother


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"source: {name} is {value!r}, expected {expected}")
