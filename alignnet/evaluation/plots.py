"""Figures of an alignment, a function each; they return matplotlib `Figure`s and touch no global state.

Colours are Okabe's and Ito's, which the colour-blind tell apart, and come with a marker or a line style each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.errors import GeometryError
from alignnet.evaluation.residuals import ResidualSummary
from alignnet.geometry.detector import Detector
from alignnet.units import UM

STYLE: dict[str, dict[str, Any]] = {
    "before": {"color": "#D55E00", "marker": "s", "linestyle": (0, (4, 2))},
    "after": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "ideal": {"color": "#222222", "marker": "^", "linestyle": (0, (1, 1.5))},
    "expected": {"color": "#222222", "marker": "_", "linestyle": (0, (1, 1.5))},
    "limit": {"color": "#222222", "marker": "_", "linestyle": (0, (1, 1.5))},
}
_AXIS = {
    "pt": r"$p_\mathrm{T}$ [GeV/$c$]",
    "phi": r"$\varphi$ [rad]",
    "eta": r"$\eta$",
}
_RC: Any = {
    "font.size": 9.5,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "errorbar.capsize": 0,
    "figure.dpi": 150,
}


def _styled(function: Any) -> Any:
    """The figure that `function` draws, in this file's style."""
    return matplotlib.rc_context(_RC)(function)


@_styled
def dca_mean_and_width(
    table: Mapping[str, Mapping[str, Sequence[float | None]]], coordinates: Sequence[str] = ("xy", "z")
) -> Figure:
    """Mean and width of the DCA in bins, before, after and ideal, and the ratios of the widths to the ideal.

    Args:
        table: of `alignnet.evaluation.dca.dca_table`, in bins of any of its variables.
        coordinates: "xy" and "z", a column each.
    """
    by = next(key[:-4] for key in next(iter(table.values())) if key.endswith("_low"))
    figure = Figure(figsize=(4.1 * len(coordinates), 6.0), layout="constrained")
    axes = figure.subplots(
        3, len(coordinates), sharex=True, squeeze=False, gridspec_kw={"height_ratios": (1, 1.25, 0.7)}
    )
    for column, c in zip(axes.T, coordinates, strict=True):
        _errors(column[0], table, by, f"mean_{c}_um", f"mean_error_{c}_um")
        _errors(column[1], table, by, f"width_{c}_um", f"width_error_{c}_um")
        _errors(column[2], table, by, f"width_ratio_{c}", f"width_ratio_error_{c}")
        name = rf"DCA$_{{{c}}}$"
        column[0].set_ylabel(f"mean {name} [µm]")
        column[1].set_ylabel(f"width {name} [µm]")
        column[2].set_ylabel(f"width / {_reference(table, c)}")
        column[0].axhline(0, color="0.75", linewidth=0.8, zorder=0)
        column[2].axhline(1, color="0.75", linewidth=0.8, zorder=0)
        _spread_out(column[0], table, f"mean_{c}_um")
        _log_micrometres(column[1])
        _zoom_on_ratio(column[2], table, c)
        column[2].set_xlabel(_AXIS[by])
        if by == "pt":
            _log_momentum(column[2], *_ends(table))
    axes[1, 0].legend(loc="best")
    return figure


@_styled
def truth_recovery(recovery: Mapping[str, Any], title: str = "") -> Figure:
    """Remaining displacement of each layer along u, v and w: before, after, and the statistical limit.

    Args:
        recovery: one of the kinds of `alignnet.evaluation.truth.truth_recovery`, for example its "truth".
        title: of the figure.
    """
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    layers = [int(name.removeprefix("layer")) for name in recovery]
    for coordinate, axis in zip("uvw", axes, strict=True):
        for name in ("before", "after", "limit"):
            values = [row[coordinate][f"{name}_um"] for row in recovery.values()]
            if any(value is not None for value in values):
                label = "statistical limit" if name == "limit" else name
                axis.plot(layers, _numbers(values), label=label, **_wide_dashes(name))
        axis.set_title(f"along {coordinate}")
        axis.set_xlabel("layer")
        _layer_axis(axis, layers)
    _log_micrometres(axes[0])
    axes[0].set_ylabel("remaining displacement, r.m.s. [µm]")
    axes[2].legend(loc="best")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


