"""What an alignment says of each sensor besides its place, for those that need attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from alignnet.cli.setup import AlignmentProblem
from alignnet.evaluation.attention import SensorAnswer
from alignnet.geometry.volumes import Motion, Volumes, own_six


def sensor_answer(
    problem: AlignmentProblem,
    settings: DictConfig,
    local: Tensor,
    volumes: Iterable[tuple[Volumes, Motion]],
    found: tuple[Tensor, Tensor, Tensor],
) -> SensorAnswer:
    """The answer with what each sensor moved by itself since the start, where there was a prior of that.

    Args:
        problem: with the start.
        settings: of the training.
        local: local six of the answer (sensors, 6).
        volumes: levels above the sensors, and how the answer has moved them from the drawing.
        found: hits, status and errors, as `SensorAnswer` takes them.
    """
    prior: Mapping[str, Any] | None = settings.optimizer.get("sensor_prior")
    volumes = list(volumes)
    if prior is None or (settings.optimizer.get("levels") and not volumes):  # a file without its volumes
        return SensorAnswer(*found)
    now = own_six(problem.detector, local, volumes)
    then = own_six(problem.detector, problem.start, problem.volumes.values())
    return SensorAnswer(*found, own=now - then, prior=(prior["translation"], prior["rotation"]))
