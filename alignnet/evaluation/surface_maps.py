"""Mean residuals over the sensors' surfaces, all sensors of a layer laid on one another.

A bend, a twist or a stretch that sensors share shows as a pattern in u and v.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignnet.evaluation.fitted_tracks import FittedTracks
from alignnet.evaluation.statistics import number
from alignnet.geometry.detector import Detector
from alignnet.physics.jit import Array, compiled, is_finite, pays
from alignnet.units import UM

BINS = (12, 24)
"""Even bins over the active area along u and v."""

MIN_HITS = 20
"""Bins with fewer hits have no mean."""


class SurfaceMaps:
    """Sums of unbiased residuals in bins of the measured place, per layer.

    Args:
        detector: layers and active areas.
    """

    def __init__(self, detector: Detector) -> None:
        self.layers = detector.layers
        index = {layer: i for i, layer in enumerate(self.layers)}
        self.layer = np.array([index[layer] for layer in detector.layer.tolist()])
        self.area = torch.cat([detector.half, detector.centre], -1).contiguous().numpy()
        self.sums = np.zeros((len(self.layers), *BINS, 3))  # hits, Σ of the residuals in u and v

    def add(self, tracks: FittedTracks) -> None:
        """Add the hits of a batch."""
        batch, values = tracks.batch, tracks.unbiased
        if values.dtype == torch.float64 and pays(add_to_surface, len(values)):
            fields = (values, batch.uv, batch.sensor, tracks.used_hits)
            add_to_surface(*(f.contiguous().numpy() for f in fields), self.layer, self.area, self.sums)
            return
        keep = tracks.used_hits & values.isfinite().all(-1)
        sensor, uv, some = (field[keep].numpy() for field in (batch.sensor, batch.uv, values))
        place = ((uv - self.area[sensor, 2:]) / self.area[sensor, :2] + 1) / 2
        inside = ((place >= 0) & (place < 1)).all(-1)
        row = np.floor(place[inside] * np.array(BINS)).astype(np.int64)
        index = (self.layer[sensor[inside]], row[:, 0], row[:, 1])
        moments = np.concatenate([np.ones((len(row), 1)), some[inside].astype(np.float64)], -1)
        np.add.at(self.sums, index, moments)

    def merge(self, other: SurfaceMaps) -> None:
        """Add what another has seen."""
        self.sums += other.sums

    def metrics(self) -> dict[str, Any]:
        """By layer `n_hits`, `mean_u_um` and `mean_v_um`, rows of bins along u with the bins along v."""
        found = {}
        for layer, sums in zip(self.layers, self.sums, strict=True):
            count = sums[..., 0]
            mean = (
                np.where(count >= MIN_HITS, 1.0, np.nan)[..., None]
                * sums[..., 1:]
                / np.maximum(count, 1)[..., None]
            )
            found[f"layer{layer}"] = {"n_hits": count.astype(int).tolist()} | {
                f"mean_{c}_um": [[number(x / UM) for x in row] for row in mean[..., k]]
                for k, c in enumerate("uv")
            }
        return found


@compiled
def add_to_surface(
    values: Array, uv: Array, sensor: Array, keep: Array, layer: Array, area: Array, sums: Array
) -> None:
    """Hits, and sums of their values, in bins of the place (layers, bins, bins, 3)."""
    for t in range(values.shape[0]):
        for h in range(values.shape[1]):
            if not keep[t, h] or not is_finite(values[t, h, 0] + values[t, h, 1]):
                continue
            s = sensor[t, h]
            x = ((uv[t, h, 0] - area[s, 2]) / area[s, 0] + 1) / 2
            y = ((uv[t, h, 1] - area[s, 3]) / area[s, 1] + 1) / 2
            if x >= 0 and x < 1 and y >= 0 and y < 1:
                cell = sums[layer[s], int(x * sums.shape[1]), int(y * sums.shape[2])]
                cell[0] += 1.0
                cell[1] += values[t, h, 0]
                cell[2] += values[t, h, 1]
