"""What all figures have in common: colours and markers, axes in micrometres, momentum and layers.

Colours are Okabe's and Ito's, which the colour-blind tell apart, and come with a marker or a line style each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from alignnet.data.tracks import Array

P = ParamSpec("P")

STYLE: dict[str, dict[str, Any]] = {
    "before": {"color": "#D55E00", "marker": "s", "linestyle": (0, (4, 2))},
    "after": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "ideal": {"color": "#222222", "marker": "^", "linestyle": (0, (1, 1.5))},
    "expected": {"color": "#222222", "marker": "_", "linestyle": (0, (1, 1.5))},
    "limit": {"color": "#222222", "marker": "_", "linestyle": (0, (1, 1.5))},
}
LEGEND = 0.28  # of one row above axes [inches]
LINEAR_UM = 10.0
"""To where an axis of means [µm], some of which are much larger than others, is linear."""

_LINEAR_DECADES, _MOST_TICKS = 1.5, 9
_EDGE = 0.12  # above and to the right of axes [inches]
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


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """The figure that `function` draws, in this file's style."""
    return matplotlib.rc_context(_RC)(function)


def margins(
    figure: Figure, shape: tuple[int, int], left: float, bottom: float, top: float = _EDGE, gap: float = 0.0
) -> dict[str, float]:
    """`gridspec_kw` of axes, in the place of a layout that draws all text twice to measure it.

    Args:
        figure: of its final size.
        shape: rows and columns of axes.
        left: room for ticks and their label [inches].
        bottom: the same below.
        top: for titles.
        gap: between columns; rows have a little.
    """
    (rows, columns), (width, height) = shape, figure.get_size_inches()
    axis_width = (width - left - _EDGE - (columns - 1) * gap) / columns
    axis_height = (height - bottom - top - (rows - 1) * _EDGE) / rows
    return {
        "left": left / width, "right": 1 - _EDGE / width, "bottom": bottom / height, "top": 1 - top / height,
        "wspace": gap / axis_width, "hspace": _EDGE / axis_height,
    }  # fmt: skip


def log_micrometres(axis: Axes) -> None:
    """A logarithmic axis where its numbers span much, else one from 0."""
    high = axis.get_ylim()[1]
    lines = [line for shared in axis.get_shared_y_axes().get_siblings(axis) for line in shared.get_lines()]
    shown = np.concatenate([[np.nan], *(np.ravel(line.get_ydata()) for line in lines)])
    least = np.nanmin(np.where(shown > 0, shown, np.nan), initial=high)
    if high < 4 * least:
        axis.set_ylim(0, 1.06 * high)
        return
    axis.set_yscale("log")
    plain_log_labels(axis)


def lin_log_micrometres(axis: Axes, low: float, high: float) -> None:
    """An axis from `low` to `high` [µm], linear within ± `LINEAR_UM` and logarithmic beyond."""
    axis.set_yscale("symlog", linthresh=LINEAR_UM, linscale=_LINEAR_DECADES)
    ticks = [tick for tick in _wanted(max(-low, high)) if low < tick < high]
    ticks = _apart(ticks, (_place(high) - _place(low)) / _MOST_TICKS)
    axis.set_yticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylim(low, high)


def _wanted(far: float) -> list[float]:
    """Numbers up to ± `far` for such an axis, the most wanted first."""
    decades = [LINEAR_UM * 10.0**k for k in range(6)]
    sizes = [*decades, 0.5 * LINEAR_UM, *(step * decade for step in (2, 5) for decade in decades)]
    return [0.0, *(sign * size for size in sizes if size < far for sign in (1.0, -1.0))]


def _apart(ticks: Sequence[float], room: float) -> list[float]:
    """Those of some ticks, the most wanted first, that are `room` decades from each other."""
    kept: list[float] = []
    for tick in ticks:
        if all(abs(_place(tick) - _place(other)) >= room for other in kept):
            kept.append(tick)
    return sorted(kept)


def _place(y: float) -> float:
    """Where a number lies on such an axis, in decades from 0."""
    far = abs(y) / LINEAR_UM
    return math.copysign(_LINEAR_DECADES * far if far <= 1 else _LINEAR_DECADES + math.log10(far), y)


def plain_log_labels(axis: Axes) -> None:
    """1, 2, 5, 10 … in place of powers; the minor ticks labelled only where the axis spans little."""
    low, high = axis.get_ylim()
    decades = np.log10(high / low)
    wanted = (1, 2, 5) if decades < 2.2 else (1,)
    shown = FuncFormatter(
        lambda x, _: f"{x:g}" if round(x / 10 ** np.floor(np.log10(x) + 1e-9), 6) in wanted else ""
    )
    axis.yaxis.set_major_formatter(shown)
    axis.yaxis.set_minor_formatter(shown)


def log_momentum(axis: Axes, low: float, high: float) -> None:
    """A logarithmic axis of p_T [GeV/c] from `low` to `high`."""
    axis.set_xscale("log")
    axis.set_xlim(0.95 * low, 1.05 * high)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())


def layer_axis(axis: Axes, layers: Sequence[int]) -> None:
    """An axis with a tick for each layer."""
    axis.set_xticks(list(layers))
    axis.set_xlim(min(layers) - 0.4, max(layers) + 0.4)
    axis.tick_params(axis="x", which="both", top=False)


def epoch_axis(axis: Axes, epochs: Sequence[float]) -> None:
    """An axis of whole epochs, wide enough where there is but one."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(set(epochs)) == 1:
        axis.set_xlim(epochs[0] - 1, epochs[0] + 1)


def legend_above(axis: Axes, most: int = 4) -> None:
    """The legend of an axis above all axes of the figure, where it lies over nothing.

    Args:
        axis: the upper left one of a figure that has no layout engine; any of one that has.
        most: entries in a row.
    """
    figure, (handles, labels) = axis.get_figure(), axis.get_legend_handles_labels()
    assert isinstance(figure, Figure)
    options: Any = {"ncols": min(len(labels), most) or 1, "columnspacing": 1.4, "handletextpad": 0.5}
    if figure.get_layout_engine() is not None:
        figure.legend(handles, labels, loc="outside upper left", borderaxespad=0.2, **options)
    else:
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.1}
        axis.legend(handles, labels, **place, **options)


def wide_dashes(name: str) -> dict[str, Any]:
    """The style of a level rather than of a measurement: wide dashes at each layer."""
    level = STYLE[name]["marker"] == "_"
    return STYLE[name] | ({"markersize": 14, "markeredgewidth": 1.6, "linestyle": "none"} if level else {})


def numbers(values: Sequence[float | None]) -> Array:
    """An array with NaN for what is not known."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
