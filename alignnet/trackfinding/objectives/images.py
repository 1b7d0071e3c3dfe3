"""Whole images: what of them is tracks, how many these are, and in which bins of parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.metrics import Mean
from alignnet.trackfinding.pictures import confusion, image_answers


class Reconstruction:
    """The image without its noise, or itself where there is none: binary cross-entropy of pixels."""

    merits: tuple[str, ...] = ("loss", "pixel", "kept")

    def output(self, system: nn.Module, batch: LineEvents) -> Tensor:
        """Logits of pixels (events, layers, pixels)."""
        return system(batch.image)

    def loss(self, output: Tensor, batch: LineEvents) -> Tensor:
        """Binary cross-entropy, a mean over events and pixels."""
        return F.binary_cross_entropy_with_logits(output, batch.clean)

    def answer(self, output: Tensor, batch: LineEvents) -> Tensor:
        """Which pixels are lit: bool (events, layers, pixels)."""
        return output > 0

    def score(self, answer: Tensor, batch: LineEvents) -> dict[str, Mean]:
        """Right pixels: "pixel" of all, "kept" of tracks', and "noise_left", noise's that stay."""
        clean, noise = batch.clean > 0, batch.image > batch.clean
        score = {"pixel": Mean.of(answer == clean), "kept": Mean.of(answer[clean])}
        return score | ({"noise_left": Mean.of(answer[noise])} if noise.any() else {})

    def show(self, output: Tensor, batch: LineEvents) -> dict[str, Figure]:
        """Input, output and what it should be."""
        return {"events": image_answers(batch, output.sigmoid(), batch.clean)}


class Counting:
    """How many tracks an image shows: a softmax over 0 to `most`.

    Args:
        most: the largest number of tracks.
    """

    merits: tuple[str, ...] = ("loss", "count")

    def __init__(self, most: int = 16) -> None:
        self.most = most

    def output(self, system: nn.Module, batch: LineEvents) -> Tensor:
        """Logits (events, most + 1)."""
        return system(batch.image)

    def loss(self, output: Tensor, batch: LineEvents) -> Tensor:
        """Cross-entropy, a mean over events."""
        return F.cross_entropy(output, batch.present.sum(1))

    def answer(self, output: Tensor, batch: LineEvents) -> Tensor:
        """The number of tracks of each event, int64 (events,)."""
        return output.argmax(1)

    def score(self, answer: Tensor, batch: LineEvents) -> dict[str, Mean]:
        """As `count_score`."""
        return count_score(answer, batch.present.sum(1))

    def show(self, output: Tensor, batch: LineEvents) -> dict[str, Figure]:
        """Numbers found against true ones."""
        return {"confusion": confusion(self.answer(output, batch), batch.present.sum(1), self.most)}


def count_score(found: Tensor, truth: Tensor) -> dict[str, Mean]:
    """Right numbers of tracks, "count", and those wrong by one at most, "within_one"."""
    off = (found - truth).abs()
    return {"count": Mean.of(off == 0), "within_one": Mean.of(off <= 1)}


class Bins:
    """In which bins of intercept, [0, size], and slope, [−1, 1], there is at least one track.

    Args:
        bins: of each parameter.
        size: layers, and pixels of each.
    """

    merits: tuple[str, ...] = ("loss", "bin", "efficiency")

    def __init__(self, bins: int = 16, size: int = 64) -> None:
        self.bins, self.size = bins, size

    def target(self, batch: LineEvents) -> Tensor:
        """1 where a bin holds a track: (events, intercept, slope)."""
        scaled = torch.stack([batch.lines[..., 0] / self.size, (batch.lines[..., 1] + 1) / 2], -1)
        place = (scaled * self.bins).long().clamp(0, self.bins - 1)
        return histogram(place[..., 0] * self.bins + place[..., 1], batch.present, self.bins)

    def output(self, system: nn.Module, batch: LineEvents) -> Tensor:
        """Logits of bins (events, intercept, slope)."""
        return system(batch.image)

    def loss(self, output: Tensor, batch: LineEvents) -> Tensor:
        """Binary cross-entropy, a mean over events and bins."""
        return F.binary_cross_entropy_with_logits(output, self.target(batch))

    def answer(self, output: Tensor, batch: LineEvents) -> Tensor:
        """Which bins hold a track: bool (events, intercept, slope)."""
        return output > 0

    def score(self, answer: Tensor, batch: LineEvents) -> dict[str, Mean]:
        """Right bins: "bin" of all, "efficiency" of those with a track, "purity" of those said to."""
        truth = self.target(batch) > 0
        return {
            "bin": Mean.of(answer == truth),
            "efficiency": Mean.of(answer[truth]),
            "purity": Mean.of(truth[answer]),
        }

    def show(self, output: Tensor, batch: LineEvents) -> dict[str, Figure]:
        """Images, bins found and true bins."""
        return {"events": image_answers(batch, output.sigmoid(), self.target(batch))}


def histogram(place: Tensor, present: Tensor, bins: int) -> Tensor:
    """1 where at least one of the entries that are present has its place: (events, bins, bins) float32."""
    counts = torch.zeros(len(place), bins * bins + 1, device=place.device)
    counts.scatter_(1, torch.where(present, place, bins * bins), 1.0)
    return counts[:, :-1].unflatten(1, (bins, bins))
