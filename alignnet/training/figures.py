"""Figures that a run adds to TensorBoard."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.loss.residuals import LayerSums
from alignnet.units import UM

COLOURS = ("#0072B2", "#D55E00", "#009E73")


def correction_figure(detector: Detector, local: Tensor) -> Figure:
    """Histograms of the corrections along u, v and w of each layer's sensors [µm]."""
    layers = detector.layers
    figure = Figure(
        figsize=(2.6 * min(len(layers), 4), 2.2 * (1 + (len(layers) - 1) // 4)), layout="constrained"
    )
    axes = figure.subplots(1 + (len(layers) - 1) // 4, min(len(layers), 4), squeeze=False)
    for layer, axis in zip(layers, axes.flat, strict=False):
        values = local[detector.layer == layer, :3].numpy() / UM
        edge = max(1.0, float(np.abs(values).max()) * 1.05)
        for k, name in enumerate("uvw"):
            axis.hist(
                values[:, k], bins=40, range=(-edge, edge), histtype="step", color=COLOURS[k], label=name
            )
        axis.set_title(f"layer {layer}", fontsize=9)
        axis.set_xlabel("correction [µm]", fontsize=8)
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=7, frameon=False)
    for axis in axes.flat[len(layers) :]:
        axis.set_visible(False)
    return figure


def residual_figure(sums: LayerSums) -> Figure:
    """Mean and width of the residuals of each layer [µm]."""
    mean, width = (value.numpy() / UM for value in sums.mean_and_width())
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, name in enumerate("uv"):
        left.plot(sums.layers, mean[:, k], "o-", color=COLOURS[k], label=name)
        right.plot(sums.layers, width[:, k], "o-", color=COLOURS[k], label=name)
    left.axhline(0, color="0.7", linewidth=0.8)
    left.set(xlabel="layer", ylabel="mean residual [µm]")
    right.set(xlabel="layer", ylabel="residual width [µm]")
    left.legend(frameon=False)
    return figure
