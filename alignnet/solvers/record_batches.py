"""Track parameters eliminated from many records at once: the sums of `elimination`, without a compiler.

With K = C⁻¹ of LᵀL = C Cᵀ, whitened derivatives L of the track parameters and G of the shared ones,

    H = GᵀG − BᵀB,      g = Gᵀy − BᵀKLᵀy,      B = K LᵀG,

where G and B are sparse matrices of all records. Records with as many track parameters are fitted together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from alignnet.data.mille import MilleRecords, RawBlock
from alignnet.data.tracks import Array
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.elimination import CAUCHY, HUBER, UNDETERMINED_BELOW
from alignnet.solvers.record_labels import track_parameters
from alignnet.solvers.record_tables import Cuts, Labels, Reduced

_ROOM = 1 << 21  # derivatives by track parameters that are in memory at a time


@dataclass(frozen=True)
class _Tracks:
    """Records with n track parameters each, filled up with measurements of no weight.

    Args:
        count: measurements (tracks,).
        slot: track · most measurements + place of each of the block's measurements, −1 for those of others.
        y: less what parameters explain (tracks, most measurements).
        weight: 1/σ² (tracks, most measurements).
        local: ∂y/∂q (tracks, most measurements, n).
    """

    count: Array
    slot: Array
    y: Array
    weight: Array
    local: Array


class BatchSums:
    """Sums over blocks of records; arguments as of `records.reduce_records`."""

    def __init__(self, labels: Labels, unknown: Array, size: int, at: Array, cuts: Cuts) -> None:
        self.labels, self.unknown, self.at, self.cuts = labels, unknown, at, cuts
        self.limit = np.array(cuts.limit, dtype=np.float64)
        self.matrix, self.gradient = csr_array((size, size)), np.zeros(size)
        self.chi2, self.ndf, self.counts = 0.0, 0.0, np.zeros(4, dtype=np.int64)

    def add(self, block: RawBlock, weight: float) -> None:
        """Add records whose 1/σ² is multiplied by a weight.

        Raises:
            SchemaError: a record is damaged.
        """
        records = block.records()
        parameter = np.searchsorted(self.labels.label, records.global_label)
        with np.errstate(all="ignore"):  # records with numbers out of range are not determined
            for tracks in self._batches(records, parameter, weight):
                self._add(tracks, records, self.unknown[parameter])

    def result(self) -> Reduced:
        """H by blocks, g, and what was counted."""
        width = self.labels.width
        blocks = self.matrix.tobsr((width, width))
        row = np.repeat(np.arange(len(self.gradient) // width), np.diff(blocks.indptr))
        upper = row <= blocks.indices
        row, column, values = row[upper], blocks.indices[upper].astype(np.int64), blocks.data[upper]
        own = row == column
        values[own] = (values[own] + values[own].swapaxes(1, 2)) / 2
        matrix = BlockMatrix.of_pairs(row, column, values, len(self.gradient) // width)
        taken, undetermined, beyond, lost = self.counts.tolist()
        return Reduced(matrix, self.gradient, self.chi2, self.ndf, (taken, undetermined, beyond, lost))

    def _batches(self, records: MilleRecords, parameter: Array, weight: float) -> Iterator[_Tracks]:
        explained = records.global_value * self.at[parameter]
        y = records.y - np.bincount(records.measurement_of_global, explained, minlength=len(records.y))
        shared = np.diff(records.global_offset) > 0
        weights = weight * np.where(shared, *self.cuts.scale) / records.sigma**2
        sizes, parameters = np.diff(records.record_offset), track_parameters(records)
        self.counts[1] += (parameters > sizes).sum()
        for rows in _alike(sizes, parameters):
            n, count, most = int(parameters[rows[0]]), sizes[rows], int(sizes[rows[-1]])
            slot = np.full(len(y), -1, dtype=np.int64)
            there = np.arange(most) < count[:, None]
            where = (records.record_offset[rows, None] + np.arange(most))[there]
            slot[where] = np.flatnonzero(there)
            filled = np.zeros((2, len(rows), most))
            filled[:, there] = y[where], weights[where]
            local = _local(records, slot, (len(rows), most, n))
            yield _Tracks(count, slot, filled[0], filled[1], local)

    def _add(self, tracks: _Tracks, records: MilleRecords, unknown: Array) -> None:
        weight, lost = tracks.weight, np.zeros(len(tracks.count))
        good, inverse, pull = _fit(tracks, weight)
        for fits in range(1, self.cuts.passes):
            factor = _robust(tracks, inverse, pull, cauchy=fits > 2)
            weight, lost = tracks.weight * factor, (1 - factor).sum(1) / np.maximum(tracks.count, 1)
            again, inverse, pull = _fit(tracks, weight)
            good &= again
        chi2 = (weight * tracks.y**2).sum(1) - (pull**2).sum(1)
        taken = self._cut(good & np.isfinite(chi2), chi2, tracks.count - pull.shape[1], lost)
        self._scatter(tracks, records, unknown, np.where(taken[:, None], weight, 0.0), inverse, pull)

    def _cut(self, good: Array, chi2: Array, ndf: Array, lost: Array) -> Array:
        """Which tracks count, and their sums."""
        beyond = np.zeros(len(good), dtype=bool)
        if len(self.limit):
            beyond = good & (ndf > 0) & (chi2 > self.limit[np.minimum(ndf, len(self.limit) - 1)])
        light = good & ~beyond & (lost > self.cuts.most_lost)
        taken = good & ~beyond & ~light
        self.counts += [taken.sum(), (~good).sum(), beyond.sum(), light.sum()]
        self.chi2, self.ndf = self.chi2 + float(chi2[taken].sum()), self.ndf + float(ndf[taken].sum())
        return np.asarray(taken)

    def _scatter(
        self,
        tracks: _Tracks,
        records: MilleRecords,
        unknown: Array,
        weight: Array,
        inverse: Array,
        pull: Array,
    ) -> None:
        """Add GᵀG − BᵀB and the gradient of tracks that have weight."""
        (n_tracks, most, n), size = tracks.local.shape, len(self.gradient)
        root = np.sqrt(weight).ravel()
        slot = tracks.slot[records.measurement_of_global]
        entry = np.flatnonzero((slot >= 0) & (unknown >= 0))
        entry = entry[root[slot[entry]] > 0]
        slot, column = slot[entry], unknown[entry]
        value = records.global_value[entry] * root[slot]
        shared = csr_array((value, (slot, column)), shape=(n_tracks * most, size))
        self.matrix = self.matrix + shared.T @ shared
        self.gradient += shared.T @ (root * tracks.y.ravel())
        if n and len(entry):
            track = slot // most
            moved = root[slot, None] * tracks.local.reshape(-1, n)[slot]
            part = np.einsum("eak,ek->ea", inverse[track], moved) * value[:, None]
            rows = (track[:, None] * n + np.arange(n)).ravel()
            held = csr_array((part.ravel(), (rows, np.repeat(column, n))), shape=(n_tracks * n, size))
            self.matrix = self.matrix - held.T @ held
            self.gradient -= held.T @ pull.ravel()


def _alike(sizes: Array, parameters: Array) -> Iterator[Array]:
    """Rows of determined records with equally many track parameters, the longest last, not too many."""
    order = np.lexsort((sizes, parameters))
    order = order[parameters[order] <= sizes[order]]
    for n in np.unique(parameters[order]):
        rows = order[parameters[order] == n]
        while len(rows):
            need = np.arange(1, len(rows) + 1) * np.maximum(sizes[rows], 1) * max(int(n), 1)
            count = max(1, int(np.searchsorted(need, _ROOM)))
            yield rows[:count]
            rows = rows[count:]


def _local(records: MilleRecords, slot: Array, shape: tuple[int, int, int]) -> Array:
    """∂y/∂q of the measurements that have a slot; of an index that comes twice the last counts."""
    n_tracks, most, n = shape
    local = np.zeros((n_tracks * most, n))
    at = slot[records.measurement_of_local]
    own = at >= 0
    local[at[own], records.local_index[own] - 1] = records.local_value[own]
    return local.reshape(shape)


def _fit(tracks: _Tracks, weight: Array) -> tuple[Array, Array, Array]:
    """Which tracks are determined, C⁻¹ (tracks, n, n), and C⁻¹Lᵀy (tracks, n)."""
    weighted = weight[:, :, None] * tracks.local
    left = weighted.swapaxes(1, 2) @ tracks.local
    n = left.shape[-1]
    inverse, whole = np.tile(np.eye(n), (len(left), 1, 1)), np.einsum("taa->ta", left).copy()
    good = np.ones(len(left), dtype=bool)
    for a in range(n):  # C's columns, and the same steps for the unit matrix
        pivot = left[:, a, a]
        good &= pivot > UNDETERMINED_BELOW * whole[:, a]
        root = np.sqrt(pivot)
        column = left[:, a + 1 :, a] / root[:, None]
        inverse[:, a] /= root[:, None]
        inverse[:, a + 1 :] -= column[:, :, None] * inverse[:, a, None]
        left[:, a + 1 :, a + 1 :] -= column[:, :, None] * column[:, None, :]
    pull = inverse @ (weighted.swapaxes(1, 2) @ tracks.y[:, :, None])
    return good, inverse, pull[:, :, 0]


def _robust(tracks: _Tracks, inverse: Array, pull: Array, cauchy: bool) -> Array:
    """Factors of the weights by the distance to the fitted track (tracks, most measurements)."""
    q = np.einsum("tak,ta->tk", inverse, pull)
    distance = np.abs(tracks.y - np.einsum("tmk,tk->tm", tracks.local, q)) * np.sqrt(tracks.weight)
    if cauchy:
        return np.asarray(1 / (1 + (distance / CAUCHY) ** 2))
    return np.minimum(1.0, HUBER / np.maximum(distance, 1e-300))
