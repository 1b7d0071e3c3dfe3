"""The tree `tracks` of docs/data-format.md ↔ `Tracks`: one entry a track, its hits as lists of equal length.

A file may name a sensor that the detector lacks, hold NaN, or lists that disagree: each is a `SchemaError`
before anything is returned. So is a track with fewer than three hits, unless short tracks are to be left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alignnet.data.check import check_tracks
from alignnet.data.root_columns import Kind, Table, count_entries
from alignnet.data.tracks import Array, Tracks, concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.detector import Detector

log = logging.getLogger("alignnet.data")

EVENT_STRIDE = 2**44
"""What is added to the event numbers of each further file when several are read as one."""

MIN_HITS = 3
"""Three points: the least that give a helix and one residual more than it has parameters."""

SHORT_TRACKS = ("error", "drop")
"""What a track with fewer than `MIN_HITS` hits may be."""

PER_HIT = ("hit_u", "hit_v", "hit_sigma_u", "hit_sigma_v")
PER_TRACK: dict[str, tuple[Kind, int]] = {
    "vertex": ("float", 3), "vertex_cov": ("float", 6), "p": ("float", 0), "mass": ("float", 0),
    "kind": ("integer", 0),
}  # fmt: skip
TRUTH: dict[str, tuple[Kind, int]] = {
    "truth_position": ("float", 3), "truth_momentum": ("float", 3), "truth_q": ("integer", 0),
    "truth_pdg": ("integer", 0), "truth_vertex": ("float", 3), "truth_mother": ("integer", 0),
    "truth_mother_pdg": ("integer", 0),
}  # fmt: skip
TRUTH_HIT = ("truth_hit_u", "truth_hit_v")


def read_tracks(
    path: str | Path | Sequence[str | Path],
    detector: Detector,
    entry_start: int | None = None,
    entry_stop: int | None = None,
    min_hits: int = MIN_HITS,
    short_tracks: str = "error",
) -> Tracks:
    """Tracks of one file, or of several joined in the given order.

    The event numbers of one file are kept. Where several are joined, those of file k (from 0) have k · 2⁴⁴
    added, so that events of different files stay apart; `divmod(event, EVENT_STRIDE)` gives file and number.
    Optional columns that one of the files lacks are dropped.

    Args:
        path: file or files.
        detector: what `hit_sensor` refers to.
        entry_start, entry_stop: range of tracks, counted through all files; it may cut an event in two.
        min_hits: tracks with fewer are checked and left out; how many, the log says.
        short_tracks: tracks with fewer than 3 hits are an "error", or "drop" leaves them out too.

    Raises:
        SchemaError: a file does not follow the schema (first offence, by file, branch, entry and hit).
        ConfigError: the range holds no track, or none with so many hits; `short_tracks` is something else.
    """
    check_short_tracks(short_tracks)
    paths = [path] if isinstance(path, str | Path) else list(path)
    counts = [count_entries(each, "tracks") for each in paths]
    total = sum(counts)
    start, stop = entry_start or 0, total if entry_stop is None else entry_stop
    if not 0 <= start < min(stop, total):
        raise ConfigError(
            f"tracks {start}:{stop} of {', '.join(map(str, paths))}: no such tracks, there are {total}"
        )
    parts = []
    for k, (each, first, count) in enumerate(zip(paths, np.cumsum([0, *counts]), counts, strict=False)):
        low, high = max(start - int(first), 0), min(stop - int(first), count)
        if low < high:
            shift, several = k * EVENT_STRIDE, len(paths) > 1
            parts.append(_read_one(each, detector, low, high, short_tracks, shift, several))
    tracks = parts[0] if len(parts) == 1 else concatenate(parts)
    least = max(MIN_HITS, min_hits)
    kept = _long(tracks, least)
    if len(kept) == 0:
        raise ConfigError(f"{paths[0]}: none of {len(tracks)} tracks has {least} hits; lower min_hits")
    log_short(", ".join(map(str, paths)), len(tracks) - len(kept), len(tracks), least)
    return kept


def iterate_tracks(
    path: str | Path,
    detector: Detector,
    step: int = 100_000,
    min_hits: int = MIN_HITS,
    short_tracks: str = "error",
    entry_stop: int | None = None,
) -> Iterator[Tracks]:
    """The tracks of a file in chunks of about `step` entries, for files larger than memory.

    A chunk ends where an event ends: the last event of every read is carried over to the next chunk, which so
    holds a few tracks more. That tracks of an event are adjacent is checked within each chunk. `min_hits`,
    `short_tracks` and `entry_stop` are those of `read_tracks`.

    Raises:
        SchemaError: as `read_tracks`, when the chunk is reached.
        ConfigError: `short_tracks` is something else.
    """
    check_short_tracks(short_tracks)
    least, left_out = max(MIN_HITS, min_hits), 0
    total = min(entry_stop or EVENT_STRIDE, count_entries(path, "tracks"))
    carried: Tracks | None = None
    for start in range(0, total, step):
        chunk = _read_one(path, detector, start, min(start + step, total), short_tracks)
        chunk = chunk if carried is None else concatenate([carried, chunk])
        last = chunk.event == chunk.event[-1]
        ends = start + step >= total
        carried, whole = (None, chunk) if ends else (chunk.select(last), chunk.select(~last))
        kept = _long(whole, least)
        left_out += len(whole) - len(kept)
        if len(kept):
            yield kept
    log_short(str(path), left_out, total, least)


def check_short_tracks(short_tracks: str) -> None:
    """Raise ConfigError for what is not one of `SHORT_TRACKS`."""
    if short_tracks not in SHORT_TRACKS:
        raise ConfigError(
            f"data.short_tracks is {short_tracks!r}, expected {' or '.join(SHORT_TRACKS)}: what is to be "
            f"done with tracks of fewer than {MIN_HITS} hits"
        )


def log_short(source: str, left_out: int, total: int, least: int) -> None:
    """Say how many tracks were left out for having fewer than `least` hits."""
    if left_out:
        log.info("%s: left out %d of %d tracks, with fewer than %d hits", source, left_out, total, least)


def _long(tracks: Tracks, min_hits: int) -> Tracks:
    enough = tracks.hits_per_track >= min_hits
    return tracks if enough.all() else tracks.select(enough)


def _read_one(
    path: str | Path,
    detector: Detector,
    start: int,
    stop: int,
    short_tracks: str,
    shift: int = 0,
    several: bool = False,
) -> Tracks:
    required, optional = ("event", "hit_sensor", *PER_HIT), (*PER_TRACK, *TRUTH, *TRUTH_HIT)
    table = Table(path, "tracks", required, optional, start, stop)
    count, sensor_id = table.jagged("hit_sensor", "integer")
    if short_tracks == "error":
        _refuse_short(table, count)
    offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    rows = detector.rows(sensor_id)
    known = f"a sensor_id of detector {detector.name}"
    table.origin.require("hit_sensor", rows >= 0, sensor_id, known, offset)
    uv, sigma = (_hit_columns(table, PER_HIT[k : k + 2], count) for k in (0, 2))
    truth_uv = _truth_hits(table, count)
    columns = {name: table.numbers(name, *PER_TRACK[name]) for name in PER_TRACK if name in table}
    tracks = Tracks(
        event=_events(table, shift, several),
        offset=offset,
        sensor=rows.astype(np.int64),
        uv=uv,
        sigma=sigma,
        truth=_truth(table) | truth_uv,
        **columns,
    )
    check_tracks(tracks, table.origin, min_hits=0)
    return tracks


def _refuse_short(table: Table, count: Array) -> None:
    short = np.flatnonzero(count < MIN_HITS)
    if len(short):
        row = int(short[0])
        expected = (
            f"at least {MIN_HITS}, fewer do not determine a track; "
            "leave such tracks out with data.short_tracks=drop"
        )
        raise table.origin.error("hit_sensor", row, f"{count[row]} hits", expected)


def _hit_columns(table: Table, branches: Sequence[str], count: Array) -> Array:
    """Columns of hits side by side (hits, columns), one read at a time: they are most of a file."""
    out = np.empty((int(count.sum()), len(branches)))
    for k, branch in enumerate(branches):
        out[:, k] = _hit_column(table, branch, count)
    return out


def _hit_column(table: Table, branch: str, count: Array) -> Array:
    found, values = table.jagged(branch, "float")
    wrong = np.flatnonzero(found != count)
    if len(wrong):
        row = int(wrong[0])
        raise table.origin.error(
            branch, row, f"{found[row]} hits", f"{count[row]}, as many as hit_sensor has"
        )
    return values


def _events(table: Table, shift: int, several: bool) -> Array:
    event = table.numbers("event", "integer")
    if several:
        fits = (event >= 0) & (event < EVENT_STRIDE)
        expected = f"0 <= event < {EVENT_STRIDE} where several files are joined; renumber the events"
        table.origin.require("event", fits, event, expected)
    return event + shift


def _truth(table: Table) -> dict[str, Array]:
    return {name.removeprefix("truth_"): table.numbers(name, *TRUTH[name]) for name in TRUTH if name in table}


def _truth_hits(table: Table, count: Array) -> dict[str, Array]:
    present = [branch for branch in TRUTH_HIT if branch in table]
    if len(present) == 1:
        raise SchemaError(
            f"{table.origin.path}: tree tracks has {present[0]} alone, expected both of {TRUTH_HIT} or none"
        )
    return {"hit_uv": _hit_columns(table, TRUTH_HIT, count)} if present else {}
