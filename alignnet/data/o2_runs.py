"""Runs of ALICE O2 among the files that an alignment reads, each as a source of tracks.

A run is named by its folder, or by its file of tracks. The other files are those beside it, unless they are
given: o2clus_its.root, and the dictionary where there is one of O2's names for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from alignnet.data.o2 import ABSENT, SEEDING, O2Source
from alignnet.data.o2_branches import TREE
from alignnet.data.o2_selection import Selection
from alignnet.data.o2_vertices import Timing
from alignnet.data.root_columns import has_tree
from alignnet.data.track_source import TrackSource, Value
from alignnet.data.tracks import Tracks
from alignnet.errors import SchemaError
from alignnet.geometry.detector import Detector

TRACKS, CLUSTERS = "o2trac_its.root", "o2clus_its.root"

DICTIONARIES = ("dictionary.bin", "ITSdictionary.bin", "ITSdictionary.root")
"""What a dictionary beside the tracks may be called."""


def is_run(path: str | Path) -> bool:
    """Whether this is a run of O2: a folder, or a file with O2's tree.

    Raises:
        SchemaError: there is no such file, it is not a ROOT file, or a folder has no file of tracks.
    """
    if not Path(path).is_dir():
        return has_tree(path, TREE)
    if not (Path(path) / TRACKS).is_file():
        raise SchemaError(
            f"{path}: a folder without {TRACKS}, expected that of a run of ALICE O2, or a ROOT file"
        )
    return True


def tracks_of(path: str | Path) -> Path:
    """The file of tracks of a run."""
    return Path(path) / TRACKS if Path(path).is_dir() else Path(path)


@dataclass(frozen=True)
class O2Runs:
    """How runs are read.

    Args:
        clusters: o2clus_its.root; None: beside the tracks.
        dictionary: of cluster topologies; None: beside the tracks, where there is one (`DICTIONARIES`).
        vertices: "seeding", "absent", or o2_primary_vertex.root; a name without a folder that is not here is
            beside the tracks.
        timing: of readout frames, for primary vertices.
        selection: which tracks.
    """

    clusters: str | Path | None = None
    dictionary: str | Path | None = None
    vertices: str | Path = SEEDING
    timing: Timing = field(default_factory=Timing)
    selection: Selection = field(default_factory=Selection)

    def run(self, path: str | Path) -> O2Source:
        """The files of one run."""
        tracks = tracks_of(path)
        beside = (file for name in DICTIONARIES if (file := tracks.with_name(name)).is_file())
        return O2Source(
            tracks,
            self.clusters or tracks.with_name(CLUSTERS),
            self.dictionary or next(beside, None),
            self._vertices(tracks),
            self.timing,
        )

    def source(
        self, path: str | Path, detector: Detector, entry_stop: int | None = None, min_hits: int = 3
    ) -> TrackSource:
        """One run for a cache, or for the memory.

        Args:
            path: of the run.
            detector: what its hits refer to.
            entry_stop: tracks of the file that are looked at; all by default.
            min_hits: tracks with fewer clusters are not selected, whatever the selection says.

        Raises:
            SchemaError: a file is missing or not O2's, or they do not belong together.
        """
        run = self.run(path)
        run.size()  # files that are missing, or not of one run, before anything is read
        selection = replace(self.selection, min_clusters=max(self.selection.min_clusters, min_hits))
        total = run.count_tracks()
        stop = total if entry_stop is None else min(entry_stop, total)

        def chunks() -> Iterator[Tracks]:
            return run.chunks(detector, selection, entry_stop=stop)

        told: dict[str, Value] = {
            "reader": "o2",
            "entries": stop,
            "b_z": detector.b_z,
            "vertices": str(run.vertices),
            "timing": repr(asdict(run.timing)),
            "selection": repr(asdict(selection)),
        }
        return TrackSource(run.files, told, stop, chunks)

    def _vertices(self, tracks: Path) -> str | Path:
        if self.vertices in (SEEDING, ABSENT) or Path(self.vertices).is_file():
            return self.vertices
        beside = tracks.with_name(str(self.vertices))
        return beside if beside.is_file() else self.vertices
