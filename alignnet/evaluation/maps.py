"""Maps of corrections: each sensor of a layer where it sits, coloured by how far it is moved."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.errors import GeometryError
from alignnet.evaluation.colours import diverging
from alignnet.evaluation.style import margins, styled
from alignnet.geometry.detector import Detector
from alignnet.geometry.orientation import is_barrel, middle, sides
from alignnet.units import UM


@styled
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
    corners, names, towards = outlines(detector, rows)
    shapes: Any = corners  # taken faster than the list that matplotlib's types ask for
    values = oriented(detector, local, rows) / UM
    figure = Figure(figsize=(8.6, 3.4))
    grid = margins(figure, (1, 3), left=0.5, bottom=0.45, top=0.6, gap=0.15)
    axes = figure.subplots(1, 3, sharex=True, sharey=True, gridspec_kw=grid)
    for k, axis in enumerate(axes):
        size = np.abs(values[:, k])
        edge = max(float(np.quantile(size, 0.995)), 1e-3)
        cells = PolyCollection(shapes, array=values[:, k], cmap=diverging(), norm=Normalize(-edge, edge))
        cells.set(edgecolor="face", linewidth=0.5, antialiased=False)
        axis.add_collection(cells)
        axis.autoscale_view()
        axis.set_title(f"d{'uvw'[k]}, {towards[k]}")
        axis.set_xlabel(names[0])
        beyond = "both" if (size > edge).any() else "neither"
        bar = figure.colorbar(
            cells, ax=axis, location="bottom", aspect=28, pad=0.2, fraction=0.1, extend=beyond
        )
        bar.set_label("correction [µm]", fontsize=9)
        bar.locator = MaxNLocator(5, symmetric=True)
    axes[0].set_ylabel(names[1])
    figure.suptitle(f"{detector.name}, layer {layer}", fontsize=10)
    return figure


def outlines(detector: Detector, rows: Tensor) -> tuple[Array, tuple[str, str], tuple[str, str, str]]:
    """Corners of sensors (sensors, 4, 2) in their map's coordinates, and the names of these and of sides."""
    u, _, v = detector.rotation[rows].unbind(-1)
    half, centres = detector.half[rows], middle(detector, rows)
    signs = ((-1, -1), (-1, 1), (1, 1), (1, -1))
    corners = np.stack([(centres + u * a * half[:, :1] + v * b * half[:, 1:]).numpy() for a, b in signs], 1)
    if not is_barrel(detector, rows):
        return corners[..., :2], ("x [cm]", "y [cm]"), ("towards +x", "towards +y", "towards +z")
    about = np.arctan2(centres[:, 1].numpy(), centres[:, 0].numpy())[:, None]
    phi = np.arctan2(corners[..., 1], corners[..., 0])
    unwrapped = about + np.remainder(phi - about + np.pi, 2 * np.pi) - np.pi
    names = (r"towards $+\varphi$", "towards $+z$", "outwards")
    return np.stack([corners[..., 2], unwrapped], -1), ("z [cm]", r"$\varphi$ [rad]"), names


def oriented(detector: Detector, local: Tensor, rows: Tensor) -> Array:
    """Corrections along u, v, w (sensors, 3) [cm], each counted towards the sides that `outlines` names."""
    return np.asarray((sides(detector, rows) * local[rows, :3]).numpy())
