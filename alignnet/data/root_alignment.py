"""The tree `alignment`: what an alignment found for each sensor, in the local six and as ALICE's global six.

Same meaning as the true `misalignment`: where the sensors really are, from their nominal places. An error
that is not known (a solver that gives none) is NaN, the only NaN in the schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import uproot
from torch import Tensor

from alignnet.data.atomic import replacing
from alignnet.data.root_columns import Table, write_columns
from alignnet.data.tracks import Array
from alignnet.errors import GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector

STATUS = {0: "aligned", 1: "fixed", 2: "too few hits"}
"""What `status` says of a sensor."""

ERROR_KINDS = {
    0: "the other sensors held in place",
    1: "all sensors together, from the inverse matrix",
    2: "all sensors together, from draws",
}
"""What `error_kind` says of the errors."""

ERROR_NAMES = tuple(f"{name}_error" for name in rigid.LOCAL_NAMES)


class AlignmentTable(NamedTuple):
    """An alignment as numpy columns, one row a sensor."""

    sensor_id: Array  # int32 (rows,)
    name: tuple[str, ...]
    local: Array  # float64 (rows, 6): du, dv, dw [cm], rot_u, rot_v, rot_w [rad]
    error: Array  # float64 (rows, 6), NaN where not known
    global_: Array  # float64 (rows, 6): x, y, z [cm], psi, theta, phi [rad] (AlignParam)
    n_hits: Array  # int64 (rows,)
    status: Array  # int8 (rows,), a key of STATUS
    error_kind: Array  # int8 (rows,), a key of ERROR_KINDS


def alignment_table(
    detector: Detector,
    local_six: Tensor,
    errors: Tensor | None,
    n_hits: Tensor | Array,
    status: Tensor | Array,
    error_kind: int = 0,
) -> AlignmentTable:
    """The table of an alignment; arguments as for `write_alignment`."""
    local = checked_local(detector, local_six)
    n = len(detector)
    unknown = torch.full((n, 6), torch.nan, dtype=torch.float64)
    error = unknown if errors is None else errors.detach().cpu().to(torch.float64)
    found, state = np.asarray(n_hits).astype(np.int64), np.asarray(status).astype(np.int8)
    for what, column, shape in (("errors", error, (n, 6)), ("n_hits", found, (n,)), ("status", state, (n,))):
        if tuple(column.shape) != shape:
            raise GeometryError(
                f"{what} has shape {tuple(column.shape)}, expected {shape} for detector {detector.name}"
            )
    if not np.isin(state, list(STATUS)).all():
        raise GeometryError(f"status holds {sorted(set(state.tolist()) - set(STATUS))}, expected {STATUS}")
    return AlignmentTable(
        sensor_id=identifiers(detector),
        name=detector.names,
        local=local.numpy(),
        error=error.numpy(),
        global_=global_six(detector, local).numpy(),
        n_hits=found,
        status=state,
        error_kind=np.full(n, error_kind, dtype=np.int8),
    )


def write_alignment(
    path: str | Path,
    detector: Detector,
    local_six: Tensor,
    errors: Tensor | None,
    n_hits: Tensor | Array,
    status: Tensor | Array,
    error_kind: int = 0,
    metadata: Mapping[str, Any] | None = None,
    trees: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write tree `alignment`; the file appears whole or not at all.

    Args:
        path: the ROOT file.
        detector: at its nominal places.
        local_six: where the sensors are found to be, (sensors, 6).
        errors: their standard deviations (sensors, 6), NaN or None where not known.
        n_hits: hits on each sensor (sensors,).
        status: 0 aligned, 1 fixed, 2 too few hits (sensors,).
        error_kind: what the errors are, a key of `ERROR_KINDS`.
        metadata: what JSON can hold, as the object `metadata`; None for none.
        trees: columns of further trees, by name.

    Raises:
        GeometryError: shapes do not fit the detector, a number is not finite, or a status is unknown.
        ConfigError: the file cannot be written there.
    """
    columns = table_columns(alignment_table(detector, local_six, errors, n_hits, status, error_kind))
    with replacing(path) as temporary, uproot.recreate(temporary) as file:
        write_columns(file, "alignment", columns)
        for name, more in (trees or {}).items():
            write_columns(file, name, more)
        if metadata is not None:
            file["metadata"] = json.dumps(metadata)


def read_alignment(path: str | Path, detector: Detector) -> Tensor:
    """The local six of tree `alignment`, float64 (sensors, 6) in the detector's order; 0 where it has no row.

    Raises:
        SchemaError: the file does not follow the schema, or names a sensor twice or one the detector lacks.
    """
    required = ("sensor_id", *rigid.LOCAL_NAMES)
    table = Table(path, "alignment", required)
    rows = sensor_rows(table, detector)
    six = torch.zeros(len(detector), 6, dtype=torch.float64)
    six[rows] = torch.from_numpy(_six(table, rigid.LOCAL_NAMES))
    return six


