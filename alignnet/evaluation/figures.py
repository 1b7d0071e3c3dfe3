"""Every figure that the numbers of an evaluation make, for pictures beside the report and for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alignnet.data.atomic import replacing
from alignnet.evaluation import plots
from alignnet.evaluation.physics_plots import physics_figures
from alignnet.evaluation.quality_plots import quality_figures

_PICTURES = {
    "convergence": "χ²/ndf by epoch",
    "corrections_layer": "corrections of the sensors of layer ",
    "dca": "distance to the vertex against p_T",
    "dca_phi": "distance to the vertex against φ",
    "dca_eta": "distance to the vertex against η",
    "dca_charge": "distance to the vertex by charge",
    "dca_top": "distance to the vertex of tracks upwards and downwards",
    "dca_side": "distance to the vertex of tracks to the left and to the right",
    "fit_quality": "χ²/ndf and p-values of the tracks",
    "mass_": "masses of ",
    "monitor": "residuals of circle fits by chip",
    "overlaps": "double differences where sensors overlap",
    "residual_histograms": "distributions of the residuals",
    "residuals": "residuals by layer",
    "residuals_halfbarrel": "residuals by half-barrel",
    "residuals_stave": "residuals by stave",
    "surface": "residuals over the surfaces of sensors",
    "surface_": "residuals over the surfaces of sensors, ",
    "spectrum": "least known motions",
    "truth": "recovery of the truth",
}
"""What the pictures beside a report are, by their names, or how these begin."""

_NUMBERED = ("corrections_layer", "mass_", "surface_")
"""Whose names go on with a number or a name."""


def picture_words(stem: str) -> str:
    """What a picture of this name is; "" for one that is not known."""
    if stem in _PICTURES:
        return "" if stem in _NUMBERED else _PICTURES[stem]
    begin = next((s for s in _NUMBERED if stem.startswith(s)), None)
    return "" if begin is None else _PICTURES[begin] + stem.removeprefix(begin)


def write_pictures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Leave these as PNG files in a folder, and none of those that an evaluation before has left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        if picture_words(old.stem) and old.stem not in figures:
            old.unlink()
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=130, format="png")


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
