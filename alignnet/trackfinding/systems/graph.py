"""A message-passing network that classifies edges between hits (HEP.TrkX, arXiv:1810.06111).

An input layer embeds the hits. Then an edge network, which weighs each edge by the features of its two
hits, and a node network, which sees a hit's own features and the weighted sums of its inner and outer
neighbours', take turns. The hits' inputs are joined to the features at every turn, and the last word is the
edges'. Gathers and `index_add` do all of it: graphs may have any size, and many are one flat table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EdgeClassifier(nn.Module):
    """Edge-classifying message passing: 6,689 parameters with 2 inputs and 32 features, 26,049 with 3 and 64.

    Args:
        inputs: numbers of a hit.
        hidden: features of a hit.
        iterations: turns of edge and node network.
    """

    def __init__(self, inputs: int = 2, hidden: int = 32, iterations: int = 10) -> None:
        super().__init__()
        self.iterations, joined = iterations, inputs + hidden
        self.embed = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh())
        self.edge = nn.Sequential(nn.Linear(2 * joined, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.node = nn.Sequential(
            nn.Linear(3 * joined, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # signals keep their size through the turns
                nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("tanh"))
                nn.init.zeros_(layer.bias)

    def forward(self, hits: Tensor, edges: Tensor) -> Tensor:
        """Logits of edges (edges,).

        Args:
            hits: (hits, inputs), of order 1.
            edges: (2, edges) rows of inner and outer hits.
        """
        features = torch.cat([self.embed(hits), hits], -1)
        for _ in range(self.iterations):
            weight = self._scores(features, edges).sigmoid()[:, None]
            inner, outer = edges
            nothing = torch.zeros_like(features)
            into = nothing.index_add(0, outer, weight * features[inner])
            out_of = nothing.index_add(0, inner, weight * features[outer])
            features = torch.cat([self.node(torch.cat([into, out_of, features], -1)), hits], -1)
        return self._scores(features, edges)

    def _scores(self, features: Tensor, edges: Tensor) -> Tensor:
        inner, outer = edges
        return self.edge(torch.cat([features[inner], features[outer]], -1))[:, 0]