def read_alignment_table(path: str | Path) -> AlignmentTable:
    """Tree `alignment` as it is in the file, row by row.

    Raises:
        SchemaError: the file does not follow the schema.
    """
    names = ("sensor_id", "name", *rigid.LOCAL_NAMES, *ERROR_NAMES, *rigid.GLOBAL_NAMES, "n_hits", "status")
    table = Table(path, "alignment", names, optional=("error_kind",))
    status = table.numbers("status", "integer")
    table.origin.require("status", np.isin(status, list(STATUS)), status, str(STATUS))
    return AlignmentTable(
        sensor_id=table.numbers("sensor_id", "integer").astype(np.int32),
        name=table.text("name"),
        local=_six(table, rigid.LOCAL_NAMES),
        error=np.stack([table.numbers(name, "float") for name in ERROR_NAMES], -1),
        global_=_six(table, rigid.GLOBAL_NAMES),
        n_hits=table.numbers("n_hits", "integer"),
        status=status.astype(np.int8),
        error_kind=_kinds(table, len(status)),
    )


def table_columns(table: AlignmentTable) -> dict[str, Any]:
    """The named columns of docs/data-format.md, in their order."""
    columns: dict[str, Any] = {"sensor_id": table.sensor_id, "name": table.name}
    for i, (name, error) in enumerate(zip(rigid.LOCAL_NAMES, ERROR_NAMES, strict=True)):
        columns |= {name: table.local[:, i], error: table.error[:, i]}
    columns |= {name: table.global_[:, i] for i, name in enumerate(rigid.GLOBAL_NAMES)}
    return columns | {"n_hits": table.n_hits, "status": table.status, "error_kind": table.error_kind}


def table_of(columns: Mapping[str, Any]) -> AlignmentTable:
    """The table of named columns; inverse of `table_columns`."""

    def six(names: Sequence[str]) -> Array:
        return np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], -1)

    return AlignmentTable(
        sensor_id=np.asarray(columns["sensor_id"], dtype=np.int32),
        name=tuple(columns["name"]),
        local=six(rigid.LOCAL_NAMES),
        error=six(ERROR_NAMES),
        global_=six(rigid.GLOBAL_NAMES),
        n_hits=np.asarray(columns["n_hits"], dtype=np.int64),
        status=np.asarray(columns["status"], dtype=np.int8),
        error_kind=np.asarray(columns.get("error_kind", np.zeros(len(columns["status"]))), dtype=np.int8),
    )


def checked_local(detector: Detector, local_six: Tensor) -> Tensor:
    """`local_six` as float64 on the CPU, without a graph.

    Raises:
        GeometryError: its shape is not (sensors, 6), or a number is not finite.
    """
    local = local_six.detach().cpu().to(torch.float64)
    if tuple(local.shape) != (len(detector), 6):
        raise GeometryError(
            f"local six has shape {tuple(local.shape)}, expected {(len(detector), 6)} for {detector.name}"
        )
    bad = ~torch.isfinite(local).all(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise GeometryError(
            f"local six of sensor {detector.names[row]} is {local[row].tolist()}, expected finite numbers"
        )
    return local


def identifiers(detector: Detector) -> Array:
    """The `sensor_id` of each sensor as files hold it, int32; GeometryError where one does not fit."""
    wide = detector.sensor_id.numpy()
    if len(wide) and (wide.min() < -(2**31) or wide.max() >= 2**31):
        raise GeometryError(
            f"detector {detector.name}: sensor_id goes to {wide.max()}, expected 32-bit integers"
        )
    return wide.astype(np.int32)


def global_six(detector: Detector, local: Tensor) -> Tensor:
    """ALICE's global six (sensors, 6) of local ones; GeometryError for turns of 90°, which it cannot hold."""
    try:
        return rigid.local_to_global(detector.rotation, detector.translation, local)
    except ValueError as error:
        raise GeometryError(f"detector {detector.name}: {error}; such a motion is no misalignment") from error


def sensor_rows(table: Table, detector: Detector) -> Array:
    """The detector's row of each entry's `sensor_id`; SchemaError for an unknown or a repeated sensor."""
    sensor_id = table.numbers("sensor_id", "integer")
    rows = detector.rows(sensor_id)
    table.origin.require("sensor_id", rows >= 0, sensor_id, f"a sensor_id of detector {detector.name}")
    _, first = np.unique(sensor_id, return_index=True)
    once = np.isin(np.arange(len(rows)), first)
    table.origin.require("sensor_id", once, sensor_id, "each sensor once")
    return rows


def _kinds(table: Table, n: int) -> Array:
    """What the errors of a table are; files without the branch have those with other sensors held."""
    if "error_kind" not in table:
        return np.zeros(n, dtype=np.int8)
    kind = table.numbers("error_kind", "integer")
    table.origin.require("error_kind", np.isin(kind, list(ERROR_KINDS)), kind, str(ERROR_KINDS))
    return kind.astype(np.int8)


def _six(table: Table, names: Sequence[str]) -> Array:
    columns = []
    for name in names:
        columns.append(table.numbers(name, "float"))
        table.origin.require(name, np.isfinite(columns[-1]), columns[-1], "finite numbers")
    return np.stack(columns, -1)
