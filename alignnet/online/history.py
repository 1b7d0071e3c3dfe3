"""All intervals so far, the changes found in them, and where the volumes were in each.

The last `window` intervals are looked at as a whole; what those before them say is in the start of the first
of these, exactly, with the changes that were known when they left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.online.store import Interval
from alignnet.solvers.changes import Change, ChangeSearch, Place
from alignnet.solvers.walk import Estimate, Filtered, Passes, Seen, advanced, updated


@dataclass(frozen=True)
class Located:
    """A change, numbered from the very first interval."""

    place: Place
    change: Change


class History:
    """Intervals one after the other.

    Args:
        search: for changes.
        window: intervals that are looked at as a whole, at least 2.
        scaled: errors grow with √(χ²/ndf).
    """

    def __init__(self, search: ChangeSearch, window: int = 200, scaled: bool = True) -> None:
        self.search, self.window, self.scaled = search, window, scaled
        self.intervals: list[Interval] = []  # of the window
        self.left = 0  # how many came before it
        self.places: list[Place] = []  # of changes, numbered from the very first interval
        self._seen: list[Seen] = []
        self._start: Filtered | None = None

    def __len__(self) -> int:
        return self.left + len(self.intervals)

    def append(self, interval: Interval) -> None:
        """One more interval."""
        self.intervals.append(interval)
        self._seen.append(interval.linearised.seen(self.scaled))

    def take_back(self, number: int) -> None:
        """Keep so many intervals only."""
        del self.intervals[number - self.left :], self._seen[number - self.left :]

    def replace_last(self, interval: Interval) -> None:
        """Another linearisation of the last interval."""
        self.intervals[-1] = interval
        self._seen[-1] = interval.linearised.seen(self.scaled)

    def changes(self) -> list[Located]:
        """Look for changes, which `places` are then."""
        found = self.search(self._seen, self._inside(self.places), self._start)
        located = [Located(_shifted(change.place, self.left), change) for change in found]
        before = [p for p in self.places if p.after is not None and p.after < self.left]
        self.places = before + [one.place for one in located]
        return located

    def passes(self) -> Passes:
        """The passes over the window with the changes that are known."""
        return self.search.passes(self._seen, self._inside(self.places), self._start)

    def latest(self) -> Estimate:
        """The volumes in the last interval by all of them."""
        return self.passes().estimate(len(self.intervals) - 1)

    def unknowns(self) -> Tensor:
        """Where the volumes are by all intervals so far; 0 before the first."""
        if not self.intervals:
            return torch.zeros(len(self.search.freedom.initial), dtype=torch.float64)
        return self.latest().mean

    def forget(self) -> None:
        """Let intervals beyond the window go."""
        while len(self.intervals) > self.window:
            walk = self.search.freedom.walk(self._inside(self.places))
            passes_start = self.search.passes(self._seen[:1], self._inside(self.places), self._start).start
            self._start = advanced(updated(passes_start, self._seen[0]), walk, 0)
            self.intervals.pop(0)
            self._seen.pop(0)
            self.left += 1

    def _inside(self, places: Sequence[Place]) -> list[Place]:
        """Those in the window, numbered from its first interval."""
        shifted = (_shifted(place, -self.left) for place in places)
        return [place for place in shifted if place.after is None or place.after >= 0]


def _shifted(place: Place, by: int) -> Place:
    return place if place.after is None else Place(place.volume, place.after + by)
