"""Which events make a batch, in which order, and which of them a rank takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from alignnet.data.tracks import Array

POOL = 8
"""Blocks of a cache whose events are shuffled together: 800,000 tracks, some 100 MB."""


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
        blocks: first event of each block of the data and the number of events; a new order is then one of
            blocks, and of the events of `POOL` blocks at a time. None shuffles all at once.
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
        blocks: Array | None = None,
    ) -> None:
        self.rows = rows[rank::world] if partitioned else rows
        self.batch_size, self.shuffle, self.seed, self.blocks = batch_size, shuffle, seed, blocks
        self.share = slice(0, None, 1) if partitioned else slice(rank, None, world)
        self.batches = max(1, -(-(len(rows) // world if partitioned else len(rows)) // batch_size))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = self._shuffled() if self.shuffle else self.rows
        for k in range(self.batches):
            yield order[k * self.batch_size : (k + 1) * self.batch_size][self.share].tolist()

    def _shuffled(self) -> Array:
        """All events in this epoch's order; where there are no more than `POOL` blocks, as without blocks."""
        random = np.random.default_rng([self.seed, self.epoch])
        if self.blocks is None or len(self.blocks) - 1 <= POOL:
            return random.permutation(self.rows)
        parts = np.split(self.rows, np.searchsorted(self.rows, self.blocks[1:-1]))
        order = random.permutation(len(parts)).tolist()
        pools = [sorted(order[k : k + POOL]) for k in range(0, len(order), POOL)]
        return np.concatenate([random.permutation(np.concatenate([parts[b] for b in p])) for p in pools])
