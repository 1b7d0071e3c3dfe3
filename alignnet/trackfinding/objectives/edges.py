"""Which edges of a graph join hits of one track: binary cross-entropy of edges."""

from __future__ import annotations

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.events import SegmentGraphs
from alignnet.trackfinding.metrics import Mean, edge_counts
from alignnet.trackfinding.pictures import graph_edges


class Edges:
    """Edge classification."""

    merits: tuple[str, ...] = ("loss", "accuracy", "purity", "efficiency")

    def output(self, system: nn.Module, batch: SegmentGraphs) -> Tensor:
        """Logits of edges (edges,)."""
        return system(batch.hits, batch.edges)

    def loss(self, output: Tensor, batch: SegmentGraphs) -> Tensor:
        """Binary cross-entropy, a mean over edges."""
        return F.binary_cross_entropy_with_logits(output, batch.truth)

    def answer(self, output: Tensor, batch: SegmentGraphs) -> Tensor:
        """Scores of edges, 0 to 1."""
        return output.sigmoid()

    def score(self, answer: Tensor, batch: SegmentGraphs) -> dict[str, Mean]:
        """Accuracy, purity and efficiency of edges."""
        return edge_counts(answer, batch.truth)

    def show(self, output: Tensor, batch: SegmentGraphs) -> dict[str, Figure]:
        """Edges of the first events: all, those found, and the true ones."""
        return {"events": graph_edges(batch, output.sigmoid())}
