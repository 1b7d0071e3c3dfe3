"""SIGINT and SIGTERM end a command within seconds, whatever it is about.

Python sees a signal between two of its own instructions, and the end of a loop in machine code may be minutes
away. A thread that the signal itself wakes waits for the usual end, which puts things away, and after that
ends the process. What a command writes appears whole or not at all, so there is nothing to lose.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE = 2.0  # s, for the usual end
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_earlier: dict[int, Any] = {}  # what handled the signals that are ours now
_received: list[int] = []  # the first one
_told = threading.Event()


@contextmanager
def ending_promptly() -> Iterator[None]:
    """Turns the first SIGINT or SIGTERM into a KeyboardInterrupt, and ends the process `GRACE` later.

    What was ignored stays ignored, as nohup and background jobs of shells want it. A rank of a run of several
    processes also ends where the process that started it has ended.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        yield
        return
    _received.clear()
    _told.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    heard = [number for number in _WORDS if signal.getsignal(number) != signal.SIG_IGN]
    _earlier.update({number: signal.signal(number, _interrupt) for number in heard})
    parent = os.getppid() if "LOCAL_RANK" in os.environ else None
    threading.Thread(target=_watch, args=(reader, parent), name="signals", daemon=True).start()
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, _earlier.pop(number))
        signal.set_wakeup_fd(wakeup)
        if not _received:  # or threads that still compute would hold the process
            os.close(writer)


def handle_again() -> None:
    """Take signals back from a library that would look at them when a batch is done, if at all."""
    for number in _earlier:
        signal.signal(number, _interrupt)


def announce(number: int | None = None) -> int:
    """Says on stderr, once, which signal ends the process; returns the exit code, 128 and its number."""
    first = signal.Signals(number or (_received[0] if _received else signal.SIGINT))
    if not _told.is_set():
        _told.set()
        print(f"alignnet: {_WORDS[first]}", file=sys.stderr, flush=True)
    return 128 + first


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _received:
        _received.append(number)
        raise KeyboardInterrupt


def _watch(reader: int, parent: int | None) -> None:
    while True:
        if select.select([reader], [], [], None if parent is None else 1.0)[0]:
            numbers = os.read(reader, 64)
            if not numbers:
                os.close(reader)
                return
            if stops := [number for number in numbers if number in _WORDS]:
                time.sleep(GRACE)
                os._exit(announce(stops[0]))
        elif os.getppid() != parent:
            os._exit(1)
