"""Of which track each lit pixel is, said by the track's ends: mean squared error over the lit pixels.

The ends are where the line meets the first layer and the one after the last, in units of the width. A pixel
that several tracks share should say the mean of theirs.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.trackfinding.drawing import pixels_of, positions
from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.metrics import Mean
from alignnet.trackfinding.pictures import image_rows


class PixelVotes:
    """Ends of tracks, voted for by their pixels."""

    merits: tuple[str, ...] = ("loss", "assigned")

    def output(self, system: nn.Module, batch: LineEvents) -> Tensor:
        """Both ends (events, 2, layers, pixels)."""
        return system(batch.image)

    def loss(self, output: Tensor, batch: LineEvents) -> Tensor:
        """Squared errors, a mean over lit pixels and both ends."""
        target, lit = vote_map(batch)
        return (output - target).square().movedim(1, -1)[lit].mean()

    def answer(self, output: Tensor, batch: LineEvents) -> Tensor:
        """The votes themselves."""
        return output

    def score(self, answer: Tensor, batch: LineEvents) -> dict[str, Mean]:
        """Votes' "mse", and "assigned": hits whose vote is nearest to the ends of their own track."""
        target, lit = vote_map(batch)
        ends, pixel = track_ends(batch), pixels(batch)
        at = pixel.transpose(1, 2)[:, None].expand(-1, 2, -1, -1)
        vote = answer.gather(3, at).permute(0, 3, 2, 1)  # (events, tracks, layers, ends)
        distance = (vote[:, :, :, None] - ends[:, None, None]).square().sum(-1)
        distance = distance.masked_fill(~batch.present[:, None, None], torch.inf)
        own = torch.arange(ends.shape[1], device=ends.device)[:, None]
        return {
            "mse": Mean.of((answer - target).square().movedim(1, -1)[lit]),
            "assigned": Mean.of((distance.argmin(-1) == own)[batch.present]),
        }

    def show(self, output: Tensor, batch: LineEvents) -> dict[str, Figure]:
        """Images, and the first end that pixels vote for, as they should and as they do."""
        target, lit = vote_map(batch)
        rows = {"hits": batch.image, "vote": output[:, 0] * lit, "true": target[:, 0]}
        return {"events": image_rows(rows)}


def pixels(batch: LineEvents) -> Tensor:
    """Pixels of the tracks (events, tracks, layers)."""
    layers, width = batch.clean.shape[1:]
    return pixels_of(positions(batch.lines[..., 0], batch.lines[..., 1], layers), width)


def track_ends(batch: LineEvents) -> Tensor:
    """Both ends of each track (events, tracks, 2), in units of the width."""
    layers, width = batch.clean.shape[1:]
    intercept, slope = batch.lines.unbind(-1)
    return torch.stack([intercept, intercept + slope * layers], -1) / width


def vote_map(batch: LineEvents) -> tuple[Tensor, Tensor]:
    """What pixels should say (events, 2, layers, pixels); which are of tracks (events, layers, pixels)."""
    pixel = pixels(batch).transpose(1, 2)  # (events, layers, tracks)
    here = batch.present[:, None].expand_as(pixel).float()
    count = torch.zeros_like(batch.clean).scatter_add_(2, pixel, here)
    sums = [
        torch.zeros_like(batch.clean).scatter_add_(2, pixel, here * end[:, None])
        for end in track_ends(batch).unbind(-1)
    ]
    return torch.stack(sums, 1) / count.clamp(min=1)[:, None], count > 0
