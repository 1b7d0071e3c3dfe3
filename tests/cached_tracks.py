"""What is shared by tests of the cache: a barrel, sources of its tracks, and comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from small_detectors import barrel

from alignnet.data.cache import SUFFIX
from alignnet.data.cache_read import CachedTracks
from alignnet.data.track_source import TrackSource
from alignnet.data.tracks import Tracks

BARREL = barrel()
NM = 1e-7


def source_of(file: Path, *chunks: Tracks) -> TrackSource:
    """Tracks that some other reader has found in a file."""
    return TrackSource((file,), {"reader": "test"}, sum(map(len, chunks)), lambda: iter(chunks))


def assert_same(one: Tracks, other: Tracks, exact: bool = False) -> None:
    """All columns that training and evaluation read, within the rounding of a cache."""
    for name in (field.name for field in fields(Tracks) if field.name != "truth"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            rounding = {"uv": 0.5001 * NM}.get(name, 0.0)
            relative = {"sigma": 6e-8, "p": 6e-8, "mass": 6e-8}.get(name, 0.0)
            limits = (0.0, 0.0) if exact else (relative, rounding)
            np.testing.assert_allclose(a, b, *limits, err_msg=name)
    for name in ("position", "vertex"):
        assert np.array_equal(one.truth.get(name, 0), other.truth.get(name, 0))


def everything(found: CachedTracks) -> Tracks:
    return found.tracks(np.arange(len(found)))


def folders(file: Path) -> list[Path]:
    return sorted(p for p in file.with_name(file.name + SUFFIX).iterdir() if p.is_dir())


def counted(source: TrackSource) -> tuple[TrackSource, list[int]]:
    """A source, and a list that has an entry for each time that it was read."""
    reads: list[int] = []

    def chunks() -> Iterator[Tracks]:
        reads.append(1)
        return source.chunks()

    return source._replace(chunks=chunks), reads
