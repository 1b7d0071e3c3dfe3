"""Loops that tensors cannot say well, compiled at their first call and kept on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numpy.typing import NDArray

Array = NDArray[Any]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in machine code, without the interpreter's lock.

    Sums may be reordered; NaN and infinities are kept, and what is divided by 0 becomes one of them.
    """
    made: Callable[..., Any] = numba.njit(
        cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"}
    )(function)
    return made
