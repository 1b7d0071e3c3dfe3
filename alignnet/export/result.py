"""The files that a training run leaves: the answer as the tree `alignment`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignnet.data.root_alignment import write_alignment
from alignnet.data.root_volumes import TREE, volume_columns, volume_table
from alignnet.geometry.detector import Detector
from alignnet.training.answer import Answer


def write_result(
    path: Path, detector: Detector, answer: Answer, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the trees `alignment` and `volumes` of an answer; arguments and errors as `write_alignment`."""
    answered = (answer.local, answer.error, answer.n_hits, answer.status, answer.error_kind)
    volumes = volume_columns(volume_table(detector, answer.levels))
    write_alignment(path, detector, *answered, metadata, {TREE: volumes} if answer.levels else None)
