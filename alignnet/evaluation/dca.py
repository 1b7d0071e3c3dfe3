"""DCA_xy and DCA_z of tracks to the primary vertex, in bins: what alignment is for, as physics sees it.

Means and widths are of the Gaussian core (`alignnet.evaluation.binned_core`), errors count the tracks of an
event together. Geometries are compared on the same tracks in the same bins, so that differences between them
are far better known than each mean and width is. Nothing is kept of a track: histograms of `BINS` hold all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignnet.data.tracks import Array
from alignnet.errors import ConfigError
from alignnet.evaluation.binned_core import GROUPS, Below, Bins, cores, group_of, jackknife, window
from alignnet.evaluation.dca_kernel import add_tracks
from alignnet.evaluation.statistics import number
from alignnet.physics.jit import pays
from alignnet.units import UM

COORDINATES = ("xy", "z")
PER_TRACK = ("event", "pt", "phi", "eta", "charge")
EDGES: dict[str, tuple[float, ...]] = {
    "pt": (0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0),
    "phi": tuple(np.linspace(-np.pi, np.pi, 25).tolist()),
    "eta": tuple(np.linspace(-1.2, 1.2, 13).tolist()),
    "charge": (-2.0, 0.0, 2.0),
    "top": (-2.0, 0.0, 2.0),
    "side": (-2.0, 0.0, 2.0),
}
"""Bins of p_T [GeV/c], φ [rad], η, the sign of the charge, of y (top: +, φ from 0 to π) and of x (side)."""

TWO = {"charge": ("−", "+"), "top": ("bottom", "top"), "side": ("left", "right")}
"""What the two bins of a sign are called."""

BINS = Bins(scale=20e-4, largest=1.0, step=0.05)
"""Of the DCA [cm]: 1 µm wide at 0, 5 % of the DCA far out, none beyond 1 cm."""

PULL_BINS = Bins(scale=1.0, largest=1e4, step=0.05)
"""Of DCA over expected width."""

MIN_TRACKS = 30
"""Bins with fewer tracks have no numbers."""

NUMBERS = (
    "mean_{c}_um", "mean_error_{c}_um", "width_{c}_um", "width_error_{c}_um", "pull_{c}",
    "mean_difference_{c}_um", "mean_difference_error_{c}_um", "width_ratio_{c}", "width_ratio_error_{c}",
)  # fmt: skip
"""What a table has of each bin and coordinate c, as `dca_table` explains."""

Table = dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class DcaSample:
    """DCA of the same tracks in several geometries; a few float32 numbers a track."""

    event: Array  # int64 (tracks,)
    pt: Array  # (tracks,) [GeV/c], by the reference geometry, as φ, η and charge
    phi: Array  # [rad]
    eta: Array
    charge: Array  # ±1
    dca: dict[str, Array]  # by geometry: d0 and z0 (tracks, 2) [cm]
    sigma: dict[str, Array]  # their expected widths, that of the vertex included (tracks, 2) [cm]
    reference: str  # the geometry that the others are compared to

    def __len__(self) -> int:
        return len(self.event)

    @property
    def top(self) -> Array:
        """+1 in the upper half of the barrel, −1 in the lower."""
        return np.where(np.sin(self.phi) > 0, 1, -1)

    @property
    def side(self) -> Array:
        """+1 at x > 0, −1 on the other side."""
        return np.where(np.cos(self.phi) > 0, 1, -1)

    def select(self, rows: Array) -> DcaSample:
        """Some of the tracks."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in PER_TRACK}
        for name in ("dca", "sigma"):
            columns[name] = {geometry: values[rows] for geometry, values in getattr(self, name).items()}
        return replace(self, **columns)


