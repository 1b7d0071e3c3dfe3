"""Volumes that move while data are taken: a jump, a steady drift, a thermal one; places by event number.

A motion says how far its volumes have moved at an event, as a part of `move`: six numbers in the volume's
frame (`alignnet.geometry.volumes`), on top of where the sensors stood at the beginning,

    G' = M(event) · G,      M = V d V⁻¹,      d = fraction(event) · move .

Places are constant over steps of events, and change between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes, carried


class Motion(Protocol):
    """Volumes of one level on the move."""

    level: str
    volumes: Sequence[str]
    move: Mapping[str, float]

    def fraction(self, event: float) -> float:
        """The part of `move` that is done at an event."""
        ...

    def steps(self, first: int, last: int) -> list[int]:
        """Events in (first, last) from which places are others than before."""
        ...


class Step(NamedTuple):
    """Events over which nothing moves."""

    first: int
    last: int  # the event after the last one
    names: tuple[str, ...]  # volumes that have moved
    six: Tensor  # how far, in their frames (volumes, 6) [cm, rad]
    local: Tensor  # where that puts the sensors, local six (sensors, 6)


@dataclass(frozen=True)
class Jump:
    """From one event to the next.

    Args:
        level: of the volumes, for example "half_barrel".
        volumes: patterns of their names ("ITS/ITSULayer0/*").
        move: how far, of du, dv, dw [cm], rot_u, rot_v, rot_w [rad]; what is left out is 0.
        event: the first one after the jump.

    Raises:
        ConfigError: a value cannot be used.
    """

    level: str
    volumes: Sequence[str]
    move: Mapping[str, float]
    event: int

    def __post_init__(self) -> None:
        six_of(self.move)

    def fraction(self, event: float) -> float:
        """0 before, 1 after."""
        return float(event >= self.event)

    def steps(self, first: int, last: int) -> list[int]:
        """The jump."""
        return [self.event] if first < self.event < last else []


@dataclass(frozen=True)
class Drift:
    """Evenly, from one event to another.

    Args:
        level, volumes: as of `Jump`.
        move: how far at the end.
        begin: the event at which it begins.
        end: the event at which it ends; later the volumes stay.
        step: events over which they stand still, at the place of the step's middle.
    """

    level: str
    volumes: Sequence[str]
    move: Mapping[str, float]
    begin: int
    end: int
    step: int = 1000

    def __post_init__(self) -> None:
        six_of(self.move)
        if not self.begin < self.end or self.step < 1:
            raise ConfigError(
                f"time: a drift from event {self.begin} to {self.end} in steps of {self.step}; expected "
                "begin < end and a step of at least 1"
            )

    def fraction(self, event: float) -> float:
        """From 0 to 1."""
        return min(max((_middle(event, self) - self.begin) / (self.end - self.begin), 0.0), 1.0)

    def steps(self, first: int, last: int) -> list[int]:
        """Every so many events while it lasts."""
        edges = [*range(self.begin, self.end, self.step), self.end]
        return [edge for edge in edges if first < edge < last]


@dataclass(frozen=True)
class Thermal:
    """As what warms up: 1 − exp(−(event − begin)/time_constant) of the way.

    Args:
        level, volumes: as of `Jump`.
        move: how far in the end.
        begin: the event at which it begins.
        time_constant: in events.
        step: as of `Drift`.
    """

    level: str
    volumes: Sequence[str]
    move: Mapping[str, float]
    begin: int
    time_constant: float
    step: int = 1000

    def __post_init__(self) -> None:
        six_of(self.move)
        if not self.time_constant > 0 or self.step < 1:
            raise ConfigError(
                f"time: a time_constant of {self.time_constant} events in steps of {self.step}; expected a "
                "number > 0 and a step of at least 1"
            )

    def fraction(self, event: float) -> float:
        """From 0 towards 1."""
        past = _middle(event, self) - self.begin
        return 1 - math.exp(-past / self.time_constant) if past > 0 else 0.0

    def steps(self, first: int, last: int) -> list[int]:
        """Every so many events."""
        return [edge for edge in range(self.begin, last, self.step) if first < edge]


@dataclass(frozen=True)
class Together:
    """Several motions at once; those of one volume add up in its six numbers."""

    parts: Sequence[Motion]


def _middle(event: float, motion: Drift | Thermal) -> float:
    """The middle of the step that an event is in."""
    past = event - motion.begin
    return motion.begin + (math.floor(past / motion.step) + 0.5) * motion.step if past >= 0 else event


def six_of(move: Mapping[str, float]) -> Tensor:
    """Six numbers (6,) of a mapping with some of them; ConfigError for others."""
    strange = sorted(set(move) - set(rigid.LOCAL_NAMES))
    if strange or not all(isinstance(v, int | float) and math.isfinite(v) for v in move.values()):
        raise ConfigError(f"time: move is {dict(move)}; expected numbers of {', '.join(rigid.LOCAL_NAMES)}")
    return torch.tensor([float(move.get(name, 0.0)) for name in rigid.LOCAL_NAMES], dtype=torch.float64)


class Moving:
    """A detector in time.

    Args:
        detector: the nominal places.
        local: where the sensors stand at the beginning, local six (sensors, 6).
        motion: what moves; None for nothing.

    Raises:
        ConfigError: no volume of the level has a name like it.
        GeometryError: the detector has no such level.
    """

    def __init__(self, detector: Detector, local: Tensor, motion: Motion | Together | None) -> None:
        self.detector, self.local = detector, local
        self.parts = list(motion.parts) if isinstance(motion, Together) else [motion] if motion else []
        levels = dict.fromkeys(part.level for part in self.parts)
        self.levels = {level: Volumes.of(detector, level) for level in levels}
        self._rows = [_named(self.levels[part.level], part.volumes) for part in self.parts]
        self._moving: dict[str, list[int]] = {level: [] for level in self.levels}
        for part, rows in zip(self.parts, self._rows, strict=True):
            self._moving[part.level] = sorted({*self._moving[part.level], *rows})

    def steps(self, first: int, last: int) -> list[Step]:
        """The steps of events `first` to before `last`."""
        inner = {edge for part in self.parts for edge in part.steps(first, last)}
        edges = [first, *sorted(inner), last]
        return [self._step(*pair) for pair in pairwise(edges)]

    def _step(self, first: int, last: int) -> Step:
        sixes = {
            name: torch.zeros(len(volumes), 6, dtype=torch.float64) for name, volumes in self.levels.items()
        }
        for part, rows in zip(self.parts, self._rows, strict=True):
            sixes[part.level][rows] += part.fraction(first) * six_of(part.move)
        names = tuple(self.levels[level].names[row] for level, of in self._moving.items() for row in of)
        six = torch.cat([sixes[level][of] for level, of in self._moving.items()] or [torch.zeros(0, 6)])
        return Step(first, last, names, six, self._carried(list(sixes.values())))

    def _carried(self, sixes: list[Tensor]) -> Tensor:
        """Where the sensors are, local six (sensors, 6)."""
        if not any(bool(six.any()) for six in sixes):
            return self.local
        drawn = self.detector.rotation, self.detector.translation
        place = carried(list(self.levels.values()), sixes, rigid.place_local(*drawn, self.local))
        return rigid.local_of(*drawn, *place)


def _named(volumes: Volumes, patterns: Sequence[str]) -> list[int]:
    found = [i for i, name in enumerate(volumes.names) if any(fnmatchcase(name, p) for p in patterns)]
    if not found:
        raise ConfigError(
            f"time: no {volumes.level} has a name like {list(patterns)}; there are "
            f"{', '.join(volumes.names[:3])}, … ({len(volumes)})"
        )
    return found
