"""Figures of masses, and of ALICE's monitor of residuals, from the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alignnet.evaluation.style import STYLE, legend_above, numbers, styled

_NAMES = {
    "k0s": r"K$^0_\mathrm{S}\to\pi^+\pi^-$",
    "lambda": r"$\Lambda\to\mathrm{p}\pi^-$",
    "d0": r"D$^0\to$K$^-\pi^+$",
}

_MANY = 100  # points of a line that are pixels rather than marks in the report


def physics_figures(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure of this file that metrics.json has the numbers for, by the name of its picture."""
    decays = metrics.get("decays") or {}
    names: Mapping[str, Any] = next(iter(decays.values()), {})
    figures = {f"mass_{name}": mass(decays, name) for name in names if has_peak(decays, name)}
    if metrics.get("monitor"):
        figures["monitor"] = monitor(metrics["monitor"])
    return figures


def has_peak(decays: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Whether a decay's peak was found in any geometry; without one there is nothing to draw against p_T."""
    rows = [one[name].get("all") or {} for one in decays.values() if name in one]
    return any(value is not None for row in rows for value in row.get("mean_mev", ()))


@styled
def mass(decays: Mapping[str, Mapping[str, Any]], name: str) -> Figure:
    """The mass distribution of a decay in each geometry; mean and width of its peak against p_T and φ.

    Args:
        decays: `decays` of metrics.json.
        name: of the decay.
    """
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col")
    whole = figure.add_subplot(axes[0, 0].get_gridspec()[:, 0])
    for axis in axes[:, 0]:
        axis.remove()
    for i, (geometry, found) in enumerate(decays.items()):
        one = found[name]
        edges = 1e3 * np.linspace(one["mass_low"], one["mass_high"], len(one["counts"]) + 1)
        style = {key: STYLE[geometry][key] for key in ("color", "linestyle")}
        whole.stairs(one["counts"], edges, label=geometry, linewidth=1.2, **style)
        for column, by in ((1, "pt"), (2, "phi")):
            low, high = numbers(one[by][f"{by}_low"]), numbers(one[by][f"{by}_high"])
            high = np.where(np.isfinite(high), high, 1.5 * low)
            middle = low + (0.5 + 0.1 * (i - (len(decays) - 1) / 2)) * (high - low)
            for row, part in enumerate(("mean", "width")):
                values, errors = (numbers(one[by][f"{part}{kind}_mev"]) for kind in ("", "_error"))
                plain = STYLE[geometry] | {"linestyle": "none"}
                axes[row, column].errorbar(middle, values, errors, **plain)
            axes[1, column].set_xlim(np.nanmin(low), np.nanmax(high))
    whole.set(xlabel=f"mass of {_NAMES.get(name, name)} [MeV/$c^2$]", ylabel="pairs")
    legend_above(whole)
    axes[0, 1].set_ylabel("mean [MeV/$c^2$]")
    axes[1, 1].set_ylabel("width [MeV/$c^2$]")
    axes[1, 1].set_xlabel(r"$p_\mathrm{T}$ [GeV/$c$]")
    axes[1, 2].set_xlabel(r"$\varphi$ [rad]")
    return figure


@styled
def monitor(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean residuals of circle fits against the chip or module of each layer, across the field above along z.

    Args:
        found: `monitor` of metrics.json.
    """
    layers = list(next(iter(found.values())))
    figure = Figure(figsize=(max(4.0, 1.9 * len(layers)), 4.6), layout="constrained")
    axes = figure.subplots(2, len(layers), squeeze=False, sharex="col")
    for column, layer in zip(axes.T, layers, strict=True):
        for axis, c in zip(column, ("xy", "z"), strict=True):
            for geometry, of in found.items():
                means = numbers(of[layer][f"mean_{c}_um"])
                style = {
                    "color": STYLE[geometry]["color"],
                    "marker": ".",
                    "markersize": 2,
                    "linestyle": "none",
                    "rasterized": len(means) > _MANY,
                }
                axis.plot(means, label=geometry, **style)
            axis.axhline(0, color="0.75", linewidth=0.8, zorder=0)
            axis.tick_params(labelsize=8)
        column[0].set_title(f"layer {layer.removeprefix('layer')}", fontsize=9)
    axes[0, 0].set_ylabel("mean across the field [µm]")
    axes[1, 0].set_ylabel("mean along z [µm]")
    legend_above(axes[0, 0])
    figure.supxlabel("chip (inner barrel) or module (outer barrel) of the layer", fontsize=10)
    return figure
