"""Which degrees of freedom are free."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.sensors.sensor import SensorLayer


def set_free(
    sensors: SensorLayer,
    detector: Detector,
    names: Sequence[str] = (),
    layers: Sequence[int] = (),
    dof: Sequence[str] = (),
) -> None:
    """Fix some sensors or degrees of freedom at their start; everything else is free.

    Args:
        sensors: the model; its `free` is set.
        detector: gives the names and layers.
        names: patterns of symbolic names, as of files: "ITS/ITSULayer6/*"; "PATTERN:du,dv" fixes only these
            degrees of freedom there.
        layers: layer numbers.
        dof: names of degrees of freedom that are fixed for all sensors, for example "dw".

    Raises:
        ConfigError: a name, layer or degree of freedom does not exist, or nothing is left free.
    """
    known = sensors.dof_names
    if missing := sorted(set(layers) - set(detector.layers)):
        raise ConfigError(
            f"sensors.fixed.layers has {missing}; detector {detector.name} has {detector.layers}"
        )
    fixed = torch.isin(detector.layer, torch.tensor(list(layers), dtype=torch.int64))
    free = ~fixed[:, None] & ~_columns(dof, known, "sensors.fixed.dof")
    for pattern in names:
        path, _, some = pattern.partition(":")
        hits = torch.tensor([fnmatchcase(name, path) for name in detector.names])
        if not hits.any():
            raise ConfigError(f"sensors.fixed.names: no sensor of {detector.name} matches {path!r}")
        columns = _columns(some.split(",") if some else known, known, f"sensors.fixed.names: {pattern!r}")
        free &= ~(hits[:, None] & columns)
    if not free.any():
        raise ConfigError("sensors.fixed leaves no degree of freedom free; fix less")
    sensors.free.copy_(free)


def _columns(wanted: Sequence[str], known: Sequence[str], where: str) -> Tensor:
    if unknown := sorted(set(wanted) - set(known)):
        raise ConfigError(f"{where} has {unknown}; choose from {list(known)}")
    return torch.tensor([name in wanted for name in known])
