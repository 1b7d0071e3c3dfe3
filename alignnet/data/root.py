"""Detector, tracks, metadata and true misalignment in ROOT files: the schema of docs/data-format.md.

    tracks = read_tracks("data.root", read_detector("data.root"))

cm, rad, GeV/c, T throughout. What a file holds is read whole and correct, or not at all: anything missing, of
a wrong type, not finite or out of range is a `SchemaError` naming file, branch, entry and what was expected.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignnet.data.root_alignment import (
    MODE_NAMES,
    AlignmentTable,
    local_names,
    read_alignment,
    read_alignment_table,
    sensor_rows,
    write_alignment,
)
from alignnet.data.root_columns import Table, has_tree, read_text
from alignnet.data.root_tracks import EVENT_STRIDE, iterate_tracks, read_tracks
from alignnet.data.root_write import SCHEMA, SimulationWriter, write_simulation
from alignnet.errors import GeometryError, SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector, Scatterers

__all__ = [
    "EVENT_STRIDE",
    "AlignmentTable",
    "SimulationWriter",
    "check_same_sensors",
    "has_misalignment",
    "iterate_tracks",
    "read_alignment",
    "read_alignment_table",
    "read_detector",
    "read_metadata",
    "read_misalignment",
    "read_tracks",
    "write_alignment",
    "write_simulation",
]


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON object `metadata`: schema, detector, b_z_tesla, units, generator, seed, and more.

    Raises:
        SchemaError: it is missing, not a JSON object, of a newer schema, or the field is not a number.
    """
    text = read_text(path, "metadata")
    try:
        metadata = json.loads(text)
    except json.JSONDecodeError as error:
        raise SchemaError(
            f"{path}: metadata is not JSON ({error}), expected an object; see docs/data-format.md"
        ) from error
    if not isinstance(metadata, dict):
        raise SchemaError(f"{path}: metadata is a JSON {type(metadata).__name__}, expected an object")
    if metadata.get("schema", SCHEMA) != SCHEMA:
        raise SchemaError(
            f"{path}: metadata has schema {metadata['schema']!r}, expected {SCHEMA}; "
            "a newer alignnet reads it"
        )
    return metadata


def read_detector(path: str | Path, name: str | None = None) -> Detector:
    """The detector of trees `sensors` and `scatterers`, in the field that `metadata` gives.

    Args:
        path: the file.
        name: what to call the detector, in place of the name in `metadata`.

    Raises:
        SchemaError: the file does not follow the schema, or its sensors are no detector (two with one name, a
            rotation that is not one, no active area).
    """
    metadata = read_metadata(path)
    table = _sensor_table(path)
    rotation = table.numbers("rotation", "float", 9).reshape(-1, 3, 3)
    table.origin.require(
        "rotation", np.linalg.det(rotation) > 0, rotation, "a right-handed rotation, row-major"
    )
    columns = {
        "rotation": rotation,
        "translation": table.numbers("translation", "float", 3),
        "half": _pair(table, "half_u", "half_v"),
        "centre": _pair(table, "centre_u", "centre_v"),
        "x_over_x0": _or_zero(table, "x_over_x0"),
        "curvature_radius": _or_zero(table, "curvature_radius"),
    }
    table.origin.require("x_over_x0", columns["x_over_x0"] >= 0, columns["x_over_x0"], "x/X0 >= 0")
    try:
        return Detector(
            name=name or str(metadata.get("detector", Path(path).stem)),
            sensor_id=torch.from_numpy(table.numbers("sensor_id", "integer")),
            names=table.text("name"),
            layer=torch.from_numpy(table.numbers("layer", "integer")),
            b_z=_field(path, metadata),
            scatterers=_scatterers(path),
            **{key: torch.from_numpy(column) for key, column in columns.items()},
        )
    except GeometryError as error:
        raise SchemaError(f"{path}: tree sensors: {error}") from error


def has_misalignment(path: str | Path) -> bool:
    """Whether the file tells where its sensors really are (tree `misalignment`).

    Raises:
        SchemaError: there is no such file, or it is not a ROOT file.
    """
    return has_tree(path, "misalignment")


