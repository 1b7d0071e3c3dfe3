"""Pixel planes: a seeded track among Poisson many others and noise (HEP.TrkX, toy3d.py, 2017).

Entry and exit are uniform over the first and the last plane, with slopes (exit − entry)/(planes − 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.trackfinding.drawing import lit, pixels_of, positions, uniform, with_noise
from alignnet.trackfinding.events import SeededEvents
from alignnet.trackfinding.toy2d import check_toy


class Toy3D:
    """Seeded events of pixel planes.

    Args:
        layers: planes.
        width: pixels of a plane along each direction.
        background: mean number of tracks besides the seeded one; several numbers: of each event one of them.
        noise: probability of a noise hit, for each pixel outside the seed planes.
        seeds: how many planes, from the first, hold the seeded track alone.
    """

    def __init__(
        self,
        layers: int = 10,
        width: int = 32,
        background: float | Sequence[float] = 3.0,
        noise: float = 0.01,
        seeds: int = 3,
    ) -> None:
        means = [background] if isinstance(background, float | int) else list(background)
        if not means:
            raise ConfigError("toy.background is empty; expected mean numbers of tracks")
        check_toy(layers, seeds, noise, min(means))
        self.layers, self.width, self.seeds = layers, width, seeds
        self.background, self.noise = torch.tensor(means, dtype=torch.float32), noise

    @property
    def plane(self) -> tuple[int, ...]:
        """Pixels of a plane along each direction."""
        return (self.width, self.width)

    def sample(self, n_events: int, rng: torch.Generator) -> SeededEvents:
        """Draw events."""
        count = torch.poisson(self._means(n_events, rng), generator=rng).long()
        n_tracks = 1 + int(count.max())
        ends = uniform(rng, self.width, 2, n_events, n_tracks, 2)  # entry and exit, in x and y
        entry, slope = ends[0], (ends[1] - ends[0]) / (self.layers - 1)
        column = pixels_of(positions(entry, slope, self.layers), self.width)
        pixel = column[:, :, 0] * self.width + column[:, :, 1]
        shown = (torch.arange(n_tracks) <= count[:, None])[..., None].repeat(1, 1, self.layers)
        shown[:, 1:, : self.seeds] = False
        image = lit(pixel, shown, self.width**2).unflatten(2, self.plane)
        image = with_noise(image, self.noise, rng, self.seeds)
        return SeededEvents(image, pixel[:, 0], torch.cat([entry[:, 0], slope[:, 0]], -1))

    def _means(self, n_events: int, rng: torch.Generator) -> Tensor:
        if len(self.background) == 1:
            return self.background.expand(n_events)
        return self.background[torch.randint(len(self.background), (n_events,), generator=rng)]
