"""The alignment as ALICE reads it: std::vector<o2::detectors::AlignParam> under the key `ccdb_object`.

An AlignParam moves a volume of the geometry by a global delta, G' = D · G: six doubles x, y, z [cm], psi,
theta, phi [rad], D's rotation being Rx(psi) · Ry(theta) · Rz(phi) about the global origin. Objects act
parents first, each on what its parents moved already: G'_chip = D_chip · … · D_halfbarrel · D_ITS · G_ideal.
Either one object a chip is written and none for the volumes above, when D_chip alone brings the sensor to
its place; or objects of all levels that were aligned, D_chip being what those of the parents leave. D does
not depend on whether it is said of the chip or of the sensor in it.

ROOT's serialisation of the vector, big-endian (class version 1, `AlignParam.h` of ALICE O2):

    uint32 entries | entry…
    entry:   uint32 (bytes | 2³⁰) · uint16 version · string · int32 id · 6 doubles
    string:  uint32 (bytes | 2³⁰) · uint16 version · uint8 length (255: int32 length follows) · characters
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import uproot
from torch import Tensor

from alignnet.data.atomic import replacing
from alignnet.data.root_alignment import checked_local, global_six, identifiers, read_alignment
from alignnet.data.root_columns import open_root, read_payload
from alignnet.data.root_volumes import delta_six, has_volumes, moved_by, read_volumes, whole_name
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Motion, Volumes, deltas, parents_first, replaced, still

CLASS_NAME = "vector<o2::detectors::AlignParam>"
KEYS = ("ccdb_object", "alignment")
"""Where a file has its object: one of the CCDB, or one of the macro ITSMisaligner.C."""

Placed = Mapping[str, tuple[Volumes, Motion]]
"""Levels by name, and how their volumes are moved from the drawing."""

_COUNTED = 0x40000000
_STRING_VERSION, _VERSION = 10, 1


class AlignParams(NamedTuple):
    """Alignment objects, one row each."""

    symname: tuple[str, ...]  # symbolic path of the volume
    alignable_id: Array  # integers (rows,): the chip, −1 for volumes above it
    delta: Array  # float64 (rows, 6): x, y, z [cm], psi, theta, phi [rad]


def align_params(detector: Detector, local_six: Tensor) -> AlignParams:
    """One object a sensor, from its nominal place and its local six (sensors, 6).

    Raises:
        GeometryError: the shape is wrong, a number is not finite, or a rotation is as large as 90°.
    """
    delta = global_six(detector, checked_local(detector, local_six)).numpy()
    return AlignParams(detector.names, identifiers(detector), delta)


def write_alice(path: str | Path, detector: Detector, local_six: Tensor) -> None:
    """Write the CCDB object of an alignment; the file appears whole or not at all.

    Args:
        path: the ROOT file.
        detector: at its nominal places, named by ALICE's symbolic names.
        local_six: where the sensors are found to be, (sensors, 6).

    Raises:
        GeometryError: as `align_params`.
        ConfigError: the file cannot be written there.
    """
    write_align_params(path, align_params(detector, local_six))


def write_align_params(path: str | Path, entries: AlignParams) -> None:
    """Write objects of any volumes as the CCDB object; the file appears whole or not at all."""
    payload = to_bytes(entries)
    with replacing(path) as temporary, uproot.recreate(temporary) as file:
        # uproot writes objects of classes that it does not know only through this inner door
        packed = uproot.compression.compress(payload, file.compression)
        file._cascading.add_object(file.file.sink, CLASS_NAME, KEYS[0], "", packed, len(payload))


def read_alice(path: str | Path) -> AlignParams:
    """The alignment objects of a file, in its order.

    Raises:
        SchemaError: there is no such file or object, or its bytes are not such a vector.
    """
    return from_bytes(read_payload(path, KEYS, CLASS_NAME), str(path))


def read_alice_alignment(path: str | Path, detector: Detector) -> Tensor:
    """The local six of every sensor, float64 (sensors, 6), from objects of any level of the hierarchy.

    Objects belong to a sensor where their symbolic name is the sensor's or one of its parents', and are
    applied parents first. Sensors without any stay at their nominal places.

    Raises:
        SchemaError: as `read_alice`; or a volume occurs twice, or holds no sensor of this detector.
    """
    entries = read_alice(path)
    row = {symname: i for i, symname in enumerate(entries.symname)}
    if len(row) < len(entries.symname):
        twice = next(name for i, name in enumerate(entries.symname) if row[name] != i)
        raise SchemaError(f"{path}: volume {twice} occurs twice, expected each once")
    paths = [name.split("/") for name in detector.names]
    levels = [
        [row.get("/".join(parts[:depth]), -1) if depth <= len(parts) else -1 for parts in paths]
        for depth in range(1, max(map(len, paths)) + 1)
    ]
    _check_all_used(path, entries, {i for level in levels for i in level}, detector)
    deltas = torch.from_numpy(np.concatenate([entries.delta, np.zeros((1, 6))]))
    place = detector.rotation, detector.translation
    for level in levels:  # parents first; −1 takes the last delta, which moves nothing
        place = rigid.place_global(*place, deltas[torch.tensor(level)])
    return rigid.local_of(detector.rotation, detector.translation, *place)


def read_start(path: str | Path, detector: Detector) -> Tensor:
    """The local six of every sensor, float64 (sensors, 6), from tree `alignment` or from ALICE's objects.

    Raises:
        SchemaError: as `read_alignment` and `read_alice_alignment`.
    """
    return (read_alice_alignment if is_alice(path) else read_alignment)(path, detector)


def read_start_volumes(path: str | Path, detector: Detector) -> dict[str, tuple[Volumes, Motion]]:
    """Where a file says that volumes above the sensors are: its levels by name, and P of their volumes.

    Raises:
        SchemaError: as `read_start`.
    """
    if is_alice(path):
        entries = read_alice(path)
        names, delta, sensors = entries.symname, torch.from_numpy(entries.delta), set(detector.names)
        above = [i for i, name in enumerate(names) if name not in sensors]
        return moved_by(detector, [names[i] for i in above], delta[above])
    if not has_volumes(path):
        return {}
    table = read_volumes(path)
    return moved_by(detector, table.name, torch.from_numpy(table.global_))


def hierarchy_params(detector: Detector, local_six: Tensor, volumes: Placed) -> AlignParams:
    """Objects of volumes and of the sensors in them, parents before their children.

    A sensor's object is what its parents' leave of its place. The layers of ITS2 are no alignable volumes of
    ALICE: what they have moved by is in the objects of their children.

    Args:
        detector: at its nominal places.
        local_six: where the sensors are found to be, (sensors, 6).
        volumes: levels by name, and P of their volumes.

    Raises:
        GeometryError: as `align_params`.
    """
    local = checked_local(detector, local_six)
    levels = parents_first([level for level, _ in volumes.values() if _alignable(level)])
    moved = [next(p for one, p in volumes.values() if one is level) for level in levels]
    parents = still()[0].expand(len(detector), 3, 3), still()[1].expand(len(detector), 3)
    for level, motion in zip(levels, moved, strict=True):
        parents = replaced(parents, level, motion)
    drawn = detector.rotation, detector.translation
    own = rigid.global_of(*rigid.compose(drawn, parents), *rigid.place_local(*drawn, local))
    names = [name or whole_name(detector) for level in levels for name in level.names]
    above = [delta_six(motion) for motion in deltas(levels, moved)]
    ids = np.concatenate([np.full(len(names), -1), identifiers(detector)])
    return AlignParams((*names, *detector.names), ids, torch.cat([*above, own]).numpy())


def _alignable(volumes: Volumes) -> bool:
    return not (volumes.names[0].startswith("ITS/ITSU") and volumes.names[0].count("/") == 1)


def is_alice(path: str | Path) -> bool:
    """Whether a ROOT file holds ALICE's alignment objects.

    Raises:
        SchemaError: there is no such file, or it is not a ROOT file.
    """
    with open_root(path) as file:
        classes = file.classnames(cycle=False)
    return any(classes.get(key, "").removeprefix("std::") == CLASS_NAME for key in KEYS)


def to_bytes(entries: AlignParams) -> bytes:
    """ROOT's serialisation of the vector."""
    rows = zip(entries.symname, entries.alignable_id.tolist(), entries.delta.tolist(), strict=True)
    return struct.pack(">I", len(entries.symname)) + b"".join(_entry(*row) for row in rows)


