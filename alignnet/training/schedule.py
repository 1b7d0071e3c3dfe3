"""Which levels of the hierarchy move when: a training in stages, from large volumes to sensors for example.

A stage is `{levels: [stave], epochs: 3}`: its levels move, "sensor" (the sensors themselves) among them, and
all others stay where they are. It ends once it has converged or, if that is sooner, after its epochs; the
last one ends with the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignnet.errors import ConfigError

SENSOR = "sensor"


@dataclass(frozen=True)
class Stage:
    """A part of a training in which some levels move."""

    levels: tuple[str, ...] | None = None  # None: all
    epochs: int | None = None  # at most; None: until it has converged

    def moves(self, level: str) -> bool:
        """Whether a level, "sensor" among them, moves."""
        return self.levels is None or _key(level) in map(_key, self.levels)

    def __str__(self) -> str:
        return "all levels" if self.levels is None else ", ".join(self.levels)


def stages_of(schedule: Sequence[Mapping[str, Any]] | None) -> tuple[Stage, ...]:
    """The stages of `optimizer.schedule`; one of all levels where it is empty.

    Raises:
        ConfigError: one is not as it should be.
    """
    stages = tuple(_stage(i, given) for i, given in enumerate(schedule or ()))
    if stages and stages[-1].epochs is not None:
        raise ConfigError(
            f"optimizer.schedule[{len(stages) - 1}].epochs is {stages[-1].epochs}; the last stage ends with "
            "the training: set trainer.max_epochs"
        )
    return stages or (Stage(),)


def present(stages: Sequence[Stage], levels: Iterable[str], absent: Iterable[str]) -> tuple[Stage, ...]:
    """Stages without levels that a detector lacks; those that are left with none drop out.

    Args:
        stages: of the configuration.
        levels: that have unknowns, without "sensor".
        absent: usual levels that this detector does not have.

    Raises:
        ConfigError: a stage names another level, or no stage is left.
    """
    known, missing = {SENSOR, *map(_key, levels)}, {_key(name) for name in absent}
    found = []
    for stage in stages:
        strange = [name for name in stage.levels or () if _key(name) not in known | missing]
        if strange:
            raise ConfigError(
                f"optimizer.schedule has {strange}; expected some of {sorted(known)}, those of "
                "optimizer.levels and sensor; a level of the detector is added by "
                f"'+optimizer.levels.{strange[0]}={{translation: cm, rotation: rad}}'"
            )
        kept = None if stage.levels is None else tuple(n for n in stage.levels if _key(n) in known)
        if kept is None or kept:
            found.append(Stage(kept, stage.epochs))
    if not found:
        raise ConfigError("optimizer.schedule has no level that this detector has; nothing would move")
    return tuple(found)


def _stage(i: int, given: Any) -> Stage:
    key = f"optimizer.schedule[{i}]"
    if not isinstance(given, Mapping) or not set(given) <= {"levels", "epochs"} or "levels" not in given:
        raise ConfigError(
            f"{key} is {given}; expected levels: a list, and epochs: a whole number, or neither"
        )
    levels, epochs = given["levels"], given.get("epochs")
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not levels:
        raise ConfigError(f"{key}.levels is {levels!r}; expected a list of levels: [stave, sensor]")
    if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
        raise ConfigError(f"{key}.epochs is {epochs!r}; expected a whole number of at least 1, or null")
    return Stage(tuple(map(str, levels)), epochs)


def _key(level: str) -> str:
    return level.replace("_", "").lower()
