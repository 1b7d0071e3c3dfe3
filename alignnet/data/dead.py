"""Sensors that make no hits: single ones by name, or part of the volumes of a level by chance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector


@dataclass(frozen=True)
class Dead:
    """Which sensors make no hits.

    Args:
        names: patterns of symbolic names; that of a volume is of all that is in it.
        fractions: for each level ("sensor", "stave", …) the part of its volumes that are dead.
        seed: each level draws from its own generator.

    Raises:
        ConfigError: a fraction is not between 0 and 1.
    """

    names: Sequence[str] = ()
    fractions: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        for level, part in self.fractions.items():
            if not isinstance(part, int | float) or not 0 <= part <= 1:
                raise ConfigError(
                    f"simulation.dead.fractions.{level} is {part!r}; expected a number between 0 and 1"
                )

    def __call__(self, detector: Detector) -> Tensor:
        """Whether each sensor is dead, (sensors,).

        Raises:
            ConfigError: a pattern fits no sensor.
            GeometryError: the detector has no such level.
        """
        dead = torch.zeros(len(detector), dtype=torch.bool)
        for pattern in self.names:
            fits = [fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}/*") for n in detector.names]
            if not any(fits):
                raise ConfigError(
                    f"simulation.dead.names: no sensor has a name like {pattern!r}; one is called "
                    f"{detector.names[0]}"
                )
            dead |= torch.tensor(fits)
        for level, part in self.fractions.items():
            group, names = detector.groups(level)
            chosen = torch.rand(len(names), generator=self._generator(level), dtype=torch.float64) < part
            dead |= torch.cat([chosen, torch.zeros(1, dtype=torch.bool)])[group]
        return dead

    def _generator(self, level: str) -> torch.Generator:
        digest = hashlib.sha256(f"dead/{self.seed}/{level.replace('_', '').lower()}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
