"""What a loss sees: some events' tracks as padded tensors.

The correlated noise model needs one small matrix a track, so tracks are padded to the longest of the batch.
Padding repeats a track's first hit, where every formula is regular, and is switched off by `is_hit`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.tracks import Array, Tracks
from alignnet.geometry.detector import Detector
from alignnet.units import PION_MASS

_LENGTHS = (7, 8, 9, 11)  # the most hits of each part of `Batch.by_length` but the last
_PER_TRACK = ("event", "vertex", "vertex_cov", "has_vertex", "p", "mass", "outward", "crossed")


class Batch(NamedTuple):
    """Tracks of whole events; dimensions (tracks), (hits) = the most hits of a track, (cylinders)."""

    sensor: Tensor  # row of the detector table, int64 (tracks, hits)
    uv: Tensor  # measured local position (tracks, hits, 2) [cm]
    sigma: Tensor  # intrinsic resolution (tracks, hits, 2) [cm]
    is_hit: Tensor  # False for padding (tracks, hits)
    event: Tensor  # event within the batch, int64 (tracks,)
    event_number: Tensor  # number of each event in the file, int64 (events,)
    vertex: Tensor  # (tracks, 3) [cm]; 0 where there is none
    vertex_cov: Tensor  # (tracks, 3, 3) [cm²]; 1 where there is none
    has_vertex: Tensor  # (tracks,)
    p: Tensor  # momentum (tracks,) [GeV/c]; NaN where the fit must tell
    mass: Tensor  # (tracks,) [GeV/c²]
    outward: Tensor  # the path starts at the beam line (tracks,)
    crossed: Tensor  # passive cylinders between the hits and the start (tracks, cylinders)

    @property
    def n_events(self) -> int:
        """Number of events, with and without tracks left."""
        return len(self.event_number)

    def by_length(self) -> list[Batch]:
        """The same tracks in batches of similar numbers of hits, with little padding; all have all events."""
        count = self.is_hit.sum(-1)
        edges = [0, *(n for n in _LENGTHS if n < self.is_hit.shape[1]), self.is_hit.shape[1]]
        parts = []
        for low, high in itertools.pairwise(edges):
            rows = ((count > low) & (count <= high)).nonzero().squeeze(-1)
            if len(rows):
                per_hit = {name: getattr(self, name)[rows, :high] for name in Batch._fields[:4]}
                per_track = {name: getattr(self, name)[rows] for name in _PER_TRACK}
                parts.append(self._replace(**per_hit, **per_track))
        return parts

    def take(self, rows: Tensor) -> Batch:
        """Some of the tracks; the events stay."""
        per_track = (*Batch._fields[:4], *_PER_TRACK)
        return self._replace(**{name: getattr(self, name)[rows] for name in per_track})

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        return len(self.event)


class Cylinders(NamedTuple):
    """What a track may cross without leaving a hit: passive cylinders, then each barrel layer."""

    radius: Tensor  # (cylinders,) [cm]
    x_over_x0: Tensor  # (cylinders,)
    layer: Tensor  # layer number, −1 for passive ones (cylinders,)
    half_z: Tensor  # (cylinders,) [cm]


def cylinders_of(detector: Detector) -> Cylinders:
    """Passive cylinders of a detector, and for each barrel layer one that stands for a missing hit."""
    passive = detector.scatterers
    radii, materials, layers = [*passive.radius.tolist()], [*passive.x_over_x0.tolist()], [-1] * len(passive)
    lengths = passive.half_z.tolist()
    for layer in detector.layers:
        mine = detector.layer == layer
        radius = detector.translation[mine, :2].norm(dim=-1)
        upright = detector.rotation[mine][:, 2, 1].abs().max() < 0.2
        if upright and radius.max() - radius.min() < 0.2 * radius.mean():
            radii.append(float(radius.mean()))
            materials.append(float(detector.x_over_x0[mine].mean()))
            layers.append(layer)
            lengths.append(float((detector.translation[mine, 2].abs() + detector.half[mine, 1]).max()))
    return Cylinders(
        torch.tensor(radii, dtype=torch.float64),
        torch.tensor(materials, dtype=torch.float64),
        torch.tensor(layers),
        torch.tensor(lengths, dtype=torch.float64),
    )


def collate(tracks: Tracks, detector: Detector, cylinders: Cylinders) -> Batch:
    """Pad whole events' tracks into a `Batch` (float64)."""
    count = tracks.hits_per_track
    width = int(count.max()) if len(tracks) else 3
    column = np.arange(width)[None, :]
    is_hit = column < count[:, None]
    hit = tracks.offset[:-1, None] + np.where(is_hit, column, 0)
    number, event = np.unique(tracks.event, return_inverse=True)
    kind = np.zeros(len(tracks), dtype=np.int8) if tracks.kind is None else tracks.kind
    sensor = torch.from_numpy(tracks.sensor[hit].astype(np.int64))
    vertex, vertex_cov, has_vertex = _vertex(tracks, kind)
    mask, uv = torch.from_numpy(is_hit), _float(tracks.uv[hit])
    return Batch(
        sensor=sensor,
        uv=uv,
        sigma=_float(tracks.sigma[hit]),
        is_hit=mask,
        event=torch.from_numpy(event.astype(np.int64)),
        event_number=torch.from_numpy(number.astype(np.int64)),
        vertex=vertex,
        vertex_cov=vertex_cov,
        has_vertex=has_vertex,
        p=_float(np.full(len(tracks), np.nan) if tracks.p is None else tracks.p),
        mass=_float(np.full(len(tracks), PION_MASS) if tracks.mass is None else tracks.mass),
        outward=torch.from_numpy(kind == 0),
        crossed=_crossed(sensor, uv, mask, torch.from_numpy(kind == 0), detector, cylinders),
    )


