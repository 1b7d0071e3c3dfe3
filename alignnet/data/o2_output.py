"""`Tracks` of ITS2 into the files of an O2 run: o2trac_its.root, o2clus_its.root, o2_primary_vertex.root
(where there are vertices) and dictionary.bin (where the clusters need one).

    with O2Writer("run", its2(), SubPixels()) as writer:
        writer.append(tracks)

Each event is a readout frame of its own, 128 of them a time frame of 32 orbits. A track's parameters are
those of a least-squares fit of a helix to its hits with their resolutions, without scattering, at its
innermost and outermost hit; its covariance is left 0. Event numbers, truth and masses are not kept, and p
only through that fit.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from alignnet.data.atomic import replacing
from alignnet.data.noise import NoiseHits
from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, VERTEX_FILE, Frames, collection_of
from alignnet.data.o2_dictionary import write_dictionary
from alignnet.data.o2_fit import State, fitted
from alignnet.data.o2_pixels import Clusters, Pixels
from alignnet.data.o2_tracks import ORBIT
from alignnet.data.o2_vertices import BUNCH_SPACING, Timing
from alignnet.data.o2_write import FrameWriter
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import N_CHIPS, chip_address, symname

NAMES = ("o2trac_its.root", "o2clus_its.root", "o2_primary_vertex.root", "dictionary.bin")

READOUTS, ORBITS = 128, 32
"""Readout frames and orbits of a time frame."""

MOST_CLUSTERS = 15
"""What mClusRef can count."""

PION = 2
"""O2's number of the pion."""

_LENGTH = ORBIT * ORBITS // READOUTS


class O2Writer:
    """The files of one run, which grow by `append`; they appear when the block ends without error.

    Args:
        folder: where they go.
        detector: ITS2, or part of it: `sensor_id` is the chip.
        pixels: how hits become clusters.

    Raises:
        ConfigError: the detector is another one, or files cannot be written there.
    """

    def __init__(self, folder: str | Path, detector: Detector, pixels: Pixels) -> None:
        _require_its2(detector)
        self.folder, self._detector, self._pixels = Path(folder), detector, pixels
        self._writers: list[FrameWriter] = []
        self._frames = 0

    @property
    def written(self) -> list[Path]:
        """The files."""
        names = [*NAMES[: len(self._writers)], *NAMES[3:][: self._pixels.dictionary is not None]]
        return [self.folder / name for name in names]

    def __enter__(self) -> O2Writer:
        self._stack = ExitStack()
        return self

    def append(self, tracks: Tracks, noise: NoiseHits | None = None) -> None:
        """Write more events, in time frames of their own; all of them have vertices, or none has.

        Args:
            tracks: of the events.
            noise: clusters that no track has; those of events without tracks are left out.

        Raises:
            ConfigError: a track has more than 15 hits, some tracks have vertices and others not, or as
            `pixels`.
        """
        if len(tracks) == 0:
            return
        if int(tracks.hits_per_track.max()) > MOST_CLUSTERS:
            raise ConfigError(
                f"a track has {int(tracks.hits_per_track.max())} hits, O2 counts at most {MOST_CLUSTERS}"
            )
        parts = frames_of(tracks, self._detector, self._pixels, self._frames, noise)
        if not self._writers:
            kinds = (TRACK_FILE, CLUSTER_FILE, VERTEX_FILE)
            for name, branches, _ in zip(NAMES, kinds, parts, strict=False):
                self._writers.append(self._stack.enter_context(FrameWriter(self.folder / name, branches)))
            if self._pixels.dictionary is not None:
                path = self._stack.enter_context(replacing(self.folder / NAMES[3]))
                write_dictionary(path, self._pixels.dictionary)
        if len(parts) != len(self._writers):
            raise ConfigError("some tracks have vertices and others not; write them to runs of their own")
        for writer, frames in zip(self._writers, parts, strict=True):
            writer.append(frames)
        self._frames += len(parts[0])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._writers:
            raise ConfigError(f"{self.folder}: no tracks came, expected at least one; no file is written")
        self._stack.__exit__(kind, error, trace)


def _require_its2(detector: Detector) -> None:
    ids = detector.sensor_id.numpy()
    known = (ids >= 0) & (ids < N_CHIPS)
    names = zip(*(column.tolist() for column in chip_address(ids[known])), strict=True)
    if not known.all() or any(symname(*row) != name for row, name in zip(names, detector.names, strict=True)):
        raise ConfigError(
            f"detector {detector.name} has sensor_id {ids.min()} to {ids.max()} and names like "
            f"{detector.names[0]}, expected chips of ITS2 by their identifiers and symbolic names"
        )


