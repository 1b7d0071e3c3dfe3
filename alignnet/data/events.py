"""Generated collisions in memory: charged particles and what they come from, before any field or detector.

    particle 0   K⁰_S   mother -1      made in the collision, whose point is the origin
    particle 1   π⁺     mother  0      starts where the K⁰_S has decayed
    particle 2   π⁻     mother  0
    particle 3   p      mother -1      made in the collision

Any generator can fill this table; `alignnet.data.root_events` keeps it in a file. A particle that is no
other's mother is final: it goes through the detector. Generators let everything fly straight. A field along z
bends the paths of charged particles before they decay, and `bent` moves and turns what comes of them with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from alignnet.data.tracks import Array
from alignnet.physics.helix import from_momentum, point, turned


class Events(NamedTuple):
    """Particles of event i in rows offset[i]:offset[i+1]; a mother stands in a row above its daughters."""

    offset: Array  # (events + 1,) int64
    pdg: Array  # (particles,) PDG code
    charge: Array  # (particles,)
    mass: Array  # (particles,) [GeV/c²]
    mother: Array  # (particles,) row of this table, -1 for what comes of no particle in it
    position: Array  # (particles, 3) production point, from the event's own [cm]
    momentum: Array  # (particles, 3) there [GeV/c]

    @property
    def n_events(self) -> int:
        """How many events there are, empty ones too."""
        return len(self.offset) - 1

    @property
    def event(self) -> Array:
        """Number of each particle's event from 0, (particles,)."""
        return np.repeat(np.arange(self.n_events), np.diff(self.offset))

    @property
    def final(self) -> Array:
        """Whether a particle is no other's mother, (particles,)."""
        final = np.ones(len(self.pdg), dtype=bool)
        final[self.mother[self.mother >= 0]] = False
        return final

    @property
    def mother_in_event(self) -> Array:
        """Mothers counted from the first particle of their event, -1 for none, (particles,)."""
        return np.where(self.mother == -1, -1, self.mother - self.offset[self.event])

    def overlaid(self, n: int) -> Events:
        """Events of `n` successive ones each, all from one point; of what is left over there is none."""
        events = self.first(self.n_events - self.n_events % n)
        return events._replace(offset=events.offset[::n])

    def first(self, n: int) -> Events:
        """The first `n` events."""
        stop = self.offset[n]
        return Events(self.offset[: n + 1], *(column[:stop] for column in self[1:]))


def of_columns(columns: dict[str, Array]) -> Events:
    """`Events` of arrays by the names of its fields, in its types."""
    whole = ("offset", "pdg", "charge", "mother")
    return Events(
        **{
            name: np.asarray(columns[name], dtype=np.int64 if name in whole else np.float64)
            for name in Events._fields
        }
    )


def joined(parts: Sequence[Events]) -> Events:
    """Events of several tables one after another."""
    first = np.cumsum([0, *(len(part.pdg) for part in parts)])
    offset = [part.offset[:-1] + shift for part, shift in zip(parts, first[:-1], strict=True)]
    mother = [
        np.where(part.mother >= 0, part.mother + s, -1) for part, s in zip(parts, first[:-1], strict=True)
    ]
    columns = (np.concatenate(column) for column in zip(*(part[1:] for part in parts), strict=True))
    return Events(np.concatenate([*offset, first[-1:]]), *columns)._replace(mother=np.concatenate(mother))


def bent(events: Events, b_z: float) -> Events:
    """The same decays after flights in a field along z [T], with equal lengths of path.

    A charged mother arrives after the path s at the end of its helix, turned about z by ω s. What comes of it
    starts there, turned by the same angle: a decay knows no direction but the mother's. Neutral mothers fly
    straight, in the direction that their own mothers' turning gives them.
    """
    position, momentum = (torch.from_numpy(c.copy()) for c in (events.position, events.momentum))
    charge, turning = torch.from_numpy(events.charge).double(), torch.zeros(len(events.pdg)).double()
    for rows in _generations(events.mother):
        mother = events.mother[rows]
        flight = np.linalg.norm(events.position[rows] - events.position[mother], axis=-1)
        helix, s = from_momentum(position[mother], momentum[mother], charge[mother], b_z), _tensor(flight)
        position[rows] = point(helix, s)
        turning[rows] = turning[mother] + helix.omega * s
        momentum[rows] = turned(momentum[rows], turning[rows])
    return events._replace(position=position.numpy(), momentum=momentum.numpy())


def _generations(mother: Array) -> list[Array]:
    """Rows of daughters, then of granddaughters, and so on."""
    found, rows = [], np.flatnonzero(mother >= 0)
    above = mother < 0
    while len(rows):
        ready = above[mother[rows]]
        found.append(rows[ready])
        above[rows[ready]] = True
        rows = rows[~ready]
    return found


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
