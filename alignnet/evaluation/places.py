"""Where the sensors are in one geometry, worked out once, and with it the planes of any batch's hits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.physics.jit import Array, compiled, pays
from alignnet.sensors.sensor import SensorLayer


class Places:
    """The sensors of a detector at a local six.

    Args:
        detector: the nominal places.
        local: local six (sensors, 6), with amplitudes of surfaces or without.
    """

    def __init__(self, detector: Detector, local: Tensor) -> None:
        self.sensors = SensorLayer.at(detector, local)
        with torch.no_grad():
            self.phi = self.sensors.phi()
            slope, offset = self.sensors.affine_map(self.phi)
        a, b = slope.unbind(-1)
        u, v = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
        normal = torch.linalg.cross(v, u)
        half, centre = self.sensors.half_length, self.sensors.centre
        self._table = torch.cat([a, b, offset, u, v, normal, half, centre], -1).contiguous().numpy()

    @torch.no_grad()
    def planes(self, batch: Batch) -> Plane:
        """`SensorLayer.planes` of the batch's hits; padding lies where it was left."""
        loops = batch.uv.device.type == "cpu" and not self.sensors.is_curved
        if not loops or not pays(place_hits, batch.n_tracks):
            return self.sensors.planes(batch.uv, batch.sensor, self.phi)
        fields = [np.empty((*batch.sensor.shape, 3)) for _ in range(4)]
        sensor, uv = (field.contiguous().numpy() for field in (batch.sensor, batch.uv))
        place_hits(self._table, sensor, uv, *fields)
        return Plane(*map(torch.from_numpy, fields))


@compiled
def place_hits(
    table: Array, sensor: Array, uv: Array, origin: Array, u: Array, v: Array, normal: Array
) -> None:
    """Planes of hits (tracks, hits, 3) from the table of their sensors (sensors, 22)."""
    for t in range(sensor.shape[0]):
        for h in range(sensor.shape[1]):
            row = table[sensor[t, h]]
            x, y = (uv[t, h, 0] - row[20]) / row[18], (uv[t, h, 1] - row[21]) / row[19]
            for k in range(3):
                origin[t, h, k] = row[k] * x + row[3 + k] * y + row[6 + k]
                u[t, h, k], v[t, h, k], normal[t, h, k] = row[9 + k], row[12 + k], row[15 + k]
