"""Loops that tensors cannot say well, compiled at their first call and kept on disk for the next process."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch
from numpy.typing import NDArray

from alignnet.errors import ConfigError

log = logging.getLogger("alignnet.kernels")

Array = NDArray[Any]

SWITCH = "ALIGNNET_KERNELS"
"""Environment variable: on, off, or auto (the default): compiled loops once they are on disk or pay."""

PAYS_AFTER = 300_000
"""Tracks that tensors take in about as much time as a compiler does."""

_WORTH_A_THREAD = 256  # tracks


_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in machine code, without the interpreter's lock.

    Sums may be reordered; NaN and infinities are kept, and what is divided by 0 becomes one of them.
    """
    return kept_on_disk(function, fastmath=_FASTMATH)


def kept_on_disk(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Machine code, made at the first call and kept where one of numba's folders can be written."""
    made: Callable[..., Any]
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder for it
        made = numba.njit(**options)(function)
    return made


@compiled
def is_finite(x: float) -> bool:
    """Whether x is a number. Not `math.isfinite`: its x − x = 0 is folded where sums are reordered."""
    return abs(x) < math.inf


_on_disk: dict[Any, bool] = {}
_seen: dict[Any, int] = {}
_said: set[str] = set()


def pays(kernel: Any, amount: int, after: int | None = None, quick: int = 0) -> bool:
    """Whether so many tracks (or of whatever the limits count) more should go through a kernel.

    What does without gives the same numbers. A process that finds the kernel on disk uses it once `quick` of
    them have been asked for, another one when doing without took about as long as the compiler will.

    Args:
        kernel: it.
        amount: of work that is about to be done.
        after: what takes about as much time without the kernel as a compiler does; default: `PAYS_AFTER`.
        quick: what takes no longer than reading the kernel from disk.

    Raises:
        ConfigError: the switch has an unknown value.
    """
    switch = os.environ.get(SWITCH, "auto")
    if switch not in ("auto", "on", "off"):
        raise ConfigError(f"the environment variable {SWITCH} is {switch!r}; choose auto, on or off")
    if switch == "off":
        return False
    if kernel not in _on_disk:
        _on_disk[kernel] = is_on_disk(kernel)
    _seen[kernel] = _seen.get(kernel, 0) + amount
    seen, ready = _seen[kernel], _on_disk[kernel]
    does = switch == "on" or seen > (PAYS_AFTER if after is None else after) or (ready and seen >= quick)
    if does and not ready:
        _say_once(
            "compiling loops over tracks and hits, which takes some seconds each; the next run has them"
        )
    return does


def _say_once(line: str) -> None:
    """In a process, whichever of its loops is the first."""
    if line not in _said:
        _said.add(line)
        log.info(line)


def is_on_disk(kernel: Any) -> bool:
    """Whether another process has left a kernel in machine code."""
    if kernel.stats.cache_path is None:  # numba has found no folder
        return False
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
