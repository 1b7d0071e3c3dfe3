"""Figures of how tracks fit and of where residuals lie, from the numbers of metrics.json; a function each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from alignnet.evaluation.style import (
    STYLE,
    layer_axis,
    legend_above,
    lin_log_micrometres,
    margins,
    numbers,
    styled,
)

LEVELS = {"HalfBarrel": "half-barrel", "Stave": "stave"}
"""Whose volumes are few enough for a figure, and what they are called."""

_FAR = 50.0  # means that are further apart have a logarithmic axis [µm]


def quality_figures(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure of this file that metrics.json has the numbers for, by the name of its picture."""
    figures = {}
    if metrics.get("fit"):
        figures["fit_quality"] = fit_quality(metrics["fit"])
    if metrics.get("surface"):
        figures |= {
            "surface" if name == "after" else f"surface_{name}": surface_map(metrics["surface"], name)
            for name in metrics["surface"]
        }
    if metrics.get("overlaps") and any(one["staves"]["n"] for one in metrics["overlaps"].values()):
        figures["overlaps"] = overlaps(metrics["overlaps"])
    levels = metrics.get("residual_levels") or {}
    for level in LEVELS:
        if "volumes" in levels.get(level, {}):
            figures[f"residuals_{level.lower()}"] = volume_residuals(levels, level)
    return figures


@styled
def fit_quality(fit: Mapping[str, Mapping[str, Any]]) -> Figure:
    """χ²/ndf and p-values of the tracks in each geometry; p-values of a good fit are flat.

    Args:
        fit: `fit` of metrics.json.
    """
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, found in fit.items():
        edges = np.asarray(found["chi2_per_ndf_edges"])
        _density(
            left, np.asarray(found["chi2_per_ndf_counts"])[:-1], edges[:-1], name, name, found["n_tracks"]
        )
        counts = np.asarray(found["p_value_counts"])
        distance = found["p_value_ks_distance"]
        label = name if distance is None else f"{name} ({distance:.3f})"
        _density(right, counts, np.linspace(0, 1, len(counts) + 1), name, label, found["n_tracks"])
    right.axhline(1, color="0.75", linewidth=0.8, zorder=0)
    left.set(xlabel=r"$\chi^2$ / ndf", ylabel="tracks (unit area)", xlim=(0, edges[-2]))
    right.set(xlabel=r"$p$-value", xlim=(0, 1), yscale="log")
    left.legend(loc="upper right")
    right.legend(loc="upper right", title="KS distance to flat", title_fontsize=8)
    return figure


@styled
def surface_map(surface: Mapping[str, Any], name: str = "after") -> Figure:
    """Mean unbiased residuals over the sensors' surfaces, all sensors of a layer on one another, u above v.

    Args:
        surface: `surface` of metrics.json.
        name: of the geometry.
    """
    layers = surface[name]
    figure = Figure(figsize=(max(4.0, 1.75 * len(layers)), 4.6))
    grid = margins(figure, (2, len(layers)), left=0.75, bottom=0.5, top=0.55, gap=0.15) | {"hspace": 0.17}
    axes = figure.subplots(2, len(layers), squeeze=False, sharex=True, sharey=True, gridspec_kw=grid)
    for column, (layer, found) in zip(axes.T, layers.items(), strict=True):
        for axis, c in zip(column, "uv", strict=True):
            means = np.array([numbers(row) for row in found[f"mean_{c}_um"]])
            sizes = np.abs(means[np.isfinite(means)])
            edge = max(float(np.quantile(sizes, 0.99)), 1e-3) if len(sizes) else 1.0
            axis.imshow(
                means.T,
                origin="lower",
                extent=(-1, 1, -1, 1),
                aspect="auto",
                cmap="RdBu_r",
                norm=Normalize(-edge, edge),
            )
            of, size = layer.removeprefix("layer"), float(f"{edge:.2g}")
            axis.set_title(f"layer {of}, {c}, ±{size:g} µm", fontsize=8)
    axes[0, 0].set_xticks((-0.5, 0.0, 0.5))
    figure.supxlabel("u over half the active width", fontsize=10)
    figure.supylabel("v over half the active length", fontsize=10)
    figure.suptitle(f"unbiased residuals, {name}", fontsize=10)
    return figure


