"""The sensors' Θ from their own displacements and the motions of their volumes, composed parents first.

Each sensor stands in its volumes at its own Θ; then its module moves, its stave, its half-barrel, each with
all that is inside it (`alignnet.geometry.volumes`), exactly. To first order about the drawing this is

    Θ = Θ_own + Σ_l Z_l x_l

with the motions Z_l of `alignnet.sensors.hierarchy`, which is what `affine` sensors, that may stretch, get.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes, carried
from alignnet.sensors.hierarchy import frame_motions, theta_motions
from alignnet.sensors.parametrisation import Affine
from alignnet.sensors.sensor import SensorLayer


class Composition:
    """Θ of a detector's sensors.

    Args:
        detector: the nominal places.
        sensors: their model; what is fixed of it does not follow its volumes.
        volumes: the levels that move.
    """

    def __init__(self, detector: Detector, sensors: SensorLayer, volumes: Sequence[Volumes]) -> None:
        self.detector, self.sensors, self.volumes = detector, sensors, list(volumes)
        self._layer = SensorLayer.of(detector, surface_order=sensors.surface_order)
        self._layer.parametrisation = sensors.parametrisation
        self._layer.theta = torch.nn.Parameter(sensors.theta.detach().cpu().double().clone())

    @torch.no_grad()
    def __call__(self, own: Tensor, sixes: Sequence[Tensor]) -> Tensor:
        """Θ (sensors, dof).

        Args:
            own: Θ of the sensors in their volumes (sensors, dof).
            sixes: of each level's volumes, in their frames (volumes, 6).
        """
        here = [six.detach().cpu().double() for six in sixes]
        if not any(bool(six.any()) for six in here):
            return own
        moved = self._moved(own.detach().cpu().double(), here).to(own)
        return torch.where(self.sensors.free, moved, own)

    def _moved(self, own: Tensor, sixes: Sequence[Tensor]) -> Tensor:
        if isinstance(self.sensors.parametrisation, Affine):
            return own + self._linear(sixes)
        self._layer.theta.copy_(own)
        drawn = self.detector.rotation, self.detector.translation
        place = rigid.place_local(*drawn, self._layer.local()[:, :6])
        local = rigid.local_of(*drawn, *carried(self.volumes, sixes, place))
        theta = self._layer.parametrisation.theta(local, self._layer.frame)
        return torch.cat([theta, own[:, theta.shape[1] :]], 1)  # surfaces stay as they are

    def _linear(self, sixes: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(self._layer.theta)
        for level, six in zip(self.volumes, sixes, strict=True):
            basis = theta_motions(self._layer, frame_motions(self.detector, level))
            total = total + (basis @ six[level.group.clamp_min(0)][..., None]).squeeze(-1)
        return total
