"""What a cache of tracks holds: its columns, how compact they are, and what says which data it is of.

A hit takes 18 bytes, as long as no sensor reaches further than a metre:

* `uv` in steps of 1 nm as int32: ± 214 cm, rounded by 0.5 nm at most. Float32 would be off by 0.01 µm beyond
  8 cm already.
* `sigma` as float32 and `sensor` as uint16, as exact as the files of docs/data-format.md.

What tracks of an event have in common (vertex, its covariance, the true origin) is kept once, in float64; of
the truth only origin and collision, all that an evaluation asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from alignnet.data.track_source import TrackSource
from alignnet.errors import SchemaError
from alignnet.geometry.detector import Detector

VERSION = 1
"""Of the layout; a cache of another version is not used."""

STEPS_PER_CM = 1e7
"""Steps of 1 nm in which positions are kept."""

REACH = 100.0
"""A detector whose sensors reach further from their origin [cm] has positions kept in float64."""

INDEX = "index.json"

Axis = Literal["event", "track", "hit", "origin"]
AXES: tuple[Axis, ...] = ("event", "track", "hit", "origin")

_SAMPLE = 1 << 16  # bytes of a piece of a file that goes into its hash
_PIECES = 64


class Column(NamedTuple):
    """A file of a cache."""

    axis: Axis  # of what it has a row
    dtype: str
    width: int = 0  # 0: one number a row


def columns_for(detector: Detector) -> dict[str, Column]:
    """All columns that a cache of this detector can have; those of what tracks may lack are left out."""
    small = float((detector.centre.abs() + detector.half).max()) <= REACH
    return {
        "number": Column("event", "<i8"),
        "first_track": Column("event", "<i8"),
        "first_hit": Column("event", "<i8"),
        "n_tracks": Column("event", "<u4"),
        "n_hits": Column("track", "<u2"),
        "origin": Column("track", "<u4"),
        "p": Column("track", "<f4"),
        "mass": Column("track", "<f4"),
        "kind": Column("track", "|i1"),
        "vertex": Column("origin", "<f8", 3),
        "vertex_cov": Column("origin", "<f8", 6),
        "truth_position": Column("origin", "<f8", 3),
        "truth_vertex": Column("origin", "<f8", 3),
        "sensor": Column("hit", "<u2" if len(detector) <= np.iinfo(np.uint16).max else "<u4"),
        "uv": Column("hit", "<i4" if small else "<f8", 2),
        "sigma": Column("hit", "<f4", 2),
    }


def identity(source: TrackSource, detector: Detector) -> dict[str, Any]:
    """All that the content of a cache depends on, as JSON holds it.

    Raises:
        SchemaError: a file is not there.
    """
    ids = hashlib.blake2b(detector.sensor_id.numpy().astype("<i8").tobytes(), digest_size=8)
    return {
        "version": VERSION,
        "files": [stamp(file) for file in source.files],
        "detector": {"geometry": detector.fingerprint, "sensor_ids": ids.hexdigest()},
        "selection": dict(sorted(source.selection.items())),
    }


def key_of(what: Mapping[str, Any]) -> str:
    """The name of the cache of an identity."""
    text = json.dumps(what, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def stamp(path: Path) -> dict[str, Any]:
    """What tells a file from another one: place, size, time of the last change, and a hash of its content.

    The hash is of 64 pieces of 64 KiB, the first and the last of them included and the others evenly between;
    of the whole content up to 4 MiB.

    Raises:
        SchemaError: it cannot be read.
    """
    try:
        found = path.stat()
        digest = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            last = max(found.st_size - _SAMPLE, 0)
            for start in sorted({last * k // (_PIECES - 1) for k in range(_PIECES)}):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise SchemaError(f"{path}: cannot be read: {error.strerror}; check the name") from error
    return {
        "path": str(path.resolve()),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "sampled_hash": digest.hexdigest(),
    }
