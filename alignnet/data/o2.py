"""Tracks of ALICE O2 (o2trac_its.root with o2clus_its.root) as `Tracks`, some time frames at a time.

    source = O2Source("o2trac_its.root", "o2clus_its.root", dictionary="ccdb_object.root")
    for tracks in source.chunks(its2(b_z=0.5), Selection()):
        ...

Hits are the tracks' clusters, from the inside to the outside, in the frames of the chips (`o2_clusters`). An
event is a primary vertex with the tracks that are nearest to it (`o2_vertices`), or without vertices a
readout frame. Of a track's fit its momentum is kept; cuts and vertices use the rest. Nothing here depends on
where the chunks go.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alignnet.data.check import positive_definite
from alignnet.data.noise import NoiseHits
from alignnet.data.o2_agreement import Innermost, VertexTally, check_near_clusters, check_same_readout
from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, Branch, FrameReader, Frames, some
from alignnet.data.o2_clusters import local_points
from alignnet.data.o2_dictionary import TopologyDictionary, read_dictionary
from alignnet.data.o2_field import NEEDED_FIELD, check_field
from alignnet.data.o2_selection import Selection
from alignnet.data.o2_tracks import (
    NEEDED,
    Readout,
    States,
    clusters_of,
    readout_of,
    states_of,
)
from alignnet.data.o2_vertices import (
    NEEDED_PRIMARY,
    NEEDED_SEEDING,
    Timing,
    Vertices,
    nearest_vertex,
    primary_vertices,
    seeding_vertices,
)
from alignnet.data.root_columns import open_root
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import N_CHIPS

log = logging.getLogger("alignnet.data")

CHUNK_BYTES = 2**24
"""About what is read together, unpacked (140,000 tracks alone in their files); at least one time frame."""

FIRST_FRAMES = 8
"""Time frames whose tracks tell the field."""

FRAME_STRIDE = 2**24
"""Event numbers of a time frame begin at its number times this."""

SEEDING, ABSENT = "seeding", "absent"
"""What `vertices` may be besides a file."""

_CLUSTERS = some(
    CLUSTER_FILE,
    "ITSClusterComp",
    "ITSClusterPatt",
    "ITSClustersROF.mBCData.bc",
    "ITSClustersROF.mBCData.orbit",
)
_READOUT = some(
    CLUSTER_FILE,
    *(f"ITSClustersROF.mROFEntry.{name}" for name in ("mFirstEntry", "mEntries")),
)
_ENTRIES = "ITSTracksROF.mROFEntry.mEntries"


@dataclass
class Tally:
    """Tracks that went by."""

    read: int = 0
    selected: int = 0
    kept: int = 0
    vertices: VertexTally = field(default_factory=VertexTally)


@dataclass(frozen=True)
class O2Source:
    """The files of one run.

    Args:
        tracks: o2trac_its.root.
        clusters: o2clus_its.root of the same time frames.
        dictionary: of cluster topologies; None where all clusters carry their patterns.
        vertices: "seeding" for those in the file of tracks, o2_primary_vertex.root, or "absent".
        timing: of readout frames, for primary vertices.
    """

    tracks: str | Path
    clusters: str | Path
    dictionary: str | Path | None = None
    vertices: str | Path = SEEDING
    timing: Timing = field(default_factory=Timing)

    def size(self, chunk_bytes: int = CHUNK_BYTES) -> tuple[int, int]:
        """How many time frames there are, and how many are read together; SchemaError as `chunks`."""
        with ExitStack() as stack:
            readers = self._open(stack)
            return readers[0].n_frames, self._step(readers, chunk_bytes)

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read, the tracks first."""
        vertices = None if self.vertices in (SEEDING, ABSENT) else self.vertices
        others = (self.clusters, self.dictionary, vertices)
        return (Path(self.tracks), *(Path(file) for file in others if file is not None))

    def count_tracks(self) -> int:
        """Tracks of the run before any selection, as its readout frames count them.

        Raises:
            SchemaError: as `chunks`.
        """
        with open_root(self.tracks) as file:
            reader = FrameReader(file, self.tracks, some(TRACK_FILE, _ENTRIES))
            return int(reader.read(0, reader.n_frames)[_ENTRIES].astype(np.int64).sum())

    def chunks(
        self,
        detector: Detector,
        selection: Selection,
        chunk_bytes: int = CHUNK_BYTES,
        entry_stop: int | None = None,
    ) -> Iterator[Tracks]:
        """The selected tracks in chunks of whole time frames, of bounded memory.

        Args:
            detector: with chip identifiers as `sensor_id`, and the field that the tracks were fitted in.
            selection: which tracks, and how near to their vertices.
            chunk_bytes: about what is read together.
            entry_stop: only the first so many tracks of the file; the last event may be cut.

        Raises:
            SchemaError: the files are not O2's, do not belong together, or are damaged.
            ConfigError: the field is another one, or no track is left.
        """
        dictionary = self._dictionary()
        tally = Tally()
        with ExitStack() as stack:
            readers = self._open(stack)
            self._check_field(readers[0].n_frames, detector.b_z)
            for parts in _ahead(readers, self._step(readers, chunk_bytes)):
                if entry_stop is not None and tally.read >= entry_stop:
                    break
                left = None if entry_stop is None else entry_stop - tally.read
                tracks = self._tracks(parts, dictionary, detector, selection, tally, left)
                if len(tracks):
                    yield tracks
        self._report(tally)

    def unassociated(self, detector: Detector, chunk_bytes: int = CHUNK_BYTES) -> Iterator[NoiseHits]:
        """The clusters that no track of the file has, in chunks of whole time frames.

        Their events are readout frames, numbered as those of tracks without vertices are.

        Args:
            detector: with chip identifiers as `sensor_id`.
            chunk_bytes: about what is read together.

        Raises:
            SchemaError: as `chunks`.
        """
        dictionary = self._dictionary()
        with ExitStack() as stack:
            readers = self._open(stack, _READOUT)[:2]
            for frames, clusters in _ahead(readers, self._step(readers, chunk_bytes)):
                check_same_readout(frames, clusters, str(self.clusters))
                yield self._unassociated(frames, clusters, dictionary, detector)

    def _unassociated(
        self, frames: Frames, clusters: Frames, dictionary: TopologyDictionary, detector: Detector
    ) -> NoiseHits:
        of, tracks = "ITSClusterComp", np.arange(len(frames.frame_of("ITSTrack")))
        free = np.ones(len(clusters.frame_of(of)), dtype=bool)
        free[clusters_of(frames, clusters.counts[of], tracks, str(self.tracks))[1]] = False
        rows = np.flatnonzero(free)
        readout = readout_of(clusters, str(self.clusters), "ITSClustersROF", of)
        points = local_points(clusters, dictionary, rows, str(self.clusters))
        event = _events(rows, rows, readout, None, clusters)
        return NoiseHits(
            event, self._sensors(clusters[f"{of}.mChipID"][rows], detector), points.uv, points.sigma
        )

    def _dictionary(self) -> TopologyDictionary:
        return TopologyDictionary.empty() if self.dictionary is None else read_dictionary(self.dictionary)

    def _open(self, stack: ExitStack, of_clusters: tuple[Branch, ...] = ()) -> list[FrameReader]:
        """Readers of tracks, clusters and, if there is such a file, vertices, of as many time frames."""
        wanted: list[tuple[str | Path, tuple[Branch, ...]]] = [
            (self.tracks, NEEDED + (NEEDED_SEEDING if self.vertices == SEEDING else ())),
            (self.clusters, _CLUSTERS + of_clusters),
        ]
        if self.vertices not in (SEEDING, ABSENT):
            wanted.append((self.vertices, NEEDED_PRIMARY))
        readers = [
            FrameReader(stack.enter_context(open_root(path)), path, branches) for path, branches in wanted
        ]
        for reader in readers[1:]:
            if reader.n_frames != readers[0].n_frames:
                raise SchemaError(
                    f"{reader.path}: has {reader.n_frames} time frames, {self.tracks} {readers[0].n_frames}; "
                    "give files of the same run"
                )
        return readers

    def _check_field(self, n_frames: int, b_z: float) -> None:
        """Look at the tracks of the first time frames."""
        with open_root(self.tracks) as file:
            frames = FrameReader(file, self.tracks, NEEDED_FIELD).read(0, min(n_frames, FIRST_FRAMES))
        check_field(frames, b_z, str(self.tracks))

    def _step(self, readers: list[FrameReader], chunk_bytes: int) -> int:
        size = sum(reader.n_bytes for reader in readers)
        return max(1, chunk_bytes * readers[0].n_frames // max(size, 1))

    def _tracks(
        self,
        parts: list[Frames],
        dictionary: TopologyDictionary,
        detector: Detector,
        selection: Selection,
        tally: Tally,
        stop: int | None = None,
    ) -> Tracks:
        """The selected ones of the first `stop` tracks of some frames."""
        frames, clusters = parts[:2]
        check_same_readout(frames, clusters, str(self.clusters))
        states, readout = states_of(frames, str(self.tracks)), readout_of(frames, str(self.tracks))
        rows = np.flatnonzero(selection.tracks(states)[:stop])
        tally.read, tally.selected = tally.read + len(states.chi2[:stop]), tally.selected + len(rows)
        vertices, nearest = None, np.zeros(0, dtype=np.int64)
        if self.vertices != ABSENT:
            vertices = self._vertices(parts, readout)
            found, nearest, distance, unknown = _associated(
                states.select(rows), readout.of_track[rows], vertices, detector, selection
            )
            tally.vertices.count(distance)
            tally.vertices.unknown += unknown
            rows = rows[found]
        event = _events(rows, nearest, readout, vertices, frames)
        order = np.argsort(event, kind="stable")
        rows = rows[order]
        tally.kept += len(rows)
        count, hits = clusters_of(frames, clusters.counts["ITSClusterComp"], rows, str(self.tracks))
        points = local_points(clusters, dictionary, hits, str(self.clusters))
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        sensor = self._sensors(clusters["ITSClusterComp.mChipID"][hits], detector)
        first, frame = offset[:-1], frames.first + frames.frame_of("ITSTrack")[rows]
        innermost = Innermost(states.select(rows), frame, sensor[first], points.uv[first])
        check_near_clusters(innermost, detector, self.tracks, self.clusters)
        return Tracks(
            event=event[order],
            offset=offset,
            sensor=sensor,
            uv=points.uv,
            sigma=points.sigma,
            vertex=None if vertices is None else vertices.position[nearest[order]],
            vertex_cov=None if vertices is None else vertices.covariance[nearest[order]],
            p=states.p[rows],
        )

    def _vertices(self, parts: list[Frames], readout: Readout) -> Vertices:
        if self.vertices == SEEDING:
            return seeding_vertices(parts[0], readout, str(self.tracks))
        return primary_vertices(parts[2], readout, self.timing, str(self.vertices))

    def _sensors(self, chip: Array, detector: Detector) -> Array:
        rows = detector.rows(np.arange(N_CHIPS))[chip]
        if (rows < 0).any():
            raise SchemaError(
                f"{self.clusters}: chip {chip[rows < 0][0]} is no sensor_id of detector {detector.name}; use "
                "detector=its2"
            )
        return rows.astype(np.int64)

    def _report(self, tally: Tally) -> None:
        told = f"{tally.read:,} tracks, {tally.selected:,} within the selection"
        if self.vertices != ABSENT:
            told += f", {tally.kept:,} of these near a vertex"
        apart, unknown = tally.vertices.warning, tally.vertices.without_covariance
        if tally.kept == 0 and unknown is not None:
            other = "give other vertices, or o2.vertices=absent"
            raise ConfigError(f"{self.tracks}: no track is left ({told}): {unknown}; {other}")
        if tally.kept == 0:
            hint = f"; {apart}" if apart else ""
            raise ConfigError(
                f"{self.tracks}: no track is left ({told}); loosen selection, or o2.vertices=absent{hint}"
            )
        log.info("%s: %s", self.tracks, told)
        of_vertices = self.tracks if self.vertices == SEEDING else self.vertices
        if apart is not None:
            log.warning("%s: %s", of_vertices, apart)
        if unknown is not None:
            log.warning("%s: %s", of_vertices, unknown)


def _ahead(readers: list[FrameReader], step: int) -> Iterator[list[Frames]]:
    """The frames of all readers, `step` at a time; another thread reads the next ones meanwhile.

    Most of reading is decompression, which needs no lock of the interpreter.
    """

    def read(start: int) -> list[Frames]:
        return [reader.read(start, min(start + step, reader.n_frames)) for reader in readers]

    with ThreadPoolExecutor(1) as thread:
        coming: Future[list[Frames]] | None = None
        for start in range(0, readers[0].n_frames, step):
            following = thread.submit(read, start)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _associated(
    states: States, readout_frame: Array, vertices: Vertices, detector: Detector, selection: Selection
) -> tuple[Array, Array, Array, int]:
    """Which tracks have a vertex, booleans (tracks,), the vertices of those, and all distances [cm].

    The last number counts tracks whose vertex would do, but has no covariance: mCov is not positive definite.
    """
    vertex, distance = nearest_vertex(states, readout_frame, vertices, detector.b_z)
    found = (vertex >= 0) & (distance <= selection.reach(states))
    found[found] = (vertices.n_contributors >= selection.min_contributors)[vertex[found]]
    known = found.copy()
    known[found] = positive_definite(vertices.covariance)[vertex[found]]
    return known, vertex[known], distance, int((found & ~known).sum())


def _events(
    rows: Array, nearest: Array, readout: Readout, vertices: Vertices | None, frames: Frames
) -> Array:
    """Event numbers: of a track's vertex, or of its readout frame; both are in order of time frames."""
    owner, frame = (readout.of_track[rows], readout.frame) if vertices is None else (nearest, vertices.frame)
    before = np.searchsorted(frame, np.arange(len(frames)), side="left")
    of_owner = frame[owner]
    return (frames.first + of_owner) * FRAME_STRIDE + owner - before[of_owner]
