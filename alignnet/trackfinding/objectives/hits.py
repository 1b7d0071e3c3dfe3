"""The hits of a seeded track: in each layer a softmax over the pixels, cross-entropy averaged over layers.

The mean is over all layers that a system answers, seeds included, as published. A system that predicts the
next layer answers one layer less: its scores are for the last layers of the event.
"""

from __future__ import annotations

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.events import SeededEvents
from alignnet.trackfinding.metrics import FoundTrack, Mean, best_pixels, seeded_accuracies
from alignnet.trackfinding.pictures import seeded_events


class Hits:
    """Hit classification of seeded events.

    Args:
        seeds: layers, from the first, that hold the seeded track alone; they are not scored.
    """

    merits: tuple[str, ...] = ("loss", "pixel", "hit", "track")

    def __init__(self, seeds: int = 5) -> None:
        self.seeds = seeds

    def output(self, system: nn.Module, batch: SeededEvents) -> Tensor:
        """Logits (events, layers answered, pixels)."""
        return system(batch.image)

    def loss(self, output: Tensor, batch: SeededEvents) -> Tensor:
        """Cross-entropy, a mean over events and layers."""
        truth = batch.pixel[:, -output.shape[1] :]
        return F.cross_entropy(output.flatten(0, 1), truth.flatten())

    def answer(self, output: Tensor, batch: SeededEvents) -> FoundTrack:
        """The best pixels."""
        return best_pixels(output, batch.image)

    def score(self, answer: FoundTrack, batch: SeededEvents) -> dict[str, Mean]:
        """Accuracies of pixels, hits and tracks."""
        return seeded_accuracies(answer, batch.pixel, self.seeds)

    def show(self, output: Tensor, batch: SeededEvents) -> dict[str, Figure]:
        """Events, scores and the hits that they name."""
        return {"events": seeded_events(output, batch)}
