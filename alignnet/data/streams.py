"""Random numbers that stay the same when something else changes.

Each purpose (vertices, momenta, the scattering in one layer) has a generator of its own, derived from the
seed, the chunk of events and the purpose. One more random number somewhere therefore changes nothing
elsewhere: chunks can be made in any order, the first events of a sample are the same however many follow, and
two simulations of one seed that differ in a single thing can be compared hit by hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Streams:
    """The random numbers of one chunk of events: an independent generator for each purpose.

    The rows of a table are drawn one after another, so that a shorter table is the beginning of a longer one.
    """

    seed: int
    chunk: int

    def normal(self, rows: int, columns: int, *purpose: int) -> Tensor:
        """Standard normal numbers, (rows, columns)."""
        return torch.from_numpy(self._generator(0, *purpose).standard_normal((rows, columns)))

    def uniform(self, rows: int, columns: int, *purpose: int) -> Tensor:
        """Numbers in [0, 1), (rows, columns)."""
        return torch.from_numpy(self._generator(1, *purpose).random((rows, columns)))

    def poisson(self, rows: int, mean: float, *purpose: int) -> Tensor:
        """Poisson numbers, int64 (rows,)."""
        return torch.from_numpy(self._generator(2, *purpose).poisson(mean, rows))

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.chunk, *purpose)))