@_styled
def residuals_per_layer(residuals: Mapping[str, Any]) -> Figure:
    """Mean and width of the unbiased residuals of each layer, before and after, and the width to expect.

    Args:
        residuals: `residuals` of `alignnet.evaluation.residuals.residual_metrics`.
    """
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    layers = [int(name.removeprefix("layer")) for name in residuals]
    for coordinate, (upper, lower) in zip("uv", axes.T, strict=True):
        rows = [row[coordinate] for row in residuals.values()]
        for name, prefix in (("before", "unbiased_before_"), ("after", "unbiased_")):
            if f"{prefix}mean_um" in rows[0]:
                upper.plot(layers, _numbers([r[f"{prefix}mean_um"] for r in rows]), label=name, **STYLE[name])
                lower.plot(
                    layers, _numbers([r[f"{prefix}width_um"] for r in rows]), label=name, **STYLE[name]
                )
        expected = [row["expected_unbiased_width_um"] for row in rows]
        lower.plot(layers, _numbers(expected), label="expected", **_wide_dashes("expected"))
        upper.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        upper.set_title(f"unbiased residuals in {coordinate}")
        lower.set_xlabel("layer")
        _layer_axis(lower, layers)
    axes[0, 0].set_ylabel("mean [µm]")
    axes[1, 0].set_ylabel("standard deviation [µm]")
    _log_micrometres(axes[1, 0])
    axes[1, 0].legend(loc="best")
    return figure


@_styled
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
            edge = _residual_edge(after, i, k)
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


@_styled
def correction_map(detector: Detector, local: Tensor, layer: int) -> Figure:
    """Corrections du, dv and dw of a layer's sensors as colours [µm], each drawn where it sits.

    Barrel layers are unrolled to (z, φ); planes across the beam are shown in (x, y). Sensors that are mounted
    the other way round have opposite axes: here all count towards the same side, given in the titles.

    Args:
        detector: the nominal places.
        local: local six (sensors, 6).
        layer: its number.

    Raises:
        GeometryError: the detector has no such layer.
    """
    rows = (detector.layer == layer).nonzero().squeeze(-1)
    if not len(rows):
        raise GeometryError(
            f"detector {detector.name} has no layer {layer}; its layers are {detector.layers}"
        )
    outlines, names, towards = _outlines(detector, rows)
    values = _oriented(detector, local, rows) / UM
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for k, axis in enumerate(axes):
        size = np.abs(values[:, k])
        edge = max(float(np.quantile(size, 0.995)), 1e-3)
        cells = PolyCollection(list(outlines), array=values[:, k], cmap="RdBu_r", norm=Normalize(-edge, edge))
        cells.set(edgecolor="face", linewidth=0.5, antialiased=False)
        axis.add_collection(cells)
        axis.autoscale_view()
        axis.set_title(f"d{'uvw'[k]}, {towards[k]}")
        axis.set_xlabel(names[0])
        beyond = "both" if (size > edge).any() else "neither"
        bar = figure.colorbar(cells, ax=axis, location="bottom", aspect=28, pad=0.03, extend=beyond)
        bar.set_label("correction [µm]", fontsize=9)
        bar.locator = MaxNLocator(5, symmetric=True)
    axes[0].set_ylabel(names[1])
    figure.suptitle(f"{detector.name}, layer {layer}", fontsize=10)
    return figure


@_styled
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
    _plain_log_labels(axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel=r"$\chi^2$ / ndf")
    axis.legend()
    return figure


