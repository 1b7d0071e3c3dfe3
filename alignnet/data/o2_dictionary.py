"""O2's dictionary of cluster topologies: for a pattern ID the cluster's centre in its box, and its error.

Common patterns have an entry each. Rare ones share an entry by the size of their box (a *group*), and a
cluster of a group carries its pattern beside it, as does one that no entry fits (ID 2047). An entry gives the
centre of gravity from the pixel of lowest row and column, `x_cog` (negative, as local x falls with the row)
and `z_cog` [cm], and the variances `err2_x`, `err2_z` [cm²].

Two forms are read: the binary one, packed entries of 2,095 bytes in little-endian order, and the object
`o2::itsmft::TopologyDictionary` (version 4) of the conditions database (ITS/Calib/ClusterDictionary), whose
vector of entries ROOT writes member by member:

    u32 bytes | u16 4 | map (u32 bytes | …) | map (u32 bytes | …) | i32 lookup[2041] | vector vector:   u32
    bytes | u16 0x4000 + 10 | u16 3 | u32 n | hash[n] | errX[n] | … | pattern[n] | … | isGroup[n] pattern:
    u32 bytes | u16 1 | u8 bitmap[2050]

or, where it was told to, entry by entry. The two maps and the table repeat what the entries say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from alignnet.data.atomic import replacing
from alignnet.data.root_columns import read_payload
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

NO_ENTRY = 2047
"""Pattern ID of a cluster that the dictionary has no entry for."""

BITMAP = 2050
"""Bytes of a pattern: rows and columns of its box, and up to 128 × 128 pixels."""

ENTRY = np.dtype(
    [
        ("hash", "<u8"), ("err_x", "<f4"), ("err_z", "<f4"), ("err2_x", "<f4"), ("err2_z", "<f4"),
        ("x_cog", "<f4"), ("z_cog", "<f4"), ("n_pixels", "<i4"), ("frequency", "<f8"), ("is_group", "u1"),
        ("bitmap", "u1", (BITMAP,)),
    ]
)  # fmt: skip
"""An entry as it is packed in a binary file."""

CLASS_NAME = "o2::itsmft::TopologyDictionary"
KEYS = ("ccdb_object", "TopologyDictionary")

_COUNTED, _MEMBERWISE = 0x40000000, 0x4000
_VERSION, _ENTRY_VERSION, _VECTOR_VERSION, _LOOKUP = 4, 3, 10, 8 * 255 + 1
_MEMBERS = ("hash", "err_x", "err_z", "err2_x", "err2_z", "x_cog", "z_cog", "n_pixels", "bitmap", "frequency")


@dataclass(frozen=True)
class TopologyDictionary:
    """Entries by pattern ID.

    Args:
        entries: structured as `ENTRY`, at most 2,047.
        origin: where they came from, for messages.

    Raises:
        SchemaError: they are too many, or an entry is none: names it.
    """

    entries: Array
    origin: str = "dictionary"

    def __post_init__(self) -> None:
        if len(self.entries) > NO_ENTRY:
            raise SchemaError(f"{self.origin}: {len(self.entries)} entries, expected at most {NO_ENTRY}")
        numbers = ("err2_x", "err2_z", "x_cog", "z_cog")
        finite = np.all([np.isfinite(self.entries[name]) for name in numbers], axis=0)
        good = finite & (self.entries["is_group"] <= 1)
        good &= (self.entries["err2_x"] >= 0) & (self.entries["err2_z"] >= 0)
        good &= (self.entries["bitmap"][:, :2] <= 128).all(-1)
        if not good.all():
            raise SchemaError(
                f"{self.origin}: entry {int(np.flatnonzero(~good)[0])} is no cluster topology; the file is "
                "damaged, or no dictionary of O2"
            )

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def has_pattern(self) -> Array:
        """Whether a cluster of a pattern ID carries its pattern beside it, booleans (2048,)."""
        explicit = np.zeros(NO_ENTRY + 1, dtype=bool)
        explicit[: len(self)] = self.entries["is_group"] != 0
        explicit[NO_ENTRY] = True
        return explicit

    @cached_property
    def centre(self) -> Array:
        """x_cog, z_cog [cm] of every pattern ID, float64 (2048, 2); 0 where it has no entry."""
        return self._by_id("x_cog", "z_cog")

    @cached_property
    def sigma(self) -> Array:
        """√err2_x, √err2_z [cm] of every pattern ID, float64 (2048, 2); 0 where it has no entry."""
        return np.sqrt(self._by_id("err2_x", "err2_z"))

    def _by_id(self, *names: str) -> Array:
        table = np.zeros((NO_ENTRY + 1, len(names)))
        table[: len(self)] = np.stack([self.entries[name] for name in names], -1)
        return table

    @classmethod
    def empty(cls) -> TopologyDictionary:
        """No entries: for files all of whose clusters carry their patterns."""
        return cls(np.zeros(0, dtype=ENTRY), "no dictionary")


def read_dictionary(path: str | Path) -> TopologyDictionary:
    """The dictionary of a binary file, or of a ROOT file with the object of the conditions database.

    Raises:
        SchemaError: there is no such file, or it is neither.
    """
    if not Path(path).is_file():
        raise SchemaError(f"{path}: found no such file, expected a dictionary of cluster topologies")
    with Path(path).open("rb") as file:
        is_root = file.read(4) == b"root"
    if is_root:
        return TopologyDictionary(_from_object(read_payload(path, KEYS, CLASS_NAME), str(path)), str(path))
    payload = Path(path).read_bytes()
    if not payload or len(payload) % ENTRY.itemsize:
        raise SchemaError(
            f"{path}: found {len(payload)} bytes, expected a multiple of {ENTRY.itemsize} (the binary "
            "form of O2's TopologyDictionary) or a ROOT file"
        )
    return TopologyDictionary(np.frombuffer(payload, dtype=ENTRY), str(path))


def write_dictionary(path: str | Path, dictionary: TopologyDictionary) -> None:
    """Write the binary form; the file appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(dictionary.entries.astype(ENTRY).tobytes())


