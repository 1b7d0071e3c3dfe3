"""An LSTM with the parameters and the start of Keras 1, on which the published systems stand.

Keras 1 has one bias vector where PyTorch has two: here the second stays zero and is not trained, so that
counts agree (9,442,304 with 1,024 units, not 9,446,400). Start values are Keras': Glorot-uniform input
weights and orthogonal recurrent ones, gate by gate, and a forget bias of 1. Its gates used a piecewise
linear "hard sigmoid"; these use the sigmoid, which PyTorch's fused layer computes.
"""

from __future__ import annotations

from torch import Tensor, nn


class OneBiasLSTM(nn.Module):
    """An LSTM over (events, steps, inputs).

    Args:
        inputs: numbers of a step.
        hidden: units, in each direction.
        bidirectional: a second one from the last step to the first; outputs are joined.
    """

    def __init__(self, inputs: int, hidden: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=bidirectional)
        for name, value in self.lstm.named_parameters():
            _start(name, value, hidden)

    def forward(self, steps: Tensor) -> Tensor:
        """The outputs of all steps (events, steps, hidden), twice as many where bidirectional."""
        outputs: Tensor = self.lstm(steps)[0]
        return outputs


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A fully connected layer with Keras' start: Glorot-uniform weights, no bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def n_parameters(system: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for value in system.parameters() if value.requires_grad)


def _start(name: str, value: nn.Parameter, hidden: int) -> None:
    if name.startswith("bias"):
        nn.init.zeros_(value)
        if "hh" in name:
            value.requires_grad_(False)
        else:
            nn.init.ones_(value.data[hidden : 2 * hidden])  # input, forget, cell, output
        return
    for gate in value.data.split(hidden):
        if "hh" in name:
            nn.init.orthogonal_(gate)
        else:
            nn.init.xavier_uniform_(gate)