class DcaSums:
    """Histograms of the DCA of tracks in several geometries, in bins of several variables.

    Args:
        geometries: their names.
        reference: which of them the others are compared to.
        edges: of the bins of each variable, ascending.

    Raises:
        ConfigError: there is no such variable, or its edges do not ascend.
    """

    def __init__(
        self, geometries: Sequence[str], reference: str, edges: Mapping[str, Sequence[float]] = EDGES
    ) -> None:
        self.geometries, self.reference = list(geometries), reference
        self.edges = {by: _checked(by, bounds) for by, bounds in edges.items()}
        self.first = dict(
            zip(self.edges, np.cumsum([0, *map(len, self.edges.values())]).tolist(), strict=False)
        )
        shape = (sum(map(len, self.edges.values())), 2, len(self.geometries), GROUPS, len(BINS))
        self.counts, self.totals, self.differences = (np.zeros(shape) for _ in range(3))
        self.pulls = np.zeros((2, *shape[:3], len(PULL_BINS)))  # counts, totals
        self.n_tracks = 0
        self._none = [np.nan] * len(self.geometries)

    def add(self, sample: DcaSample) -> None:
        """Add tracks, of which nothing else is kept."""
        cells = np.stack([self._cell(by, getattr(sample, by)) for by in self.edges], -1)
        dca, sigma = (
            np.stack([np.asarray(columns[name], dtype=np.float64) for name in self.geometries])
            for columns in (sample.dca, sample.sigma)
        )
        self.n_tracks += len(sample)
        pull, group = dca / np.maximum(sigma, 1e-12), group_of(sample.event)
        reference = self.geometries.index(self.reference)
        if pays(add_tracks, len(sample)):
            options = (BINS.scale, BINS.step, BINS.half, PULL_BINS.scale, PULL_BINS.step, PULL_BINS.half)
            add_tracks(cells, group, dca, pull, reference, options,
                       self.counts, self.totals, self.differences, self.pulls)  # fmt: skip
            return
        for cell in cells.T:
            mine = np.flatnonzero(cell >= 0)
            for g in range(len(dca)):
                for k in range(2):
                    self._add(cell[mine], group[mine], g, k, dca[:, mine, k], pull[g, mine, k], reference)

    def _add(
        self, cell: Array, group: Array, g: int, k: int, dca: Array, pull: Array, reference: int
    ) -> None:
        row, other, place = BINS.row(dca[g]), BINS.row(dca[reference]), PULL_BINS.row(pull)
        _count(self.counts, (cell, k, g, group, row), np.ones(len(cell)))
        _count(self.totals, (cell, k, g, group, row), dca[g])
        _count(self.differences, (cell, k, g, group, other), dca[g] - dca[reference])
        _count(self.pulls[0], (cell, k, g, place), np.ones(len(cell)))
        _count(self.pulls[1], (cell, k, g, place), pull)

    def _cell(self, by: str, values: Array) -> Array:
        bounds = self.edges[by]
        bin_ = np.digitize(values, bounds) - 1
        return np.where((bin_ >= 0) & (bin_ < len(bounds) - 1), self.first[by] + bin_, -1)

    def merge(self, other: DcaSums) -> None:
        """Add what another has seen of other tracks."""
        for name in ("counts", "totals", "differences", "pulls"):
            np.add(getattr(self, name), getattr(other, name), out=getattr(self, name))
        self.n_tracks += other.n_tracks

    def table(self, by: str) -> Table | None:
        """Means and widths in bins of one variable, as `dca_table` has them; None without tracks."""
        if not self.n_tracks:
            return None
        bounds = self.edges[by]
        columns: Table = {name: {} for name in self.geometries}
        for i in range(len(bounds) - 1):
            cell = self.first[by] + i
            n = round(self.counts[cell, 0, 0].sum())
            edge = {f"{by}_low": float(bounds[i]), f"{by}_high": float(bounds[i + 1]), "n": n}
            for name, row in self._rows(cell, n >= MIN_TRACKS).items():
                for key, value in (edge | row).items():
                    columns[name].setdefault(key, []).append(value)
        return columns

    def _rows(self, cell: int, enough: bool) -> dict[str, dict[str, float | None]]:
        rows: dict[str, dict[str, float | None]] = {name: {} for name in self.geometries}
        for k, c in enumerate(COORDINATES):
            found = self._numbers(cell, k) if enough else dict.fromkeys(NUMBERS, self._none)
            for g, name in enumerate(self.geometries):
                rows[name] |= {key.format(c=c): number(found[key][g]) for key in NUMBERS}
        return rows

    def _numbers(self, cell: int, k: int) -> dict[str, Array]:
        """Every number of a bin and a coordinate, for each geometry; the first row is of all groups."""
        counts, totals, differences = (
            _with_all(getattr(self, name)[cell, k]) for name in ("counts", "totals", "differences")
        )
        shape = counts.shape[:2]  # geometries, all groups and all but one each
        flat = (part.reshape(-1, len(BINS)) for part in (counts, totals))
        mean, width = (part.reshape(shape) for part in cores(BINS, *flat))
        pull = cores(PULL_BINS, self.pulls[0, cell, k], self.pulls[1, cell, k])[1]
        reference = self.geometries.index(self.reference)
        core = window(mean[reference], width[reference])
        inside, *moved = Below(BINS, counts[reference], *differences).between(*core)
        difference = np.stack(moved) / np.maximum(inside, 1e-300)
        ratio = width / np.maximum(width[reference], 1e-300)
        used = self.counts[cell, k, reference].sum(-1) > 0

        def error(answers: Array) -> Array:
            return jackknife(answers[:, 1:].T, used)

        numbers = (
            mean[:, 0] / UM, error(mean) / UM, width[:, 0] / UM, error(width) / UM, pull,
            difference[:, 0] / UM, error(difference) / UM, ratio[:, 0], error(ratio),
        )  # fmt: skip
        return dict(zip(NUMBERS, numbers, strict=True))