def _errors(axis: Axes, table: Mapping[str, Any], by: str, value: str, error: str) -> None:
    """Points with errors for each geometry, side by side in their bins."""
    for i, (name, columns) in enumerate(table.items()):
        low, high = _numbers(columns[f"{by}_low"]), _numbers(columns[f"{by}_high"])
        fraction = 0.5 + 0.12 * (i - (len(table) - 1) / 2)
        middle = low ** (1 - fraction) * high**fraction if by == "pt" else low + fraction * (high - low)
        style = STYLE.get(name, {}) | {"linestyle": "none"}
        axis.errorbar(middle, _numbers(columns[value]), _numbers(columns[error]), label=name, **style)


def _reference(table: Mapping[str, Any], c: str) -> str:
    """The geometry that the others are compared to: its ratio to itself is 1."""
    same = (name for name, columns in table.items() if set(columns[f"width_ratio_{c}"]) <= {1.0, None})
    return next(same, "reference")


def _ends(table: Mapping[str, Any]) -> tuple[float, float]:
    """The outer edges of a table in bins of p_T."""
    columns = next(iter(table.values()))
    return float(columns["pt_low"][0]), float(columns["pt_high"][-1])


def _spread_out(axis: Axes, table: Mapping[str, Any], value: str) -> None:
    """A scale on which a large misalignment leaves the rest visible: linear near 0, logarithmic beyond."""
    values = {name: _numbers(columns[value]) for name, columns in table.items()}
    sizes = {name: float(np.nanmax(np.abs(found), initial=0.0)) for name, found in values.items()}
    small = max((size for name, size in sizes.items() if name != "before"), default=0.0)
    if sizes.get("before", 0.0) < 8 * max(small, 1.0):
        return
    axis.set_yscale("symlog", linthresh=10, linscale=1.5)
    every = np.concatenate([*values.values(), [-10.0, 10.0]])
    low, high = 1.8 * np.nanmin(every), 1.8 * np.nanmax(every)
    decades = [10.0**k for k in range(1, 6) if 10.0**k < max(-low, high)]
    ticks = [t for t in (*(-d for d in decades), -5, 0, 5, *decades) if low < t < high]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylim(low, high)


def _zoom_on_ratio(axis: Axes, table: Mapping[str, Any], c: str) -> None:
    """Limits that hold all ratios but those of the geometry before the alignment."""
    inner = [columns for name, columns in table.items() if name != "before"]
    low, high = 0.95, 1.1
    for columns in inner:
        ratio, error = _numbers(columns[f"width_ratio_{c}"]), _numbers(columns[f"width_ratio_error_{c}"])
        low = min(low, float(np.nanmin(ratio - 1.3 * error, initial=low)))
        high = max(high, float(np.nanmax(ratio + 1.3 * error, initial=high)))
    axis.set_ylim(low, min(high, 3.0))


def _log_micrometres(axis: Axes) -> None:
    """A logarithmic axis where its numbers span much, else one from 0."""
    high = axis.get_ylim()[1]
    shown = np.concatenate([[np.nan], *(np.ravel(line.get_ydata()) for line in axis.get_lines())])
    least = np.nanmin(np.where(shown > 0, shown, np.nan), initial=high)
    if high < 4 * least:
        axis.set_ylim(0, high)
        return
    axis.set_yscale("log")
    _plain_log_labels(axis)


def _plain_log_labels(axis: Axes) -> None:
    """1, 2, 5, 10 … in place of powers; the minor ticks labelled only where the axis spans little."""
    low, high = axis.get_ylim()
    decades = np.log10(high / low)
    wanted = (1, 2, 5) if decades < 2.2 else (1,)
    shown = FuncFormatter(
        lambda x, _: f"{x:g}" if round(x / 10 ** np.floor(np.log10(x) + 1e-9), 6) in wanted else ""
    )
    axis.yaxis.set_major_formatter(shown)
    axis.yaxis.set_minor_formatter(shown)


def _log_momentum(axis: Axes, low: float, high: float) -> None:
    axis.set_xscale("log")
    axis.set_xlim(0.95 * low, 1.05 * high)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())


