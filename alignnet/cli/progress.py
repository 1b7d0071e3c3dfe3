"""How far a long command is, as a bar on a terminal or now and then a line elsewhere, and what went by."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from logging import Logger
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector

T = TypeVar("T")

INTERVAL = 10.0
"""Seconds between two lines."""


def tracked(parts: Iterable[T], what: str, total: int, step: int, log: Logger) -> Iterator[T]:
    """The parts as they come; after each, `step` more of `total` are done.

    Args:
        parts: pieces of the work; asking for the next one does the work.
        what: plural of what is counted.
        total: how many there are.
        step: how many a part stands for, the last one for what is left.
        log: where lines go when there is no terminal.
    """
    yield from (
        _on_terminal(parts, what, total, step)
        if sys.stderr.isatty()
        else _in_lines(parts, what, total, step, log)
    )


def _on_terminal(parts: Iterable[T], what: str, total: int, step: int) -> Iterator[T]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for count, part in enumerate(parts, start=1):
            bar.update(task, completed=min(count * step, total))
            yield part


def _in_lines(parts: Iterable[T], what: str, total: int, step: int, log: Logger) -> Iterator[T]:
    said = time.monotonic()
    for count, part in enumerate(parts, start=1):
        yield part
        if time.monotonic() - said >= INTERVAL and count * step < total:
            said = time.monotonic()
            log.info("%s of %s %s", f"{count * step:,}", f"{total:,}", what)


class Count:
    """Tracks and hits that went by."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.tracks = detector, 0
        self.hits = np.zeros(len(detector), dtype=np.int64)

    def counting(self, parts: Iterable[Tracks]) -> Iterator[Tracks]:
        """The parts as they come, counted."""
        for tracks in parts:
            self.add(tracks)
            yield tracks

    def add(self, tracks: Tracks) -> None:
        """Count some more."""
        self.tracks += len(tracks)
        self.hits += np.bincount(tracks.sensor, minlength=len(self.hits))

    def summary(self) -> str:
        """One line."""
        layer = self.detector.layer.numpy()
        hits = ", ".join(f"{self.hits[layer == number].sum():,}" for number in self.detector.layers)
        return (
            f"{self.tracks:,} tracks, {self.hits.sum():,} hits on {np.count_nonzero(self.hits):,} of "
            f"{len(self.hits):,} sensors of {self.detector.name} (by layer: {hits})"
        )
