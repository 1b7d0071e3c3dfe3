"""Batches of whole events for training, validation and test, the same for any number of ranks.

A batch is a set of events; with several ranks each takes every world-th event of it, so that N ranks together
see what one process sees, batch by batch. Which events belong to train, validation and test, and their order
in an epoch, depend on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from alignnet.data.batch import Batch
from alignnet.data.cache import cached
from alignnet.data.event_batches import EventBatches
from alignnet.data.event_table import CachedEvents, Events, EventTable, SomeEvents
from alignnet.data.joint import JointBatches, JointTable, batch_sizes
from alignnet.data.memory import physical_memory
from alignnet.data.o2_runs import O2Runs, is_run
from alignnet.data.root_tracks import read_tracks
from alignnet.data.track_source import TrackSource, read_sources, root_source
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import CheckpointError, ConfigError
from alignnet.geometry.detector import Detector

PARTS = ("train", "validation", "test")

CACHED_FROM = 1_000_000
"""Tracks from which on `cache="auto"` uses a cache: 1.6 GB a process in memory, and 10 s to read them."""

BYTES_A_TRACK = 1000
"""What a track takes in memory at most, with its truth; one that is read from a cache takes less."""


class AlignmentData(L.LightningDataModule):
    """Tracks of one or more files, split by event.

    Args:
        files: ROOT files of docs/data-format.md, and runs of ALICE O2 (folders, or files of tracks).
        detector: what their hits refer to.
        batch_size: events of a batch, over all ranks.
        split: fractions of events for training, validation and test; they add up to 1.
        seed: of split and order.
        min_hits: tracks with fewer hits are not used.
        short_tracks: what a track with fewer than 3 hits is: "error", or "drop" to leave it out.
        max_tracks: read only so many.
        shuffle: a new order of the training events each epoch.
        partitioned: each rank keeps its own events in all epochs.
        cache: folder in which the tracks are cached, to be read from there block by block; None reads them
            into memory, and "auto" caches beside each file what has more than `CACHED_FROM` tracks.
        runs: how runs of O2 are read; by default all of their tracks, with the vertices among them.
        others: further data sets by name, each with a split of its own; batches are then joint batches
            (`data.joint`), this one's first in each. Everything else here is of this set alone.

    Raises:
        ConfigError: a value cannot be used, or no events are left to train on.
    """

    def __init__(
        self,
        files: Sequence[str],
        detector: Detector,
        batch_size: int = 1000,
        split: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        min_hits: int = 3,
        short_tracks: str = "error",
        max_tracks: int | None = None,
        shuffle: bool = True,
        partitioned: bool = False,
        cache: str | None = "auto",
        runs: O2Runs | None = None,
        others: Mapping[str, AlignmentData] | None = None,
    ) -> None:
        super().__init__()
        if not files:
            raise ConfigError("data.files is empty; give at least one file or run: data.files=[FILE,…]")
        if len(split) != 3 or min(split) < 0 or abs(sum(split) - 1) > 1e-6 or split[0] == 0:
            raise ConfigError(
                f"data.split is {list(split)}; expected three fractions ≥ 0 that add up to 1, the first > 0"
            )
        if not isinstance(min_hits, int) or min_hits < 3:
            raise ConfigError(f"data.min_hits is {min_hits!r}; expected a whole number of at least 3")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(
                f"data.batch_size is {batch_size!r}; expected a whole number of at least 1 event"
            )
        if max_tracks is not None and max_tracks < 1:
            raise ConfigError(f"data.max_tracks is {max_tracks}; expected at least 1, or null for all")
        if cache == "":
            raise ConfigError("data.cache is ''; expected auto, a folder, or null for no cache")
        self.files = [str(Path(file).expanduser()) for file in files]
        self.detector, self.batch_size, self.split, self.seed = detector, batch_size, tuple(split), seed
        self.min_hits, self.short_tracks, self.max_tracks = min_hits, short_tracks, max_tracks
        self.shuffle, self.partitioned, self.cache = shuffle, partitioned, cache
        self.runs = O2Runs() if runs is None else runs
        self.others = dict(others or {})
        self.events: EventTable | None = None
        self.rows: dict[str, Array] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data: a resumed run trains on the same events."""
        own: dict[str, Any] = {"seed": self.seed, "split": [float(f) for f in self.split]}
        return own | {"sets": {name: other.state_dict() for name, other in self.others.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other events.

        Raises:
            CheckpointError: the split of the events or its seed differ.
        """
        for name, own in self.state_dict().items():
            if state_dict.get(name, {}) != own:  # runs of earlier versions have no sets
                raise CheckpointError(
                    f"the checkpoint is of a run whose {name} is {state_dict.get(name)}, this run's "
                    f"is {own}: events that were trained on would be validated with; "
                    "start a new run from its places: sensors.start=DIR/alignment.root"
                )

    def setup(self, stage: str | None = None) -> None:
        """Read and split the events, once."""
        for other in self.others.values():
            other.setup(stage)
        if self.events is not None:
            return
        sources = self._sources()
        n_tracks = sum(source.n_tracks for source in sources)
        if self.cache is None or (self.cache == "auto" and n_tracks < CACHED_FROM):
            self.events = Events(self._read(sources), self.detector)
        else:
            folder = None if self.cache == "auto" else self.cache
            parts = [cached(source, self.detector, folder) for source in sources]
            self.events = CachedEvents(parts, self.detector)
        self.rows = split_rows(len(self.events), self.split, self.seed)
        if len(self.rows["train"]) == 0:
            raise ConfigError(
                f"{self.files}: no events to train on; {len(self.events)} events, split {self.split}"
            )

    def _read(self, sources: Sequence[TrackSource]) -> Tracks:
        if any(source.selection["reader"] != "root" for source in sources):
            return read_sources(sources)
        return read_tracks(
            self.files,
            self.detector,
            entry_stop=self.max_tracks,
            min_hits=self.min_hits,
            short_tracks=self.short_tracks,
        )

    def _sources(self) -> list[TrackSource]:
        """The files, each as far as `max_tracks` goes."""
        sources: list[TrackSource] = []
        left = self.max_tracks
        for file in self.files:
            if left is None or left > 0:
                source = self._source(file, left)
                sources.append(source)
                left = None if left is None else left - source.n_tracks
        return sources

    def _source(self, file: str, entry_stop: int | None) -> TrackSource:
        if is_run(file):
            return self.runs.source(file, self.detector, entry_stop, self.min_hits)
        return root_source(file, self.detector, entry_stop, self.min_hits, self.short_tracks)

    def files_of(self, file: str) -> tuple[Path, ...]:
        """What is read of one of `files`: itself, or the files of a run."""
        return self.runs.run(file).files if is_run(file) else (Path(file),)

    @property
    def table(self) -> EventTable:
        """All events."""
        self.setup()
        assert self.events is not None
        return self.events

    @property
    def n_tracks(self) -> int:
        """Number of tracks of all events."""
        return self.table.n_tracks

    @property
    def tracks(self) -> Tracks:
        """All tracks, as `part("all")`."""
        return self.part("all")

    def part(self, name: str) -> Tracks:
        """The tracks of "train", "validation", "test" or "all" events, in memory.

        Raises:
            ConfigError: these are of a cache, and more than a quarter of the memory holds.
        """
        return self._of(self._rows(name))

    def part_size(self, name: str) -> int:
        """Number of tracks of `part`."""
        return int(self.table.counts(self._rows(name)).sum())

    def chunks(self, name: str, n_events: int = 10_000) -> Iterator[Tracks]:
        """The tracks of `part`, so many events at a time."""
        table, rows = self.table, self._rows(name)
        for k in range(0, len(rows), n_events):
            yield table.of(rows[k : k + n_events])

    def selected(self, part: str, max_tracks: int | None = None) -> EventTable:
        """The "train", "validation", "test" or "all" events, the first with up to `max_tracks` tracks.

        Raises:
            ConfigError: there is no such part, it is empty, or `max_tracks` is below 1.
        """
        if part not in (*PARTS, "all"):
            raise ConfigError(f"evaluation.part is {part!r}; choose from {['all', *PARTS]}")
        if max_tracks is not None and max_tracks < 1:
            raise ConfigError(f"evaluation.max_tracks is {max_tracks}; expected at least 1, or null for all")
        rows = self._rows(part)
        if len(rows) == 0:
            raise ConfigError(
                f"evaluation.part is {part!r}, which has no events; data.split is {list(self.split)}"
            )
        return SomeEvents(self.table, rows if max_tracks is None else self.table.first(rows, max_tracks))

    def _rows(self, name: str) -> Array:
        table = self.table
        return np.arange(len(table)) if name == "all" else self.rows[name]

    def _of(self, rows: Array) -> Tracks:
        table = self.table
        if isinstance(table, Events):
            return table.tracks if len(rows) == len(table) else table.of(rows)
        n_tracks = int(table.counts(rows).sum())
        if 4 * BYTES_A_TRACK * n_tracks > physical_memory():
            raise ConfigError(
                f"{n_tracks:,} tracks would take {BYTES_A_TRACK * n_tracks / 1e9:.0f} GB, more than "
                "a quarter of the memory; set evaluation.max_tracks, or take them in chunks()"
            )
        return table.of(rows)

    def loader(self, name: str, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of one part for this rank; joint batches where there are other sets."""
        if not self.others:
            batches = self.batches(name, self.batch_size, shuffle)
            return DataLoader(self.table, batch_sampler=batches, collate_fn=_as_is)
        sets = [self, *self.others.values()]
        sizes = batch_sizes([len(one._rows(name)) for one in sets], self.batch_size)
        ranks = self._ranks
        parts = [one.batches(name, size, shuffle, ranks) for one, size in zip(sets, sizes, strict=True)]
        table = JointTable([one.table for one in sets])
        return DataLoader(table, batch_sampler=JointBatches(parts), collate_fn=_as_is)

    def batches(
        self, name: str, batch_size: int, shuffle: bool, ranks: tuple[int, int] | None = None
    ) -> EventBatches:
        """Which events of one part make a batch for this rank.

        Args:
            name: of the part.
            batch_size: events of a batch, over all ranks.
            shuffle: a new order each epoch.
            ranks: this rank and how many there are; default: those of the trainer.
        """
        rank, world = self._ranks if ranks is None else ranks
        partitioned = self.partitioned and name == "train"
        rows, blocks = self._rows(name), self.table.blocks
        return EventBatches(rows, batch_size, shuffle, self.seed, rank, world, partitioned, blocks)

    @property
    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training events, in a new order each epoch."""
        return self.loader("train", self.shuffle)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation events."""
        return self.loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test events."""
        return self.loader("test")


def split_rows(n_events: int, split: Sequence[float], seed: int) -> dict[str, Array]:
    """Which events are for training, validation and test; ascending rows."""
    order = np.random.default_rng([seed, 0x5711]).permutation(n_events)
    edges = np.round(np.cumsum(split)[:2] * n_events).astype(int)
    return {name: np.sort(rows) for name, rows in zip(PARTS, np.split(order, edges), strict=True)}


def _as_is(batch: Any) -> Any:
    return batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    return Batch(*(field.to(device) for field in batch))
