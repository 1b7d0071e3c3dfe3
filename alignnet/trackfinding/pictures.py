"""Pictures of events, scores and answers, for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.trackfinding.events import LineEvents, SeededEvents, SegmentGraphs
from alignnet.trackfinding.metrics import best_pixels

SHOWN = 4
"""Events of a picture."""

FOUND, TRUE = "#D55E00", "#0072B2"


def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Images (events, layers, pixels) in a row for each name, layers to the right."""
    events = min(SHOWN, min(len(images) for images in rows.values()))
    figure = Figure(figsize=(2.3 * events, 2.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), events, squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=False):
            draw(axis, image)
        row[0].set_ylabel(name)
    return figure


def draw(axis: Axes, image: Tensor) -> None:
    """One image (layers, pixels) in grey, dark where it is high."""
    axis.imshow(image.detach().float().cpu().numpy().T, origin="lower", cmap="Greys", aspect="auto")
    axis.set(xticks=[], yticks=[])


def seeded_events(logits: Tensor, batch: SeededEvents) -> Figure:
    """Events, scores, and the hits found (crosses) beside the true ones (rings); of planes a projection."""
    image, score = batch.image[:SHOWN], logits[:SHOWN].detach().softmax(-1)
    found = best_pixels(logits[:SHOWN], image).hit
    truth = batch.pixel[:SHOWN]
    if image.ndim == 4:
        width = image.shape[-1]
        image, score = image.amax(-1), score.unflatten(-1, (width, width)).sum(-1)
        found, truth = found // width, truth // width
    skip = image.shape[1] - score.shape[1]
    score = torch.cat([torch.zeros_like(image[:, :skip]), score], 1)
    figure = image_rows({"hits": image, "score": score, "found": image})
    for k, axis in enumerate(figure.axes[-len(image) :]):
        layers = np.arange(image.shape[1])
        axis.plot(layers, truth[k].cpu().numpy(), "o", color=TRUE, markersize=3, markerfacecolor="none")
        axis.plot(layers[skip:], found[k].cpu().numpy(), "x", color=FOUND, markersize=2.5)
    return figure


def image_answers(batch: LineEvents, score: Tensor, target: Tensor) -> Figure:
    """Input, score and target of systems that answer with an image (events, rows, columns)."""
    return image_rows({"hits": batch.image, "score": score, "target": target})


def line_answers(batch: LineEvents, lines: Tensor, shown: Tensor) -> Figure:
    """Images with true lines and found ones.

    Args:
        batch: the events.
        lines: found (events, tracks, 2) intercept and slope.
        shown: (events, tracks) bool: which of them are tracks.
    """
    figure = image_rows({"hits": batch.image})
    ends = np.array([0.0, batch.image.shape[1] - 1.0])
    for k, axis in enumerate(figure.axes):
        for line in batch.lines[k][batch.present[k]].cpu().numpy():
            axis.plot(ends, line[0] + line[1] * ends - 0.5, color=TRUE, linewidth=0.8)
        for line in lines[k][shown[k]].detach().cpu().numpy():
            axis.plot(ends, line[0] + line[1] * ends - 0.5, "--", color=FOUND, linewidth=0.8)
    return figure


def confusion(found: Tensor, truth: Tensor, most: int) -> Figure:
    """How often each number of tracks is found, for each true one.

    Args:
        found: (events,) int64.
        truth: (events,) int64.
        most: the largest number.
    """
    n = most + 1
    counts = torch.bincount(truth * n + found, minlength=n * n).view(n, n).float()
    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    axis = figure.subplots()
    part = (counts / counts.sum(1, keepdim=True).clamp(min=1)).T.cpu().numpy()
    shown = axis.imshow(part, origin="lower", cmap="Blues")
    axis.set(xlabel="tracks", ylabel="tracks found")
    figure.colorbar(shown, ax=axis)
    return figure


def learning_curve(history: Sequence[Mapping[str, float]], names: Sequence[str]) -> Figure:
    """Figures of merit of the validation against the events that were trained on."""
    figure = Figure(figsize=(3.2 * len(names), 2.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axis.plot([row["events"] for row in history], [row[name] for row in history], "o-", color=TRUE)
        axis.set(xlabel="training events", ylabel=name)
    return figure


def printed_curves(rows: Mapping[str, Mapping[str, Any]], shown: Sequence[tuple[str, str]]) -> Figure:
    """Learning curves with the printed figures as dashed lines.

    Args:
        rows: of docs/trackfinding.json.
        shown: names of rows, and which of their figures of merit.
    """
    columns = min(4, max(1, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(3.0 * columns, 2.4 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, (name, merit) in zip(axes, shown, strict=False):
        history = rows[name]["history"]
        axis.plot([h["events"] / 1e3 for h in history], [h[f"val/{merit}"] for h in history], "o-",
                  color=TRUE, markersize=3)  # fmt: skip
        axis.axhline(rows[name]["printed"][merit], color=FOUND, linestyle="--")
        axis.set(title=name, xlabel="10³ training events", ylabel=merit)
        axis.set_yscale("log" if merit == "mse" else "linear")
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return figure


def graph_edges(batch: SegmentGraphs, score: Tensor) -> Figure:
    """Edges of the first events: all of them, those with a score above one half, and the true ones."""
    figure = Figure(figsize=(2.3 * SHOWN, 6.9), layout="constrained")
    graph = batch.graph[batch.edges[0]]
    kinds = {"edges": torch.ones_like(score) > 0, "found": score > 0.5, "true": batch.truth > 0.5}
    for row, (name, chosen) in zip(figure.subplots(3, SHOWN), kinds.items(), strict=True):
        for event, axis in enumerate(row):
            ends = batch.hits[batch.edges[:, chosen & (graph == event)]].detach().cpu().numpy()
            axis.plot(ends[..., 0], ends[..., 1], color=TRUE, linewidth=0.5)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    return figure
