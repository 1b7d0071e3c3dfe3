"""A correction field: one network for the whole detector, in the place of degrees of freedom for each sensor.

    (r, φ, z) → (ΔR, RΔφ, Δz)

is a purely data-driven correction function. Sensors follow it as rigid bodies: each moves and turns as the
field does at the middles of its four edges. What one sensor does by itself a smooth field cannot say: it is a
comparison, not an alignment (docs/physics.md, A sensor is a linear layer).

The network stands before Θ by torch's own parametrisation: `layer.theta` is computed from its weights, and
everything else takes the layer as it is.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.weak_modes import edge
from alignnet.sensors.parametrisation import RigidLocal
from alignnet.sensors.sensor import SensorLayer

SCALE = 100e-4
"""Displacement where the network gives 1 [cm]."""


class CorrectionField(nn.Module):
    """Displacements of a detector's sensors by a network of a few layers, zero at first.

    Args:
        detector: the nominal places.
        width: numbers in each hidden layer.
        depth: hidden layers.
        seed: of its weights.

    Raises:
        ConfigError: width or depth is not a whole number of at least 1.
    """

    points: Tensor
    axes: Tensor
    half_length: Tensor
    centre: Tensor

    def __init__(self, detector: Detector, width: int = 32, depth: int = 2, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("width", width), ("depth", depth)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"sensors.field.{name} is {value!r}; expected a whole number of at least 1")
        self.r_max, self.z_max = edge(detector)
        self.register_buffer("points", _edge_middles(detector), persistent=False)
        self.register_buffer("axes", detector.rotation.clone(), persistent=False)
        self.register_buffer("half_length", detector.half.clone(), persistent=False)
        self.register_buffer("centre", detector.centre.clone(), persistent=False)
        sizes = [4, *[width] * depth]
        hidden = [
            part for n, m in pairwise(sizes) for part in (nn.Linear(n, m, dtype=torch.float64), nn.Tanh())
        ]
        self.network = nn.Sequential(*hidden, nn.Linear(width, 3, dtype=torch.float64))
        self._draw(torch.Generator().manual_seed(seed))

    def _draw(self, generator: torch.Generator) -> None:
        """Glorot's uniform weights from a generator of their own; none for what comes out."""
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)

    def displacement(self, position: Tensor) -> Tensor:
        """Of global positions (..., 3), along global x, y, z (..., 3) [cm]; away from the z axis."""
        x, y, z = position.unbind(-1)
        r = torch.hypot(x, y).clamp_min(1e-9)
        cosine, sine = x / r, y / r
        along_r, along_phi, along_z = (
            SCALE * self.network(torch.stack([r / self.r_max, cosine, sine, z / self.z_max], -1))
        ).unbind(-1)
        across = cosine * along_r - sine * along_phi, sine * along_r + cosine * along_phi
        return torch.stack([*across, along_z], -1)

    def local(self) -> Tensor:
        """The local six (sensors, 6) of sensors that follow the field."""
        moved = self.displacement(self.points) @ self.axes  # (sensors, 4, 3), local x, y, z
        right, left, up, down = moved.unbind(1)
        length = 2 * self.half_length
        by_u, by_v = (right - left) / length[:, :1], (up - down) / length[:, 1:]
        turn = torch.stack([-by_v[:, 1], (by_v[:, 0] - by_u[:, 2]) / 2, by_u[:, 1]], -1)
        arm = torch.stack([self.centre[:, 0], torch.zeros_like(self.centre[:, 0]), self.centre[:, 1]], -1)
        return rigid.join_local(moved.mean(1) - torch.linalg.cross(turn, arm), turn)

    def forward(self, start: Tensor) -> Tensor:
        """Θ of the sensors (sensors, 6), `start` where the field is zero."""
        return start + self.local()

    def right_inverse(self, theta: Tensor) -> Tensor:
        """The `start` that gives Θ."""
        return theta - self.local().detach()


def follow_field(sensors: SensorLayer, field: CorrectionField) -> None:
    """Put a correction field before the Θ of sensors, whose own numbers then stay as they are.

    Args:
        sensors: all of a detector, in local sixes.

    Raises:
        ConfigError: they have other degrees of freedom, or some of them are fixed.
    """
    if not isinstance(sensors.parametrisation, RigidLocal) or not bool(sensors.free.all()):
        raise ConfigError(
            "sensors.parametrisation=field moves whole sensors, all of them; expected no sensors.fixed"
        )
    parametrize.register_parametrization(sensors, "theta", field)
    sensors.parametrizations.theta.original.requires_grad_(False)  # type: ignore[union-attr]


def follows_field(sensors: SensorLayer) -> bool:
    """Whether a correction field stands before Θ."""
    return parametrize.is_parametrized(sensors, "theta")


def _edge_middles(detector: Detector) -> Tensor:
    """Global positions of the middles of the active areas' edges at +u, −u, +v, −v (sensors, 4, 3) [cm]."""
    signs = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    u, v = (detector.centre[:, None] + signs * detector.half[:, None]).unbind(-1)
    local = torch.stack([u, torch.zeros_like(u), v], -1)
    return detector.translation[:, None] + local @ detector.rotation.transpose(-1, -2)
