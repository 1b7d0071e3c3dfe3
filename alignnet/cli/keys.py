"""The keys of `alignnet train` that no constructor takes: what they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig

from alignnet.cli.arguments import check_arguments
from alignnet.cli.setup import plain
from alignnet.errors import ConfigError

Section = dict[str, Any]

OURS = ("logger", "callbacks", "plugins", "use_distributed_sampler", "default_root_dir")
"""Arguments of the trainer that `make_trainer` sets."""

PRECISIONS = ("64-true", "32-true", "64", "32", 64, 32)


@dataclass(frozen=True)
class Train:
    """conf/train.yaml; a section or group is checked by what it builds."""

    seed: int
    resume: str | None
    figure_every: int
    data: Section
    detector: Section
    sensors: Section
    loss: Section
    optimizer: Section
    trainer: Section
    evaluation: Section
    o2: Section = field(default_factory=dict)
    selection: Section = field(default_factory=dict)
    early_stop: Section | None = None
    averaging: Section | None = None
    require_convergence: bool = True
    task: Literal["alignment"] = "alignment"


@dataclass(frozen=True)
class Sensors:
    """Its section `sensors`."""

    parametrisation: Literal["local", "global", "affine"]
    start: str | None
    fixed: Section


@dataclass(frozen=True)
class Evaluation:
    """Its section `evaluation`."""

    limit: bool
    errors: Literal["exact", "draws", "auto"] | None
    draws: int
    spectrum: int
    dca_vertex: Literal["given", "leave_one_out", "truth"]
    part: Literal["all", "train", "validation", "test"]
    max_tracks: int | None
    max_chi2_per_ndf: float | None
    report: bool
    numbers: list[str]
    decays: Section | None


def check_keys(config: DictConfig) -> None:
    """Refuse what `alignnet train` would not read, or could not.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of the wrong kind; names it.
    """
    values = plain(config)
    check_arguments(Train, values, "", {})
    check_arguments(Sensors, values["sensors"], "sensors", {})
    check_arguments(Evaluation, values["evaluation"], "evaluation", {})
    check_arguments(L.Trainer, values["trainer"], "trainer")
    if taken := [key for key in OURS if key in values["trainer"]]:
        raise ConfigError(f"trainer.{taken[0]}: alignnet sets it; leave it out")
    if values["trainer"].get("precision", 64) not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision is {values['trainer']['precision']!r}; expected 64-true or 32-true"
        )
    check_arguments(EarlyStopping, values["early_stop"] or {}, "early_stop")
