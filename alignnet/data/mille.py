"""Mille binaries, Millepede-II's input, in the C format: records (tracks) back to back, each

    int32 N | value[n] | int32 label[n],       n = |N| / 2,  values float32, or float64 where N < 0

Value and label are read in parallel, word by word: (0, 0) first, then for every measurement

    (y, 0) · (∂y/∂q, local index)* · (sigma, 0) · (∂y/∂p, global label)*

so that the zeros among the labels are the only structure (the first word's label may count what a writer
dropped, and is not looked at). A pair (0, 0), (−m, 0) where a measurement would
stand announces m words of somebody's own, which are skipped. A file may be gzipped: its first bytes tell, not
its name. Records of both precisions may be mixed.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from alignnet.data.tracks import Array
from alignnet.errors import SchemaError


@dataclass(frozen=True)
class MilleRecords:
    """Measurements y = Σ (∂y/∂q) q + Σ (∂y/∂p) p ± sigma of records, as flat tables; q local, p global.

    Args:
        record_offset: first measurement of each record and the total, int64 (records + 1,).
        y: measured minus predicted, float64 (measurements,).
        sigma: its standard deviation, > 0, float64 (measurements,).
        local_offset: first local derivative of each measurement and the total, int64 (measurements + 1,).
        local_index: which local parameter of the record, from 1, int64 (local derivatives,).
        local_value: ∂y/∂q, float64 (local derivatives,).
        global_offset: first global derivative of each measurement and the total, int64 (measurements + 1,).
        global_label: which global parameter, a label of 1 … 2³¹ − 1, int64 (global derivatives,).
        global_value: ∂y/∂p, float64 (global derivatives,).
    """

    record_offset: Array
    y: Array
    sigma: Array
    local_offset: Array
    local_index: Array
    local_value: Array
    global_offset: Array
    global_label: Array
    global_value: Array

    def __len__(self) -> int:
        return len(self.record_offset) - 1

    @property
    def record_of_measurement(self) -> Array:
        """Row of each measurement's record, (measurements,)."""
        return _owners(self.record_offset)

    @property
    def measurement_of_local(self) -> Array:
        """Row of each local derivative's measurement, (local derivatives,)."""
        return _owners(self.local_offset)

    @property
    def measurement_of_global(self) -> Array:
        """Row of each global derivative's measurement, (global derivatives,)."""
        return _owners(self.global_offset)


def read_mille(path: str | Path) -> MilleRecords:
    """All records of a Mille file.

    Raises:
        SchemaError: there is no such file, or it is damaged: names the record by its first byte.
    """
    return join(list(iterate_mille(path)))


def iterate_mille(path: str | Path, block_bytes: int = 1 << 25) -> Iterator[MilleRecords]:
    """The records of a Mille file in order, in blocks of about so many bytes, for files larger than memory.

    Raises:
        SchemaError: as `read_mille`, when the block is reached.
    """
    for block in iterate_raw(path, block_bytes):
        yield block.records()


def iterate_raw(path: str | Path, block_bytes: int = 1 << 25) -> Iterator[RawBlock]:
    """As `iterate_mille`, but the bytes of the records as they are: only their lengths are looked at."""
    if not Path(path).is_file():
        raise SchemaError(f"{path}: no such file, expected a Mille binary; check the name")
    with open(path, "rb") as plain:
        zipped = plain.peek(2)[:2] == b"\x1f\x8b"
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=plain) if zipped else plain)
        yield from _blocks(stream, f"{path}, unpacked" if zipped else str(path), block_bytes)


def join(parts: Sequence[MilleRecords]) -> MilleRecords:
    """One table of several."""

    def offsets(name: str) -> Array:
        counts = [np.diff(getattr(part, name)) for part in parts]
        return offset_of(np.concatenate([np.zeros(0, dtype=np.int64), *counts]))

    def columns(name: str, dtype: type[np.generic]) -> Array:
        return np.concatenate([np.zeros(0, dtype=dtype), *(getattr(part, name) for part in parts)])

    return MilleRecords(
        record_offset=offsets("record_offset"),
        y=columns("y", np.float64),
        sigma=columns("sigma", np.float64),
        local_offset=offsets("local_offset"),
        local_index=columns("local_index", np.int64),
        local_value=columns("local_value", np.float64),
        global_offset=offsets("global_offset"),
        global_label=columns("global_label", np.int64),
        global_value=columns("global_value", np.float64),
    )


