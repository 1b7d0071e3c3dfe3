"""Tracks with two hits in one layer: how neighbouring sensors stand to each other, whatever the rest does.

The double difference is the residual of the hit at larger φ minus that of its partner, both left out of the
fit together, along +φ (u) and +z (v); predicted minus measured, as all residuals. If the further of two
staves really stands δ further along φ than it is believed to, its mean is δ. What moves both alike drops out.

A slow track scatters between two staves by hundreds of micrometres, a fast one by less than the resolution.
A track that is scattered by Δ towards the outer sensor hits it from Δ before its edge on: of those with both
hits the mean is ⟨Δ²⟩ over the width of the overlap, always with one sign, even where every sensor is in its
place (ITS2: 19 µm below 0.15 GeV/c). So means are weighted with the inverse of the expected variances,
w = 1/σ²:

    m = Σ w d / Σ w  ±  √( Σ w (d − m)² / (n − 1) / Σ w )
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignnet.data.tracks import Array
from alignnet.errors import GeometryError
from alignnet.evaluation.fitted_tracks import FittedTracks
from alignnet.evaluation.overlap_pairs import tracks_of
from alignnet.evaluation.statistics import Histogram, number
from alignnet.geometry.detector import Detector
from alignnet.geometry.orientation import sides
from alignnet.units import UM

MIN_PAIRS = 20
"""Pairs of staves with fewer hits have no mean."""


class Overlaps:
    """Double differences per layer, and per pair of staves.

    Args:
        detector: its staves are the level `Stave`, or else its sensors, each for itself.
    """

    def __init__(self, detector: Detector) -> None:
        self.layers = detector.layers
        index = {layer: i for i, layer in enumerate(self.layers)}
        self.layer = torch.tensor([index[layer] for layer in detector.layer.tolist()])
        self.stave, self.names = _staves(detector)
        self.side, self.phi = _orientation(detector)
        self.histogram = Histogram(len(self.layers), 2e-4, 2.0)
        self.pulls = np.zeros((len(self.layers), 2, 2))  # Σ of squared pulls, and how many
        self.sums = np.zeros((len(self.layers), 2, 4))  # n, Σw, Σwd, Σwd²
        self.pair = np.zeros(0, dtype=np.int64)  # pairs of staves that were seen, in order
        self.moments = np.zeros((0, 2, 4))  # of their differences

    def add(self, tracks: FittedTracks) -> None:
        """Add the pairs of a batch."""
        if not len(tracks.pairs.hits):
            return
        track = tracks_of(tracks.pairs)
        sensor = tracks.batch.sensor[track[:, None], torch.from_numpy(tracks.pairs.hits)]
        side = self.side[sensor].to(tracks.pair.dtype)  # (pairs, hit, coordinate)
        ahead = torch.sin(self.phi[sensor[:, 1]] - self.phi[sensor[:, 0]])
        sign = torch.where(ahead >= 0, 1.0, -1.0).to(side)[:, None]
        oriented = side * tracks.pair
        difference = sign * (oriented[:, 1] - oriented[:, 0])
        block = tracks.pair_covariance
        own = block.diagonal(dim1=-2, dim2=-1).unflatten(1, (2, 2)).sum(1)
        both = torch.stack([block[:, 0, 2], block[:, 1, 3]], -1)
        variance = own - 2 * side[:, 0] * side[:, 1] * both
        good = (tracks.weight[track] > 0) & difference.isfinite().all(-1) & (variance > 0).all(-1)
        further = torch.where(ahead >= 0, sensor[:, 1], sensor[:, 0])
        former = torch.where(ahead >= 0, sensor[:, 0], sensor[:, 1])
        self._add(difference[good], variance[good], former[good], further[good])

    def _add(self, difference: Tensor, variance: Tensor, former: Tensor, further: Tensor) -> None:
        layer, values = self.layer[former], difference.double().numpy()
        self.histogram.add(difference, layer)
        weight = 1 / variance.double().numpy()
        moments = np.stack([np.ones_like(values), weight, weight * values, weight * values**2], -1)
        np.add.at(self.sums, layer.numpy(), moments)
        self._add_pairs(self.stave[former].numpy() * len(self.names) + self.stave[further].numpy(), moments)
        pull = (difference.square() / variance).double().numpy()
        np.add.at(self.pulls, layer.numpy(), np.stack([pull, np.ones_like(pull)], -1))

    def merge(self, other: Overlaps) -> None:
        """Add what another has seen."""
        self.histogram.counts += other.histogram.counts
        for name in ("pulls", "sums"):
            np.add(getattr(self, name), getattr(other, name), out=getattr(self, name))
        self._add_pairs(other.pair, other.moments)

    def _add_pairs(self, pair: Array, moments: Array) -> None:
        """Add moments (rows, 2, 4) of pairs of staves (rows,)."""
        self.pair, which = np.unique(np.concatenate([self.pair, pair]), return_inverse=True)
        every, total = np.concatenate([self.moments, moments]), np.zeros((len(self.pair), 2, 4))
        np.add.at(total, which, every)
        self.moments = total

    def metrics(self) -> dict[str, Any]:
        """For metrics.json, `layer<N>.<u|v>` and `staves`, columns with an entry a pair of staves."""
        core = self.histogram.core_width()
        layers = {}
        for i, layer in enumerate(self.layers):
            row = {}
            for k, c in enumerate("uv"):
                square, n = self.pulls[i, k]
                row[c] = _numbers(self.sums[i, k]) | {
                    "core_width_um": number(core[i, k] / UM),
                    "pull_width": number(np.sqrt(square / n)) if n else None,
                }
            layers[f"layer{layer}"] = row
        return {**layers, "staves": self._staves()}

    def _staves(self) -> dict[str, list[Any]]:
        """Pairs of staves with enough hits, by their names."""
        columns: dict[str, list[Any]] = {"first": [], "next": [], "n": []}
        for row in np.flatnonzero(self.moments[:, 0, 0] >= MIN_PAIRS).tolist():
            a, b = divmod(int(self.pair[row]), len(self.names))
            columns["first"].append(self.names[a])
            columns["next"].append(self.names[b])
            columns["n"].append(int(self.moments[row, 0, 0]))
            for k, c in enumerate("uv"):
                for key, value in _numbers(self.moments[row, k]).items():
                    if key != "n":
                        columns.setdefault(f"{key.removesuffix('_um')}_{c}_um", []).append(value)
        return columns


def _numbers(moments: Array) -> dict[str, float | None]:
    n, weight, first, second = moments.tolist()
    mean = first / weight if n else float("nan")
    width = float(np.sqrt(max(second / weight - mean**2, 0.0))) if n else float("nan")
    error = width / np.sqrt(n - 1) if n > 1 else float("nan")
    columns = {"mean_um": mean / UM, "mean_error_um": error / UM, "width_um": width / UM}
    return {"n": round(n)} | {key: number(value) for key, value in columns.items()}


def _staves(detector: Detector) -> tuple[Tensor, tuple[str, ...]]:
    """The stave of each sensor, and the staves' names; sensors that are on none stand for themselves."""
    try:
        stave, names = detector.groups("stave")
    except GeometryError:
        return torch.arange(len(detector)), detector.names
    alone = (stave < 0).nonzero().squeeze(-1)
    stave[alone] = len(names) + torch.arange(len(alone))
    return stave, (*names, *(detector.names[i] for i in alone.tolist()))


def _orientation(detector: Detector) -> tuple[Tensor, Tensor]:
    """Signs of u and v (sensors, 2), and the azimuth of each sensor (sensors,)."""
    side = torch.ones(len(detector), 2, dtype=torch.float64)
    for layer in detector.layers:
        rows = (detector.layer == layer).nonzero().squeeze(-1)
        side[rows] = sides(detector, rows)[:, :2]
    return side, torch.atan2(detector.translation[:, 1], detector.translation[:, 0])
