"""Every figure that the numbers of an evaluation make, for pictures beside the report and for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from alignnet.evaluation import plots
from alignnet.evaluation.physics_plots import physics_figures
from alignnet.evaluation.quality_plots import quality_figures


def figures_of(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """By the names of their pictures: truth, DCA against each variable, fits, surfaces, volumes, overlaps,
    masses, the monitor and the least known motions, each where there are numbers for it.

    Args:
        metrics: nested as in metrics.json.
    """
    figures = {}
    if metrics.get("truth"):
        figures["truth"] = plots.truth_recovery(metrics["truth"], "rigid motions and weak modes removed")
    if metrics.get("dca"):
        figures["dca"] = plots.dca_mean_and_width(metrics["dca"])
    for by, table in metrics.get("dca_by", {}).items():
        figures[f"dca_{by}"] = plots.dca_mean_and_width(table)
    figures |= quality_figures(metrics) | physics_figures(metrics)
    if metrics.get("spectrum"):
        figures["spectrum"] = plots.spectrum(metrics["spectrum"])
    return figures