def from_bytes(payload: bytes, origin: str = "payload") -> AlignParams:
    """The entries of the serialised vector; inverse of `to_bytes`.

    Raises:
        SchemaError: the bytes are not such a vector; names `origin` and the byte.
    """
    position = 4
    try:
        rows = []
        for _ in range(struct.unpack_from(">I", payload)[0]):
            size, version = struct.unpack_from(">IH", payload, position)
            if version != _VERSION:
                raise ValueError(f"class version {version}, expected {_VERSION}")
            rows.append(_parse_entry(payload[position + 6 : position + 4 + (size ^ _COUNTED)]))
            position += 4 + (size ^ _COUNTED)
        if position != len(payload):
            raise ValueError(f"{len(payload)} bytes, expected {position}")
    except (struct.error, ValueError) as error:
        raise SchemaError(
            f"{origin}: entry at byte {position} is no AlignParam ({error}); "
            "the object is damaged or of a newer O2"
        ) from error
    names, ids, deltas = zip(*rows, strict=True) if rows else ((), (), ())
    delta = np.array(deltas, dtype=np.float64).reshape(-1, 6)
    return AlignParams(tuple(names), np.array(ids, dtype=np.int64), delta)


def _entry(symname: str, alignable_id: int, delta: list[float]) -> bytes:
    name = symname.encode()
    length = struct.pack(">B", len(name)) if len(name) < 255 else struct.pack(">Bi", 255, len(name))
    string = struct.pack(">IH", _COUNTED | 2 + len(length) + len(name), _STRING_VERSION) + length + name
    body = struct.pack(">H", _VERSION) + string + struct.pack(">i6d", alignable_id, *delta)
    return struct.pack(">I", _COUNTED | len(body)) + body


def _parse_entry(body: bytes) -> tuple[str, int, list[float]]:
    start, length = 7, body[6] if len(body) > 6 else 0
    if length == 255:
        start, length = 11, struct.unpack_from(">i", body, 7)[0]
    if len(body) != start + length + 52:
        raise ValueError(f"{len(body)} bytes, expected {start + length + 52}")
    alignable_id, *delta = struct.unpack_from(">i6d", body, start + length)
    if not np.isfinite(delta).all():
        raise ValueError(f"found {delta}, expected finite numbers")
    return body[start : start + length].decode(), alignable_id, delta


def _check_all_used(path: str | Path, entries: AlignParams, used: set[int], detector: Detector) -> None:
    unused: Iterator[str] = (name for i, name in enumerate(entries.symname) if i not in used)
    name = next(unused, None)
    if name is not None:
        raise SchemaError(
            f"{path}: volume {name!r} holds no sensor of detector {detector.name}, expected a name like "
            f"{detector.names[0]!r} or the beginning of one; choose the detector that the file is of"
        )