def dca_table(sample: DcaSample | None, by: str = "pt", edges: Sequence[float] | None = None) -> Table | None:
    """Means and widths of the DCA in bins, for each geometry; None of None.

    Args:
        sample: of `dca_sample`.
        by: one of `EDGES`.
        edges: of the bins, ascending; default `EDGES[by]`.

    Returns:
        For each geometry lists with an entry a bin: `<by>_low`, `<by>_high`, `n`, and for c = xy, z
        `mean_<c>_um`, `mean_error_<c>_um`, `width_<c>_um`, `width_error_<c>_um`, `pull_<c>` (core width of
        DCA over expected), and of the same tracks against the reference geometry `mean_difference_<c>_um`,
        `mean_difference_error_<c>_um`, `width_ratio_<c>`, `width_ratio_error_<c>`. None where a bin has
        fewer than `MIN_TRACKS` tracks.

    Raises:
        ConfigError: there is no such variable, or its edges do not ascend.
    """
    geometries = ["one"] if sample is None else list(sample.dca)
    reference = geometries[0] if sample is None else sample.reference
    sums = DcaSums(geometries, reference, {by: EDGES.get(by, ()) if edges is None else edges})
    if sample is None:
        return None
    sums.add(sample)
    return sums.table(by)


def _checked(by: str, edges: Sequence[float]) -> Array:
    if by not in EDGES:
        raise ConfigError(f"DCA in bins of {by!r}; choose from {list(EDGES)}")
    bounds = np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise ConfigError(f"DCA bins of {by} are {list(bounds)}; expected two or more ascending edges")
    return bounds


def _with_all(parts: Array) -> Array:
    """Histograms of all groups, then of all but one each: (geometries, groups, bins) with one more row."""
    every = parts.sum(1, keepdims=True)
    return np.concatenate([every, every - parts], 1)


def _count(held: Array, index: tuple[Array | int, ...], values: Array) -> None:
    """Add values where they belong, as often as they come."""
    np.add.at(held.reshape(-1), np.ravel_multi_index(index, held.shape), values)