def frames_of(
    tracks: Tracks, detector: Detector, pixels: Pixels, first: int = 0, noise: NoiseHits | None = None
) -> tuple[Frames, ...]:
    """Time frames of tracks, clusters and, if the tracks have them, vertices, numbered from `first`."""
    event = np.cumsum(np.diff(tracks.event, prepend=tracks.event[:1]) != 0)
    layout = Layout(int(event[-1]) + 1, first)
    hits = _with_noise(tracks, event, noise)
    chip = detector.sensor_id.numpy()[hits.sensor]
    order = np.lexsort((chip, hits.event))
    sorted_hits, of = hits.select(order), hits.event[order]
    clusters = _clusters(pixels(sorted_hits.uv, sorted_hits.sigma), chip[order], of, layout)
    number = np.empty(len(order), dtype=np.int64)  # of each hit's cluster, within its time frame
    number[order] = np.arange(len(order)) - layout.before(hits.event)[of]
    leading = tracks.select(np.flatnonzero(np.diff(event, prepend=-1)))
    has_vertex = tracks.vertex is not None and tracks.vertex_cov is not None
    kept = leading if has_vertex else None
    n_tracks = np.bincount(event)
    parts = [_tracks(tracks, detector, layout, event, number) | _seeding(kept, n_tracks, layout), clusters]
    if has_vertex:
        parts.append(_primary(leading, n_tracks, layout))
    return tuple(_frames(columns, layout) for columns in parts)


def _with_noise(tracks: Tracks, event: Array, noise: NoiseHits | None) -> NoiseHits:
    """Hits of tracks, and after them those of none; their events are counted as those of tracks, from 0."""
    own = NoiseHits(np.repeat(event, tracks.hits_per_track), tracks.sensor, tracks.uv, tracks.sigma)
    if noise is None:
        return own
    number, first = np.unique(tracks.event, return_index=True)
    place = np.searchsorted(number, noise.event).clip(max=len(number) - 1)
    there = number[place] == noise.event
    more = replace(noise, event=event[first[place]]).select(there)
    return NoiseHits.joined([own, more])


class Layout(NamedTuple):
    """Which readout frame of which time frame an event is in."""

    n_events: int
    first: int  # number of the first time frame

    @property
    def frame(self) -> Array:
        """Time frame of each event, from 0."""
        return np.arange(self.n_events) // READOUTS

    @property
    def readout(self) -> Array:
        """Readout frame of each event within its time frame."""
        return np.arange(self.n_events) % READOUTS

    @property
    def bc(self) -> Array:
        """First bunch crossing of each event's readout frame, from orbit 0."""
        return (self.first + self.frame) * ORBITS * ORBIT + self.readout * _LENGTH

    def before(self, event: Array) -> Array:
        """How many of the things that belong to `event` (things,), in order, precede each event's frame."""
        total = np.concatenate([[0], np.cumsum(np.bincount(event, minlength=self.n_events))])
        return total[self.frame * READOUTS]


Columns = dict[str, tuple[Array, Array]]
"""Branches: their values, and the event of each; of one collection all the same."""


