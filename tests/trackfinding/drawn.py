"""Events for tests, and answers scored over many batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from alignnet.trackfinding.events import Toy
from alignnet.trackfinding.metrics import Mean, joined


def events(toy: Toy, n: int, seed: int = 1) -> Any:
    """So many events of a toy."""
    return toy.sample(n, torch.Generator().manual_seed(seed))


def scored(toy: Toy, find: Callable[[Any], Any], objective: Any, n: int, seed: int = 5) -> dict[str, float]:
    """Figures of merit of a baseline on n events."""
    total: dict[str, Mean] = {}
    for part in range(-(-n // 250)):
        batch = events(toy, 250, seed + part)
        total = joined(total, objective.score(find(batch), batch))
    return {name: mean.value() for name, mean in total.items()}
