"""What convolutions learn about images of tracks, 64 × 64 pixels (HEP.TrkX: D1–D4).

All take images (events, 64, 64). The first two give logits of pixels, the third of numbers of tracks, the
fourth of bins of intercept and slope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from alignnet.trackfinding.systems.conv import convolution2d
from alignnet.trackfinding.systems.lstm_layer import dense

Step = int | Literal["pool", "up"]

RECONSTRUCTION: tuple[Step, ...] = (
    8, 8, "pool", 8, "pool", 16, "pool", 16, 16,
    16, 16, "up", 16, "up", 8, "up", 8, 8,
)  # fmt: skip
"""16,417 parameters, 16 channels of 8 × 8 between its halves: a quarter of the image's numbers."""

DENOISING: tuple[Step, ...] = (8, "pool", 16, "pool", 32, 32, "up", 16, "up", 8)
"""20,993 parameters, 32 channels of 16 × 16 between its halves: twice the image's numbers."""


class ImageAutoencoder(nn.Module):
    """An image to an image of the same size.

    Args:
        steps: channels of each convolution, "pool" and "up", or the name of a published list.
    """

    def __init__(
        self, steps: Sequence[Step] | Literal["reconstruction", "denoising"] = "reconstruction"
    ) -> None:
        super().__init__()
        named = {"reconstruction": RECONSTRUCTION, "denoising": DENOISING}
        layers, channels = stack(1, named[steps] if isinstance(steps, str) else steps)
        self.layers = nn.Sequential(*layers, convolution2d(channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of pixels (events, layers, pixels)."""
        return self.layers(image[:, None])[:, 0]


class TrackCounter(nn.Module):
    """Five convolutions and a softmax over 0 to 16 tracks: 16,489 parameters.

    Args:
        most: the largest number of tracks.
    """

    def __init__(self, most: int = 16) -> None:
        super().__init__()
        layers, channels = stack(1, (8, "pool", 12, "pool", 16, "pool", 20, "pool", 24))
        self.layers = nn.Sequential(*layers, nn.Flatten(), dense(channels * 4 * 4, most + 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of 0, 1, … tracks (events, most + 1)."""
        return self.layers(image[:, None])


class BinnedParameters(nn.Module):
    """Six convolutions and a sigmoid for each of 16 × 16 bins of intercept and slope: 377,152 parameters.

    Args:
        bins: of each parameter.
    """

    def __init__(self, bins: int = 16) -> None:
        super().__init__()
        self.bins = bins
        layers, channels = stack(1, (8, "pool", 16, "pool", 32, "pool", 64, "pool", 128, "pool", 128))
        self.layers = nn.Sequential(*layers, nn.Flatten(), dense(channels * 2 * 2, bins**2))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of bins (events, intercept, slope)."""
        return self.layers(image[:, None]).unflatten(1, (self.bins, self.bins))


def stack(channels: int, steps: Sequence[Step]) -> tuple[list[nn.Module], int]:
    """Convolutions with ReLU, poolings and up-samplings of one after another; and the channels at the end."""
    layers: list[nn.Module] = []
    for step in steps:
        if step == "pool":
            layers.append(nn.MaxPool2d(2))
        elif step == "up":
            layers.append(nn.Upsample(scale_factor=2))
        else:
            layers += [convolution2d(channels, step), nn.ReLU()]
            channels = step
    return layers, channels