def _layer_axis(axis: Axes, layers: Sequence[int]) -> None:
    axis.set_xticks(list(layers))
    axis.set_xlim(min(layers) - 0.4, max(layers) + 0.4)
    axis.tick_params(axis="x", which="both", top=False)


def _wide_dashes(name: str) -> dict[str, Any]:
    """The style of a level rather than of a measurement: wide dashes at each layer."""
    wide = (
        {"markersize": 14, "markeredgewidth": 1.6, "linestyle": "none"}
        if STYLE[name]["marker"] == "_"
        else {}
    )
    return STYLE[name] | wide


def _steps(axis: Axes, summary: ResidualSummary, i: int, k: int, name: str) -> None:
    """The distribution in even bins over what the axis shows, from the cumulative one."""
    histogram = summary.unbiased.histogram
    counts = histogram.counts[i, k].numpy()
    below = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1)
    edges = np.linspace(*axis.get_xlim(), 51)
    density = np.diff(np.interp(edges, histogram.edges.numpy() / UM, below)) / np.diff(edges)
    style = {key: STYLE[name][key] for key in ("color", "linestyle")}
    axis.stairs(density, edges, label=name, linewidth=1.2, **style)


def _residual_edge(after: ResidualSummary, i: int, k: int) -> float:
    edge = 6 * float(after.unbiased.core_width[i, k]) / UM
    return edge if np.isfinite(edge) and edge > 0 else 1.0


def _outlines(detector: Detector, rows: Tensor) -> tuple[Array, tuple[str, str], tuple[str, str, str]]:
    """Corners of sensors (sensors, 4, 2) in their map's coordinates, and the names of these and of sides."""
    u, _, v = detector.rotation[rows].unbind(-1)
    half, middle = detector.half[rows], _middle(detector, rows)
    signs = ((-1, -1), (-1, 1), (1, 1), (1, -1))
    corners = np.stack([(middle + u * a * half[:, :1] + v * b * half[:, 1:]).numpy() for a, b in signs], 1)
    if not _is_barrel(detector, rows):
        return corners[..., :2], ("x [cm]", "y [cm]"), ("towards +x", "towards +y", "towards +z")
    about = np.arctan2(middle[:, 1].numpy(), middle[:, 0].numpy())[:, None]
    phi = np.arctan2(corners[..., 1], corners[..., 0])
    unwrapped = about + np.remainder(phi - about + np.pi, 2 * np.pi) - np.pi
    sides = (r"towards $+\varphi$", "towards $+z$", "outwards")
    return np.stack([corners[..., 2], unwrapped], -1), ("z [cm]", r"$\varphi$ [rad]"), sides


def _oriented(detector: Detector, local: Tensor, rows: Tensor) -> Array:
    """Corrections along u, v, w (sensors, 3) [cm], each counted towards the sides that `_outlines` names."""
    u, normal, v = detector.rotation[rows].unbind(-1)
    axes = torch.stack([u, v, normal], -1)
    sides = torch.eye(3, dtype=torch.float64).expand_as(axes)
    if _is_barrel(detector, rows):
        outwards = torch.nn.functional.pad(_middle(detector, rows)[:, :2], (0, 1))
        z = sides[..., 2]
        sides = torch.stack([torch.linalg.cross(z, outwards), z, outwards], -1)
    sign = torch.where((axes * sides).sum(-2) < 0, -1.0, 1.0)
    return np.asarray((sign * local[rows, :3]).numpy())


def _middle(detector: Detector, rows: Tensor) -> Tensor:
    """Centres of the active areas (sensors, 3) [cm]."""
    u, _, v = detector.rotation[rows].unbind(-1)
    centre = detector.centre[rows]
    return detector.translation[rows] + u * centre[:, :1] + v * centre[:, 1:]


def _is_barrel(detector: Detector, rows: Tensor) -> bool:
    return bool((detector.rotation[rows, 2, 1].abs() < 0.5).all())


def _numbers(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
