"""Where `linearise_at` runs compiled, and the way there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.plane import Plane
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.physics.jit import Array, in_threads, pays, shares
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import linear_kernel as lk


def applies(loss: HelixChi2, fit: Fit, batch: Batch) -> bool:
    """Whether tracks can be linearised by compiled loops: on a CPU, in float64, track by track."""
    plain = fit.origins is None and fit.s is not None and loss.dtype == torch.float64
    double = batch.uv.device.type == "cpu" and fit.helix.position.dtype == torch.float64
    return plain and double and pays(lk.linearise_tracks, batch.n_tracks)


def rows_of(fit: Fit, batch: Batch) -> int:
    """Rows of a track, those of the vertex too."""
    return 2 * batch.is_hit.shape[1] + (2 if fit.vertex_whitening is not None else 0)


def linear(
    loss: HelixChi2,
    sensors: SensorLayer,
    planes: Plane,
    fit: Fit,
    batch: Batch,
    weight: Tensor,
    epsilon: Tensor,
) -> list[Tensor]:
    """Slope, arm, force, noise and metric of a `Block`."""
    tracks, hits = batch.is_hit.shape
    rows = 2 * hits
    shapes = ((tracks, hits, 2), (tracks, hits, 3), (tracks, rows), (tracks, rows), (tracks, rows, rows))
    out = lk.Linear(*(np.zeros(shape) for shape in shapes))
    fits, n = _fits(sensors, planes, fit, batch, weight, epsilon), loss.n_parameters
    in_threads(lambda first, last: lk.linearise_tracks(fits, n, out, first, last), shares(tracks))
    return [torch.from_numpy(field) for field in out]


def _fits(
    sensors: SensorLayer, planes: Plane, fit: Fit, batch: Batch, weight: Tensor, epsilon: Tensor
) -> lk.Fits:
    state = torch.cat([fit.helix.position, fit.helix.direction, fit.helix.omega[:, None]], -1)
    vertex, shape = fit.vertex_whitening, batch.sensor.shape
    half, centre = (
        table.index_select(0, batch.sensor.flatten()).unflatten(0, shape)
        for table in (sensors.half_length, sensors.centre)
    )
    tensors: tuple[tuple[Tensor | None, int], ...] = (
        *((field, 3) for field in planes),
        (batch.is_hit, 2),
        (batch.uv, 3),
        (half, 3),
        (centre, 3),
        (state, 2),
        (fit.s, 2),
        (fit.whitening.factor, 3),
        (fit.whitening.inverse_sigma, 2),
        (None if vertex is None else vertex.factor, 3),
        (None if vertex is None else vertex.inverse_sigma, 2),
        (None if vertex is None else fit.vertex_axes, 3),
        (batch.vertex, 2),
        (weight, 1),
        (epsilon, 2),
    )
    return lk.Fits(*(_plain(tensor, dimensions) for tensor, dimensions in tensors))


def _plain(tensor: Tensor | None, dimensions: int) -> Array:
    if tensor is None:
        return np.zeros((0,) * dimensions)
    array: np.ndarray[Any, Any] = tensor.detach().contiguous().numpy()
    return array
