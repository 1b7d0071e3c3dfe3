"""Figures of an alignment, a function each; they return matplotlib `Figure`s and touch no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignnet.data.tracks import Array
from alignnet.evaluation.dca import TWO
from alignnet.evaluation.maps import correction_map
from alignnet.evaluation.residuals import ResidualSummary
from alignnet.evaluation.style import (
    LEGEND,
    LINEAR_UM,
    STYLE,
    epoch_axis,
    layer_axis,
    legend_above,
    lin_log_micrometres,
    log_micrometres,
    log_momentum,
    margins,
    numbers,
    plain_log_labels,
    styled,
    wide_dashes,
)
from alignnet.units import UM

__all__ = [
    "convergence",
    "correction_map",
    "dca_mean_and_width",
    "residual_histograms",
    "residuals_per_layer",
    "spectrum",
    "steps",
    "truth_recovery",
]

_AXIS = {
    "pt": r"$p_\mathrm{T}$ [GeV/$c$]",
    "phi": r"$\varphi$ [rad]",
    "eta": r"$\eta$",
    "charge": "charge",
    "top": "half of the barrel, by the sign of $y$",
    "side": "half of the barrel, by the sign of $x$",
}

_LABELS = 0.74  # numbers and a label left of an axis [inches]


@styled
def dca_mean_and_width(
    table: Mapping[str, Mapping[str, Sequence[float | None]]], coordinates: Sequence[str] = ("xy", "z")
) -> Figure:
    """Mean and width of the DCA in bins, before, after and ideal, and the ratios of the widths to the ideal.

    Args:
        table: of `alignnet.evaluation.dca.dca_table`, in bins of any of its variables.
        coordinates: "xy" and "z", a column each.
    """
    by = next(key[:-4] for key in next(iter(table.values())) if key.endswith("_low"))
    figure = Figure(figsize=(4.1 * len(coordinates), 6.0))
    grid = margins(figure, (3, len(coordinates)), left=_LABELS, bottom=0.5, top=LEGEND, gap=_LABELS)
    ratios = {"height_ratios": (1, 1.25, 0.7)}
    axes = figure.subplots(3, len(coordinates), sharex=True, squeeze=False, gridspec_kw=grid | ratios)
    for column, c in zip(axes.T, coordinates, strict=True):
        _errors(column[0], table, by, f"mean_{c}_um", f"mean_error_{c}_um")
        _errors(column[1], table, by, f"width_{c}_um", f"width_error_{c}_um")
        _errors(column[2], table, by, f"width_ratio_{c}", f"width_ratio_error_{c}")
        name = rf"DCA$_{{{c}}}$"
        column[0].set_ylabel(f"mean {name} [µm]")
        column[1].set_ylabel(f"width {name} [µm]")
        column[2].set_ylabel(f"width / {reference_of(table, c)}")
        column[0].axhline(0, color="0.75", linewidth=0.8, zorder=0)
        column[2].axhline(1, color="0.75", linewidth=0.8, zorder=0)
        _spread_out(column[0], table, f"mean_{c}_um")
        log_micrometres(column[1])
        _zoom_on_ratio(column[2], table, c)
        _beyond(column[2], table, by, f"width_ratio_{c}")
        column[2].set_xlabel(_AXIS.get(by, by))
        for axis in column:
            axis.yaxis.set_label_coords(-0.55 / (4.1 - _LABELS), 0.5)
        if by == "pt":
            log_momentum(column[2], *_ends(table))
        if by in TWO:
            column[2].set_xlim(-2, 2)
            column[2].set_xticks((-1, 1), TWO[by])
    legend_above(axes[0, 0])
    return figure


@styled
def truth_recovery(
    recovery: Mapping[str, Any], title: str = "", coordinates: Sequence[str] = ("u", "v", "w")
) -> Figure:
    """Remaining displacement of each layer along u, v and w: before, after, and the statistical limit.

    Args:
        recovery: one of the kinds of `alignnet.evaluation.truth.truth_recovery`, for example its "truth".
        title: of the figure.
        coordinates: a column each.
    """
    width = 7.6 / 3 * len(coordinates) if len(coordinates) > 1 else 3.6
    figure = Figure(figsize=(width, 3.0), layout="constrained")
    axes = figure.subplots(1, len(coordinates), sharey=True, squeeze=False)[0]
    layers = [int(name.removeprefix("layer")) for name in recovery]
    for coordinate, axis in zip(coordinates, axes, strict=True):
        for name in ("before", "after", "limit"):
            values = [row[coordinate][f"{name}_um"] for row in recovery.values()]
            if any(value is not None for value in values):
                label = "statistical limit" if name == "limit" else name
                axis.plot(layers, numbers(values), label=label, **wide_dashes(name))
        _spread_of_limit(axis, layers, [row[coordinate] for row in recovery.values()])
        axis.set_title(f"along {coordinate}")
        axis.set_xlabel("layer")
        layer_axis(axis, layers)
    log_micrometres(axes[0])
    axes[0].set_ylabel("remaining displacement, r.m.s. [µm]")
    legend_above(axes[-1])
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


@styled
def residuals_per_layer(residuals: Mapping[str, Any], coordinates: Sequence[str] = ("u", "v")) -> Figure:
    """Unbiased residuals of each layer: mean, and the ± of 0 that holds 68 % of them, with that to expect.

    Args:
        residuals: `residuals` of `alignnet.evaluation.residuals.residual_metrics`.
        coordinates: a column each.
    """
    width = 3.5 * len(coordinates) if len(coordinates) > 1 else 4.1
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    axes = figure.subplots(2, len(coordinates), sharex=True, sharey="row", squeeze=False)
    layers = [int(name.removeprefix("layer")) for name in residuals]
    for coordinate, (upper, lower) in zip(coordinates, axes.T, strict=True):
        rows = [row[coordinate] for row in residuals.values()]
        for name, prefix in (("before", "unbiased_before_"), ("after", "unbiased_")):
            if f"{prefix}mean_um" in rows[0]:
                upper.plot(layers, numbers([r[f"{prefix}mean_um"] for r in rows]), label=name, **STYLE[name])
                within = [r.get(f"{prefix}within_um") for r in rows]  # runs of earlier versions have none
                lower.plot(layers, numbers(within), label=name, **STYLE[name])
        expected = [row.get("expected_unbiased_within_um") for row in rows]
        lower.plot(layers, numbers(expected), label="expected", **wide_dashes("expected"))
        upper.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        upper.set_title(f"unbiased residuals in {coordinate}")
        lower.set_xlabel("layer")
        layer_axis(lower, layers)
    axes[0, 0].set_ylabel("mean [µm]")
    axes[1, 0].set_ylabel("68 % are within ± [µm]")
    log_micrometres(axes[1, 0])
    legend_above(axes[1, 0])
    return figure


@styled
def residual_histograms(
    after: ResidualSummary, before: ResidualSummary | None = None, ideal: ResidualSummary | None = None
) -> Figure:
    """Distributions of the unbiased residuals of each layer, u above v, each of unit area."""
    layers = after.layers
    figure = Figure(figsize=(max(3.6, 1.75 * len(layers)), 4.0), layout="constrained")
    axes = figure.subplots(2, len(layers), squeeze=False)
    passes = {"before": before, "after": after, "ideal": ideal}
    for i, layer in enumerate(layers):
        for k, coordinate in enumerate("uv"):
            axis: Axes = axes[k, i]
            edge = _residual_edge(after, before, i, k)
            axis.set_xlim(-edge, edge)
            for name, summary in passes.items():
                if summary is not None and summary.unbiased.count[i] > 0:
                    _steps(axis, summary, i, k, name)
            axis.set_ylim(bottom=0)
            axis.set_yticks([])
            axis.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
            axis.set_title(f"layer {layer}, {coordinate}", fontsize=9)
            axis.tick_params(labelsize=8)
    axes[0, 0].legend(loc="upper right", fontsize=7.5, handlelength=1.2, borderaxespad=0.2)
    figure.supxlabel("unbiased residual [µm]", fontsize=10)
    figure.supylabel("hits (unit area)", fontsize=10)
    return figure


@styled
def convergence(history: Sequence[Mapping[str, float]], ideal: float | None = None) -> Figure:
    """χ²/ndf of training and validation after each epoch.

    Args:
        history: a row an epoch with `epoch`, `train/chi2_per_ndf` and, if there was validation,
            `val/chi2_per_ndf`.
        ideal: χ²/ndf of the true geometry.
    """
    figure = Figure(figsize=(4.8, 3.3), layout="constrained")
    axis = figure.subplots()
    for key, name, style in (("train", "training", "before"), ("val", "validation", "after")):
        rows = [(row["epoch"], row[f"{key}/chi2_per_ndf"]) for row in history if f"{key}/chi2_per_ndf" in row]
        if rows:
            axis.plot(*np.asarray(rows).T, label=name, **STYLE[style])
    if ideal is not None:
        axis.axhline(ideal, color="#222222", linestyle=(0, (1, 1.5)), label="true geometry")
    axis.set_yscale("log")
    plain_log_labels(axis)
    epoch_axis(axis, [row["epoch"] for row in history])
    axis.set(ylabel=r"$\chi^2$ / ndf")
    axis.legend()
    return figure


@styled
def steps(history: Sequence[Mapping[str, float]]) -> Figure:
    """R.m.s. change of the sensors' translations in each epoch.

    Args:
        history: a row an epoch with `epoch` and `train/step_um`.
    """
    figure = Figure(figsize=(4.8, 3.3), layout="constrained")
    axis = figure.subplots()
    rows = [(row["epoch"], row["train/step_um"]) for row in history if row.get("train/step_um", 0.0) > 0]
    axis.plot(*np.asarray(rows).reshape(-1, 2).T, label="step", **STYLE["after"])
    axis.set_yscale("log")
    plain_log_labels(axis)
    epoch_axis(axis, [row["epoch"] for row in history])
    axis.set(ylabel="step, r.m.s. [µm]")
    return figure


@styled
def spectrum(found: Mapping[str, Any], names: bool = True) -> Figure:
    """Expected error of the least known motions, with their names; null modes reach to the edge.

    Args:
        found: `alignnet.evaluation.uncertainty.spectrum_metrics`.
        names: whether to write the names beside.
    """
    modes = found["modes"]
    known = [mode["amplitude_um"] for mode in modes if mode["amplitude_um"] is not None]
    edge = 10 * max(known, default=1.0)
    width = 7.0 if names else 4.1
    figure = Figure(figsize=(width, 0.8 + 0.24 * max(len(modes), 4)), layout="constrained")
    axis = figure.subplots()
    for i, mode in enumerate(modes):
        null = mode["amplitude_um"] is None
        style = {"color": "0.6", "hatch": "///"} if null else {"color": STYLE["after"]["color"]}
        axis.barh(i, edge if null else mode["amplitude_um"], height=0.7, fill=not null, **style)
        if names:
            axis.annotate(
                mode["name"], (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8
            )
    axis.set_xscale("log")
    axis.set_xlim(0.5 * min(known, default=0.1), edge)
    axis.invert_yaxis()
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="expected error, r.m.s. displacement [µm]", ylabel="mode")
    return figure


def _spread_of_limit(axis: Axes, layers: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
    """By how much the r.m.s. of a single answer differs from the limit by chance, about the limit."""
    limit, spread = (numbers([row.get(key) for row in rows]) for key in ("limit_um", "limit_spread_um"))
    shown = np.isfinite(limit) & np.isfinite(spread)
    if shown.any():
        low = np.minimum(spread, 0.9 * limit)  # a logarithmic axis has no 0
        where, error = np.asarray(layers)[shown], (low[shown], spread[shown])
        axis.errorbar(where, limit[shown], error, linestyle="none", color=STYLE["limit"]["color"])


def _errors(axis: Axes, table: Mapping[str, Any], by: str, value: str, error: str) -> None:
    """Points with errors for each geometry, side by side in their bins."""
    for i, (name, columns) in enumerate(table.items()):
        style = STYLE.get(name, {}) | {"linestyle": "none"}
        middle = _middle(columns, by, i, len(table))
        axis.errorbar(middle, numbers(columns[value]), numbers(columns[error]), label=name, **style)


def _middle(columns: Mapping[str, Any], by: str, i: int, n: int) -> Array:
    """Where points of the i-th of n geometries are in their bins."""
    low, high = numbers(columns[f"{by}_low"]), numbers(columns[f"{by}_high"])
    fraction = 0.5 + 0.12 * (i - (n - 1) / 2)
    middle: Array = low ** (1 - fraction) * high**fraction if by == "pt" else low + fraction * (high - low)
    return middle


def _beyond(axis: Axes, table: Mapping[str, Any], by: str, value: str) -> None:
    """Arrowheads on the upper edge where points are above it."""
    top = axis.get_ylim()[1]
    for i, (name, columns) in enumerate(table.items()):
        above = numbers(columns[value]) > top
        where = _middle(columns, by, i, len(table))[above]
        colour = STYLE.get(name, {}).get("color", "0.5")
        axis.plot(where, np.full(len(where), top), "^", color=colour, markersize=4, clip_on=False)


def reference_of(table: Mapping[str, Any], c: str) -> str:
    """The geometry that the others are compared to: its ratio to itself is 1."""
    same = (name for name, columns in table.items() if set(columns[f"width_ratio_{c}"]) <= {1.0, None})
    return next(same, "reference")


def _ends(table: Mapping[str, Any]) -> tuple[float, float]:
    """The outer edges of a table in bins of p_T."""
    columns = next(iter(table.values()))
    return float(columns["pt_low"][0]), float(columns["pt_high"][-1])


def _spread_out(axis: Axes, table: Mapping[str, Any], value: str) -> None:
    """A scale on which a large misalignment leaves the rest visible: linear near 0, logarithmic beyond."""
    values = {name: numbers(columns[value]) for name, columns in table.items()}
    sizes = {name: float(np.nanmax(np.abs(found), initial=0.0)) for name, found in values.items()}
    small = max((size for name, size in sizes.items() if name != "before"), default=0.0)
    if sizes.get("before", 0.0) < 8 * max(small, 1.0):
        return
    every = np.concatenate([*values.values(), [-LINEAR_UM, LINEAR_UM]])
    lin_log_micrometres(axis, 1.8 * np.nanmin(every), 1.8 * np.nanmax(every))


def _zoom_on_ratio(axis: Axes, table: Mapping[str, Any], c: str) -> None:
    """Limits that hold all ratios; those of before the alignment only where nothing else is compared.

    Without the truth the reference is after itself, whose ratio is 1 throughout.
    """
    reference = reference_of(table, c)
    others = [name for name in table if name not in ("before", reference)]
    inner = [columns for name, columns in table.items() if name != "before" or not others]
    low, high = 0.95, 1.1
    for columns in inner:
        ratio, error = numbers(columns[f"width_ratio_{c}"]), numbers(columns[f"width_ratio_error_{c}"])
        low = min(low, float(np.nanmin(ratio - 1.3 * error, initial=low)))
        high = max(high, float(np.nanmax(ratio + 1.3 * error, initial=high)))
    axis.set_ylim(low, min(high, 3.0) if others else high)


def _steps(axis: Axes, summary: ResidualSummary, i: int, k: int, name: str) -> None:
    """The distribution in even bins over what the axis shows, from the cumulative one."""
    histogram = summary.unbiased.histogram
    counts = histogram.counts[i, k].numpy()
    below = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1)
    edges = np.linspace(*axis.get_xlim(), 81)
    density = np.diff(np.interp(edges, histogram.edges.numpy() / UM, below)) / np.diff(edges)
    style = {key: STYLE[name][key] for key in ("color", "linestyle")}
    axis.stairs(density, edges, label=name, linewidth=1.2, **style)


def _residual_edge(after: ResidualSummary, before: ResidualSummary | None, i: int, k: int) -> float:
    """Half the range that shows what is left, and of what was before as much as leaves that readable [µm]."""
    width = float(after.unbiased.core_width[i, k])
    edge = 6 * width
    if before is not None:
        middle, spread = before.unbiased.mean[i, k].abs(), before.unbiased.core_width[i, k]
        edge = max(edge, min(float(middle + 2 * spread), 12 * width))
    return edge / UM if np.isfinite(edge) and edge > 0 else 1.0
