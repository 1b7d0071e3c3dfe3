"""Events as graphs: hits of straight tracks in 2D, and all pairs of hits in adjacent layers.

With n tracks and L layers an event has (L − 1) n² edges, of which (L − 1) n join hits of one track: for
the published 4 tracks in 10 layers 144 edges, a quarter of them true.
"""

from __future__ import annotations

import torch

from alignnet.trackfinding.drawing import positions, uniform
from alignnet.trackfinding.events import SegmentGraphs


class SegmentToy:
    """Graphs of straight tracks.

    Args:
        tracks: of an event.
        layers: how many, at equal distances.
        resolution: σ by which a hit is displaced along its layer, in units of the layer's width.
    """

    def __init__(self, tracks: int = 4, layers: int = 10, resolution: float = 0.001) -> None:
        self.tracks, self.layers, self.resolution = tracks, layers, resolution

    def sample(self, n_events: int, rng: torch.Generator) -> SegmentGraphs:
        """Draw graphs; hits are in layers' order, those of a layer in an order that says nothing."""
        n, n_layers = self.tracks, self.layers
        ends = uniform(rng, 1.0, n_events, n, 2)
        place = positions(ends[..., 0], (ends[..., 1] - ends[..., 0]) / (n_layers - 1), n_layers)
        place = place + self.resolution * torch.randn(place.shape, generator=rng)
        track = torch.rand(n_events, n_layers, n, generator=rng).argsort(-1)  # which stands where
        place = place.transpose(1, 2).gather(2, track)
        layer = torch.arange(n_layers).expand(n_events, n, n_layers).transpose(1, 2)
        hits = torch.stack([layer / (n_layers - 1), place], -1).flatten(0, 2)
        row = torch.arange(n_events * n_layers * n).view(n_events, n_layers, n)
        inner = row[:, :-1, :, None].expand(-1, -1, -1, n)
        outer = row[:, 1:, None, :].expand(-1, -1, n, -1)
        same = track[:, :-1, :, None] == track[:, 1:, None, :]
        edges = torch.stack([inner.flatten(), outer.flatten()])
        graph = torch.arange(n_events).repeat_interleave(n_layers * n)
        return SegmentGraphs(hits, edges, same.flatten().float(), graph)
