"""A simulation as a series of files, each whole by itself: tracks of so many events, detector and truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from alignnet.data.noise import NoiseHits
from alignnet.data.root_write import SimulationWriter
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector
from alignnet.geometry.motion import Step


class SeriesWriter:
    """Writes tracks that come in the order of their events, to one file or to several.

    Args:
        path: of one file; of several, `path` with _0000, _0001, … before its suffix.
        per_file: events of each; None for one file.
        n_events: of all.
        detector, local_six, metadata: as of `SimulationWriter`.

    Raises:
        SchemaError, GeometryError, ConfigError: as of `SimulationWriter`.
    """

    def __init__(
        self,
        path: Path,
        per_file: int | None,
        n_events: int,
        detector: Detector,
        local_six: Tensor | None,
        metadata: Mapping[str, Any],
    ) -> None:
        self.per_file = n_events if per_file is None else per_file
        count = -(-n_events // self.per_file)
        self.paths = [path] if per_file is None else [_numbered(path, k) for k in range(count)]
        self._last = n_events
        self._of = detector, local_six, metadata
        self._number, self._writer = 0, SimulationWriter(self.paths[0], *self._of)

    def __enter__(self) -> SeriesWriter:
        self._writer.__enter__()
        return self

    def append(self, tracks: Tracks, noise: NoiseHits, steps: Sequence[Step]) -> None:
        """Write the tracks and noise of some events and where volumes were; a file that is full is closed.

        Args:
            tracks: of the next events.
            noise: of the same.
            steps: that these events are in; they say how far they go.
        """
        last = steps[-1].last
        while True:
            low = self._number * self.per_file
            high = min(low + self.per_file, self._last)
            mine = (tracks.event >= low) & (tracks.event < high)
            self._writer.append(tracks if mine.all() else tracks.select(mine))
            of_noise = (noise.event >= low) & (noise.event < high)
            self._writer.append_noise(noise.select(of_noise))
            self._writer.append_motion([_cut(s, low, high) for s in steps if s.first < high and s.last > low])
            if last < high or self._number + 1 == len(self.paths):
                return
            self._writer.__exit__(None, None, None)
            self._number += 1
            self._writer = SimulationWriter(self.paths[self._number], *self._of)
            self._writer.__enter__()
            if last == high:
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)


def _numbered(path: Path, k: int) -> Path:
    return path.with_name(f"{path.stem}_{k:04d}{path.suffix}")


def _cut(step: Step, low: int, high: int) -> Step:
    return step._replace(first=max(step.first, low), last=min(step.last, high))
