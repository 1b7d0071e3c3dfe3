"""Toy events made as they are needed: batch i of epoch e is a function of the seed, of e and of i alone."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from alignnet.errors import ConfigError
from alignnet.trackfinding.events import Batch, Toy

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


class ToyBatches(Dataset[Batch]):
    """The batches of one part of the data.

    Args:
        toy: draws events.
        events: of an epoch.
        batch_size: events of a batch; the last one may have fewer.
        seed: of everything that is drawn.
        part: parts of one seed share no event.
    """

    def __init__(self, toy: Toy, events: int, batch_size: int, seed: int, part: Part) -> None:
        self.toy, self.events, self.batch_size, self.seed, self.part = toy, events, batch_size, seed, part
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.events // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        n_events = min(self.batch_size, self.events - index * self.batch_size)
        key = (PARTS.index(self.part), self.epoch, index)
        state = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1, np.uint64)
        return self.toy.sample(n_events, torch.Generator().manual_seed(int(state[0])))


class TrackfindingData(L.LightningDataModule):
    """Events of a toy, on the fly: new ones in each training epoch, the same ones for validation and test.

    Args:
        toy: draws events.
        batch_size: events of a batch; with several ranks, of a rank.
        events: of a training epoch.
        validation: events of the validation after each epoch.
        test: events that the final numbers are of.
        seed: of everything that is drawn.
        fixed: the same training events in each epoch.
        workers: processes that draw events; 0 for the training process itself.

    Raises:
        ConfigError: a number is below 1.
    """

    def __init__(
        self,
        toy: Toy,
        batch_size: int = 128,
        events: int = 102_400,
        validation: int = 2_048,
        test: int = 10_240,
        seed: int = 1,
        fixed: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "events": events, "validation": validation, "test": test}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"data.{name} is {value}; expected a whole number of at least 1")
        self.toy, self.fixed, self.workers = toy, fixed, workers
        counts: dict[Part, int] = {"train": events, "validation": validation, "test": test}
        self.batches = {
            part: ToyBatches(toy, count, batch_size, seed, part) for part, count in counts.items()
        }

    def loader(self, part: Part) -> DataLoader[Any]:
        """Batches of one part, in their order."""
        return DataLoader(self.batches[part], batch_size=None, num_workers=self.workers)

    def begin_epoch(self, epoch: int) -> None:
        """Choose the events of a training epoch."""
        self.batches["train"].epoch = 0 if self.fixed else epoch

    def train_dataloader(self) -> DataLoader[Any]:
        """Training events."""
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation events."""
        return self.loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test events."""
        return self.loader("test")
