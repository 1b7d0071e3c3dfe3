"""DCA_xy and DCA_z of tracks to the primary vertex, in bins: what alignment is for, as physics sees it.

Means and widths are of the Gaussian core, errors count the tracks of an event together
(`alignnet.evaluation.statistics`). Geometries are compared on the same tracks in the same bins, so that
differences between them are far better known than each mean and width is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignnet.data.tracks import Array
from alignnet.errors import ConfigError
from alignnet.evaluation.statistics import Core, clustered_error, gaussian_core, number
from alignnet.units import UM

COORDINATES = ("xy", "z")
PER_TRACK = ("event", "pt", "phi", "eta", "charge")
EDGES: dict[str, tuple[float, ...]] = {
    "pt": (0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0),
    "phi": tuple(np.linspace(-np.pi, np.pi, 25).tolist()),
    "eta": tuple(np.linspace(-1.2, 1.2, 13).tolist()),
}
"""Bins of p_T [GeV/c], φ [rad] and η."""

MIN_TRACKS = 30
"""Bins with fewer tracks have no numbers."""


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

    def select(self, rows: Array) -> DcaSample:
        """Some of the tracks."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in PER_TRACK}
        for name in ("dca", "sigma"):
            columns[name] = {geometry: values[rows] for geometry, values in getattr(self, name).items()}
        return replace(self, **columns)


def dca_table(
    sample: DcaSample | None, by: str = "pt", edges: Sequence[float] | None = None
) -> dict[str, dict[str, list[float | None]]] | None:
    """Means and widths of the DCA in bins, for each geometry; None of None.

    Args:
        sample: of `dca_sample`.
        by: "pt", "phi" or "eta".
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
    if by not in EDGES:
        raise ConfigError(f"DCA in bins of {by!r}; choose from {list(EDGES)}")
    bounds = np.asarray(EDGES[by] if edges is None else edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise ConfigError(f"DCA bins of {by} are {list(bounds)}; expected two or more ascending edges")
    if sample is None:
        return None
    bins = np.digitize(getattr(sample, by), bounds) - 1
    columns: dict[str, dict[str, list[float | None]]] = {name: {} for name in sample.dca}
    for i in range(len(bounds) - 1):
        mine = sample.select(bins == i)
        edge = {f"{by}_low": float(bounds[i]), f"{by}_high": float(bounds[i + 1]), "n": len(mine)}
        for name, row in _bin(mine).items():
            for key, value in (edge | row).items():
                columns[name].setdefault(key, []).append(value)
    return columns


def _bin(sample: DcaSample) -> dict[str, dict[str, float | None]]:
    rows: dict[str, dict[str, float | None]] = {name: {} for name in sample.dca}
    for k, c in enumerate(COORDINATES):
        cores = {name: gaussian_core(dca[:, k]) for name, dca in sample.dca.items()}
        for name, core in cores.items():
            row = _core_row(core, sample, name, k) | _comparison(sample, cores, name, k)
            enough = len(sample) >= MIN_TRACKS
            rows[name] |= {key.format(c=c): number(value) if enough else None for key, value in row.items()}
    return rows


def _core_row(core: Core, sample: DcaSample, name: str, k: int) -> dict[str, float]:
    pull = gaussian_core(sample.dca[name][:, k] / sample.sigma[name][:, k].clip(1e-12))
    return {
        "mean_{c}_um": core.mean / UM,
        "mean_error_{c}_um": clustered_error(core.mean_influence, sample.event) / UM,
        "width_{c}_um": core.width / UM,
        "width_error_{c}_um": core.width * clustered_error(core.log_width_influence, sample.event) / UM,
        "pull_{c}": pull.width,
    }


def _comparison(sample: DcaSample, cores: dict[str, Core], name: str, k: int) -> dict[str, float]:
    """Against the reference: mean difference of the tracks in the reference's core, and the widths' ratio."""
    core, other = cores[name], cores[sample.reference]
    difference = (sample.dca[name][:, k].astype(np.float64) - sample.dca[sample.reference][:, k])[
        other.inside
    ]
    mean = float(difference.mean()) if len(difference) else np.nan
    spread = (difference - mean) / max(len(difference), 1)
    ratio = core.width / other.width if len(sample) else np.nan
    influence = core.log_width_influence - other.log_width_influence
    return {
        "mean_difference_{c}_um": mean / UM,
        "mean_difference_error_{c}_um": clustered_error(spread, sample.event[other.inside]) / UM,
        "width_ratio_{c}": ratio,
        "width_ratio_error_{c}": ratio * clustered_error(influence, sample.event),
    }
