"""The events of a data set, in memory or in caches, as a loader takes them: `events[[3, 8]]` is a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.cache_read import CachedTracks, ranges
from alignnet.data.root_tracks import EVENT_STRIDE
from alignnet.data.track_source import check_numbers
from alignnet.data.tracks import Array, Tracks, concatenate
from alignnet.geometry.detector import Detector


class EventTable(Dataset[Batch], ABC):
    """Events in the order of the files; a row is one of them.

    Args:
        detector: what the hits refer to.
    """

    blocks: Array | None = None  # first event of each block that is read together, and the number of events

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.cylinders = cylinders_of(detector)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def of(self, rows: Array) -> Tracks:
        """The tracks of some events."""

    @abstractmethod
    def counts(self, rows: Array) -> Array:
        """How many tracks some events have."""

    @property
    @abstractmethod
    def truth(self) -> frozenset[str]:
        """What is known of the true tracks, names of `Tracks.truth`."""

    @property
    @abstractmethod
    def n_tracks(self) -> int:
        """Tracks of all events."""

    @abstractmethod
    def sizes(self, n_files: int) -> list[Size]:
        """What was read of each file, in their order; nothing of those after enough tracks."""

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """The batch of some events; an empty selection is an empty batch."""
        return collate(self.of(np.asarray(rows, dtype=np.int64)), self.detector, self.cylinders)

    def batches(self, n_events: int = 1000) -> Iterator[Batch]:
        """All events in order, so many at a time."""
        for first in range(0, len(self), n_events):
            yield self.__getitems__(range(first, min(first + n_events, len(self))))

    def first(self, rows: Array, n_tracks: int) -> Array:
        """As many of some events as have the first `n_tracks` tracks of theirs."""
        rows = rows[:n_tracks]
        return rows[: int(np.searchsorted(np.cumsum(self.counts(rows)), n_tracks)) + 1]


class Size(NamedTuple):
    """What was read of a file."""

    events: int
    tracks: int
    hits: int


class Events(EventTable):
    """Events of a table of tracks in memory."""

    def __init__(self, tracks: Tracks, detector: Detector) -> None:
        super().__init__(detector)
        self.tracks = tracks
        numbers, first = np.unique(tracks.event, return_index=True)
        order = np.argsort(first)
        self.numbers, self.start = numbers[order], first[order]
        self.count = np.diff(np.append(self.start, len(tracks)))

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, rows: Array) -> Tracks:
        """The tracks of some events."""
        return self.tracks.select(self.tracks_of(rows))

    def tracks_of(self, rows: Array) -> Array:
        """Rows of the tracks of some events."""
        return ranges(self.start[rows], self.count[rows])

    def counts(self, rows: Array) -> Array:
        """How many tracks some events have."""
        return self.count[rows]

    @property
    def truth(self) -> frozenset[str]:
        """What is known of the true tracks."""
        return frozenset(self.tracks.truth)

    @property
    def n_tracks(self) -> int:
        """Tracks of all events."""
        return len(self.tracks)

    def sizes(self, n_files: int) -> list[Size]:
        """What was read of each file."""
        file = self.tracks.event // EVENT_STRIDE if n_files > 1 else np.zeros_like(self.tracks.event)
        events, tracks = (np.bincount(rows, minlength=n_files) for rows in (file[self.start], file))
        hits = np.bincount(file, self.tracks.hits_per_track, n_files)
        return [Size(*map(int, size)) for size in zip(events, tracks, hits, strict=True)]


class CachedEvents(EventTable):
    """Events of one or several caches, joined as `read_tracks` joins files; a few blocks are in memory.

    Args:
        parts: the caches, in the order of the files.
        detector: what their hits refer to.

    Raises:
        SchemaError: several are joined, and one has event numbers that do not fit.
    """

    def __init__(self, parts: Sequence[CachedTracks], detector: Detector) -> None:
        super().__init__(detector)
        self.parts = parts
        self.names = set.intersection(*(part.names for part in parts))
        self.edges = np.cumsum([0, *map(len, parts)])
        blocks = [part.edges[:-1] + first for part, first in zip(parts, self.edges, strict=False)]
        self.blocks = np.append(np.concatenate(blocks), len(self))
        for part in parts if len(parts) > 1 else ():
            check_numbers(str(part.folder), *part.event_numbers)

    def __len__(self) -> int:
        return int(self.edges[-1])

    def of(self, rows: Array) -> Tracks:
        """The tracks of some events.

        Raises:
            SchemaError: a cache is damaged.
        """
        which = self._part_of(rows)
        used = np.unique(which).tolist() or [0]
        found = [self._of_part(k, rows[which == k]) for k in used]
        if len(used) == 1:
            return found[0]
        order, count = np.argsort(which, kind="stable"), self.counts(rows)
        start = np.empty_like(count)
        start[order] = np.cumsum(count[order]) - count[order]
        return concatenate(found).select(ranges(start, count))

    def counts(self, rows: Array) -> Array:
        """How many tracks some events have."""
        which = self._part_of(rows)
        count = np.empty(len(rows), dtype=np.int64)
        for k in np.unique(which):
            count[which == k] = self.parts[k].counts(rows[which == k] - self.edges[k])
        return count

    @property
    def truth(self) -> frozenset[str]:
        """What is known of the true tracks."""
        return frozenset(name.removeprefix("truth_") for name in self.names if name.startswith("truth_"))

    @property
    def n_tracks(self) -> int:
        """Tracks of all events."""
        return sum(part.rows["track"] for part in self.parts)

    def sizes(self, n_files: int) -> list[Size]:
        """What was read of each file."""
        read = [Size(*(part.rows[axis] for axis in ("event", "track", "hit"))) for part in self.parts]
        return [*read, *[Size(0, 0, 0)] * (n_files - len(read))]

    def _part_of(self, rows: Array) -> Array:
        which: Array = np.searchsorted(self.edges, rows, side="right") - 1
        return which

    def _of_part(self, k: int, rows: Array) -> Tracks:
        tracks = self.parts[k].tracks(rows - self.edges[k], self.names)
        return replace(tracks, event=tracks.event + k * EVENT_STRIDE)


class SomeEvents(EventTable):
    """Some events of a table, read as they are asked for.

    Args:
        table: of them all.
        rows: which of its events.
    """

    def __init__(self, table: EventTable, rows: Array) -> None:
        super().__init__(table.detector)
        self.table, self.rows = table, rows

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, rows: Array) -> Tracks:
        """The tracks of some events."""
        return self.table.of(self.rows[rows])

    def counts(self, rows: Array) -> Array:
        """How many tracks some events have."""
        return self.table.counts(self.rows[rows])

    @property
    def truth(self) -> frozenset[str]:
        """What is known of the true tracks."""
        return self.table.truth

    @property
    def n_tracks(self) -> int:
        """Tracks of these events."""
        return int(self.table.counts(self.rows).sum())

    def sizes(self, n_files: int) -> list[Size]:
        """What was read of each file, for the whole table."""
        return self.table.sizes(n_files)