def offset_of(counts: Array) -> Array:
    """Where lists of these lengths begin in a flat table, and the total: int64 (lists + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _owners(offset: Array) -> Array:
    return np.repeat(np.arange(len(offset) - 1), np.diff(offset))


@dataclass(frozen=True)
class RawBlock:
    """Whole records as they stand in a file.

    Args:
        words: their bytes as int32.
        starts: first word of each record and the end, int64 (records + 1,).
        path: the file, for messages.
        first_byte: of the block in it.
    """

    words: Array
    starts: Array
    path: str
    first_byte: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def records(self) -> MilleRecords:
        """What they say.

        Raises:
            SchemaError: a record is damaged.
        """
        return _parse(self.words, self.starts, self)

    def error(self, record: int, found: str, expected: str) -> SchemaError:
        byte = self.first_byte + 4 * int(self.starts[record])
        return SchemaError(f"{self.path}: record at byte {byte}: found {found}, expected {expected}")


def _blocks(stream: IO[bytes], path: str, block_bytes: int) -> Iterator[RawBlock]:
    pending, first_byte = b"", 0
    while data := _more(stream, path, block_bytes):
        pending += data
        words = np.frombuffer(pending, dtype="<i4", count=len(pending) // 4).astype(np.int32, copy=False)
        starts = _record_starts(words, path, first_byte)
        if len(starts) > 1:
            yield RawBlock(words[: starts[-1]], starts, path, first_byte)
            used = 4 * int(starts[-1])
            pending, first_byte = pending[used:], first_byte + used
    if pending or first_byte == 0:
        raise SchemaError(
            f"{path}: record at byte {first_byte}: found {len(pending)} bytes to the end of the file, "
            "expected a whole record; the file is truncated, empty, or not a Mille binary in C format"
        )


def _more(stream: IO[bytes], path: str, count: int) -> bytes:
    try:
        return stream.read(count)
    except (EOFError, OSError, zlib.error) as error:
        raise SchemaError(
            f"{path}: gzip cannot unpack it ({error}); the file is truncated or damaged"
        ) from error


def _record_starts(words: Array, path: str, first_byte: int) -> Array:
    """Follow N from record to record: the one thing that only a walk through the file can do."""
    view, total, position, starts = memoryview(words.data), len(words), 0, [0]
    if first_byte == 0 and total > 1 and view[1] != 0 and view[0] == 4 + 4 * abs(view[1]):
        raise SchemaError(
            f"{path}: found Fortran record markers, expected the C format: choose Mille's C variant"
        )
    while position < total:
        size = view[position]
        if size % 2 or size == 0:
            raise SchemaError(
                f"{path}: record at byte {first_byte + 4 * position}: found N = {size}, expected an even "
                "number: twice the number of words, negative for doubles"
            )
        position += 1 + (size if size > 0 else -3 * size // 2)
        if position <= total:
            starts.append(position)
    return np.array(starts, dtype=np.int64)


def _parse(words: Array, starts: Array, place: RawBlock) -> MilleRecords:
    record, label, value = _without_special_blocks(*_pairs(words, starts), place)
    zero = label == 0
    zeros = np.bincount(record[zero], minlength=len(starts) - 1)
    _require(
        zeros % 2 == 0,
        np.arange(len(zeros)),
        zeros,
        "an even number of zero labels, a sigma for each y",
        place,
    )
    seen = np.cumsum(zero)
    in_local = seen % 2 == 1
    began = seen > np.concatenate([[0], np.cumsum(zeros)])[:-1][record]
    _require(began, record, label, "label 0, the first measurement", place)
    _require(np.isfinite(value), record, value, "finite numbers", place)
    _require(label >= 0, record, label, "local indices and labels > 0", place)
    is_sigma, is_local, is_global = zero & ~in_local, ~zero & in_local, ~zero & ~in_local
    _require(value[is_sigma] > 0, record[is_sigma], value[is_sigma], "sigma > 0", place)
    measurement, total = (seen - 1) // 2, int(zeros.sum()) // 2
    return MilleRecords(
        record_offset=offset_of(zeros // 2),
        y=value[zero & in_local],
        sigma=value[is_sigma],
        local_offset=offset_of(np.bincount(measurement[is_local], minlength=total)),
        local_index=label[is_local],
        local_value=value[is_local],
        global_offset=offset_of(np.bincount(measurement[is_global], minlength=total)),
        global_label=label[is_global],
        global_value=value[is_global],
    )


def _require(good: Array, record: Array, found: Array, expected: str, place: RawBlock) -> None:
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise place.error(int(record[row]), str(found[row].item()), expected)


def _pairs(words: Array, starts: Array) -> tuple[Array, Array, Array]:
    """Record, label and value of every word but the first of each record."""
    size = words[starts[:-1]].astype(np.int64)
    count, width = np.abs(size) // 2, np.where(size < 0, 2, 1)
    record = np.repeat(np.arange(len(count)), count)
    index = np.arange(len(record)) - np.repeat(offset_of(count)[:-1], count)
    base = starts[:-1][record] + 1
    label = words[base + (count * width)[record] + index].astype(np.int64)
    value = _values(words, base + index * width[record], width[record] == 2)
    later = index > 0
    return record[later], label[later], value[later]


def _values(words: Array, position: Array, double: Array) -> Array:
    value, low = np.empty(len(position)), position[double]
    with np.errstate(invalid="ignore"):  # a signalling NaN is found with the others
        value[~double] = words.view(np.float32)[position[~double]]
    value[double] = np.stack([words[low], words[low + 1]], -1).view(np.float64)[:, 0]
    return value


def _without_special_blocks(
    record: Array, label: Array, value: Array, place: RawBlock
) -> tuple[Array, Array, Array]:
    """Drop (0, 0), (−m, 0) and the m words after it, wherever a measurement would stand."""
    null = (label == 0) & (value == 0)
    size = (label[1:] == 0) & (value[1:] < 0) & np.isfinite(value[1:])
    announced = np.flatnonzero(null[:-1] & size & (record[1:] == record[:-1]))
    keep = np.ones(len(record), dtype=bool)
    for start in announced.tolist():  # rare, and each may hide the next
        end = start + 2 - int(value[start + 1])
        if keep[start] and (end > len(record) or record[end - 1] != record[start]):
            raise place.error(
                int(record[start]), f"a special block of {end - start - 2} words", "fewer words"
            )
        keep[start : end if keep[start] else start] = False
    return record[keep], label[keep], value[keep]
