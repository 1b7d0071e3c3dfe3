"""Tracks as Mille records: the residuals, weights and derivatives of the cost, for Millepede to solve.

At the places Θ₀ of the sensors, tracks are fitted; with r = predicted − measured and G = ∂r/∂Θ of a hit's own
sensor, δ the track's parameters and V = L Lᵀ the covariance of its residuals, χ² is quadratic around the fit:

    χ² = |L⁻¹ (r + J δ + G (Θ − Θ₀))|² = |y − L⁻¹J δ − L⁻¹G Θ|²,      y = −L⁻¹ (r − G Θ₀)

so that the measurements are uncorrelated with σ = 1, and Millepede's parameters are Θ, the local six of the
sensors in full: what it finds is to be compared with an alignment, not added to it. Rows are mixed by L⁻¹:
with correlated scattering one measurement depends on all sensors up to its own. The vertex is two
measurements more, which no sensor moves. Robust weights c of tracks are σ = 1/√c; those of
hits are in V.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.mille import MilleRecords
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import ConfigError
from alignnet.export.millepede import sensor_labels, track_records
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import linearise_at

BATCH = 5000
"""Tracks that are turned into records together."""


def iterate_records(
    tracks: Tracks, detector: Detector, local_six: Tensor, loss: HelixChi2
) -> Iterator[MilleRecords]:
    """The records of tracks, `BATCH` at a time; those that cannot be fitted are left out.

    Args:
        tracks: hits of this detector.
        detector: at its nominal places.
        local_six: where to linearise, (sensors, 6): near the answer.
        loss: the cost.

    Raises:
        ConfigError: the cost fits events' origins, which tracks share: no record holds them.
    """
    if loss.vertex == "fitted":
        raise ConfigError(
            "loss.vertex is fitted: a Mille record is one track, and cannot hold the origin that the tracks "
            "of an event share; train with loss.vertex=given or absent to write Mille files"
        )
    sensors = SensorLayer.at(detector, local_six)
    labels, cylinders = sensor_labels(detector, local_six.shape[1]), cylinders_of(detector)
    jacobian = sensors.motion()
    for first in range(0, len(tracks), BATCH):
        part = tracks.select(np.arange(first, min(first + BATCH, len(tracks))))
        yield records_of(loss, sensors, jacobian, labels, collate(part, detector, cylinders))


@torch.no_grad()
def records_of(
    loss: HelixChi2, sensors: SensorLayer, jacobian: Tensor, labels: Array, batch: Batch
) -> MilleRecords:
    """The records of a batch.

    Args:
        loss: the cost.
        sensors: in the local parametrisation, where to linearise.
        jacobian: ∂Φ/∂Θ there (sensors, 9, 6).
        labels: of Θ (sensors, 6).
        batch: its tracks; none twice on one sensor, or Millepede sees a label twice in one measurement.
    """
    planes = sensors.planes(batch.uv, batch.sensor)
    fit = loss.fit(planes, batch)
    weight = loss.at(planes, fit, batch).weight
    residual, local, _ = loss.rows(planes, fit, batch)
    own = linearise_at(loss, sensors, planes, fit, batch).derivative(jacobian)  # (tracks, hits, 2, 6)
    place = sensors.theta[batch.sensor].flatten(1)  # Θ₀ (tracks, 6·hits)
    moved = fit.whitening(_spread(own))
    moved = torch.cat(
        [moved, moved.new_zeros(len(moved), residual.shape[1] - moved.shape[1], moved.shape[2])], 1
    )
    y = (moved @ place[..., None]).squeeze(-1) - residual
    weighted = batch.is_hit if fit.hit_weight is None else batch.is_hit & (fit.hit_weight > 0)
    real = weighted.repeat_interleave(2, 1)
    if fit.vertex_whitening is not None:
        real = torch.cat([real, batch.has_vertex[:, None].expand(-1, 2)], 1)
    real = real & (weight > 0)[:, None]
    sigma = torch.where(weight > 0, weight, 1.0).rsqrt()[:, None]
    label = labels[batch.sensor.numpy()].reshape(len(y), 1, -1)
    return track_records(y, local, moved, sigma, label, real)


def _spread(own: Tensor) -> Tensor:
    """Derivatives of hits by their own sensors (tracks, hits, 2, 6) → by all (tracks, 2·hits, 6·hits)."""
    n = own.shape[1]
    apart = torch.eye(n, dtype=own.dtype)[None, :, None, :, None] * own[:, :, :, None, :]
    return apart.flatten(3, 4).flatten(1, 2)
