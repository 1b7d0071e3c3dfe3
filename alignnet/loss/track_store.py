"""Tracks packed for many passes over them: states that stay, hits and weights, 32 tracks to a tile.

Where the noise of hits is independent and the vertex is given or absent, a track needs few numbers: its
state, and for each plane the path length, the measured position and two weights. They lie as
`loss.lane_kernels` reads them, rows of a quantity with the tracks of a tile side by side, and a pass leaves
the states and path lengths where the next one starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.geometry.plane import Plane
from alignnet.loss import lane_kernels as kernels
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.loss.lane_kernels import HIT_ROWS, LANES, PLANES, POSE_ROWS
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.sensors.sensor import SensorLayer


class TrackStore:
    """Tracks of one number of hits each, padded; all float64.

    Args:
        tiles: rows of each tile (tiles, rows, `LANES`), as `lane_kernels` says.
        sensor: row of each hit's sensor, int32 (tiles, hits, `LANES`).
        n_tracks: lanes in use, from the first on.
        n_parameters: 5, or 4 where there is no field.
    """

    def __init__(self, tiles: Tensor, sensor: Tensor, n_tracks: int, n_parameters: int) -> None:
        self.tiles, self.sensor = tiles, sensor
        self.n_tracks, self.n_parameters = n_tracks, n_parameters
        self.has_vertex = (tiles.shape[1] - PLANES) % HIT_ROWS != 0
        self.n_hits = sensor.shape[1]
        self.n_planes = self.n_hits + self.has_vertex

    @classmethod
    @torch.no_grad()
    def of(cls, loss: HelixChi2, sensors: SensorLayer, batch: Batch) -> TrackStore:
        """Tracks of a batch, in its order, fitted at Θ as it is, with the weights that they have there.

        Raises:
            ConfigError: the noise is correlated, or the vertex fitted.
        """
        if loss.noise.kind == "full" or loss.vertex == "fitted":
            raise ConfigError(
                f"loss.noise.kind is {loss.noise.kind!r} and loss.vertex {loss.vertex!r}; tracks are packed "
                "where the noise is none or diagonal and the vertex given or absent"
            )
        fit = loss.fit(sensors.planes(batch.uv, batch.sensor), batch)
        vertex = loss._vertex_plane(fit, batch) if fit.vertex_whitening is not None else None
        uv = batch.uv - sensors.centre.index_select(0, batch.sensor.flatten()).view_as(batch.uv)
        ndf = (2 * batch.is_hit.sum(-1) - loss.n_parameters).to(uv)
        if vertex is not None:
            ndf = ndf + 2 * batch.has_vertex
        columns = _columns(fit, uv, ndf, vertex)
        return cls(_tiled(columns), _tiled(batch.sensor.to(torch.int32)), batch.n_tracks, loss.n_parameters)

    @classmethod
    def joined(cls, stores: Sequence[TrackStore]) -> TrackStore:
        """The tracks of several stores, ordered by their last sensors: neighbours read the same memory.

        Raises:
            ConfigError: the tracks have different planes.
        """
        kinds = {(store.n_hits, store.n_planes, store.n_parameters) for store in stores}
        if len(kinds) != 1:
            raise ConfigError(
                f"stores of tracks with the same planes can be joined; these have {sorted(kinds)}"
            )
        columns = torch.cat([store.rows(0, store.tiles.shape[1]) for store in stores])
        sensor = torch.cat([_untiled(store.sensor)[: len(store)] for store in stores])
        order = sensor[:, -1].argsort(stable=True)
        return cls(_tiled(columns[order]), _tiled(sensor[order]), len(order), stores[0].n_parameters)

    def __len__(self) -> int:
        return self.n_tracks

    def rows(self, first: int, count: int = 1) -> Tensor:
        """Rows of the tiles, track by track (tracks, count)."""
        return _untiled(self.tiles[:, first : first + count])[: self.n_tracks]

    @property
    def hit_sensor(self) -> Tensor:
        """Row of each hit's sensor, int64 (tracks, hits)."""
        return _untiled(self.sensor)[: self.n_tracks].long()

    @property
    def helix(self) -> Helix:
        """The tracks' states."""
        five = self.rows(0, 7)
        return Helix(five[:, :3], five[:, 3:6], five[:, 6])

    @property
    def chi2(self) -> Tensor:
        """χ² of each track as the last pass left it (tracks,)."""
        return self.rows(kernels.CHI2).squeeze(1)

    @property
    def ndf(self) -> Tensor:
        """Degrees of freedom (tracks,)."""
        return self.rows(kernels.NDF).squeeze(1)

    @property
    def usable(self) -> Tensor:
        """Tracks that the last pass took (tracks,)."""
        return self.rows(kernels.USABLE).squeeze(1) > 0

    @property
    def weight(self) -> Tensor:
        """Factor of each track's χ² in the sums (tracks,); 1 at first."""
        return self.rows(kernels.WEIGHT).squeeze(1)

    @weight.setter
    def weight(self, values: Tensor) -> None:
        self.put(kernels.WEIGHT, values[:, None])

    def put(self, first: int, values: Tensor) -> None:
        """Set rows of the tiles from (tracks, count)."""
        self.tiles[:, first : first + values.shape[1]] = _tiled(values)

    def hits(self, what: int) -> Tensor:
        """One of the `HIT_ROWS` of each plane, (tracks, planes)."""
        columns = [self.rows(PLANES + HIT_ROWS * k + what) for k in range(self.n_planes)]
        return torch.cat(columns, 1)

    def part(self, first: int, count: int) -> TrackStore:
        """Some tiles: a view, whose tracks are these."""
        last = min(first + count, len(self.tiles))
        tracks = min(self.n_tracks, last * LANES) - first * LANES
        return TrackStore(self.tiles[first:last], self.sensor[first:last], tracks, self.n_parameters)

    def to(self, device: str | torch.device) -> TrackStore:
        """The same tracks on another device."""
        return TrackStore(self.tiles.to(device), self.sensor.to(device), self.n_tracks, self.n_parameters)

    def vertex_plane(self) -> Plane:
        """The planes of the vertex rows, (tracks, 1)."""
        nine = self.rows(PLANES + HIT_ROWS * self.n_planes, POSE_ROWS)[:, None]
        origin, u, v = nine.split(3, -1)
        return Plane(origin, u, v, torch.linalg.cross(v, u))

    def save(self, folder: Path) -> None:
        """Write the tracks to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tiles.npy", self.tiles.cpu().numpy())
        np.save(folder / "sensor.npy", self.sensor.cpu().numpy())
        np.save(folder / "counts.npy", np.array([self.n_tracks, self.n_parameters]))

    @classmethod
    def open(cls, folder: Path) -> TrackStore:
        """Tracks in a folder, mapped and not read: what a pass leaves in them is there for the next."""
        tiles, sensor = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("tiles", "sensor"))
        n_tracks, n_parameters = np.load(folder / "counts.npy").tolist()
        return cls(torch.from_numpy(tiles), torch.from_numpy(sensor), n_tracks, n_parameters)


def _columns(fit: Fit, uv: Tensor, ndf: Tensor, vertex: Plane | None) -> Tensor:
    """All rows of the tracks (tracks, rows)."""
    helix, weights = fit.helix, fit.whitening.inverse_sigma
    assert weights is not None
    assert fit.s is not None
    one, s, pairs = torch.ones_like(helix.omega), fit.s, weights.unflatten(1, (-1, 2))
    head = [helix.position, helix.direction, *(x[:, None] for x in (helix.omega, one, ndf, 0 * one, one))]
    planes = [torch.cat([s[..., None], uv, pairs * fit.ok[:, None, None]], -1).flatten(1)]
    if vertex is not None and fit.vertex_whitening is not None:
        pull = fit.vertex_whitening.inverse_sigma
        assert pull is not None
        start = hx.path_to_plane(hx.expand(helix), vertex.origin, vertex.normal)
        planes += [start, torch.zeros_like(pull), pull * fit.ok[:, None]]
        planes += [field.squeeze(1) for field in (vertex.origin, vertex.u, vertex.v)]
    return torch.cat([*head, *planes], 1)


def _untiled(tiles: Tensor) -> Tensor:
    """(tiles, rows, `LANES`) as (all lanes, rows)."""
    return tiles.transpose(1, 2).flatten(0, 1)


def _tiled(columns: Tensor) -> Tensor:
    """(tracks, rows) as (tiles, rows, `LANES`); zeros in the lanes that are left."""
    missing = -len(columns) % LANES
    if missing:
        columns = torch.cat([columns, columns.new_zeros(missing, columns.shape[1])])
    return columns.unflatten(0, (-1, LANES)).transpose(1, 2).contiguous()