def _vertex(tracks: Tracks, kind: Array) -> tuple[Tensor, Tensor, Tensor]:
    n = len(tracks)
    if tracks.vertex is None or tracks.vertex_cov is None:
        eye = torch.eye(3, dtype=torch.float64).expand(n, 3, 3).clone()
        return torch.zeros(n, 3, dtype=torch.float64), eye, torch.zeros(n, dtype=torch.bool)
    order = [0, 1, 3, 1, 2, 4, 3, 4, 5]
    covariance = _float(tracks.vertex_cov[:, order]).reshape(n, 3, 3)
    return _float(tracks.vertex), covariance, torch.from_numpy(kind == 0)


def _crossed(
    sensor: Tensor, uv: Tensor, is_hit: Tensor, outward: Tensor, detector: Detector, cylinders: Cylinders
) -> Tensor:
    """A collision track crosses the cylinders within its outermost hit, and each layer it left no hit in.

    Where it meets them along z is taken from the line through its innermost and its outermost hit: tracks to
    the discs leave a barrel at its ends.
    """
    place = detector.translation[sensor] + _in_lab(detector, sensor, uv)
    radius = place[..., :2].norm(dim=-1)
    far, last = torch.where(is_hit, radius, -torch.inf).max(-1, keepdim=True)
    near, first = torch.where(is_hit, radius, torch.inf).min(-1, keepdim=True)
    z_far, z_near = place[..., 2].gather(1, last), place[..., 2].gather(1, first)
    slope = torch.where(far > near, (z_far - z_near) / (far - near), 0.0)
    z = z_near + slope * (cylinders.radius - near)
    layer = torch.where(is_hit, detector.layer[sensor], -2)
    seen = (layer[:, :, None] == cylinders.layer).any(1)
    return (cylinders.radius < far) & (z.abs() < cylinders.half_z) & ~seen & outward[:, None]


def _in_lab(detector: Detector, sensor: Tensor, uv: Tensor) -> Tensor:
    """Nominal global directions and lengths from the sensors' origins to hits (..., 2), (..., 3) [cm]."""
    if bool(detector.curved.any()):
        return (detector.rotation[sensor] @ detector.surface.at(sensor).point(uv)[..., None]).squeeze(-1)
    return (detector.rotation[..., [0, 2]][sensor] @ uv[..., None]).squeeze(-1)


def _float(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