def check_same_sensors(path: str | Path, detector: Detector) -> None:
    """Refuse a file whose own tree `sensors`, where it has one, calls the detector's identifiers otherwise.

    Raises:
        SchemaError: names the first such sensor, and the way to take the file's own detector.
    """
    if not has_tree(path, "sensors"):
        return
    table = Table(path, "sensors", ("sensor_id", "name"), ())
    rows = detector.rows(table.numbers("sensor_id", "integer"))
    for entry, (row, name) in enumerate(zip(rows.tolist(), table.text("name"), strict=True)):
        if row >= 0 and detector.names[row] != name:
            raise SchemaError(
                f"{path}: tree sensors, entry {entry}: {name!r} has the identifier of "
                f"{detector.names[row]!r} in detector {detector.name}; the file is of another detector: "
                "use detector=file"
            )


def read_misalignment(path: str | Path, detector: Detector) -> Tensor:
    """The local six of every sensor from tree `misalignment`, float64 (sensors, 6) in the detector's order.

    Sensors that the tree lacks are at their nominal places, 0. Where the tree has the exact places
    (`actual_rotation`, `actual_translation`), the six are worked out from them and the nominal places.
    Amplitudes of surfaces follow as further columns where the tree has them.

    Raises:
        SchemaError: the file does not follow the schema, or names a sensor twice or one the detector lacks.
    """
    exact = ("actual_rotation", "actual_translation")
    table = Table(path, "misalignment", ("sensor_id", *rigid.LOCAL_NAMES), (*exact, *MODE_NAMES))
    rows, names = sensor_rows(table, detector), local_names(table)
    local = torch.from_numpy(np.stack([_finite(table, branch) for branch in names], -1))
    if all(branch in table for branch in exact):
        rotation = torch.from_numpy(_finite(table, "actual_rotation", 9).reshape(-1, 3, 3))
        translation = torch.from_numpy(_finite(table, "actual_translation", 3))
        place = rigid.local_of(detector.rotation[rows], detector.translation[rows], rotation, translation)
        local = torch.cat([place, local[:, 6:]], -1)
    six = torch.zeros(len(detector), len(names), dtype=torch.float64)
    six[rows] = local
    return six


def _sensor_table(path: str | Path) -> Table:
    required = ("sensor_id", "name", "layer", "rotation", "translation", "half_u", "half_v")
    return Table(path, "sensors", required, ("centre_u", "centre_v", "x_over_x0", "curvature_radius"))


def _finite(table: Table, branch: str, size: int = 0) -> np.ndarray:
    column = table.numbers(branch, "float", size)
    table.origin.require(branch, np.isfinite(column), column, "finite numbers")
    return column


def _or_zero(table: Table, branch: str) -> np.ndarray:
    return _finite(table, branch) if branch in table else np.zeros(len(table))


def _pair(table: Table, u: str, v: str) -> np.ndarray:
    return np.stack([_or_zero(table, u), _or_zero(table, v)], -1)


def _field(path: str | Path, metadata: dict[str, Any]) -> float:
    field = metadata.get("b_z_tesla")
    if isinstance(field, bool) or not isinstance(field, int | float) or not math.isfinite(field):
        raise SchemaError(
            f"{path}: metadata has b_z_tesla {field!r}, expected the field along z in tesla (0 for none)"
        )
    return float(field)


def _scatterers(path: str | Path) -> Scatterers:
    if not has_tree(path, "scatterers"):
        return Scatterers.none()
    table = Table(path, "scatterers", ("radius", "half_z", "x_over_x0"))
    columns = {branch: _finite(table, branch) for branch in ("radius", "half_z", "x_over_x0")}
    for branch, column in columns.items():
        good = column >= 0 if branch == "x_over_x0" else column > 0
        table.origin.require(branch, good, column, "a number > 0 (x/X0: >= 0)")
    return Scatterers(*(torch.from_numpy(column) for column in columns.values()))
