"""The result of an alignment as a table: ROOT, Parquet or CSV, by the file's suffix, with the same columns.

CSV has every number in the fewest digits that give the same float64 back. Parquet needs the extra `parquet`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from alignnet.data.atomic import replacing
from alignnet.data.root_alignment import (
    AlignmentTable,
    alignment_table,
    read_alignment_table,
    table_columns,
    table_of,
    write_alignment,
)
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.detector import Detector

SUFFIXES = (".root", ".parquet", ".csv")


def write_table(
    path: str | Path,
    detector: Detector,
    local_six: Tensor,
    errors: Tensor | None,
    n_hits: Tensor | Array,
    status: Tensor | Array,
    error_kind: int = 0,
) -> None:
    """Write an alignment; the file appears whole or not at all. Arguments as for `write_alignment`.

    Raises:
        ConfigError: the suffix is not one of `SUFFIXES`, pyarrow is missing, or the place is not writable.
        GeometryError: shapes do not fit the detector, a number is not finite, or a status is unknown.
    """
    suffix = _suffix(path)
    if suffix == ".root":
        write_alignment(path, detector, local_six, errors, n_hits, status, error_kind)
        return
    columns = table_columns(alignment_table(detector, local_six, errors, n_hits, status, error_kind))
    with replacing(path) as temporary:
        (_write_csv if suffix == ".csv" else _write_parquet)(temporary, columns)


def read_table(path: str | Path) -> AlignmentTable:
    """Read what `write_table` wrote.

    Raises:
        SchemaError: there is no such file, or it is not such a table.
        ConfigError: the suffix is not one of `SUFFIXES`, or pyarrow is missing.
    """
    suffix = _suffix(path)
    if suffix == ".root":
        return read_alignment_table(path)
    parquet = _pyarrow_parquet() if suffix == ".parquet" else None
    try:
        return table_of(_read_csv(path) if parquet is None else parquet.read_table(path).to_pydict())
    except Exception as error:  # pyarrow has its own families of errors
        raise SchemaError(
            f"{path}: not a table of an alignment ({type(error).__name__}: {error}), "
            "expected what write_table wrote"
        ) from error


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unknown kind of table {suffix!r}, expected one of {', '.join(SUFFIXES)}")
    return suffix


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any] | Array]) -> None:
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*lists, strict=True))


def _read_csv(path: str | Path) -> dict[str, tuple[str, ...]]:
    with open(path, newline="", encoding="utf-8") as file:
        heading, *rows = csv.reader(file)
    return dict(zip(heading, zip(*rows, strict=True), strict=True))


def _write_parquet(path: Path, columns: Mapping[str, Sequence[Any] | Array]) -> None:
    parquet = _pyarrow_parquet()
    import pyarrow

    parquet.write_table(pyarrow.table(dict(columns)), path)


def _pyarrow_parquet() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        message = "Parquet needs pyarrow: pip install 'alignnet[parquet]', or choose .root or .csv"
        raise ConfigError(message) from error
    return pyarrow.parquet
