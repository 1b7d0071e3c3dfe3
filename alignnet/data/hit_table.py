"""Hits and sensors in plain CSV files → `Tracks` and `Detector`: one line a hit, one line a sensor.

A hit's line says which track of which event it belongs to, on which sensor (by identifier or by name) and
where it was measured. What is said of a track, or of its event's vertex, is repeated on each of its lines.
Columns have the units and the meaning of docs/data-format.md. Lines come in any order: tracks are sorted by
event and number, and the hits of one track keep their order.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignnet.data.check import positive_definite
from alignnet.data.csv_columns import CsvTable, Kind
from alignnet.data.root_tracks import MIN_HITS, check_short_tracks, log_short
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import GeometryError, SchemaError
from alignnet.geometry.detector import Detector, Scatterers

log = logging.getLogger("alignnet.data")

VERTEX = ("vertex_x", "vertex_y", "vertex_z")
VERTEX_COV = tuple(f"vertex_cov_{pair}" for pair in ("xx", "xy", "yy", "xz", "yz", "zz"))
ROTATION = tuple(f"rotation_{row}{column}" for row in range(3) for column in range(3))
TRANSLATION = ("translation_x", "translation_y", "translation_z")

HIT_COLUMNS: dict[str, Kind] = {
    "event": "integer", "track": "integer", "sensor": "text", "u": "float", "v": "float", "sigma_u": "float",
    "sigma_v": "float",
}  # fmt: skip
TRACK_COLUMNS: dict[str, Kind] = {
    **dict.fromkeys((*VERTEX, *VERTEX_COV), "float"), "p": "float", "mass": "float", "kind": "integer",
}  # fmt: skip
SENSOR_COLUMNS: dict[str, Kind] = {
    "sensor_id": "integer", "name": "text", "layer": "integer",
    **dict.fromkeys((*ROTATION, *TRANSLATION, "half_u", "half_v"), "float"),
}  # fmt: skip
MORE_SENSOR_COLUMNS: dict[str, Kind] = dict.fromkeys(
    ("centre_u", "centre_v", "x_over_x0", "curvature_radius"), "float"
)
SCATTERER_COLUMNS: dict[str, Kind] = dict.fromkeys(("radius", "half_z", "x_over_x0"), "float")


def read_hit_table(path: str | Path, detector: Detector, short_tracks: str = "error") -> Tracks:
    """The tracks of a CSV file.

    Args:
        path: a table with HIT_COLUMNS and, if they are known, TRACK_COLUMNS.
        detector: what `sensor` refers to.
        short_tracks: tracks with fewer than 3 hits are an "error", or "drop" leaves them out.

    Raises:
        SchemaError: the file is not such a table; names file, line and column.
        ConfigError: `short_tracks` is something else.
    """
    check_short_tracks(short_tracks)
    table = _table(path, HIT_COLUMNS, TRACK_COLUMNS)
    _check_values(table)
    sensor = _sensor_rows(table, detector)
    order = np.lexsort((table["track"], table["event"]))
    key = np.stack([table["event"], table["track"]])[:, order]
    start = np.flatnonzero(np.append(True, (np.diff(key) != 0).any(0)))
    offset = np.append(start, len(order))
    _check_once_a_track(table, order, offset)
    first = order[start]
    columns: dict[str, Any] = {name: table[name][first] for name in ("p", "mass", "kind") if name in table}
    tracks = Tracks(
        event=table["event"][first],
        offset=offset.astype(np.int64),
        sensor=sensor[order],
        uv=np.stack([table["u"], table["v"]], -1)[order],
        sigma=np.stack([table["sigma_u"], table["sigma_v"]], -1)[order],
        vertex=_taken(table.together(VERTEX), first),
        vertex_cov=_taken(table.together(VERTEX_COV), first),
        **columns,
    )
    return _long_enough(table, tracks, first, short_tracks)


def read_sensor_table(
    path: str | Path, b_z: float, name: str | None = None, scatterers: str | Path | None = None
) -> Detector:
    """The detector of a CSV file.

    Args:
        path: a table with SENSOR_COLUMNS and, if they are known, MORE_SENSOR_COLUMNS (0 where not).
        b_z: field along z [T].
        name: of the detector; by default that of the file.
        scatterers: a table of passive cylinders with SCATTERER_COLUMNS.

    Raises:
        SchemaError: a file is not such a table; names file, line and column.
    """
    table = _table(path, SENSOR_COLUMNS, MORE_SENSOR_COLUMNS)
    table.require_finite()
    for column in ("half_u", "half_v"):
        table.require(column, table[column] > 0, "a half-length > 0 [cm]")
    more = dict.fromkeys(MORE_SENSOR_COLUMNS, np.zeros(len(table)))
    more |= {column: table[column] for column in MORE_SENSOR_COLUMNS if column in table}
    if "x_over_x0" in table:
        table.require("x_over_x0", table["x_over_x0"] >= 0, "x/X0 >= 0")
    columns = {
        "rotation": _rotations(table),
        "translation": np.stack([table[column] for column in TRANSLATION], -1),
        "half": np.stack([table["half_u"], table["half_v"]], -1),
        "centre": np.stack([more["centre_u"], more["centre_v"]], -1),
        "x_over_x0": more["x_over_x0"],
        "curvature_radius": more["curvature_radius"],
        "sensor_id": table["sensor_id"],
        "layer": table["layer"],
    }
    passive = Scatterers.none() if scatterers is None else _scatterers(scatterers)
    try:
        return Detector(
            name=name or Path(path).stem,
            names=tuple(table["name"].tolist()),
            b_z=b_z,
            scatterers=passive,
            **{key: torch.from_numpy(column) for key, column in columns.items()},
        )
    except GeometryError as error:
        raise SchemaError(f"{path}: {error}") from error


def _table(path: str | Path, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> CsvTable:
    table = CsvTable(path, required, optional)
    if table.unused:
        known = ", ".join((*required, *optional))
        log.warning("%s: not used: %s; known columns are %s", path, ", ".join(table.unused), known)
    return table


def _check_values(table: CsvTable) -> None:
    table.require_finite()
    for column in ("sigma_u", "sigma_v"):
        table.require(column, table[column] > 0, "a resolution > 0 [cm]")
    covariance = table.together(VERTEX_COV)
    if covariance is not None:
        expected = "a positive definite covariance (xx, xy, yy, xz, yz, zz) [cm²]"
        table.require(VERTEX_COV[0], positive_definite(covariance), expected)
    if "p" in table:
        table.require("p", table["p"] > 0, "p > 0 [GeV/c]")
    if "mass" in table:
        table.require("mass", table["mass"] >= 0, "mass >= 0 [GeV/c²]")
    if "kind" in table:
        table.require("kind", np.isin(table["kind"], (0, 1, 2)), "0 (collision), 1 (cosmic) or 2 (beam)")


def _sensor_rows(table: CsvTable, detector: Detector) -> Array:
    """Rows in the detector of column `sensor`, which holds identifiers or names."""
    known, row = np.unique(table["sensor"], return_inverse=True)
    by_id = {str(i): k for k, i in enumerate(detector.sensor_id.tolist())}
    by_name = {name: k for k, name in enumerate(detector.names)}
    found = np.array([by_id.get(word, by_name.get(word, -1)) for word in known.tolist()], dtype=np.int64)[row]
    expected = f"a sensor_id or a name of detector {detector.name}, for example {detector.names[0]}"
    table.require("sensor", found >= 0, expected)
    return found


def _check_once_a_track(table: CsvTable, order: Array, offset: Array) -> None:
    """What is said of a track is the same on all of its lines."""
    for column in (name for name in TRACK_COLUMNS if name in table):
        values = table[column][order]
        same = np.ones(len(table), dtype=bool)
        same[order] = values == np.repeat(values[offset[:-1]], np.diff(offset))
        table.require(column, same, "the same number on all lines of one track")


def _long_enough(table: CsvTable, tracks: Tracks, first: Array, short_tracks: str) -> Tracks:
    long = tracks.hits_per_track >= MIN_HITS
    if short_tracks == "error" and not long.all():
        row = int(np.flatnonzero(~long)[0])
        line, event, track = (c[first[row]] for c in (table.line, table["event"], table["track"]))
        raise SchemaError(
            f"{table.path}: line {line}, column track: found {tracks.hits_per_track[row]} hits of track "
            f"{track} of event {event}, expected at least {MIN_HITS}, fewer do not determine a track; "
            "leave such tracks out with data.short_tracks=drop"
        )
    log_short(str(table.path), int((~long).sum()), len(tracks), MIN_HITS)
    return tracks.select(long)


def _rotations(table: CsvTable) -> Array:
    rotation = np.stack([table[column] for column in ROTATION], -1).reshape(-1, 3, 3)
    skew = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    good = (skew < 1e-6) & (np.linalg.det(rotation) > 0)
    table.require(
        ROTATION[0], good, "nine numbers of a right-handed rotation, row-major (orthogonal to 1e-6)"
    )
    return rotation


def _scatterers(path: str | Path) -> Scatterers:
    table = _table(path, SCATTERER_COLUMNS, {})
    table.require_finite()
    for column in SCATTERER_COLUMNS:
        good = table[column] >= 0 if column == "x_over_x0" else table[column] > 0
        table.require(column, good, "a number > 0 (x/X0: >= 0)")
    return Scatterers(*(torch.from_numpy(table[column]) for column in SCATTERER_COLUMNS))


def _taken(columns: Array | None, rows: Array) -> Array | None:
    return None if columns is None else columns[rows]
