"""How far an alignment is from the truth, once what no data can fix is taken away.

The displacement between two placements of a sensor is taken at five points, its four corners and its centre,
along its own u, v and w. Rigid motions of the whole detector (and, stated apart, the weak modes) are removed
by least squares over the selected sensors before the r.m.s. is quoted (docs/physics.md, Figures of merit).
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


def displacement_rate(detector: Detector, local: Tensor) -> Tensor:
    """The same to first order in the local sixes: linear, for motions given per cm and per rad."""
    shift, turn = rigid.split_local(local)
    moved = probe_points(detector) @ rigid.skew(turn).transpose(-1, -2) + shift[:, None]
    return moved[..., torch.tensor(rigid.LOCAL_TO_XYZ)]


def displacement_metric(detector: Detector) -> Tensor:
    """G (sensors, 6, 6): localᵀ G local is the mean square displacement of the probe points [cm²]."""
    unit = torch.eye(6, dtype=torch.float64)[:, None].expand(-1, len(detector), -1)
    rate = torch.stack([displacement_rate(detector, dof) for dof in unit], -1)  # sensors, 5, 3, 6
    return torch.einsum("spci,spcj->sij", rate, rate) / rate.shape[1]


def difference(aligned: Tensor, truth: Tensor, detector: Detector) -> Tensor:
    """Displacement of the probe points between two sets of local sixes, (sensors, 5, 3) [cm]."""
    return displacement(detector, aligned) - displacement(detector, truth)


def shears(detector: Detector) -> Tensor:
    """Shifts of parallel planes in proportion to their place along the normal, as local six (3, sensors, 6).

    Along the planes' axes they are shears, along the normal a stretch: straight tracks through a telescope
    fit as well with them as without. Detectors whose sensors face several ways have none, (0, sensors, 6).
    """
    normal = detector.rotation[0, :, 1]
    if ((detector.rotation[..., 1] @ normal).abs() < 0.9999).any():
        return torch.zeros(0, len(detector), 6, dtype=torch.float64)
    along = detector.translation @ normal
    shift = detector.rotation[0].T[:, None] * along[:, None]
    local = (detector.rotation.transpose(-1, -2) @ shift[..., None]).squeeze(-1)
    return rigid.join_local(local, torch.zeros_like(local))


class Recovery:
    """R.m.s. of remaining displacements per layer after removing collective motions.

    Args:
        detector: the nominal places.
        selected: sensors that count (sensors,).
        weak_modes: remove the weak modes (and shears, see `shears`) besides the rigid motions of the whole.
    """

    def __init__(self, detector: Detector, selected: Tensor, weak_modes: bool = True) -> None:
        self.detector, self.selected = detector, selected
        basis = rigid_motion_basis(detector)
        if weak_modes:
            basis = torch.cat([basis, weak_mode_basis(detector), shears(detector)])
        columns = torch.stack(
            [displacement_rate(detector, mode) for mode in basis], -1
        )  # sensors, 5, 3, modes
        size = columns[selected].square().sum((0, 1, 2)).sqrt()
        # A mode that does not move these sensors is rounding errors, not a direction.
        moves = size > 1e-9 * size.amax()
        self.columns = columns[..., moves] / size[moves]
        self._q = _orthonormal(self.columns[selected].flatten(0, 2))

    def remove(self, displacement: Tensor) -> Tensor:
        """The displacement of the selected sensors (selected, 5, 3) without collective motions."""
        flat = displacement[self.selected].flatten()
        return (flat - self._q @ (self._q.T @ flat)).view(-1, 5, 3)

    def per_layer(self, displacement: Tensor) -> dict[int, list[float]]:
        """R.m.s. along u, v, w [cm] of each layer with selected sensors, of displacements (sensors, 5, 3)."""
        return self._rms(self.remove(displacement))

    def per_layer_alone(self, displacement: Tensor) -> dict[int, list[float]]:
        """The same, after removing each layer's own rigid motion instead."""
        own: dict[int, list[float]] = {}
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
    if not columns.numel():
        return columns
    values, vectors = torch.linalg.eigh(columns.T @ columns)
    keep = values > 1e-10 * values.max()
    return columns @ (vectors[:, keep] / values[keep].sqrt())
