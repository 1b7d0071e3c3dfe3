"""Images that excite the filters of a convolution most: activation maximisation.

Starting from an image of numbers between 0 and 1, twenty steps climb along the gradient of one filter's
mean activation, divided by its root mean square; the result is shown without its rim, its contrast set to a
mean of 0.5 and a standard deviation of 0.1.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from alignnet.errors import ConfigError
from alignnet.trackfinding.pictures import draw


def maximised(
    layers: nn.Sequential, size: int, rng: torch.Generator, steps: int = 20, step: float = 1.0
) -> Tensor:
    """For each channel at the end of some layers the image that excites it most.

    Args:
        layers: of images (events, 1, size, size).
        size: layers, and pixels of each.
        rng: of the images that the climbs start from.
        steps: how many.
        step: length of one, in r.m.s. a pixel.

    Returns:
        (channels, size − 2, size − 2), between 0 and 1.
    """
    with torch.no_grad():
        channels = layers(torch.zeros(1, 1, size, size)).shape[1]
    image = torch.rand(channels, 1, size, size, generator=rng)
    for _ in range(steps):
        image.requires_grad_(True)
        (gradient,) = torch.autograd.grad(excitation(layers, image).sum(), image)
        rms = gradient.square().mean((-3, -2, -1), keepdim=True).sqrt()
        image = (image + step * gradient / (rms + 1e-5)).detach()
    return _contrast(image[:, 0, 1:-1, 1:-1])


def excitation(layers: nn.Module, image: Tensor) -> Tensor:
    """Mean activation (channels,) of each channel by the image (channels, 1, size, size) of its number."""
    own = torch.arange(len(image))
    return layers(image)[own, own].mean((-2, -1))


def convolutions_until(system: nn.Module, number: int) -> nn.Sequential:
    """The beginning of a system, up to its convolution of this number and the activation after it.

    Raises:
        ConfigError: the system does not begin with so many convolutions, one after another.
    """
    stacks = [m for m in system.modules() if isinstance(m, nn.Sequential)]
    for stack in stacks:
        places = [k for k, layer in enumerate(stack) if isinstance(layer, nn.Conv2d)]
        if len(places) >= number:
            return nn.Sequential(*list(stack)[: places[number - 1] + 2])
    raise ConfigError(
        f"{type(system).__name__} has no {number} convolutions one after another whose filters could be shown"
    )


def filter_figure(images: Tensor) -> Figure:
    """The images (channels, rows, columns) beside each other, eight in a row."""
    rows = -(-len(images) // 8)
    figure = Figure(figsize=(12, 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 8, squeeze=False).flat
    for axis in axes:
        axis.set_axis_off()
    for axis, image in zip(axes, images, strict=False):
        draw(axis, image)
    return figure


def _contrast(image: Tensor) -> Tensor:
    centred = image - image.mean((-2, -1), keepdim=True)
    return (centred / (centred.std((-2, -1), keepdim=True) + 1e-5) * 0.1 + 0.5).clamp(0, 1)
