"""Hit classification by convolutions (HEP.TrkX: B1–B3 in 2D, C6 and C7 in 3D).

All take images (events, layers, …) and give logits (events, layers, pixels), to be normalised layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignnet.trackfinding.systems.lstm_layer import dense

Layer = TypeVar("Layer", nn.Conv2d, nn.Conv3d)


def convolution2d(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3 × 3 convolution with Keras' start that keeps the image's size."""
    return _started(nn.Conv2d(inputs, outputs, 3, padding="same"))


def convolution3d(inputs: int, outputs: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> nn.Module:
    """A convolution with Keras' start that keeps the image's size; even kernels reach further behind."""
    if all(k % 2 for k in kernel):
        return _started(nn.Conv3d(inputs, outputs, kernel, padding="same"))
    (a, b, c), (d, e, f) = ((k - 1) // 2 for k in kernel), (k // 2 for k in kernel)
    return nn.Sequential(
        nn.ConstantPad3d((c, f, b, e, a, d), 0.0), _started(nn.Conv3d(inputs, outputs, kernel))
    )


class Convolutions2D(nn.Module):
    """3 × 3 convolutions without down-sampling: 5,409 parameters with 10 of 8 channels, 11,249 with 20.

    Such a stack of n sees n + 1 layers around a pixel, and the seeds are in the first five.

    Args:
        depth: convolutions before the last one.
        channels: of each.
    """

    def __init__(self, depth: int = 10, channels: int = 8) -> None:
        super().__init__()
        inputs = [1, *[channels] * (depth - 1)]
        self.layers = nn.ModuleList(convolution2d(size, channels) for size in inputs)
        self.out = convolution2d(channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels)."""
        maps = image[:, None]
        for layer in self.layers:
            maps = F.relu(layer(maps))
        return self.out(maps)[:, 0]


class HitAutoencoder2D(nn.Module):
    """Convolutions with down-sampling and up-sampling by two: 85,633 parameters with the published channels.

    Args:
        channels: of the convolutions on the way down, each followed by a pooling; the same back on the way
            up.
    """

    def __init__(self, channels: Sequence[int] = (8, 16, 32, 64)) -> None:
        super().__init__()
        down = [1, *channels]
        up = [channels[-1], *reversed(channels)]
        self.down = nn.ModuleList(convolution2d(a, b) for a, b in pairwise(down))
        self.up = nn.ModuleList(convolution2d(a, b) for a, b in pairwise(up))
        self.out = convolution2d(channels[0], 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels); both sizes must be multiples of 2 to the number of poolings."""
        maps = image[:, None]
        for layer in self.down:
            maps = F.max_pool2d(F.relu(layer(maps)), 2)
        for layer in self.up:
            maps = F.interpolate(F.relu(layer(maps)), scale_factor=2.0, mode="nearest")
        return self.out(maps)[:, 0]


class Convolutions3D(nn.Module):
    """3 × 3 × 3 convolutions without down-sampling: 16,065 parameters with 10 of 8 channels.

    Args:
        depth: convolutions before the last one.
        channels: of each.
    """

    def __init__(self, depth: int = 10, channels: int = 8) -> None:
        super().__init__()
        inputs = [1, *[channels] * (depth - 1)]
        self.layers = nn.ModuleList(convolution3d(size, channels) for size in inputs)
        self.out = convolution3d(channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, planes, pixels)."""
        maps = image[:, None]
        for layer in self.layers:
            maps = F.relu(layer(maps))
        return self.out(maps)[:, 0].flatten(2)


class HitAutoencoder3D(nn.Module):
    """Convolutions and poolings within planes, down to one pixel, then a dense softmax: 324,488 parameters.

    Planes are never pooled: 32 × 32 pixels become 1 × 1 with 128 channels in each of them.

    Args:
        width: pixels of a plane along each direction; 32.
        dropout: after each pooling; the published runs used none.
    """

    def __init__(self, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        pool = [nn.MaxPool3d((1, 2, 2)), nn.Dropout(dropout)]
        self.encoder = nn.Sequential(
            convolution3d(1, 8), nn.ReLU(), convolution3d(8, 8), nn.ReLU(), *pool,
            convolution3d(8, 16), nn.ReLU(), convolution3d(16, 16), nn.ReLU(), *pool,
            convolution3d(16, 32), nn.ReLU(), *pool,
            convolution3d(32, 64), nn.ReLU(), *pool,
            convolution3d(64, 96, (3, 2, 2)), nn.ReLU(), *pool,
            convolution3d(96, 128, (3, 1, 1)), nn.ReLU(),
        )  # fmt: skip
        self.out = dense(128 * (width // 32) ** 2, width**2)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, planes, pixels)."""
        features = self.encoder(image[:, None])
        return self.out(features.transpose(1, 2).flatten(2))


def _started(layer: Layer) -> Layer:
    """Keras' start; channels last in memory, with which processors convolve up to three times as fast."""
    last = torch.channels_last if isinstance(layer, nn.Conv2d) else torch.channels_last_3d
    layer.to(memory_format=last)  # type: ignore[call-overload]
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
