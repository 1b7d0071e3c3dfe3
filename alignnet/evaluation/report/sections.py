"""The sections of a report, in the order in which they are read; one without numbers is left out.

A further section is a further entry of `SECTIONS`: its content is worked out of the metrics, and is empty
where they don't have its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alignnet.evaluation.report import (
    detector_sections,
    fit_sections,
    hierarchy_sections,
    quality_sections,
    run_sections,
    track_sections,
)
from alignnet.evaluation.report.markup import Html
from alignnet.evaluation.report.report import Report


@dataclass(frozen=True)
class Section:
    """One section."""

    key: str  # its address on the page
    title: str
    content: Callable[[Report], Html]


SECTIONS = (
    Section("run", "What ran", run_sections.what_ran),
    Section("dca", "Distance to the vertex (DCA)", track_sections.dca),
    Section("residuals", "Residuals", track_sections.residuals),
    Section("fit", "Fit quality", quality_sections.fit),
    Section("places", "Where residuals lie", quality_sections.places),
    Section("truth", "Recovery of the truth", detector_sections.truth),
    Section("volumes", "Corrections of half-barrels, staves and modules", hierarchy_sections.volumes),
    Section("corrections", "Corrections of all sensors", detector_sections.corrections),
    Section("vertices", "Vertices", quality_sections.vertices),
    Section("decays", "Masses", quality_sections.decays),
    Section("monitor", "Monitor of residuals", quality_sections.monitor),
    Section("convergence", "Convergence", fit_sections.convergence),
    Section("weak_modes", "Weak modes", hierarchy_sections.weak_modes),
    Section("modes", "Least known motions", fit_sections.modes),
    Section("errors", "Errors and pulls", fit_sections.errors),
    Section("sensors", "Sensors that need attention", detector_sections.sensors),
    Section("more", "Further numbers", run_sections.further),
    Section("files", "Files", run_sections.files),
)
