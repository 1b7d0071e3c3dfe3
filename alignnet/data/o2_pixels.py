"""Local points of simulated hits → compact clusters of O2, with as much of the place in a pixel as there is
room.

`SubPixels` uses pattern IDs: a dictionary of 45 × 45 entries, each a pixel whose centre of gravity stands in
one cell of a grid on that pixel. A point loses up to 1/90 of a pitch: 0.30 µm in u, 0.33 µm in v, 0.17 and
0.19 µm r.m.s. The entries carry the resolution, so that is one for a whole file.

`Boxes` uses no dictionary: each cluster carries a pattern of up to 4 × 4 pixels, the one whose centre is
nearest to the point (r.m.s. 0.62 µm in u, 0.67 µm in v; up to half a pitch at the rows and columns at the
edge). Reading gives every cluster half a pitch for its resolution, as O2 does without a dictionary.

Points beyond the matrix (of smeared hits, by a few µm) are brought to its edge by both.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from scipy.spatial import cKDTree

from alignnet.data.o2_clusters import CompactClusters, pack
from alignnet.data.o2_dictionary import ENTRY, NO_ENTRY, TopologyDictionary
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError
from alignnet.geometry.its2 import (
    CENTRE_U,
    COLUMN_PITCH,
    HALF_U,
    HALF_V,
    N_COLUMNS,
    N_ROWS,
    ROW_PITCH,
)

CELLS = 45
"""Of a pixel along each axis: 45² is the largest square that a dictionary holds."""

BOX, FINE = 4, 16
"""Pixels of the largest box along each axis; positions of a centre that are told apart within a pixel."""


class Clusters(NamedTuple):
    """Compact clusters and the bytes of their patterns, in the same order."""

    data: Array  # mData, uint32 (hits,)
    record: Array  # bytes of the pattern, uint8 (hits, longest)
    length: Array  # how many of them, 0 for an ordinary pattern ID (hits,)


class Pixels(Protocol):
    """What turns points into clusters."""

    dictionary: TopologyDictionary | None

    def __call__(self, uv: Array, sigma: Array) -> Clusters:
        """Clusters of local points (hits, 2) [cm] with resolutions (hits, 2) [cm]."""


class SubPixels:
    """Clusters by a dictionary of places within a pixel, which is made for the first hits' resolution.

    Args:
        cells: of a pixel along each axis, at most 45.
    """

    def __init__(self, cells: int = CELLS) -> None:
        self.cells = cells
        self.dictionary: TopologyDictionary | None = None

    def __call__(self, uv: Array, sigma: Array) -> Clusters:
        """Clusters of points.

        Raises:
            ConfigError: resolutions differ between hits.
        """
        if self.dictionary is None:
            self.dictionary = _grid(sigma[0].astype(np.float32), self.cells)
        err2 = self.dictionary.entries[["err2_x", "err2_z"]][0].tolist()
        if not np.allclose(np.square(sigma), err2, rtol=1e-5, atol=0):
            raise ConfigError(
                "hits have different resolutions, which a dictionary cannot hold; give o2.patterns=true"
            )
        row, column = _fractions(uv)
        n = self.cells
        i, j = (np.floor(x % 1 * n).astype(np.int64).clip(0, n - 1) for x in (row, column))
        whole = CompactClusters(np.floor(row), np.floor(column), i * n + j, np.zeros(len(uv)))
        nothing = np.zeros((len(uv), 0), dtype=np.uint8)
        return Clusters(pack(whole), nothing, np.zeros(len(uv), dtype=np.int64))


class Boxes:
    """Clusters with their patterns beside them."""

    dictionary: TopologyDictionary | None = None

    def __call__(self, uv: Array, sigma: Array) -> Clusters:
        """Clusters of points; the resolutions are not kept."""
        corner, record, length = _boxes()
        place = [x - 0.5 for x in _fractions(uv)]  # from the centre of pixel 0
        first = [
            np.floor(x).astype(np.int64).clip(1, n - BOX + 1) - 1
            for x, n in zip(place, (N_ROWS, N_COLUMNS), strict=True)
        ]
        steps = [
            np.round((x - low) * FINE).astype(np.int64).clip(0, (BOX - 1) * FINE)
            for x, low in zip(place, first, strict=True)
        ]
        k = steps[0] * ((BOX - 1) * FINE + 1) + steps[1]
        row, column = (low + corner[k, axis] for axis, low in enumerate(first))
        none = np.full(len(uv), NO_ENTRY)
        return Clusters(pack(CompactClusters(row, column, none, np.zeros(len(uv)))), record[k], length[k])


def _fractions(uv: Array) -> tuple[Array, Array]:
    """Row and column of points, from the edge of pixel 0, brought into the matrix."""
    row, column = (CENTRE_U + HALF_U - uv[:, 0]) / ROW_PITCH, (uv[:, 1] + HALF_V) / COLUMN_PITCH
    return row.clip(0, np.nextafter(N_ROWS, 0)), column.clip(0, np.nextafter(N_COLUMNS, 0))


def _grid(sigma: Array, cells: int) -> TopologyDictionary:
    entries = np.zeros(cells * cells, dtype=ENTRY)
    offset = (np.arange(cells) + 0.5) / cells - 0.5
    row, column = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
    entries["hash"] = np.arange(1, len(entries) + 1)
    entries["x_cog"], entries["z_cog"] = -row * ROW_PITCH, column * COLUMN_PITCH
    entries["err_x"], entries["err_z"] = sigma
    entries["err2_x"], entries["err2_z"] = np.square(sigma.astype(np.float64))
    entries["n_pixels"], entries["frequency"] = 1, 1 / len(entries)
    entries["bitmap"][:, :3] = 1, 1, 0x80
    return TopologyDictionary(entries)


@cache
def _boxes() -> tuple[Array, Array, Array]:
    """For each place on a grid of 1/16 pixel in a box of 4 × 4: the pattern's corner, record and length."""
    mask = np.arange(1, 1 << BOX * BOX)
    pixel = (mask[:, None] >> np.arange(BOX * BOX) & 1).astype(bool).reshape(-1, BOX, BOX)
    n = pixel.sum((1, 2))
    mean = np.stack([(pixel.sum(2) @ np.arange(BOX)) / n, (pixel.sum(1) @ np.arange(BOX)) / n], -1)
    order = np.argsort(n, kind="stable")  # of equal centres the one with the fewest pixels
    _, single = np.unique(mean[order].round(9), axis=0, return_index=True)
    known = order[single]
    step = np.arange((BOX - 1) * FINE + 1) / FINE
    wanted = np.stack(np.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)
    chosen = pixel[known[cKDTree(mean[known]).query(wanted)[1]]]
    corner = np.stack([chosen.any(2).argmax(1), chosen.any(1).argmax(1)], -1)
    record = np.zeros((len(chosen), 2 + BOX * BOX // 8), dtype=np.uint8)
    length = np.zeros(len(chosen), dtype=np.int64)
    for k, box in enumerate(chosen):  # 2,401 of them, once
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        inside = box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        packed = np.packbits(inside.ravel())
        record[k, :2], record[k, 2 : 2 + len(packed)] = inside.shape, packed
        length[k] = 2 + len(packed)
    return corner, record, length
