"""Writing Mille binaries (the format: `alignnet.data.mille`), whole blocks of records at a time."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from alignnet.data.atomic import replacing
from alignnet.data.mille import MilleRecords, offset_of
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

MAX_LABEL = 2**31 - 1


class MilleWriter:
    """A Mille file that grows by `append`; it gets its name when the block ends without error.

    with MilleWriter("tracks.bin") as writer:
        writer.append(records)

    Args:
        path: the file.
        double: 8-byte values instead of 4-byte ones: 1.5 times as large, and exact.
        compress: gzip it, which pede reads too; by default if the name ends in `.gz`.

    Raises:
        ConfigError: the file cannot be written there.
    """

    def __init__(self, path: str | Path, double: bool = True, compress: bool | None = None) -> None:
        self._path, self._double = Path(path), double
        self._compress = self._path.suffix == ".gz" if compress is None else compress

    def __enter__(self) -> MilleWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._path))
            opened = gzip.open(temporary, "wb", compresslevel=1) if self._compress else open(temporary, "wb")
            self._file: IO[bytes] = stack.enter_context(opened)  # type: ignore[arg-type]
            self._stack = stack.pop_all()
        return self

    def append(self, records: MilleRecords) -> None:
        """Write more records.

        Raises:
            SchemaError: a sigma is not > 0, a label or an index is out of range, or a number is not finite.
        """
        check_records(records, str(self._path))
        self._file.write(pack(records, self._double))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def check_records(records: MilleRecords, path: str) -> None:
    """Raise SchemaError for the first measurement or derivative that Millepede would drop or stop at."""
    for name, good, expected in (
        ("y", np.isfinite(records.y), "a finite number"),
        ("sigma", (records.sigma > 0) & np.isfinite(records.sigma), "a number > 0"),
        ("local_value", np.isfinite(records.local_value), "a finite number"),
        ("global_value", np.isfinite(records.global_value), "a finite number"),
        ("local_index", _in_range(records.local_index), f"1 to {MAX_LABEL}"),
        ("global_label", _in_range(records.global_label), f"1 to {MAX_LABEL}"),
    ):
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            value = getattr(records, name)[row].item()
            raise SchemaError(f"{path}: {name}, row {row}: found {value}, expected {expected}")


def pack(records: MilleRecords, double: bool = True) -> bytes:
    """The bytes of records, as a Mille file holds them one after the other."""
    measurements = np.diff(records.record_offset)
    locals_, globals_ = np.diff(records.local_offset), np.diff(records.global_offset)
    # the word before a measurement: one for each record so far, and all words of earlier measurements
    begin = offset_of(2 + locals_ + globals_)[:-1] + records.record_of_measurement + 1
    words = offset_of(2 + locals_ + globals_)[records.record_offset] + np.arange(len(measurements) + 1)
    label, value = np.zeros(words[-1], dtype=np.int32), np.zeros(words[-1])
    value[begin], value[begin + 1 + locals_] = records.y, records.sigma
    local = _positions(begin + 1, records.local_offset, records.measurement_of_local)
    label[local], value[local] = records.local_index, records.local_value
    global_ = _positions(begin + 2 + locals_, records.global_offset, records.measurement_of_global)
    label[global_], value[global_] = records.global_label, records.global_value
    return _interleave(label, value, words, width=2 if double else 1)


def _positions(begin: Array, offset: Array, owner: Array) -> Array:
    """Where the derivatives go, given where those of each measurement begin."""
    positions: Array = begin[owner] + np.arange(len(owner)) - offset[:-1][owner]
    return positions


def _interleave(label: Array, value: Array, words: Array, width: int) -> bytes:
    """N, values and labels of each record, from flat labels and values that begin at `words`."""
    count = np.diff(words)
    start = offset_of(1 + count * (1 + width))
    buffer = np.zeros(start[-1], dtype="<i4")
    buffer[start[:-1]] = 2 * count if width == 1 else -2 * count
    record = np.repeat(np.arange(len(count)), count)
    index = np.arange(len(label)) - words[:-1][record]
    base = start[:-1][record] + 1
    buffer[base + (width * count)[record] + index] = label
    bits = value.astype("<f4" if width == 1 else "<f8").view("<i4").reshape(-1, width)
    for i in range(width):
        buffer[base + width * index + i] = bits[:, i]
    return buffer.tobytes()


def _in_range(label: Array) -> Array:
    good: Array = (label >= 1) & (label <= MAX_LABEL)
    return good