def _from_object(payload: bytes, origin: str) -> Array:
    try:
        version, position = _header(payload, 0)
        _expect("version of TopologyDictionary", version & ~_MEMBERWISE, _VERSION)
        for _ in range(2):
            position = _end(payload, position)
        position += 4 * _LOOKUP
        end = _end(payload, position)
        version, position = _header(payload, position)
        _expect("version of the vector", version & ~_MEMBERWISE, _VECTOR_VERSION)
        if version & _MEMBERWISE:
            return _by_members(payload, position, end)
        return _by_entries(payload, position, end)
    except (struct.error, ValueError) as error:
        raise SchemaError(
            f"{origin}: is no {CLASS_NAME} of version {_VERSION} ({error}); it is damaged or of another O2"
        ) from error


def _by_members(payload: bytes, position: int, end: int) -> Array:
    version, n = struct.unpack_from(">HI", payload, position)
    _expect("version of GroupStruct", version, _ENTRY_VERSION)
    _expect("bytes", end - position - 6, n * (ENTRY.itemsize + 6))
    return _columns(payload, position + 6, n, _packed())


def _by_entries(payload: bytes, position: int, end: int) -> Array:
    (n,) = struct.unpack_from(">I", payload, position)
    whole = np.dtype(
        [("head", ">u4"), ("version", ">u2"), *((m, _packed()[m]) for m in (*_MEMBERS, "is_group"))]
    )
    _expect("bytes", end - position - 4, n * whole.itemsize)
    rows = np.frombuffer(payload, dtype=whole, count=n, offset=position + 4)
    _expect("version of GroupStruct", sorted({*rows["version"].tolist(), _ENTRY_VERSION}), [_ENTRY_VERSION])
    return _filled({name: rows[name] for name in (*_MEMBERS, "is_group")}, n)


def _columns(payload: bytes, position: int, n: int, kinds: dict[str, np.dtype[np.void]]) -> Array:
    columns = {}
    for name in (*_MEMBERS, "is_group"):
        columns[name] = np.frombuffer(payload, dtype=kinds[name], count=n, offset=position)
        position += n * kinds[name].itemsize
    return _filled(columns, n)


def _filled(columns: dict[str, Array], n: int) -> Array:
    entries = np.zeros(n, dtype=ENTRY)
    for name, values in columns.items():
        entries[name] = values["bitmap"] if name == "bitmap" else values
    return entries


def _packed() -> dict[str, np.dtype[np.void]]:
    """What a member looks like in ROOT's big-endian stream."""
    fields = {name: np.dtype(ENTRY[name]).newbyteorder(">") for name in (*_MEMBERS, "is_group")}
    fields["bitmap"] = np.dtype([("head", ">u4"), ("version", ">u2"), ("bitmap", "u1", (BITMAP,))])
    return fields


def _header(payload: bytes, position: int) -> tuple[int, int]:
    """Version of a counted object, and where its content begins."""
    _, version = struct.unpack_from(">IH", payload, position)
    return version, position + 6


def _end(payload: bytes, position: int) -> int:
    """Where a counted object ends."""
    (size,) = struct.unpack_from(">I", payload, position)
    if not size & _COUNTED or position + 4 + (size ^ _COUNTED) > len(payload):
        raise ValueError(f"byte {position} begins no object")
    return position + 4 + (size ^ _COUNTED)


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{what} {found}, expected {expected}")
