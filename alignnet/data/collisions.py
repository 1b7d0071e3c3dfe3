"""Collisions with all that decays in them: made by an event generator, or read from a file of such events.

Both are sources beside those of `alignnet.data.sources`. An event is put at a vertex of the interaction
region, the field bends its charged particles that decay on their way, and what is left in the end, e, μ, π, K
and p, goes into the detector, each from where it was produced.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from alignnet.data.events import Events, bent
from alignnet.data.generators import Collider
from alignnet.data.root_events import count_events, read_events
from alignnet.data.sources import COLLISION, Particles, check_vertices, draw_vertices, with_vertices
from alignnet.data.streams import Streams
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError

COLLIDER = 4000
"""The purpose for which a chunk's generator draws its seed."""


@dataclass(frozen=True)
class EventSource(ABC):
    """Particles of events that have a history.

    Args:
        vertex_mean: centre of the interaction region [cm].
        vertex_sigma: its widths [cm].
        vertex_resolution: by how much the vertex given to a fit is smeared [cm], whatever the tracks are;
            None gives no vertex.
        chunk_events: events that are made and simulated together.
    """

    vertex_mean: Sequence[float] = (0.0, 0.0, 0.0)
    vertex_sigma: Sequence[float] = (50e-4, 50e-4, 5.0)
    vertex_resolution: Sequence[float] | None = (15e-4, 15e-4, 20e-4)
    chunk_events: int = 1000
    kind: int = COLLISION

    def __post_init__(self) -> None:
        check_vertices(self.vertex_mean, self.vertex_sigma, self.vertex_resolution)
        _require(self.chunk_events >= 1, "chunk_events", self.chunk_events, "at least 1")

    @abstractmethod
    def events(self, n_events: int, streams: Streams, first_event: int) -> Events:
        """`n_events` events about the origin, without a field."""

    @abstractmethod
    def selected(self, events: Events) -> Array:
        """Which particles go into the detector, (particles,) bool."""

    def particles(self, n_events: int, streams: Streams, first_event: int = 0, b_z: float = 0.0) -> Particles:
        """What goes into the detector of `n_events` events."""
        events = bent(self.events(n_events, streams, first_event), b_z)
        vertices = draw_vertices(
            n_events, self.vertex_mean, self.vertex_sigma, self.vertex_resolution, streams
        )
        rows = np.flatnonzero(self.selected(events))
        event, mother = torch.from_numpy(events.event[rows]), events.mother[rows]
        collision = vertices.true[event]
        found = Particles(
            event,
            collision + torch.from_numpy(events.position[rows]),
            torch.from_numpy(events.momentum[rows]),
            torch.from_numpy(events.charge[rows]).double(),
            torch.from_numpy(events.mass[rows]),
            torch.from_numpy(events.pdg[rows]),
            collision=collision,
            mother=torch.from_numpy(events.mother_in_event[rows]),
            mother_pdg=torch.from_numpy(np.where(mother >= 0, events.pdg[mother], 0)),
        )
        return with_vertices(found, vertices)


@dataclass(frozen=True)
class Collisions(EventSource, Collider):
    """Collisions of an event generator that the package chromo brings; arguments of `Collider` too.

    Args:
        n_collisions: so many collisions from one vertex are an event: of protons, the multiplicity of heavier
            ions.

    Raises:
        ConfigError: a value cannot be used, or chromo is not installed.
    """

    n_collisions: int = 1

    def __post_init__(self) -> None:
        EventSource.__post_init__(self)
        _require(self.n_collisions >= 1, "n_collisions", self.n_collisions, "at least 1")
        Collider.__post_init__(self)

    def events(self, n_events: int, streams: Streams, first_event: int) -> Events:
        """Newly generated events, the same for the same seed and chunk."""
        seed = int(streams.uniform(1, 1, COLLIDER)[0, 0] * 2**53)
        return self.collisions(n_events * self.n_collisions, seed).overlaid(self.n_collisions)

    def selected(self, events: Events) -> Array:
        """What the generator was told to keep."""
        return events.final


@dataclass(frozen=True)
class StoredEvents(EventSource):
    """Events of a file (docs/data-format.md), from its first on.

    Args:
        path: the file.
        pt_min: charged particles with less transverse momentum are left out [GeV/c].
        eta_max: and those with a larger |pseudorapidity|.

    Raises:
        ConfigError: a value cannot be used.
        SchemaError: the file does not follow the schema.
    """

    path: str | Path = ""
    pt_min: float = 0.05
    eta_max: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.path), "path", self.path, "a file of events: source.path=FILE.root")
        _require(self.pt_min > 0, "pt_min", self.pt_min, "a number > 0")
        _require(self.eta_max >= 0, "eta_max", self.eta_max, "a number >= 0")

    @cached_property
    def n_events(self) -> int:
        """How many events the file has."""
        return count_events(self.path)

    def events(self, n_events: int, streams: Streams, first_event: int) -> Events:
        """The next events of the file.

        Raises:
            ConfigError: there are not so many.
        """
        if first_event + n_events > self.n_events:
            raise ConfigError(
                f"source: {self.path} has {self.n_events} events, {first_event + n_events} are asked for: "
                "lower n_events"
            )
        return read_events(self.path, first_event, first_event + n_events)

    def selected(self, events: Events) -> Array:
        """Final particles of unit charge within the limits."""
        pt = np.hypot(events.momentum[:, 0], events.momentum[:, 1])
        within = (pt >= self.pt_min) & (np.abs(events.momentum[:, 2]) <= pt * np.sinh(self.eta_max))
        chosen: Array = events.final & (np.abs(events.charge) == 1) & within
        return chosen


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"source: {name} is {value!r}, expected {expected}")
