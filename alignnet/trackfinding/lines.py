"""Images of several tracks without seeds, for autoencoders, counting and track parameters.

Intercept and far end of a line are uniform over the layers' width, its slope is (far end − intercept)/layers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.trackfinding.drawing import lit, pixels_of, positions, uniform, with_noise
from alignnet.trackfinding.events import LineEvents

Law = Literal["fixed", "uniform", "poisson"]


class LineToy:
    """Images of lines.

    Args:
        size: layers, and pixels of each.
        tracks: how many, or the mean of `law="poisson"`.
        most: the largest number of tracks of an event; what the law gives beyond it is this many.
        law: of the number of tracks: always `tracks`, a whole number from 0 to `most` with equal chances, or
            Poisson.
        noise: probability of a noise hit, for each pixel of all layers.
        first_pixel: pixels below it never have a track's hit; 1 in the published parameter estimation, whose
            test for being inside is strict.
    """

    def __init__(
        self,
        size: int = 64,
        tracks: float = 8,
        most: int = 16,
        law: Law = "fixed",
        noise: float = 0.0,
        first_pixel: int = 0,
    ) -> None:
        if law not in ("fixed", "uniform", "poisson"):
            raise ConfigError(f"toy.law is {law!r}; choose from fixed, uniform, poisson")
        if not 0 <= noise <= 1:
            raise ConfigError(f"toy.noise is {noise}; expected a probability, 0 to 1")
        if law == "fixed" and tracks > most:
            raise ConfigError(f"toy.tracks is {tracks}, more than toy.most, {most}")
        self.size, self.tracks, self.most, self.law = size, tracks, most, law
        self.noise, self.first_pixel = noise, first_pixel

    def sample(self, n_events: int, rng: torch.Generator) -> LineEvents:
        """Draw events."""
        present = torch.arange(self.most) < self._counts(n_events, rng)[:, None]
        ends = uniform(rng, self.size, n_events, self.most, 2)
        ends[~present] = torch.inf  # sorted to the end
        ends = ends.gather(1, ends[..., :1].argsort(1).expand_as(ends)).nan_to_num(posinf=0.0)
        intercept, slope = ends[..., 0], (ends[..., 1] - ends[..., 0]) / self.size
        pixel = pixels_of(positions(intercept, slope, self.size), self.size)
        shown = present[..., None] & (pixel >= self.first_pixel)
        clean = lit(pixel, shown, self.size)
        lines = torch.stack([intercept, slope], -1)
        return LineEvents(with_noise(clean, self.noise, rng), clean, lines, present)

    def _counts(self, n_events: int, rng: torch.Generator) -> Tensor:
        if self.law == "uniform":
            return torch.randint(self.most + 1, (n_events,), generator=rng)
        mean = torch.full((n_events,), float(self.tracks))
        return mean if self.law == "fixed" else torch.poisson(mean, generator=rng).clamp(max=self.most)
