"""Counting tracks by the fewest lines that explain an image.

Each track lights a pixel of each layer, and nothing else does: lines all of whose pixels are lit
(`lit_lines`) cover the image, and the tracks are one such cover. How many lines the smallest one has is, with
weights w of the lines that may be fractions, a linear program,

    minimise Σ w  where  A w ≥ 1 in every lit pixel, w ≥ 0,

whose dual asks for prices y of the pixels of which no line may gather more than 1. To price the pixels of
the most lit layer at 1 is one of its solutions, so that the program says no less than that layer, and more
where layers together show that it is not all. The network is the primal–dual algorithm for it (Chambolle and
Pock, J. Math. Imaging Vis. 40 (2011) 120, with the diagonal steps of Pock and Chambolle, ICCV 2011) with a
given number of rounds, each with steps that are learned (unrolled as Gregor and LeCun, ICML 2010). How near
what it has come to by then is to each number of tracks gives the logits, which a second network corrects.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignnet.trackfinding.systems.lit_lines import LitLines, lit_lines

IMPOSSIBLE = -30.0
"""Logit of fewer tracks than a layer has lit pixels; finite, since noise may light some."""

DEPTHS, EXCESSES = 6, 4
"""Layers with 0 to 5 pixels fewer than the most lit one are counted; 0 to 3 tracks more are told apart."""


class Cover(NamedTuple):
    """What the rounds have come to; each (events,)."""

    weight: Tensor  # Σ w
    price: Tensor  # Σ y over what the dearest line gathers, where that is above 1
    short: Tensor  # Σ (1 − A w) over pixels where that is above 0
    dark: Tensor  # lit pixels that are on no line


class LineCover(nn.Module):
    """How many tracks an image shows.

    Args:
        most: the largest number of tracks.
        rounds: of the primal–dual algorithm.
        hidden: of the network that reads its end.
        cells: of an event that the search for lines follows.
    """

    def __init__(self, most: int = 16, rounds: int = 120, hidden: int = 16, cells: int = 20_000) -> None:
        super().__init__()
        self.most, self.cells = most, cells
        self.steps = nn.Parameter(torch.zeros(rounds, 3))  # log of both steps, and of how far w is led on
        self.sharpness = nn.Parameter(torch.tensor(1.0))  # log of how much the program's answer says
        last = nn.Linear(hidden, EXCESSES)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.excess = nn.Sequential(
            nn.Linear(DEPTHS + 5, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, most + 1) of the numbers of tracks in images (events, layers, pixels)."""
        return self._count(image, self.cover(image, lit_lines(image, self.cells)))

    def cover(self, image: Tensor, lines: LitLines) -> Cover:
        """The rounds, from the most lit layer's pixels and from as much weight, spread evenly."""
        crossings = _Crossings(image, lines)
        y, w = _start(image, lines, crossings)
        for down, up, on in self.steps.exp():
            new = (w - down / crossings.layers * (1 - crossings.gathered(y))).relu()
            led = new + on * (new - w)
            y = (y + up * crossings.share * (1 - crossings.covered(led))).relu()
            w = new
        return _reached(image, lines, crossings, y, w)

    def _count(self, image: Tensor, cover: Cover) -> Tensor:
        lit = image.sum(2)
        most_lit = lit.amax(1, keepdim=True)
        fewer = most_lit - lit
        depth = torch.arange(DEPTHS, device=image.device)
        seen = [(fewer[..., None] == depth).float().mean(1), most_lit / self.most]
        seen += [(part - most_lit[:, 0])[:, None].clamp(-2, 3) for part in (cover.weight, cover.price)]
        seen += [(part / image.shape[1])[:, None].clamp(max=4) for part in (cover.short, cover.dark)]
        above = (cover.weight[:, None] - most_lit).clamp(-1, EXCESSES)
        off = torch.arange(EXCESSES, device=image.device) - above
        chosen = (self.excess(torch.cat(seen, 1)) - self.sharpness.exp() * off**2).log_softmax(1)
        more = torch.arange(self.most + 1, device=image.device) - most_lit.long()
        logits = chosen.gather(1, more.clamp(0, EXCESSES - 1))
        return logits.masked_fill((more < 0) | (more >= EXCESSES), IMPOSSIBLE)


class _Crossings:
    """Which pixels of a batch, event after event, the lines pass: the matrix A."""

    def __init__(self, image: Tensor, lines: LitLines) -> None:
        _, self.layers, width = image.shape
        layer = torch.arange(self.layers, device=image.device)
        self.pixel = ((lines.event[:, None] * self.layers + layer) * width + lines.pixel).flatten()
        once = torch.ones_like(self.pixel, dtype=image.dtype)
        self.through = torch.zeros_like(image).flatten().index_add(0, self.pixel, once)
        self.share = (self.through > 0) / self.through.clamp(min=1)  # 1 over how many lines pass a pixel

    def gathered(self, y: Tensor) -> Tensor:
        """Aᵀy: what each line passes (lines,)."""
        return y.index_select(0, self.pixel).view(-1, self.layers).sum(1)

    def covered(self, w: Tensor) -> Tensor:
        """A w: how much of the lines passes each pixel (pixels of all events,)."""
        return torch.zeros_like(self.through).index_add(0, self.pixel, w.repeat_interleave(self.layers))


def _start(image: Tensor, lines: LitLines, crossings: _Crossings) -> tuple[Tensor, Tensor]:
    """y and w that say what the most lit layer says."""
    lit, width = image.sum(2), image.shape[2]
    chosen = lit.argmax(1)[:, None, None].expand(-1, 1, width)
    y = torch.zeros_like(image).scatter(1, chosen, 1.0).flatten() * (crossings.through > 0) * image.flatten()
    per_event = torch.bincount(lines.event, minlength=len(image)).clamp(min=1)
    return y, (lit.amax(1) / per_event)[lines.event]


def _reached(image: Tensor, lines: LitLines, crossings: _Crossings, y: Tensor, w: Tensor) -> Cover:
    events, passed = len(image), crossings.through > 0
    nothing = torch.zeros(events, device=image.device)
    dearest = (nothing + 1).scatter_reduce(0, lines.event, crossings.gathered(y), "amax")
    short = (1 - crossings.covered(w)).relu() * passed
    return Cover(
        weight=nothing.index_add(0, lines.event, w),
        price=y.view(events, -1).sum(1) / dearest,
        short=short.view(events, -1).sum(1),
        dark=((image.flatten() > 0) & ~passed).view(events, -1).sum(1),
    )
