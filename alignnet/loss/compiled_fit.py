"""Fits of large batches by compiled kernels, where these apply, and when a compiler is worth waiting for.

The kernels take rows that are independent of each other, float64, on a CPU. Their answer is that of
`physics.trackfit` to rounding. A process that has not met them yet works with tensors until that took about
as long as the compiler will; what is compiled is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from alignnet.geometry.plane import Plane
from alignnet.physics.helix import Helix

Answer = TypeVar("Answer")

PAYS_AFTER = 300_000
"""Tracks that tensors take in about as much time as the compiler does."""
LARGE = 2048
"""Tracks of a batch for which there is a choice; smaller ones are always left to tensors."""
_PART = 4096  # tracks of a part, whole tiles


def is_compiled(kernel: Any) -> bool:
    """Whether a kernel is in this process, or on disk from another one."""
    if kernel.signatures:
        return True
    module = kernel.py_func.__module__.rpartition(".")[2]
    return any(Path(kernel.stats.cache_path).glob(f"{module}.{kernel.__name__}-*.nbi"))


def in_threads(task: Callable[[int], Answer], count: int, threads: int) -> list[Answer]:
    """Answers of a task for 0 … count − 1, in order."""
    if threads == 1 or count == 1:
        return [task(number) for number in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, range(count)))


class CompiledFit:
    """Gauss–Newton steps of tracks; counts the tracks that it has left to tensors."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(
        self, helix: Helix, planes: Plane, inverse_sigma: Tensor, near: Tensor | None, steps: int, bend: bool
    ) -> tuple[Helix, Tensor, Tensor] | None:
        """The tracks after `steps`, where their hits determine them, and path lengths; or None: use tensors.

        Args:
            helix: states (tracks,).
            planes: through the measured positions (tracks, planes).
            inverse_sigma: 1/σ of the rows (tracks, 2 · planes), 0 for padding [1/cm].
            near: path lengths to start from (tracks, planes) [cm].
            steps: how many.
            bend: whether ω is fitted.
        """
        if not self._applies(helix):
            return None
        from alignnet.loss import gradient_kernels as kernels

        s = torch.zeros_like(planes.origin[..., 0]) if near is None else near.clone()
        state = torch.cat([helix.position, helix.direction, helix.omega[:, None]], 1)
        poses = torch.stack(planes[:3], 1)
        found = torch.zeros(len(state), dtype=torch.int64)
        edges = [*range(0, len(state), _PART), len(state)]

        def part(number: int) -> None:
            own = slice(edges[number], edges[number + 1])
            kernels.refit(
                state[own].numpy(), s[own].numpy(), inverse_sigma[own].numpy(), poses[own].numpy(), steps,
                float(bend), found[own].numpy(),
            )  # fmt: skip

        in_threads(part, len(edges) - 1, torch.get_num_threads())
        if (found >= kernels.MISSED).any():
            return None
        return Helix(state[:, :3], state[:, 3:6], state[:, 6]), found == kernels.DETERMINED, s

    def _applies(self, helix: Helix) -> bool:
        omega = helix.omega
        if len(omega) < LARGE or omega.dtype != torch.float64 or omega.device.type != "cpu":
            return False
        from alignnet.loss import (
            gradient_kernels as kernels,
        )  # numba takes long to load: only when it is needed

        if self.seen < PAYS_AFTER and not is_compiled(kernels.refit):
            self.seen += len(omega)
            return False
        return True
