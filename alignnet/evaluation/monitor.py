"""The residuals that ALICE's quality control shows for ITS2's alignment, made here from the same tracks.

A circle is fitted to a track's hits across the field, and a line z(β) along it (`circle_fit`), hits with

    σ = √( σ_meas² + (c / (0.29979 B R))² ),      B [T], R [m]

and the constants of `Modules/ITS/src/ITSTrackTask.cxx`. Shown are the distance of the fitted to the measured
point along the circle's normal, positive where the cross product of measured and fitted is, and z of the line
minus z measured, against the chip (inner barrel) or module (outer barrel), within ±500 µm. All hits are in
the fit: the residuals are biased, and kinks are not known to it. They are for comparison with the monitor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import GeometryError
from alignnet.evaluation.circle_fit import arc, fit_circle, fit_line, nearest
from alignnet.evaluation.statistics import number
from alignnet.geometry.detector import Detector
from alignnet.units import UM

MIN_CLUSTERS = 5
RANGE = 500 * UM
INNER_LAYERS = 3
CIRCLE = ((40.0, 25.0), (40.0, 75.0))
LINE = ((45.0, 30.0), (55.0, 110.0))
"""σ_meas [µm] and c [µm GeV/c] of the inner and of the outer barrel."""

MIN_HITS = 20


class MonitorResiduals:
    """Sums of the monitor's residuals per chip or module.

    Args:
        detector: the sensors; chips where they are on no module.
    """

    def __init__(self, detector: Detector) -> None:
        self.b_z, self.layers = abs(detector.b_z), detector.layers
        self.layer = detector.layer
        self.unit, self.names = _units(detector)
        self.unit_layer = torch.zeros(len(self.names), dtype=torch.int64)
        self.unit_layer[self.unit] = detector.layer
        self.sums = np.zeros((len(self.names), 2, 3))

    def add(self, points: Tensor, batch: Batch) -> None:
        """Add the tracks of a batch.

        Args:
            points: measured positions (tracks, hits, 3) [cm].
            batch: the tracks.
        """
        rows = ((batch.is_hit.sum(-1) >= MIN_CLUSTERS) & batch.outward).nonzero().squeeze(-1)
        if not len(rows):
            return
        sensor, is_hit = batch.sensor[rows], batch.is_hit[rows]
        points = torch.where(is_hit[..., None], points[rows], points[rows, :1])
        residual = monitor_residuals(points, is_hit, self.layer[sensor] < INNER_LAYERS, self.b_z)
        keep = is_hit & (residual.abs() < RANGE).all(-1)
        values = residual[keep].numpy()
        moments = np.stack([np.ones_like(values), values, values**2], -1)
        np.add.at(self.sums, self.unit[sensor[keep]].numpy(), moments)

    def merge(self, other: MonitorResiduals) -> None:
        """Add what another has seen."""
        self.sums += other.sums

    def metrics(self) -> dict[str, Any]:
        """By layer, with an entry a chip or module in the detector's order."""
        return {f"layer{layer}": self._of((self.unit_layer == layer).numpy()) for layer in self.layers}

    def _of(self, rows: Any) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"n_hits": self.sums[rows, 0, 0].astype(int).tolist()}
        count, first, second = np.moveaxis(self.sums[rows], -1, 0)
        safe = np.maximum(count, 1)
        mean = np.where(count >= MIN_HITS, first / safe, np.nan)
        width = np.sqrt(np.maximum(second / safe - mean**2, 0.0))
        for k, c in enumerate(("xy", "z")):
            columns[f"mean_{c}_um"] = [number(x / UM) for x in mean[:, k]]
            columns[f"width_{c}_um"] = [number(x / UM) for x in width[:, k]]
        return columns


def monitor_residuals(points: Tensor, is_hit: Tensor, inner: Tensor, b_z: float) -> Tensor:
    """Residuals across the field and along z (tracks, hits, 2) [cm].

    Args:
        points: measured positions (tracks, hits, 3) [cm].
        is_hit: False for padding (tracks, hits).
        inner: whether they are of the inner barrel (tracks, hits).
        b_z: field [T].
    """
    xy, z = points[..., :2], points[..., 2]
    circle = fit_circle(xy, is_hit.to(xy))
    for _ in range(2):  # weights follow from the radius
        pt = 0.29979 * b_z * circle.radius[:, None] / 100
        circle = fit_circle(xy, _weights(CIRCLE, inner, pt) * is_hit)
    pt = 0.29979 * b_z * circle.radius[:, None] / 100
    fitted = nearest(circle, xy)
    cross = xy[..., 0] * fitted[..., 1] - xy[..., 1] * fitted[..., 0]
    across = (fitted - xy).norm(dim=-1) * cross.sign()
    along = fit_line(arc(circle, fitted), z, _weights(LINE, inner, pt) * is_hit) - z
    return torch.stack([across, along], -1)


def _weights(constants: tuple[tuple[float, float], ...], inner: Tensor, pt: Tensor) -> Tensor:
    """1/σ² [1/µm²] of hits (tracks, hits)."""
    (own, kink), (own_out, kink_out) = constants
    own_of, kink_of = (torch.where(inner, a, b).to(pt) for a, b in ((own, own_out), (kink, kink_out)))
    return 1 / (own_of**2 + (kink_of / pt) ** 2)


def _units(detector: Detector) -> tuple[Tensor, list[str]]:
    """Which chip or module each sensor is shown as (sensors,), and their names."""
    try:
        module, names = detector.groups("module")
    except GeometryError:
        return torch.arange(len(detector)), list(detector.names)
    alone = (module < 0).nonzero().squeeze(-1)
    unit = module.clone()
    unit[alone] = len(names) + torch.arange(len(alone))
    return unit, [*names, *(detector.names[i] for i in alone.tolist())]
