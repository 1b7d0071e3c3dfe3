"""Hit classification by LSTMs that walk from layer to layer (HEP.TrkX: A1–A4 in 2D, C1–C4 in 3D).

All take images (events, layers, …), flattened layer by layer, and give logits (events, layers, pixels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignnet.trackfinding.systems.lstm_layer import OneBiasLSTM, dense
from alignnet.trackfinding.toy2d import wedge_widths


class LayerLSTM(nn.Module):
    """LSTM, then a dense softmax for each layer: 22,750 parameters with 50 pixels and 50 units.

    Args:
        pixels: of a layer.
        hidden: units.
        next_layer: predict each layer from those before it, of which the first has none and is not answered.
    """

    def __init__(self, pixels: int, hidden: int, next_layer: bool = False) -> None:
        super().__init__()
        self.next_layer = next_layer
        self.lstm, self.out = OneBiasLSTM(pixels, hidden), dense(hidden, pixels)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels); a layer less with `next_layer`."""
        return self.out(self.lstm(_steps(image, self.next_layer)))


class DeepLSTM(nn.Module):
    """Dense ReLU, LSTM, dense ReLU, dense softmax: 11,541,504 parameters with 1,024 pixels and units.

    Args:
        pixels: of a layer.
        hidden: units.
        next_layer: as of `LayerLSTM`.
        dropout: of the LSTM's inputs, while it is trained.
    """

    def __init__(self, pixels: int, hidden: int, next_layer: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.next_layer = next_layer
        self.before, self.drop = nn.Sequential(dense(pixels, hidden), nn.ReLU()), nn.Dropout(dropout)
        self.lstm = OneBiasLSTM(hidden, hidden)
        self.after = nn.Sequential(dense(hidden, hidden), nn.ReLU(), dense(hidden, pixels))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels); a layer less with `next_layer`."""
        return self.after(self.lstm(self.drop(self.before(_steps(image, self.next_layer)))))


class BidirectionalLSTM(nn.Module):
    """LSTMs both ways, dense ReLU, dense softmax: 3,017,984 parameters with 1,024 pixels, 256 units."""

    def __init__(self, pixels: int, hidden: int) -> None:
        super().__init__()
        self.lstm = OneBiasLSTM(pixels, hidden, bidirectional=True)
        self.after = nn.Sequential(dense(2 * hidden, hidden), nn.ReLU(), dense(hidden, pixels))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, pixels)."""
        return self.after(self.lstm(_steps(image, False)))


class WedgeLSTM(nn.Module):
    """LSTM over layers of different widths, each with dense layers of its own: 155,758 parameters.

    Takes and gives images in the wedge's frame; pixels outside have logits of −∞.

    Args:
        layers: of the wedge.
        width: of its frame.
        hidden: units.
    """

    def __init__(self, layers: int = 48, width: int = 48, hidden: int = 48) -> None:
        super().__init__()
        self.width, self.widths = width, wedge_widths(layers, width)
        self.before = nn.ModuleList(dense(pixels, hidden) for pixels in self.widths)
        self.lstm = OneBiasLSTM(hidden, hidden)
        self.after = nn.ModuleList(dense(hidden, pixels) for pixels in self.widths)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (events, layers, width)."""
        layers = list(zip(self.widths, self.before, self.after, strict=True))
        steps = [
            before(image[:, k, self._low(w) : self._low(w) + w]) for k, (w, before, _) in enumerate(layers)
        ]
        states = self.lstm(torch.stack(steps, 1)).unbind(1)
        logits = torch.full_like(image, -torch.inf)
        for k, (w, _, after) in enumerate(layers):
            logits[:, k, self._low(w) : self._low(w) + w] = after(states[k])
        return logits

    def _low(self, pixels: int) -> int:
        return (self.width - pixels) // 2


def _steps(image: Tensor, next_layer: bool) -> Tensor:
    """Layers as steps (events, steps, pixels); without the last one where the next is predicted."""
    steps = image.flatten(2)
    return steps[:, :-1] if next_layer else steps
