"""A Hough transform that is learned: every pixel says of which track it is, by that track's two ends.

The design of the sketch was one dense layer from all pixels to a map of the same size, 156,762,920
parameters for 12,520 pixels and one parameter a pixel; the other system here sees the same with
convolutions over four scales.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignnet.trackfinding.systems.conv import convolution2d


class DenseTransform(nn.Module):
    """One dense layer from all pixels to so many numbers of each.

    Args:
        layers: of the image.
        width: pixels of a layer.
        outputs: numbers of a pixel.
    """

    def __init__(self, layers: int, width: int, outputs: int = 1) -> None:
        super().__init__()
        self.shape = (outputs, layers, width)
        self.transform = nn.Linear(layers * width, layers * width * outputs)

    def forward(self, image: Tensor) -> Tensor:
        """(events, outputs, layers, pixels)."""
        return self.transform(image.flatten(1)).unflatten(1, self.shape)


class ConvolutionalTransform(nn.Module):
    """Convolutions down three halvings and up again, with what was seen on the way down joined on the way up.

    Args:
        channels: at full size; twice as many after each halving.
        outputs: numbers of a pixel.
    """

    def __init__(self, channels: int = 12, outputs: int = 2) -> None:
        super().__init__()
        sizes = [channels * 2**k for k in range(4)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(
            _twice(low + high, high) for low, high in zip(sizes[:0:-1], sizes[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(channels, outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(events, outputs, layers, pixels); both sizes must be multiples of 8."""
        layers, width = image.shape[1:]
        along = torch.linspace(-1, 1, layers, device=image.device)[:, None].expand_as(image)
        across = torch.linspace(-1, 1, width, device=image.device).expand_as(image)
        maps, seen = torch.stack([image, along, across], 1), []
        for k, layer in enumerate(self.down):
            maps = layer(maps if k == 0 else F.max_pool2d(maps, 2))
            seen.append(maps)
        for layer, before in zip(self.up, seen[-2::-1], strict=True):
            maps = layer(torch.cat([F.interpolate(maps, scale_factor=2.0, mode="nearest"), before], 1))
        return self.out(maps)


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution2d(inputs, outputs), nn.ReLU(), convolution2d(outputs, outputs), nn.ReLU()
    )
