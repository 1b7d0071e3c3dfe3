"""Small maps of the corrections of a whole detector: one for each layer and coordinate, all on one scale.

Inner layers and outer ones, and coordinates, differ tenfold in their corrections: the scale is linear near 0
and logarithmic beyond, so that one serves them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from alignnet.evaluation.colours import diverging
from alignnet.evaluation.maps import oriented, outlines
from alignnet.evaluation.style import margins, styled
from alignnet.geometry.detector import Detector
from alignnet.units import UM

COORDINATES = ("u", "v", "w")


def correction_scale(local: Tensor) -> float:
    """The correction that has the last colour [µm]: a round number that 99 % of all are below.

    Args:
        local: local six (sensors, 6).
    """
    size = float(np.quantile(local[:, :3].abs().numpy(), 0.99)) / UM
    decade = 10.0 ** np.floor(np.log10(max(size, 1e-2)))
    return float(next(step * decade for step in (1, 2, 3, 5, 10) if step * decade >= 0.999 * size))


def linear_width(scale: float) -> float:
    """The correction [µm] up to which colours change in proportion to it; beyond, with its logarithm."""
    return scale / 20


def colours(scale: float) -> ScalarMappable:
    """Colours from −`scale` to `scale` [µm]."""
    return ScalarMappable(AsinhNorm(linear_width(scale), -scale, scale), diverging())


@styled
def layer_panel(detector: Detector, local: Tensor, layer: int, coordinate: str, scale: float) -> Figure:
    """Corrections of a layer's sensors along one coordinate, each sensor drawn where it sits.

    Args:
        detector: the nominal places.
        local: local six (sensors, 6).
        layer: its number.
        coordinate: "u", "v" or "w".
        scale: of the colours [µm].
    """
    figure = Figure(figsize=(3.6, 1.7))
    axis = figure.subplots(gridspec_kw=margins(figure, (1, 1), left=0.5, bottom=0.45))
    names = _draw(axis, detector, local, layer, coordinate, scale)
    axis.set_xlabel(names[0])
    axis.set_ylabel(names[1])
    return figure


@styled
def scale_bar(scale: float) -> Figure:
    """The colours of all maps, with their numbers."""
    figure = Figure(figsize=(3.6, 0.6), layout="constrained")
    bar = figure.colorbar(
        colours(scale), cax=figure.subplots(), orientation="horizontal", extend="both", ticks=_ticks(scale)
    )
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter("{x:g}")
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    return figure


@styled
def all_layers(detector: Detector, local: Tensor) -> Figure:
    """The maps of all layers, a row each, and u, v, w in columns."""
    layers, scale = detector.layers, correction_scale(local)
    figure = Figure(figsize=(9.0, 0.9 + 1.3 * len(layers)), layout="constrained")
    axes = figure.subplots(len(layers), 3, squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        for axis, coordinate in zip(row, COORDINATES, strict=True):
            names = _draw(axis, detector, local, layer, coordinate, scale)
            axis.set_title(f"layer {layer}, d{coordinate}, {_towards(detector, layer, coordinate)}")
        row[0].set_ylabel(names[1])
    for axis, name in zip(axes[-1], [names[0]] * 3, strict=True):
        axis.set_xlabel(name)
    bar = figure.colorbar(
        colours(scale), ax=axes, location="bottom", aspect=60, extend="both", pad=0.01, ticks=_ticks(scale)
    )
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter("{x:g}")
    bar.set_label("correction [µm]")
    return figure


def layer_rms(detector: Detector, local: Tensor, layer: int, coordinate: str) -> float:
    """R.m.s. of a layer's corrections along a coordinate [µm]."""
    return float(local[detector.layer == layer, COORDINATES.index(coordinate)].square().mean().sqrt()) / UM


def panel_title(detector: Detector, layer: int, coordinate: str) -> str:
    """What a map shows, in words."""
    side = _towards(detector, layer, coordinate).replace(r"$+\varphi$", "+φ").replace("$+z$", "+z")
    return f"Layer {layer}, d{coordinate}, {side}"


def _ticks(scale: float) -> list[float]:
    positive = [fraction * scale for fraction in (0.05, 0.2, 1.0)]
    return [*(-tick for tick in reversed(positive)), 0.0, *positive]


def _towards(detector: Detector, layer: int, coordinate: str) -> str:
    rows = (detector.layer == layer).nonzero().squeeze(-1)
    return outlines(detector, rows)[2][COORDINATES.index(coordinate)]


def _draw(
    axis: Axes, detector: Detector, local: Tensor, layer: int, coordinate: str, scale: float
) -> tuple[str, str]:
    """Draw a map; returns the names of its axes."""
    rows = (detector.layer == layer).nonzero().squeeze(-1)
    corners, names, _ = outlines(detector, rows)
    shapes: Any = corners
    values = oriented(detector, local, rows)[:, COORDINATES.index(coordinate)] / UM
    shades = colours(scale)
    cells = PolyCollection(shapes, array=values, cmap=shades.cmap, norm=shades.norm)
    cells.set(edgecolor="face", linewidth=0.5, antialiased=False, rasterized=True)
    axis.add_collection(cells)
    axis.autoscale_view()
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return names
