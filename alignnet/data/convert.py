"""What other files hold, in the terms of docs/data-format.md, ready to be written by `SimulationWriter`.

content = content_of_root("ntuples.root")
with SimulationWriter("trees.root", *content.header) as writer:
    for tracks in content.tracks:
        writer.append(tracks)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from alignnet.data.hit_table import read_hit_table
from alignnet.data.noise import NoiseHits
from alignnet.data.o2 import ABSENT, O2Source
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
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import ConfigError
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
    noise: Callable[[], Iterator[NoiseHits]] | None = None  # all hits of no track, in parts
    noise_of: Callable[[Array], NoiseHits] | None = None  # those of some events, by their numbers

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
    content = Content(own, local, metadata, tracks, count_entries(path, "tracks"))
    if not has_noise(path):
        return content
    noise = NoiseFile(path, own)
    return content._replace(noise=noise.chunks, noise_of=noise.of)


def content_of_csv(path: str | Path, detector: Detector, short_tracks: str = "error") -> Content:
    """A table of hits as CSV; arguments and errors as for `read_hit_table`."""
    tracks = read_hit_table(path, detector, short_tracks)
    metadata = {"generator": "unknown", "seed": None, "converted_from": Path(path).name}
    return Content(detector, None, metadata, iter([tracks]), len(tracks))


def content_of_o2(
    source: O2Source, detector: Detector, selection: Selection, unassociated: bool = False
) -> Content:
    """The selected tracks of a run of ALICE O2, and the clusters of no track where these are asked for.

    Arguments and errors are those of `O2Source.chunks`.

    Raises:
        ConfigError: clusters of no track are asked for, and events are not readout frames.
    """
    if unassociated and source.vertices != ABSENT:
        raise ConfigError(
            "o2.unassociated=true: clusters of no track have a readout frame and no vertex; give "
            "o2.vertices=absent, so that events are readout frames"
        )
    n_frames, step = source.size()
    metadata = {
        "generator": "ALICE O2",
        "seed": None,
        "converted_from": Path(source.tracks).name,
        "vertices": str(source.vertices),
        "selection": asdict(selection),
    }
    return Content(
        detector,
        None,
        metadata,
        source.chunks(detector, selection),
        n_frames,
        step,
        "time frames",
        partial(source.unassociated, detector) if unassociated else None,
    )
