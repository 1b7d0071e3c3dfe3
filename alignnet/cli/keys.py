"""The keys of `alignnet train` that no constructor takes: what they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig

from alignnet.cli.arguments import check_arguments
from alignnet.cli.setup import plain


@dataclass(frozen=True)
class Train:
    """conf/train.yaml; a section or group, Any here, is checked by what it builds."""

    seed: int
    resume: str | None
    figure_every: int
    data: Any
    detector: Any
    sensors: Any
    loss: Any
    optimizer: Any
    trainer: Any
    evaluation: Any
    early_stop: Any = None
    averaging: Any = None


@dataclass(frozen=True)
class Sensors:
    """Its section `sensors`."""

    parametrisation: Literal["local", "global", "affine"]
    start: str | None
    fixed: Any


@dataclass(frozen=True)
class Evaluation:
    """Its section `evaluation`."""

    limit: bool
    dca_vertex: Literal["given", "leave_one_out", "truth"]
    part: Literal["all", "train", "validation", "test"]
    max_tracks: int | None
    max_chi2_per_ndf: float | None


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
    check_arguments(EarlyStopping, values["early_stop"] or {}, "early_stop")
