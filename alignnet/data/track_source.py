"""Where tracks come from, in parts: what a reader of any format hands to the cache.

A reader of another format makes a `TrackSource` of its own files; everything behind it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from alignnet.data.root_columns import count_entries
from alignnet.data.root_tracks import MIN_HITS, check_short_tracks, iterate_tracks
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector

Value = str | int | float | bool | None


class TrackSource(NamedTuple):
    """Tracks of one detector that are read in parts of bounded memory."""

    files: tuple[Path, ...]  # all that is read; a cache is named after the first one
    selection: Mapping[str, Value]  # the reader and all it was told: another one gives other tracks
    n_tracks: int  # how many there are at most
    chunks: Callable[[], Iterator[Tracks]]  # from the beginning; checked, an event in one chunk only


def root_source(
    path: str | Path,
    detector: Detector,
    entry_stop: int | None = None,
    min_hits: int = MIN_HITS,
    short_tracks: str = "error",
) -> TrackSource:
    """The tree `tracks` of a ROOT file, its tracks up to `entry_stop`; arguments as of `read_tracks`.

    Raises:
        SchemaError: there is no such file or tree.
        ConfigError: `short_tracks` cannot be used.
    """
    check_short_tracks(short_tracks)
    total = count_entries(path, "tracks")
    stop = total if entry_stop is None else min(entry_stop, total)
    least = max(MIN_HITS, min_hits)

    def chunks() -> Iterator[Tracks]:
        return iterate_tracks(path, detector, min_hits=least, short_tracks=short_tracks, entry_stop=stop)

    selection: dict[str, Value] = {
        "reader": "root",
        "entries": stop,
        "min_hits": least,
        "short_tracks": short_tracks,
    }
    return TrackSource((Path(path),), selection, stop, chunks)
