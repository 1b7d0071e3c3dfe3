"""How far an alignment is from the truth, once what no data can fix is taken away.

The displacement between two placements of a sensor is taken at five points, its four corners and its centre, along
its own u, v and w. Rigid motions of the whole detector (and, stated apart, the weak modes) are removed by least
squares over the selected sensors before the r.m.s. is quoted (docs/physics.md, Figures of merit).
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.weak_modes import rigid_motion_basis, weak_mode_basis


def probe_points(detector: Detector) -> Tensor:
    """Local positions (x, y, z) of the corners and the centre of each active area (sensors, 5, 3) [cm]."""
    sign = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1], [0, 0]], dtype=torch.float64)
    uv = detector.centre[:, None] + sign * detector.half[:, None]
    return torch.stack([uv[..., 0], torch.zeros_like(uv[..., 0]), uv[..., 1]], -1)


def displacement(detector: Detector, local: Tensor) -> Tensor:
    """Displacement of the probe points along u, v, w (sensors, 5, 3) [cm] by local sixes (sensors, 6)."""
    shift, turn = rigid.split_local(local)
    moved = probe_points(detector) @ rigid.exp_minus_one(turn).transpose(-1, -2) + shift[:, None]
    return moved[..., torch.tensor(rigid.LOCAL_TO_XYZ)]


def difference(aligned: Tensor, truth: Tensor, detector: Detector) -> Tensor:
    """Displacement of the probe points between two sets of local sixes, (sensors, 5, 3) [cm]."""
    return displacement(detector, aligned) - displacement(detector, truth)


class Recovery:
    """R.m.s. of remaining displacements per layer after removing collective motions.

    Args:
        detector: the nominal places.
        selected: sensors that count (sensors,).
        weak_modes: remove the weak modes besides the rigid motions of the whole.
    """

    def __init__(self, detector: Detector, selected: Tensor, weak_modes: bool = True) -> None:
        self.detector, self.selected = detector, selected
        basis = rigid_motion_basis(detector)
        if weak_modes:
            basis = torch.cat([basis, weak_mode_basis(detector)])
        columns = torch.stack([displacement(detector, mode) for mode in basis], -1)  # sensors, 5, 3, modes
        scale = columns[selected].square().sum((0, 1, 2)).sqrt().clamp_min(1e-30)
        self.columns = columns / scale
        self._q = _orthonormal(self.columns[selected].flatten(0, 2))

    def remove(self, displacement: Tensor) -> Tensor:
        """The displacement of the selected sensors (selected, 5, 3) without collective motions."""
        flat = displacement[self.selected].flatten()
        return (flat - self._q @ (self._q.T @ flat)).view(-1, 5, 3)

    def per_layer(self, displacement: Tensor) -> dict[int, list[float]]:
        """R.m.s. along u, v, w [cm] of each layer with selected sensors, from displacements (sensors, 5, 3)."""
        return self._rms(self.remove(displacement))

    def per_layer_alone(self, displacement: Tensor) -> dict[int, list[float]]:
        """The same, after removing each layer's own rigid motion instead."""
        own = {}
        for layer in self.detector.layers:
            mine = self.selected & (self.detector.layer == layer)
            if mine.any():
                own |= Recovery(self.detector, mine, weak_modes=False).per_layer(displacement)
        return own

    def _rms(self, left: Tensor) -> dict[int, list[float]]:
        layers = self.detector.layer[self.selected]
        return {
            layer: left[layers == layer].square().mean((0, 1)).sqrt().tolist()
            for layer in self.detector.layers
            if (layers == layer).any()
        }


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span; dependent ones (few sensors) are dropped."""
    values, vectors = torch.linalg.eigh(columns.T @ columns)
    keep = values > 1e-10 * values.max()
    return columns @ (vectors[:, keep] / values[keep].sqrt())
