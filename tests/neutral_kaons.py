"""Collisions with two K⁰_S each, whose decays are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignnet.data.sources import Particles
from alignnet.data.streams import Streams
from alignnet.units import PION_MASS

UM = 1e-4
K0S = 0.497611


@dataclass(frozen=True)
class NeutralKaons:
    """Two K⁰_S an event, each decayed into two pions 0.6 to 1.6 cm from the vertex, and four other pions."""

    kind: int = 0
    chunk_events: int = 300

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """The pions of `n_events` events."""
        n = 2 * n_events
        even, normal = streams.uniform(n, 6, 1), streams.normal(n_events, 3, 0)
        vertex = normal * torch.tensor([50 * UM, 50 * UM, 1.0], dtype=torch.float64)
        place, pions = self._decayed(vertex.repeat_interleave(2, 0), even)
        more = streams.uniform(4 * n_events, 3, 2)
        phi, eta = 2 * torch.pi * more[:, 0], 1.2 * (more[:, 1] - 0.5)
        pt = 0.5 + 2 * more[:, 2]
        prompt = pt[:, None] * torch.stack([phi.cos(), phi.sin(), eta.sinh()], -1)
        of = [torch.arange(n_events).repeat_interleave(k) for k in (4, 4)]
        event = torch.cat(of)
        order = event.argsort(stable=True)
        position = torch.cat([place.repeat_interleave(2, 0), vertex[of[1]]])[order]
        momentum = torch.cat([pions.flatten(0, 1), prompt])[order]
        charge = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4 * n_events)[order]
        mother = torch.cat([torch.arange(n).remainder(2).repeat_interleave(2), -torch.ones_like(of[1])])
        covariance = torch.zeros(len(event), 6, dtype=torch.float64)
        covariance[:, [0, 2, 5]] = (5 * UM) ** 2
        return Particles(
            event[order], position, momentum, charge, torch.full_like(charge, PION_MASS), 211 * charge.long(),
            vertex[event[order]], covariance, vertex[event[order]], mother[order],
            310 * (mother[order] >= 0).long(),
        )  # fmt: skip

    def _decayed(self, vertex: torch.Tensor, even: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pt, phi, eta = 0.6 + 2.4 * even[:, 0], 2 * torch.pi * even[:, 1], 1.2 * (even[:, 2] - 0.5)
        mother = pt[:, None] * torch.stack([phi.cos(), phi.sin(), eta.sinh()], -1)
        place = vertex + mother / pt[:, None] * (0.6 + even[:, 3:4])
        cosine, azimuth = 2 * even[:, 4] - 1, 2 * torch.pi * even[:, 5]
        sine = (1 - cosine.square()).sqrt()
        way = torch.stack([sine * azimuth.cos(), sine * azimuth.sin(), cosine], -1)
        p = (0.25 * K0S**2 - PION_MASS**2) ** 0.5
        energy = (K0S**2 + mother.square().sum(-1, keepdim=True)).sqrt()
        pions = []
        for sign in (1, -1):
            rest = sign * p * way
            along = (mother * rest).sum(-1, keepdim=True)
            pions.append(rest + mother / K0S * (0.5 * K0S + along / (energy + K0S)))
        return place, torch.stack(pions, 1)
