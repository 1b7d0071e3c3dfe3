"""Parameters of simulated tracks in O2's terms: a helix through the hits, at its two ends.

The helix is fitted by least squares with the hits' resolutions alone. In the frame turned by the alpha of the
hit's sensor the state is X, mP = (Y, Z, sin of the azimuth, p_z/p_T, q/p_T).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.tracks import Array, Tracks
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import tracking_frame
from alignnet.geometry.plane import Plane
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.physics.seed import seed
from alignnet.physics.trackfit import derivatives, residuals, step
from alignnet.sensors.sensor import SensorLayer
from alignnet.units import CURVATURE

STEPS = 3

TOGETHER = 20_000
"""Tracks that are fitted at once, for the memory that it takes."""

NO_FIELD_Q_OVER_PT = 1 / 0.6
"""What O2 assumes without a field [1/(GeV/c)]."""


class State(NamedTuple):
    """O2's parameters of tracks, float32."""

    x: Array  # mX (tracks,) [cm]
    alpha: Array  # (tracks,) [rad]
    parameters: Array  # mP (tracks, 5)


class FittedTracks(NamedTuple):
    """Tracks at their innermost and their outermost hits."""

    inner: State
    outer: State
    chi2: Array  # (tracks,)


def fitted(tracks: Tracks, detector: Detector) -> FittedTracks:
    """Fit tracks with at least three hits each."""
    starts = range(0, len(tracks), TOGETHER)
    parts = [
        _fitted(tracks.select(np.arange(start, min(start + TOGETHER, len(tracks)))), detector)
        for start in starts
    ]
    inner, outer = (
        State(*(np.concatenate(column) for column in zip(*states, strict=True)))
        for states in ([part.inner for part in parts], [part.outer for part in parts])
    )
    return FittedTracks(inner, outer, np.concatenate([part.chi2 for part in parts]))


@torch.no_grad()
def _fitted(tracks: Tracks, detector: Detector) -> FittedTracks:
    batch = collate(tracks, detector, cylinders_of(detector))
    planes = SensorLayer.of(detector, "local").planes(batch.uv, batch.sensor)
    n = 4 if detector.b_z == 0 else 5
    helix = seed(planes.origin, batch.is_hit, batch.outward, detector.b_z)
    near = None
    for _ in range(STEPS):
        whitened, s = _whitened(helix, planes, batch, near)
        jacobian = derivatives(helix, planes, s, n) * _weight(batch)[..., None]
        delta, _, _ = step(whitened.flatten(1), jacobian.flatten(1, 2), None, None)
        helix, near = hx.updated(helix, delta), s
    whitened, s = _whitened(helix, planes, batch, near)
    along = torch.where(batch.is_hit, s, torch.inf), torch.where(batch.is_hit, s, -torch.inf)
    ends = along[0].argmin(-1), along[1].argmax(-1)
    inner, outer = (_state(helix, s, end, batch, detector) for end in ends)
    return FittedTracks(inner, outer, whitened.square().sum((1, 2)).numpy().astype(np.float32))


def _weight(batch: Batch) -> Tensor:
    return batch.is_hit[..., None] / batch.sigma


def _whitened(helix: Helix, planes: Plane, batch: Batch, near: Tensor | None) -> tuple[Tensor, Tensor]:
    residual, s = residuals(helix, planes, near)
    return residual * _weight(batch), s


def _state(helix: Helix, s: Tensor, hit: Tensor, batch: Batch, detector: Detector) -> State:
    """At one hit of each track."""
    here = hx.move(helix, s.gather(1, hit[:, None]).squeeze(1))
    sensor = batch.sensor.gather(1, hit[:, None]).squeeze(1)
    alpha = tracking_frame(detector)[1][sensor]
    position, direction = (hx.turned(vector, -alpha) for vector in (here.position, here.direction))
    across = direction[:, :2].norm(dim=-1)
    if detector.b_z:
        q_over_pt = -here.omega / across / (CURVATURE * detector.b_z)
    else:
        q_over_pt = torch.full_like(across, NO_FIELD_Q_OVER_PT)
    five = [position[:, 1], position[:, 2], direction[:, 1] / across, direction[:, 2] / across, q_over_pt]
    columns = position[:, 0], alpha, torch.stack(five, -1)
    return State(*(column.numpy().astype(np.float32) for column in columns))
