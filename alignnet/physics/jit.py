"""Loops that tensors cannot say well, compiled at their first call and kept on disk for the next process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

_WORTH_A_THREAD = 256  # tracks


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in machine code, without the interpreter's lock.

    Sums may be reordered; NaN and infinities are kept, and what is divided by 0 becomes one of them.
    """
    made: Callable[..., Any] = numba.njit(
        cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"}
    )(function)
    return made


def shares(tracks: int) -> list[tuple[int, int]]:
    """First and last (exclusive) of even shares of tracks, one for each of torch's threads if it pays."""
    n = max(1, min(torch.get_num_threads(), tracks // _WORTH_A_THREAD))
    return list(itertools.pairwise(tracks * k // n for k in range(n + 1)))


def in_threads(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What `work` returns for each of these arguments, each in a thread of its own where they are several."""
    if len(arguments) == 1:
        return [work(*arguments[0])]
    with ThreadPoolExecutor(len(arguments)) as pool:
        return [future.result() for future in [pool.submit(work, *each) for each in arguments]]
