"""What a table of tracks must satisfy, on the way in from a file and on the way out to one.

Every number is finite, resolutions and momenta are positive, covariances are positive definite, a track has
hits, and the tracks of an event stand together. All checks are over whole columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignnet.data.root_columns import Origin
from alignnet.data.tracks import Array, Tracks


def check_tracks(tracks: Tracks, origin: Origin, min_hits: int = 1) -> None:
    """Check every column of `tracks`; `origin` is where they are read from or written to.

    Args:
        min_hits: hits that a track must have; 0 lets empty tracks pass, which are to be left out later.

    Raises:
        SchemaError: at the first column that breaks a rule: names file, branch, entry, hit, value and rule.
    """
    count = tracks.hits_per_track
    origin.require("hit_sensor", count >= min_hits, count, f"at least {min_hits} hits a track")
    _check_adjacent(tracks.event, origin)
    _check_hits(tracks, origin)
    for branch, column in _per_track(tracks).items():
        origin.require(branch, np.isfinite(column), column, "finite numbers")
    if tracks.vertex_cov is not None:
        origin.require(
            "vertex_cov", positive_definite(tracks.vertex_cov), tracks.vertex_cov,
            "a positive definite covariance (xx, xy, yy, xz, yz, zz)",
        )  # fmt: skip
    if tracks.p is not None:
        origin.require("p", tracks.p > 0, tracks.p, "p > 0")
    if tracks.mass is not None:
        origin.require("mass", tracks.mass >= 0, tracks.mass, "mass >= 0")
    if tracks.kind is not None:
        known = (tracks.kind >= 0) & (tracks.kind <= 2)
        origin.require("kind", known, tracks.kind, "0 (collision), 1 (cosmic) or 2 (beam)")


def positive_definite(covariance: Array) -> Array:
    """Whether covariances (rows, 6) in the order xx, xy, yy, xz, yz, zz are positive definite, (rows,).

    Sylvester's criterion on the correlations, so that a beam spot of 1 µm × 1 µm × 10 cm loses no digits.
    """
    variance = covariance[:, [0, 2, 5]]
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    xy = covariance[:, 1] / (scale[:, 0] * scale[:, 1])
    xz = covariance[:, 3] / (scale[:, 0] * scale[:, 2])
    yz = covariance[:, 4] / (scale[:, 1] * scale[:, 2])
    determinant = 1 + 2 * xy * xz * yz - xy**2 - xz**2 - yz**2
    positive: Array = (variance > 0).all(-1) & (np.abs(xy) < 1) & (determinant > 0)
    return positive


def _check_adjacent(event: Array, origin: Origin) -> None:
    starts = np.flatnonzero(np.diff(event, prepend=event[:1] - 1))
    _, first = np.unique(event[starts], return_index=True)
    alone = np.zeros(len(starts), dtype=bool)
    alone[first] = True
    good = np.ones(len(event), dtype=bool)
    good[starts] = alone
    origin.require("event", good, event, "tracks of one event next to each other; sort the tracks by event")


def _check_hits(tracks: Tracks, origin: Origin) -> None:
    for name, column, branches in (
        ("measured", tracks.uv, ("hit_u", "hit_v")),
        ("resolution", tracks.sigma, ("hit_sigma_u", "hit_sigma_v")),
        ("true", tracks.truth.get("hit_uv"), ("truth_hit_u", "truth_hit_v")),
    ):
        if column is None:
            continue
        for i, branch in enumerate(branches):
            values = column[:, i]
            origin.require(
                branch, np.isfinite(values), values, f"finite {name} positions [cm]", tracks.offset
            )
            if name == "resolution":
                origin.require(branch, values > 0, values, "a resolution > 0 [cm]", tracks.offset)


def _per_track(tracks: Tracks) -> dict[str, Array]:
    names: Sequence[str] = ("vertex", "vertex_cov", "p", "mass")
    columns = {name: column for name in names if (column := getattr(tracks, name)) is not None}
    truth = {f"truth_{name}": column for name, column in tracks.truth.items() if not name.startswith("hit_")}
    return {**columns, **truth}
