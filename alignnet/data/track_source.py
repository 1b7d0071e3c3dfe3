"""Where tracks come from, in parts: what a reader of any format hands to the cache.

A reader of another format makes a `TrackSource` of its own files; everything behind it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from alignnet.data.root_columns import count_entries
from alignnet.data.root_tracks import EVENT_STRIDE, MIN_HITS, check_short_tracks, iterate_tracks
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError, SchemaError
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


def read_sources(sources: Sequence[TrackSource]) -> Tracks:
    """All tracks of some sources in memory, their events numbered as `read_tracks` numbers those of files.

    Raises:
        SchemaError: a source cannot be read, or several are joined and one has event numbers that do not fit.
        ConfigError: there are no tracks.
    """
    parts = []
    for k, source in enumerate(sources):
        for tracks in source.chunks():
            if len(sources) > 1:
                check_numbers(str(source.files[0]), int(tracks.event.min()), int(tracks.event.max()))
            parts.append(replace(tracks, event=tracks.event + k * EVENT_STRIDE))
    if not parts:
        raise ConfigError(f"{sources[0].files[0]}: no tracks came; lower data.min_hits")
    return concatenate(parts)


def check_numbers(origin: str, low: int, high: int) -> None:
    """Raise SchemaError where lowest and highest event number do not fit among those of several files."""
    if low < 0 or high >= EVENT_STRIDE:
        raise SchemaError(
            f"{origin}: found events {low} to {high}, expected 0 <= event < {EVENT_STRIDE} where "
            "several files are joined; renumber the events"
        )
