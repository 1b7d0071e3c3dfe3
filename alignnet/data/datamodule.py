"""Batches of whole events for training, validation and test, the same for any number of ranks.

A batch is a set of events; with several ranks each takes every world-th event of it, so that N ranks together
see what one process sees, batch by batch. Which events belong to train, validation and test, and their order
in an epoch, depend on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from alignnet.data.batch import Batch, collate, cylinders_of
from alignnet.data.root_tracks import read_tracks
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import CheckpointError, ConfigError
from alignnet.geometry.detector import Detector

PARTS = ("train", "validation", "test")


class Events(Dataset[Batch]):
    """Events of a table of tracks; `events[[3, 8]]` is the batch of two of them."""

    def __init__(self, tracks: Tracks, detector: Detector) -> None:
        self.tracks, self.detector = tracks, detector
        self.cylinders = cylinders_of(detector)
        self.numbers, self.first = np.unique(tracks.event, return_index=True)
        order = np.argsort(self.first)
        self.numbers, self.first = self.numbers[order], self.first[order]
        self.count = np.diff(np.append(self.first, len(tracks)))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """The batch of some events; an empty selection is an empty batch."""
        tracks = self.tracks.select(self.tracks_of(np.asarray(rows, dtype=np.int64)))
        return collate(tracks, self.detector, self.cylinders)

    def tracks_of(self, rows: Array) -> Array:
        """Rows of the tracks of some events."""
        count = self.count[rows]
        start = np.repeat(self.first[rows] - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
        return start + np.arange(count.sum())


class EventBatches(Sampler[list[int]]):
    """Lists of events of one rank, batch by batch.

    Args:
        rows: the events to draw from.
        batch_size: events of a batch over all ranks.
        shuffle: a new order each epoch (`set_epoch`).
        seed: of the order.
        rank, world: this rank and how many there are.
        partitioned: every rank keeps its own events in all epochs (local training with averaging), instead of
            its share of each common batch.
    """

    def __init__(
        self,
        rows: Array,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        partitioned: bool = False,
    ) -> None:
        self.rows = rows[rank::world] if partitioned else rows
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.share = slice(0, None, 1) if partitioned else slice(rank, None, world)
        self.batches = max(1, -(-(len(rows) // world if partitioned else len(rows)) // batch_size))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = self.rows
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for k in range(self.batches):
            yield order[k * self.batch_size : (k + 1) * self.batch_size][self.share].tolist()


class AlignmentData(L.LightningDataModule):
    """Tracks of one or more files, split by event.

    Args:
        files: ROOT files of docs/data-format.md.
        detector: what their hits refer to.
        batch_size: events of a batch, over all ranks.
        split: fractions of events for training, validation and test; they add up to 1.
        seed: of split and order.
        min_hits: tracks with fewer hits are not used.
        short_tracks: what a track with fewer than 3 hits is: "error", or "drop" to leave it out.
        max_tracks: read only so many.
        shuffle: a new order of the training events each epoch.
        partitioned: each rank keeps its own events in all epochs.

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
    ) -> None:
        super().__init__()
        if not files:
            raise ConfigError("data.files is empty; give at least one ROOT file: data.files=[FILE,…]")
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
        self.files = [str(Path(file).expanduser()) for file in files]
        self.detector, self.batch_size, self.split, self.seed = detector, batch_size, tuple(split), seed
        self.min_hits, self.short_tracks, self.max_tracks = min_hits, short_tracks, max_tracks
        self.shuffle, self.partitioned = shuffle, partitioned
        self.events: Events | None = None
        self.rows: dict[str, Array] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data: a resumed run trains on the same events."""
        return {"seed": self.seed, "split": [float(f) for f in self.split]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other events.

        Raises:
            CheckpointError: the split of the events or its seed differ.
        """
        for name, own in self.state_dict().items():
            if state_dict.get(name) != own:
                raise CheckpointError(
                    f"the checkpoint is of a run whose {name} is {state_dict.get(name)}, this run's "
                    f"is {own}: events that were trained on would be validated with; "
                    "start a new run from its places: sensors.start=DIR/alignment.root"
                )

    def setup(self, stage: str | None = None) -> None:
        """Read and split the events, once."""
        if self.events is not None:
            return
        tracks = read_tracks(
            self.files,
            self.detector,
            entry_stop=self.max_tracks,
            min_hits=self.min_hits,
            short_tracks=self.short_tracks,
        )
        self.events = Events(tracks, self.detector)
        self.rows = split_rows(len(self.events), self.split, self.seed)
        if len(self.rows["train"]) == 0:
            raise ConfigError(
                f"{self.files}: no events to train on; {len(self.events)} events, split {self.split}"
            )

    @property
    def tracks(self) -> Tracks:
        """All tracks."""
        self.setup()
        assert self.events is not None
        return self.events.tracks

    def part(self, name: str) -> Tracks:
        """The tracks of "train", "validation" or "test"."""
        self.setup()
        assert self.events is not None
        return self.events.tracks.select(self.events.tracks_of(self.rows[name]))

    def selected(self, part: str, max_tracks: int | None = None) -> Tracks:
        """The tracks of "train", "validation", "test" or "all" events, the first up to `max_tracks`.

        Raises:
            ConfigError: there is no such part, it is empty, or `max_tracks` is below 1.
        """
        if part not in (*PARTS, "all"):
            raise ConfigError(f"evaluation.part is {part!r}; choose from {['all', *PARTS]}")
        if max_tracks is not None and max_tracks < 1:
            raise ConfigError(f"evaluation.max_tracks is {max_tracks}; expected at least 1, or null for all")
        tracks = self.tracks if part == "all" else self.part(part)
        if len(tracks) == 0:
            raise ConfigError(
                f"evaluation.part is {part!r}, which has no events; data.split is {list(self.split)}"
            )
        if max_tracks is None or len(tracks) <= max_tracks:
            return tracks
        return tracks.select(np.isin(tracks.event, np.unique(tracks.event[:max_tracks])))

    def loader(self, name: str, shuffle: bool = False) -> DataLoader[Batch]:
        """Batches of one part for this rank."""
        self.setup()
        assert self.events is not None
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        partitioned = self.partitioned and name == "train"
        batches = EventBatches(self.rows[name], self.batch_size, shuffle, self.seed, rank, world, partitioned)
        return DataLoader(self.events, batch_sampler=batches, collate_fn=_as_is)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training events, in a new order each epoch."""
        return self.loader("train", self.shuffle)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation events."""
        return self.loader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
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
