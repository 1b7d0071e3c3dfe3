"""Figures of volumes in time: constants with their errors, where something has changed, and χ²/ndf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignnet.data.tracks import Array
from alignnet.evaluation.style import STYLE, margins, styled
from alignnet.units import UM

_COLOURS = ("#0072B2", "#D55E00", "#222222")
_MARKERS = ("o", "s", "^")


@styled
def constants_in_time(
    table: Mapping[str, Any], volume: str, changes: Sequence[Mapping[str, Any]] = ()
) -> Figure:
    """One volume's shifts and turns by interval, with errors; jumps as lines between intervals.

    Args:
        table: columns of tree `constants`.
        volume: its symbolic name.
        changes: of all volumes: `kind`, `volume`, `interval`.
    """
    rows = np.flatnonzero(np.asarray(table["volume"]) == volume)
    interval = np.asarray(table["interval"])[rows]
    figure = Figure(figsize=(6.4, 4.4))
    axes = figure.subplots(2, 1, sharex=True, gridspec_kw=margins(figure, (2, 1), left=0.8, bottom=0.5))
    for axis, names, unit, label in (
        (axes[0], ("du", "dv", "dw"), UM, "shift [µm]"),
        (axes[1], ("rot_u", "rot_v", "rot_w"), 1e-6, "turn [µrad]"),
    ):
        for k, name in enumerate(names):
            value, error = (np.asarray(table[key])[rows] / unit for key in (name, f"{name}_error"))
            axis.errorbar(
                interval + 0.08 * (k - 1), value, error, color=_COLOURS[k], marker=_MARKERS[k],
                linestyle="none", label=name,
            )  # fmt: skip
        for change in changes:
            if change["volume"] == volume and change["kind"] == "jump":
                axis.axvline(change["interval"] - 0.5, color="0.6", linestyle=(0, (4, 2)), linewidth=1.0)
        axis.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axis.set_ylabel(label)
        axis.legend(loc="best", ncols=3)
    axes[1].set_xlabel("interval of validity")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def chi2_in_time(interval: Array, before: Array, after: Array) -> Figure:
    """χ²/ndf of each interval's tracks with the constants before it, and with those with it."""
    figure = Figure(figsize=(6.4, 2.4))
    axis = figure.subplots(1, 1, gridspec_kw=margins(figure, (1, 1), left=0.8, bottom=0.5))
    for name, values, label in (
        ("before", before, "constants of before"),
        ("after", after, "constants with it"),
    ):
        axis.plot(interval, values, **{**STYLE[name], "linestyle": "none"}, label=label)
    axis.set_ylabel("χ²/ndf")
    axis.set_xlabel("interval of validity")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="best")
    return figure
