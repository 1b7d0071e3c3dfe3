"""How far an alignment is from the truth, once what no data can fix is taken away.

The displacement between two placements of a sensor is taken at five points, its four corners and its centre,
along its own u, v and w; of bent sensors and deformed surfaces, which five points do not show, at 5 × 5
points over the active area, along u, v and w as they are there. Rigid motions of the whole detector (and,
stated apart, the weak modes) are removed by least squares over the selected sensors before the r.m.s. is
quoted (docs/physics.md, Figures of merit).
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.surface import padded
from alignnet.geometry.weak_modes import rigid_motion_basis, weak_mode_basis


def probe_points(detector: Detector) -> Tensor:
    """Local positions (x, y, z) of the corners and the centre of each active area (sensors, 5, 3) [cm]."""
    uv = _probes(detector, 6)
    return torch.stack([uv[..., 0], torch.zeros_like(uv[..., 0]), uv[..., 1]], -1)


def displacement(detector: Detector, local: Tensor) -> Tensor:
    """Displacement of the probe points along u, v, w (..., sensors, points, 3) [cm] by local sixes.

    Args:
        detector: the nominal places.
        local: (..., sensors, 6) [cm, rad]; columns after the six are amplitudes of the surfaces.
    """
    return _displaced(detector, local, rigid.exp_minus_one(rigid.split_local(local[..., :6])[1]))


def displacement_rate(detector: Detector, local: Tensor) -> Tensor:
    """The same to first order in the local sixes: linear, for motions given per cm and per rad."""
    return _displaced(detector, local, rigid.skew(rigid.split_local(local[..., :6])[1]))


def displacement_metric(detector: Detector, columns: int = 6) -> Tensor:
    """G (sensors, 6, 6): localᵀ G local is the mean square displacement of the probe points [cm²].

    Args:
        columns: more than 6 with amplitudes of the surfaces; G has as many.
    """
    unit = torch.eye(columns, dtype=torch.float64)[:, None].expand(-1, len(detector), -1)
    rate = displacement_rate(detector, unit)  # columns, sensors, points, 3
    return torch.einsum("ispc,jspc->sij", rate, rate) / rate.shape[2]


def difference(aligned: Tensor, truth: Tensor, detector: Detector) -> Tensor:
    """Displacement of the probe points between two sets of local sixes, (sensors, points, 3) [cm]."""
    columns = max(aligned.shape[-1], truth.shape[-1])
    return displacement(detector, padded(aligned, columns)) - displacement(detector, padded(truth, columns))


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


def collective_rates(detector: Detector, weak_modes: bool = True, columns: int = 6) -> Tensor:
    """Displacements by the rigid motions of the whole, and after these six by the weak modes and shears.

    Args:
        detector: the nominal places.
        weak_modes: all of them, or the rigid motions only.
        columns: more than 6 with amplitudes of surfaces, whose probe points are others.

    Returns:
        (motions, sensors, points, 3), per unit of each motion.
    """
    basis = rigid_motion_basis(detector)
    if weak_modes:
        basis = torch.cat([basis, weak_mode_basis(detector), shears(detector)])
    return displacement_rate(detector, padded(basis, columns))


class Recovery:
    """R.m.s. of remaining displacements per layer after removing collective motions.

    Args:
        detector: the nominal places.
        selected: sensors that count (sensors,).
        weak_modes: remove the weak modes (and shears, see `shears`) besides the rigid motions of the whole.
        columns: of the tables of local sixes that displacements come from.
        rates: the `collective_rates` to remove, if they are known; default: of `weak_modes` and `columns`.
    """

    def __init__(
        self,
        detector: Detector,
        selected: Tensor,
        weak_modes: bool = True,
        columns: int = 6,
        rates: Tensor | None = None,
    ) -> None:
        self.detector, self.selected, self._table = detector, selected, columns
        rates = collective_rates(detector, weak_modes, columns) if rates is None else rates
        moved = rates[:, selected].flatten(1)
        size = moved.square().sum(1).sqrt()
        # A mode that does not move these sensors is rounding errors, not a direction.
        self.columns = (moved / size[:, None])[size > 1e-9 * size.amax()].T
        self._q = _orthonormal(self.columns)

    def remove(self, displacement: Tensor) -> Tensor:
        """The displacement of the selected sensors (selected, points, 3) without collective motions."""
        flat = displacement[self.selected].flatten()
        return (flat - self._q @ (self._q.T @ flat)).view(-1, *displacement.shape[1:])

    def per_layer(self, displacement: Tensor) -> dict[int, list[float]]:
        """R.m.s. along u, v, w [cm] of each layer with selected sensors, from (sensors, points, 3)."""
        return self._rms(self.remove(displacement))

    def per_layer_alone(self, displacement: Tensor) -> dict[int, list[float]]:
        """The same, after removing each layer's own rigid motion instead."""
        own: dict[int, list[float]] = {}
        rates = collective_rates(self.detector, False, self._table)
        for layer in self.detector.layers:
            mine = self.selected & (self.detector.layer == layer)
            if mine.any():
                own |= Recovery(self.detector, mine, rates=rates).per_layer(displacement)
        return own

    def _rms(self, left: Tensor) -> dict[int, list[float]]:
        layers, of, count = self.detector.layer[self.selected].unique(return_inverse=True, return_counts=True)
        sums = left.new_zeros(len(layers), 3).index_add(0, of, left.square().mean(1))
        return dict(zip(layers.tolist(), (sums / count[:, None]).sqrt().tolist(), strict=True))


def _probes(detector: Detector, columns: int) -> Tensor:
    """Local (u, v) of the probe points (sensors, points, 2) [cm]."""
    if columns == 6 and not bool(detector.curved.any()):
        sign = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1], [0, 0]], dtype=torch.float64)
    else:
        steps = torch.linspace(-1, 1, 5, dtype=torch.float64)
        sign = torch.cartesian_prod(steps, steps)
    return detector.centre[:, None] + sign * detector.half[:, None]


def _displaced(detector: Detector, local: Tensor, turn: Tensor) -> Tensor:
    """How shifts of local sixes, these turns (..., sensors, 3, 3) and amplitudes move the probe points."""
    uv = _probes(detector, local.shape[-1])
    surface = detector.surface.spread()
    points = surface.point(uv)
    moved = points @ turn.transpose(-1, -2) + rigid.split_local(local[..., :6])[0][..., None, :]
    if local.shape[-1] > 6:
        modes = surface._replace(amplitude=local[..., None, 6:])
        moved = moved + modes.height(uv)[0][..., None] * surface.normal(uv)
    if bool(detector.curved.any()):
        return torch.stack([(moved * axis).sum(-1) for axis in surface.axes(uv)], -1)
    return moved[..., torch.tensor(rigid.LOCAL_TO_XYZ)]


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span; dependent ones (few sensors) are dropped."""
    if not columns.numel():
        return columns
    values, vectors = torch.linalg.eigh(columns.T @ columns)
    keep = values > 1e-10 * values.max()
    return columns @ (vectors[:, keep] / values[keep].sqrt())