@styled
def overlaps(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Double differences where sensors overlap: mean and width of each layer, and the scatter of stave pairs.

    Args:
        found: `overlaps` of metrics.json.
    """
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col")
    for row, c, towards in zip(axes, "uv", (r"$r\varphi$", "$z$"), strict=True):
        for name, one in found.items():
            layers = [int(key.removeprefix("layer")) for key in one if key != "staves"]
            rows = [one[f"layer{layer}"][c] for layer in layers]
            row[0].errorbar(
                layers, numbers([r["mean_um"] for r in rows]), numbers([r["mean_error_um"] for r in rows]),
                label=name, **STYLE[name],
            )  # fmt: skip
            row[1].plot(layers, numbers([r["core_width_um"] for r in rows]), label=name, **STYLE[name])
            style = {key: STYLE[name][key] for key in ("color", "linestyle")}
            means = numbers(one["staves"].get(f"mean_{c}_um", []))
            if len(means):
                edge = _edge(found, c)
                row[2].hist(
                    np.clip(means, -edge, edge), np.linspace(-edge, edge, 41), histtype="step", **style
                )
        for axis in row[:2]:
            layer_axis(axis, layers)
        row[0].axhline(0, color="0.75", linewidth=0.8, zorder=0)
        row[0].set_ylabel(f"mean along {towards} [µm]")
        row[1].set_ylabel(f"core width along {towards} [µm]")
        row[1].set_ylim(bottom=0)
        row[2].set_ylabel("pairs of staves")
    axes[1, 0].set_xlabel("layer")
    axes[1, 1].set_xlabel("layer")
    axes[1, 2].set_xlabel("mean of a pair [µm]")
    legend_above(axes[0, 0])
    return figure


@styled
def volume_residuals(levels: Mapping[str, Any], level: str = "Stave") -> Figure:
    """Mean unbiased residual of each volume of a level, in each geometry, in the detector's order.

    Args:
        levels: `residual_levels` of metrics.json.
        level: one with `volumes`.
    """
    volumes = levels[level]["volumes"]
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, c in zip(axes, "uv", strict=True):
        for name in (name for name in STYLE if name in volumes):
            style = STYLE[name] | {"linestyle": "none", "markersize": 3}
            axis.plot(numbers(volumes[name][f"unbiased_mean_{c}_um"]), label=name, **style)
        axis.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axis.set_ylabel(f"mean in {c} [µm]")
        if max(map(abs, axis.get_ylim())) > _FAR:
            lin_log_micrometres(axis, *axis.get_ylim())
        _mark_layers(axis, volumes["layer"])
    axes[1].set_xticks(*_named(volumes["layer"], volumes.get("side")))
    axes[1].set_xlabel(f"{LEVELS.get(level, level)}s by layer, in the detector's order")
    legend_above(axes[0])
    return figure


def _mark_layers(axis: Axes, layer: Sequence[int | None]) -> None:
    """Lines between the volumes of one layer and those of the next."""
    axis.tick_params(axis="x", which="both", length=0)
    axis.set_xlim(-0.5, len(layer) - 0.5)
    for i in range(1, len(layer)):
        if layer[i] != layer[i - 1]:
            axis.axvline(i - 0.5, color="0.75", linewidth=0.8, zorder=0)


def _named(layer: Sequence[int | None], side: Sequence[str] | None) -> tuple[list[float], list[str]]:
    """Places and words of ticks: one for each volume where they have sides, else one for each layer."""
    words = ["–" if one is None else str(one) for one in layer]
    if side is not None:
        named = [f"{of}\n{n}" for n, of in zip(words, side, strict=True)]
        return [float(i) for i in range(len(named))], named
    rows = {word: [i for i, one in enumerate(words) if one == word] for word in words}
    return [sum(mine) / len(mine) for mine in rows.values()], list(rows)


def _density(axis: Axes, counts: np.ndarray, edges: np.ndarray, name: str, label: str, total: float) -> None:
    """Counts of `total` tracks per unit of the axis and track."""
    style = {key: STYLE[name][key] for key in ("color", "linestyle")}
    density = counts / max(total, 1) / np.diff(edges)
    axis.stairs(density, edges, label=label, linewidth=1.2, **style)


def _edge(found: Mapping[str, Mapping[str, Any]], c: str) -> float:
    """Half the range that holds nearly all pairs of staves of the widest geometry [µm]."""
    sizes = [np.abs(numbers(one["staves"].get(f"mean_{c}_um", []))) for one in found.values()]
    every = np.concatenate([*sizes, [1.0]])
    return float(np.nanquantile(every, 0.98))
