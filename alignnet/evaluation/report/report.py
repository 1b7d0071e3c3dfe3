"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from alignnet.geometry.detector import Detector


@dataclass(frozen=True)
class Report:
    """All that a report is made of.

    Args:
        metrics: nested as in metrics.json.
        detector: the nominal places.
        local: local six of the answer (sensors, 6).
        run: what ran (`alignnet.cli.provenance`): `title`, `facts` (name, value), `data` (a row a file),
            `software`, `config` (YAML).
        links: what each file beside the report is, by its path relative to the report.
    """

    metrics: Mapping[str, Any]
    detector: Detector
    local: Tensor
    run: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
