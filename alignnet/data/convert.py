"""What other files hold, in the terms of docs/data-format.md, ready to be written by `SimulationWriter`.

content = content_of_root("ntuples.root")
with SimulationWriter("trees.root", *content.header) as writer:
    for tracks in content.tracks:
        writer.append(tracks)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from alignnet.data.hit_table import read_hit_table
from alignnet.data.o2 import O2Source
from alignnet.data.o2_selection import Selection
from alignnet.data.root import (
    has_misalignment,
    iterate_tracks,
    read_detector,
    read_metadata,
    read_misalignment,
)
from alignnet.data.root_columns import count_entries
from alignnet.data.root_noise import NoiseFile, has_noise
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector

STEP = 100_000
"""Tracks that are read together."""


class Content(NamedTuple):
    """What goes into a file."""

    detector: Detector
    local_six: Tensor | None  # true misalignment (sensors, 6), where it is known
    metadata: dict[str, Any]
    tracks: Iterator[Tracks]  # in parts of about `step`
    total: int  # how many there are at most
    step: int = STEP
    unit: str = "tracks"  # what `total` and `step` count
    noise: NoiseFile | None = None  # hits of no track, by event

    @property
    def header(self) -> tuple[Detector, Tensor | None, dict[str, Any]]:
        """All but the tracks: what `SimulationWriter` is made with."""
        return self.detector, self.local_six, self.metadata


def content_of_root(
    path: str | Path, detector: Detector | None = None, short_tracks: str = "error"
) -> Content:
    """A file of the schema, of TTrees or RNTuples; its tracks are checked when they are asked for.

    Args:
        path: the file.
        detector: what its hits refer to, in place of its own tree `sensors`.
        short_tracks: tracks with fewer than 3 hits are an "error", or "drop" leaves them out.

    Raises:
        SchemaError: the file does not follow the schema.
    """
    own = read_detector(path) if detector is None else detector
    local = read_misalignment(path, own) if has_misalignment(path) else None
    metadata = {
        "generator": "unknown",
        "seed": None,
        **read_metadata(path),
        "converted_from": Path(path).name,
    }
    tracks = iterate_tracks(path, own, STEP, short_tracks=short_tracks)
    noise = NoiseFile(path, own) if has_noise(path) else None
    return Content(own, local, metadata, tracks, count_entries(path, "tracks"), noise=noise)


def content_of_csv(path: str | Path, detector: Detector, short_tracks: str = "error") -> Content:
    """A table of hits as CSV; arguments and errors as for `read_hit_table`."""
    tracks = read_hit_table(path, detector, short_tracks)
    metadata = {"generator": "unknown", "seed": None, "converted_from": Path(path).name}
    return Content(detector, None, metadata, iter([tracks]), len(tracks))


def content_of_o2(source: O2Source, detector: Detector, selection: Selection) -> Content:
    """The selected tracks of a run of ALICE O2; arguments and errors as for `O2Source.chunks`."""
    n_frames, step = source.size()
    metadata = {
        "generator": "ALICE O2",
        "seed": None,
        "converted_from": Path(source.tracks).name,
        "vertices": str(source.vertices),
        "selection": asdict(selection),
    }
    return Content(
        detector, None, metadata, source.chunks(detector, selection), n_frames, step, "time frames"
    )
