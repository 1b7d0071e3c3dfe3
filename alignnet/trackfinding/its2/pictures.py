"""Pictures of graphs for TensorBoard."""

from __future__ import annotations

import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from alignnet.trackfinding.its2.batches import TrackGraphs


def event_display(batch: TrackGraphs, score: Tensor) -> Figure:
    """The first event across the beam: all edges, those with a score above one half, the true ones."""
    hits, pairs = batch.hits, batch.graph.pairs
    mine = hits.event[pairs[0]] == 0
    kinds = {"edges": torch.ones_like(mine), "kept": score > 0.5, "true": batch.truth > 0.5}
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    for axis, (name, chosen) in zip(figure.subplots(1, 3), kinds.items(), strict=True):
        ends = hits.position[pairs[:, mine & chosen], :2].transpose(0, 1)
        axis.add_collection(LineCollection(list(ends.cpu().numpy()), linewidths=0.3, colors="#0072b2"))
        axis.set(title=f"{name}: {len(ends):,}", xlim=(-42, 42), ylim=(-42, 42), aspect="equal")
        axis.set(xlabel="x [cm]", ylabel="y [cm]")
    return figure