def _frames(columns: Columns, layout: Layout) -> Frames:
    counts = {
        collection_of(name): np.bincount(event // READOUTS, minlength=int(layout.frame[-1]) + 1)
        for name, (_, event) in columns.items()
    }
    return Frames(counts, {name: values for name, (values, _) in columns.items()}, layout.first)


def _tracks(tracks: Tracks, detector: Detector, layout: Layout, event: Array, number: Array) -> Columns:
    fit, n = fitted(tracks, detector), len(tracks)
    layer = detector.layer.numpy()[tracks.sensor]
    outside_in = np.lexsort((-np.arange(tracks.n_hits), -layer, tracks.track_of_hit))
    event_of_hit = np.repeat(event, tracks.hits_per_track)
    first = tracks.offset[:-1] - layout.before(event_of_hit)[event]
    pattern = np.zeros(n, dtype=np.uint32)
    np.bitwise_or.at(pattern, tracks.track_of_hit, np.uint32(1) << layer.astype(np.uint32))
    columns = {
        **_state("ITSTrack", fit.inner),
        **_state("ITSTrack.mParamOut", fit.outer),
        "ITSTrack.mClusRef.mData": (first << 4 | tracks.hits_per_track).astype(np.uint32),
        "ITSTrack.mChi2": fit.chi2,
        "ITSTrack.mPattern": pattern,
        "ITSTrack.mClusterSizes": np.zeros(n, dtype=np.uint32),
    }
    return {
        **{name: (values, event) for name, values in columns.items()},
        "ITSTrackClusIdx": (number[outside_in].astype(np.int32), event_of_hit),
        **_records("ITSTracksROF", event, layout),
    }


def _state(prefix: str, state: State) -> dict[str, Array]:
    n = len(state.x)
    return {
        f"{prefix}.mX": state.x,
        f"{prefix}.mAlpha": state.alpha,
        f"{prefix}.mP": state.parameters,
        f"{prefix}.mAbsCharge": np.ones(n, dtype=np.int8),
        f"{prefix}.mPID": np.full(n, PION, dtype=np.uint8),
        f"{prefix}.mUserField": np.zeros(n, dtype=np.uint16),
        f"{prefix}.mC": np.zeros((n, 15), dtype=np.float32),
    }


def _clusters(clusters: Clusters, chip: Array, event: Array, layout: Layout) -> Columns:
    used = np.arange(clusters.record.shape[1]) < clusters.length[:, None]
    return {
        "ITSClusterComp.mData": (clusters.data, event),
        "ITSClusterComp.mChipID": (chip.astype(np.uint16), event),
        "ITSClusterPatt": (clusters.record[used], np.repeat(event, clusters.length)),
        **_records("ITSClustersROF", event, layout),
    }


def _records(collection: str, event: Array, layout: Layout) -> Columns:
    """The readout frames of things that belong to `event` (things,), in order."""
    count = np.bincount(event, minlength=layout.n_events)
    first = np.concatenate([[0], np.cumsum(count)])[:-1] - layout.before(event)
    columns: dict[str, Array] = {
        "mBCData.bc": (layout.bc % ORBIT).astype(np.uint16),
        "mBCData.orbit": (layout.bc // ORBIT).astype(np.uint32),
        "mROFEntry.mFirstEntry": first.astype(np.int32),
        "mROFEntry.mEntries": count.astype(np.int32),
        "mROFrame": ((layout.first + layout.frame) * READOUTS + layout.readout).astype(np.uint32),
        "mBits": np.zeros(layout.n_events, dtype=np.uint32),
    }
    return {f"{collection}.{name}": (values, np.arange(layout.n_events)) for name, values in columns.items()}


def _seeding(leading: Tracks | None, n_tracks: Array, layout: Layout) -> Columns:
    """Vertices and VerticesROF; `leading` is the first track of each event, None for no vertices."""
    n = len(n_tracks) if leading is not None else 0
    of = np.arange(n)
    columns = _vertices(leading, n_tracks, n) | {"mTimeStamp.mTimeStamp": layout.readout[:n].astype(np.int32)}
    named = {f"Vertices.{name}": (values, of) for name, values in columns.items()}
    return named | _records("VerticesROF", of, layout)


def _primary(leading: Tracks, n_tracks: Array, layout: Layout) -> Columns:
    """In the middle of the readout frame, known to the bunch crossing."""
    bc = layout.bc + Timing().bias + _LENGTH // 2
    in_frame = (bc - (layout.first + layout.frame) * ORBITS * ORBIT) * BUNCH_SPACING
    columns = _vertices(leading, n_tracks, layout.n_events) | {
        "mTimeStamp.mTimeStamp": in_frame.astype(np.float32),
        "mTimeStamp.mTimeStampError": np.full(layout.n_events, BUNCH_SPACING, dtype=np.float32),
    }
    for end in ("mIRMin", "mIRMax"):
        columns |= {
            f"{end}.bc": (bc % ORBIT).astype(np.uint16),
            f"{end}.orbit": (bc // ORBIT).astype(np.uint32),
        }
    for spread in ("mTMAD", "mZMAD"):
        columns[spread] = np.full(layout.n_events, -1, dtype=np.float32)
    of = np.arange(layout.n_events)
    return {f"PrimaryVertex.{name}": (values, of) for name, values in columns.items()}


def _vertices(leading: Tracks | None, n_tracks: Array, n: int) -> dict[str, Array]:
    place, covariance = np.zeros((n, 3)), np.zeros((n, 6))
    if leading is not None and leading.vertex is not None and leading.vertex_cov is not None:
        place, covariance = leading.vertex, leading.vertex_cov
    columns = {f"mPos.fCoordinates.f{axis}": place[:, i].astype(np.float32) for i, axis in enumerate("XYZ")}
    return columns | {
        "mCov": covariance.astype(np.float32),
        "mChi2": np.zeros(n, dtype=np.float32),
        "mNContributors": n_tracks[:n].astype(np.uint16),
        "mBits": np.zeros(n, dtype=np.uint16),
    }
