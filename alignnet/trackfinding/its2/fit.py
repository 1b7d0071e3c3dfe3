"""Candidates become tracks: the helix fit of the alignment, through hits that a finder has put together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Cylinders, collate, cylinders_of
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.physics.helix import Helix
from alignnet.sensors.sensor import SensorLayer
from alignnet.trackfinding.its2.hits import Hits
from alignnet.units import CURVATURE


class Fitted(NamedTuple):
    """Chains of hits with the helices through them."""

    chain: Tensor  # (tracks, hits) int64 rows of hits, −1 after the last
    helix: Helix  # (tracks,) at the first hit
    chi2: Tensor  # (tracks,)
    ndf: Tensor  # (tracks,)
    ok: Tensor  # whether the fit has settled (tracks,)

    def take(self, rows: Tensor) -> Fitted:
        """Some of the tracks."""
        helix = Helix(*(field[rows] for field in self.helix))
        return Fitted(self.chain[rows], helix, self.chi2[rows], self.ndf[rows], self.ok[rows])

    @property
    def n_hits(self) -> Tensor:
        """Hits of each track, (tracks,)."""
        return (self.chain >= 0).sum(-1)


class TrackFit:
    """Fits helices with multiple scattering to chains of hits, without a vertex.

    Args:
        detector: where the sensors are believed to be.
        systematic: added in quadrature to the resolution of every hit [cm].
    """

    def __init__(self, detector: Detector, systematic: float = 0.0) -> None:
        noise = NoiseModel(detector, kind="full", systematic=systematic)
        self.loss = HelixChi2(detector, noise, vertex="absent", normalisation="total")
        self.detector, self.sensors, self.systematic = detector, SensorLayer.of(detector), systematic
        self.cylinders: Cylinders = cylinders_of(detector)

    @torch.no_grad()
    def __call__(self, hits: Hits, chain: Tensor) -> Fitted:
        """Fit chains (tracks, hits), rows of hits, −1 after the last; each has 3 or more."""
        if not len(chain):
            return nothing(chain)
        batch = collate(as_tracks(hits, chain), self.detector, self.cylinders)
        planes = self.sensors.planes(batch.uv, batch.sensor)
        fit = self.loss.fit(planes, batch)
        chi2 = self.loss.at(planes, fit, batch)
        return Fitted(chain, fit.helix, chi2.track, chi2.ndf, fit.ok)

    def transverse_momentum(self, fitted: Fitted) -> Tensor:
        """p_T (tracks,) [GeV/c]."""
        direction = fitted.helix.direction
        curvature = fitted.helix.omega / direction[:, :2].norm(dim=-1)
        return CURVATURE * abs(self.detector.b_z) / curvature.abs().clamp_min(1e-9)


def as_tracks(hits: Hits, chain: Tensor) -> Tracks:
    """Chains (tracks, hits) as `Tracks`; the events are numbered as in `hits`."""
    is_hit = chain >= 0
    rows = chain[is_hit]
    offset = np.concatenate([[0], np.cumsum(is_hit.sum(-1).numpy())]).astype(np.int64)
    return Tracks(
        event=hits.event[chain[:, 0]].numpy(),
        offset=offset,
        sensor=hits.sensor[rows].numpy(),
        uv=hits.uv[rows].numpy(),
        sigma=hits.sigma[rows].numpy(),
    )


def nothing(chain: Tensor) -> Fitted:
    """No tracks."""
    none = torch.zeros(0, dtype=torch.float64)
    points = torch.zeros(0, 3, dtype=torch.float64)
    return Fitted(chain, Helix(points, points, none), none, none, none.bool())


def joined(first: Fitted, second: Fitted) -> Fitted:
    """Both, one after the other; their chains have equal widths."""
    helix = Helix(*(torch.cat(parts) for parts in zip(first.helix, second.helix, strict=True)))
    rest = (torch.cat([getattr(first, name), getattr(second, name)]) for name in ("chi2", "ndf", "ok"))
    return Fitted(torch.cat([first.chain, second.chain]), helix, *rest)
