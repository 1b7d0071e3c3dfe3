"""Several data sets that are trained on together: each joint batch has its share of every one of them.

A joint batch is a tuple of `Batch`es, one of each set in order. All sets are cut into the same number of
batches, so that a step of any optimiser sees them in the proportion in which an epoch does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from alignnet.data.batch import Batch
from alignnet.data.event_batches import EventBatches
from alignnet.data.event_table import EventTable
from alignnet.data.tracks import Array

JointBatch = tuple[Batch, ...]


class JointTable(Dataset[JointBatch]):
    """The events of several sets.

    Args:
        tables: one of each set.
    """

    def __init__(self, tables: Sequence[EventTable]) -> None:
        self.tables = list(tables)

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def __getitems__(self, rows: Sequence[Sequence[int]]) -> JointBatch:
        """The joint batch of some events of each set."""
        return tuple(table.__getitems__(mine) for table, mine in zip(self.tables, rows, strict=True))


class JointBatches(Sampler[list[list[int]]]):
    """Lists of events of each set for one rank, joint batch by joint batch.

    Args:
        parts: the batches of each set; where a set has fewer, its last ones are empty.
    """

    def __init__(self, parts: Sequence[EventBatches]) -> None:
        self.parts = list(parts)

    @property
    def rows(self) -> Array:
        """The events of all sets, each numbered within its own."""
        return np.concatenate([part.rows for part in self.parts])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return max(map(len, self.parts))

    def __iter__(self) -> Iterator[list[list[int]]]:
        sources = [iter(part) for part in self.parts]
        for _ in range(len(self)):
            yield [next(source, []) for source in sources]


def batch_sizes(events: Sequence[int], batch_size: int) -> list[int]:
    """Events of each set in a joint batch, such that no set has more than `batch_size` in one.

    Args:
        events: how many each set has.
        batch_size: of the largest set.
    """
    n_batches = max(1, *(-(-n // batch_size) for n in events))
    return [max(1, -(-n // n_batches)) for n in events]
