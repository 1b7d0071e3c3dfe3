"""Loops that tensors cannot say well, compiled at their first call and kept on disk for the next process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

PAYS_AFTER = 300_000
"""Tracks that tensors take in about as much time as a compiler does."""

_WORTH_A_THREAD = 256  # tracks


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in machine code, without the interpreter's lock.

    Sums may be reordered; NaN and infinities are kept, and what is divided by 0 becomes one of them.
    """
    made: Callable[..., Any] = numba.njit(
        cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"}
    )(function)
    return made


def is_compiled(kernel: Any) -> bool:
    """Whether a kernel is in this process, or on disk from another one."""
    if kernel.signatures:
        return True
    module = kernel.py_func.__module__.rpartition(".")[2]
    return any(Path(kernel.stats.cache_path).glob(f"{module}.{kernel.__name__}-*.nbi"))


def shares(tracks: int) -> list[tuple[int, int]]:
    """First and last (exclusive) of even shares of tracks, one for each of torch's threads if it pays."""
    n = max(1, min(torch.get_num_threads(), tracks // _WORTH_A_THREAD))
    return list(itertools.pairwise(tracks * k // n for k in range(n + 1)))


def in_threads(
    work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], threads: int | None = None
) -> list[Any]:
    """What `work` returns for each of these arguments; `threads` at a time, by default all of them."""
    if len(arguments) == 1 or threads == 1:
        return [work(*each) for each in arguments]
    with ThreadPoolExecutor(threads or len(arguments)) as pool:
        return [future.result() for future in [pool.submit(work, *each) for each in arguments]]
