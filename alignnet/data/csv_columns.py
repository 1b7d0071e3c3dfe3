"""A CSV file as numpy columns, every one checked: what cannot be used is an error naming line and column.

The first line names the columns, in any order; those that nobody asks for are not looked at. Empty lines and
lines that begin with `#` are left out. Fields are separated by commas and may be quoted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

Kind = Literal["float", "integer", "text"]

_BLOCK = 100_000  # lines that are held as text at a time
_TYPES: dict[str, Any] = {"float": np.float64, "integer": np.int64, "text": np.str_}
_EXPECTED = {"float": "a number", "integer": "a whole number"}
_PARSE: dict[str, Any] = {"float": float, "integer": int}


class CsvTable:
    """The wanted columns of one CSV file.

    Args:
        path: the file.
        required: columns that must be there, and what they hold.
        optional: columns that are read if they are there.

    Raises:
        SchemaError: there is no such file, a required column or every row is missing, a line has too many or
            too few fields, or a field is not what its column holds.
    """

    def __init__(self, path: str | Path, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> None:
        self.path = Path(path)
        with _opened(self.path) as reader:
            rows = ((reader.line_num, row) for row in reader if row and not row[0].startswith("#"))
            line, names = next(rows, (1, [""]))
            self._first: int = line
            heading = [name.strip() for name in names]
            self._check_heading(heading, required)
            kinds = {name: kind for name, kind in {**required, **optional}.items() if name in heading}
            self.unused = tuple(name for name in heading if name not in kinds)
            self._read(rows, heading, kinds)

    def __contains__(self, column: str) -> bool:
        return column in self._columns

    def __getitem__(self, column: str) -> Array:
        """Float64, int64 or strings (rows,)."""
        return self._columns[column]

    def __len__(self) -> int:
        return len(self.line)

    def together(self, columns: Sequence[str]) -> Array | None:
        """Columns side by side (rows, columns), None where the file has none of them.

        Raises:
            SchemaError: it has some of them only.
        """
        present = [column for column in columns if column in self]
        if present and len(present) < len(columns):
            missing = ", ".join(column for column in columns if column not in present)
            raise SchemaError(
                f"{self.path}: has column {present[0]}, but not {missing}: expected all of "
                f"{', '.join(columns)}, or none"
            )
        return np.stack([self[column] for column in columns], -1) if present else None

    def error(self, column: str, row: int, expected: str) -> SchemaError:
        """The error for one value."""
        found = self[column][row]
        return SchemaError(
            f"{self.path}: line {self.line[row]}, column {column}: found {found}, expected {expected}"
        )

    def require(self, column: str, good: Array, expected: str) -> None:
        """Raise for the first line of the file where `good` (rows,) is not true."""
        if not good.all():
            raise self.error(column, int(np.flatnonzero(~good)[0]), expected)

    def require_finite(self) -> None:
        """Raise for the first number that is not finite."""
        for column, values in self._columns.items():
            if values.dtype.kind == "f":
                self.require(column, np.isfinite(values), "a finite number")

    def _check_heading(self, heading: list[str], required: Mapping[str, Kind]) -> None:
        twice = next((name for i, name in enumerate(heading) if name in heading[:i]), None)
        if twice is not None:
            raise SchemaError(
                f"{self.path}: line {self._first}: column {twice!r} occurs twice, expected each once"
            )
        missing = [name for name in required if name not in heading]
        if missing:
            raise SchemaError(
                f"{self.path}: line {self._first}: no column {', '.join(missing)}; found "
                f"{', '.join(heading) or 'nothing'}, expected {', '.join(required)}, separated by commas"
            )

    def _read(
        self, rows: Iterator[tuple[int, list[str]]], heading: list[str], kinds: Mapping[str, Kind]
    ) -> None:
        lines: list[Array] = []
        parts: dict[str, list[Array]] = {name: [] for name in kinds}
        while block := list(islice(rows, _BLOCK)):
            numbers, fields = zip(*block, strict=True)
            for number, row in block:
                if len(row) != len(heading):
                    raise SchemaError(
                        f"{self.path}: line {number}: found {len(row)} fields, expected {len(heading)}, "
                        f"one for each column of line {self._first}"
                    )
            lines.append(np.array(numbers))
            for name, column in zip(heading, zip(*fields, strict=True), strict=True):
                if name in kinds:
                    parts[name].append(self._parsed(name, column, kinds[name], numbers))
        if not lines:
            raise SchemaError(f"{self.path}: has no lines after the heading, expected at least one")
        self.line = np.concatenate(lines)
        self._columns = {name: np.concatenate(blocks) for name, blocks in parts.items()}

    def _parsed(self, name: str, column: Sequence[str], kind: Kind, numbers: Sequence[int]) -> Array:
        if kind == "text":
            return np.char.strip(np.array(column, dtype=np.str_))
        try:
            return np.array(column, dtype=_TYPES[kind])
        except (ValueError, OverflowError):
            number, text = next(
                (number, text) for number, text in zip(numbers, column, strict=True) if not _is(text, kind)
            )
            raise SchemaError(
                f"{self.path}: line {number}, column {name}: found {text!r}, expected {_EXPECTED[kind]}"
            ) from None


def _is(text: str, kind: Kind) -> bool:
    try:
        np.array(_PARSE[kind](text), dtype=_TYPES[kind])
    except (ValueError, OverflowError):
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise SchemaError(f"{path}: found {found}, expected a CSV file; check the name")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield csv.reader(file, skipinitialspace=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SchemaError(f"{path}: cannot be read as CSV ({error}); it must be text in UTF-8") from error
