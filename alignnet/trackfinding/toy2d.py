"""One-dimensional layers: a seeded track among background tracks and noise (HEP.TrkX, toy2d.py, 2017).

A track enters at a ~ U(0, width) and leaves at b ~ U(0, width), with slope (b − a)/layers. Background tracks
follow the same law, always the same number of them, and are taken out of the seed layers; so is the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.trackfinding.drawing import lit, pixels_of, positions, uniform, with_noise
from alignnet.trackfinding.events import SeededEvents


class Toy2D:
    """Seeded events of one-dimensional layers.

    Args:
        layers: how many.
        width: pixels of a layer.
        background: tracks besides the seeded one, in every event.
        noise: probability of a noise hit, for each pixel outside the seed layers.
        seeds: how many layers, from the first, hold the seeded track alone.
    """

    def __init__(
        self, layers: int = 50, width: int = 50, background: int = 0, noise: float = 0.0, seeds: int = 5
    ) -> None:
        check_toy(layers, seeds, noise, background)
        self.layers, self.width, self.seeds = layers, width, seeds
        self.background, self.noise = background, noise

    @property
    def plane(self) -> tuple[int, ...]:
        """Pixels of a layer along each direction."""
        return (self.width,)

    def sample(self, n_events: int, rng: torch.Generator) -> SeededEvents:
        """Draw events."""
        ends = uniform(rng, self.width, n_events, 1 + self.background, 2)
        ends[:, 0] = self.signal_ends(ends[:, 0])
        entry, slope = ends[..., 0], (ends[..., 1] - ends[..., 0]) / self.layers
        pixel = pixels_of(positions(entry, slope, self.layers), self.width)
        shown = torch.ones_like(pixel, dtype=torch.bool)
        shown[:, 1:, : self.seeds] = False
        image = with_noise(lit(pixel, shown, self.width), self.noise, rng, self.seeds)
        line = torch.stack([entry[:, 0], slope[:, 0]], -1)
        return SeededEvents(self.masked(image), pixel[:, 0], line)

    def signal_ends(self, ends: Tensor) -> Tensor:
        """Entry and exit of the seeded tracks (events, 2) from those of any track."""
        return ends

    def masked(self, image: Tensor) -> Tensor:
        """The image as far as there are sensors."""
        return image


class Wedge2D(Toy2D):
    """Layers that grow wider, 1,390 pixels in a frame of 48 × 48; the track enters at their narrow end.

    The width of layer l is the frame's, or 2 ⌊(l + 1)/1.7 + 1⌋ where that is less, in the frame's middle.
    """

    def __init__(
        self, layers: int = 48, width: int = 48, background: int = 5, noise: float = 0.0, seeds: int = 5
    ) -> None:
        super().__init__(layers, width, background, noise, seeds)
        self.widths = wedge_widths(layers, width)
        self.inside = wedge_mask(layers, width)

    def signal_ends(self, ends: Tensor) -> Tensor:
        """Entries within the two pixels of the first layer."""
        first = float(self.widths[0])
        low, high = (torch.tensor((self.width + side * first) / 2) for side in (-1, 1))
        entry = low + ends[:, 0] * (first / self.width)  # which may round to the pixel outside
        return torch.stack([torch.minimum(entry, torch.nextafter(high, low)), ends[:, 1]], -1)

    def masked(self, image: Tensor) -> Tensor:
        """Without what lies outside the wedge."""
        return image * self.inside


def wedge_widths(layers: int, width: int) -> list[int]:
    """Pixels of each layer of a wedge in a frame `width` wide."""
    return [min(width, 2 * int((layer + 1) / 1.7 + 1)) for layer in range(layers)]


def wedge_mask(layers: int, width: int) -> Tensor:
    """Which pixels of the frame are of the wedge (layers, width); bool."""
    widths = torch.tensor(wedge_widths(layers, width))
    low = (width - widths) // 2
    column = torch.arange(width)
    return (column >= low[:, None]) & (column < (low + widths)[:, None])


def check_toy(layers: int, seeds: int, noise: float, background: float) -> None:
    """Refuse a toy that cannot be drawn.

    Raises:
        ConfigError: names the key.
    """
    if not 0 <= seeds < layers:
        raise ConfigError(f"toy.seeds is {seeds}; expected 0 or more, and fewer than the {layers} layers")
    if not 0 <= noise <= 1:
        raise ConfigError(f"toy.noise is {noise}; expected a probability, 0 to 1")
    if background < 0:
        raise ConfigError(f"toy.background is {background}; expected a number of tracks, 0 or more")
