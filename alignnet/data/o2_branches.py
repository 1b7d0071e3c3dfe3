"""The branches of ALICE O2's ITS files: trees `o2sim` with one entry a time frame, in flat columns.

ROOT splits a `std::vector` of objects into one branch a member, `ITSTrack.mChi2`. All members of one vector
(a *collection*, the word before the first dot) have as many values in an entry as it has objects. A member
that is an array has its length in the name where ROOT has split it (`ITSTrack.mP[5]`), and does not where
uproot wrote it (`ITSTrack.mP`); both are read, and are called by the second name here.

Classes as of AliceO2 @ 60060b0bc490: TrackITS 6, TrackParametrization 3, ROFRecord 3, Vertex 3,
PrimaryVertex 2, CompClusterExt 1 (on CompCluster 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np

from alignnet.data.root_columns import damage_named
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

TREE = "o2sim"


class Branch(NamedTuple):
    """One member of a collection."""

    name: str
    dtype: str
    size: int = 0  # of a member that is an array

    @property
    def collection(self) -> str:
        """The vector that it is a member of."""
        return collection_of(self.name)


def collection_of(name: str) -> str:
    """What stands before the first dot of a branch's name."""
    return name.partition(".")[0]


def _members(prefix: str, members: Mapping[str, str | tuple[str, int]]) -> tuple[Branch, ...]:
    return tuple(
        Branch(f"{prefix}.{name}", *((kind,) if isinstance(kind, str) else kind))
        for name, kind in members.items()
    )


_PARAMETERS: dict[str, str | tuple[str, int]] = {
    "mX": "float32", "mAlpha": "float32", "mP": ("float32", 5), "mAbsCharge": "int8", "mPID": "uint8",
    "mUserField": "uint16", "mC": ("float32", 15),
}  # fmt: skip
_RECORD: dict[str, str | tuple[str, int]] = {
    "mBCData.bc": "uint16", "mBCData.orbit": "uint32", "mROFEntry.mFirstEntry": "int32",
    "mROFEntry.mEntries": "int32", "mROFrame": "uint32", "mBits": "uint32",
}  # fmt: skip
_VERTEX: dict[str, str | tuple[str, int]] = {
    "mPos.fCoordinates.fX": "float32", "mPos.fCoordinates.fY": "float32", "mPos.fCoordinates.fZ": "float32",
    "mCov": ("float32", 6), "mChi2": "float32", "mNContributors": "uint16", "mBits": "uint16",
}  # fmt: skip

TRACK_FILE = (
    *_members("ITSTrack", _PARAMETERS),
    *_members("ITSTrack.mParamOut", _PARAMETERS),
    *_members("ITSTrack", {"mClusRef.mData": "uint32", "mChi2": "float32", "mPattern": "uint32"}),
    Branch("ITSTrack.mClusterSizes", "uint32"),
    Branch("ITSTrackClusIdx", "int32"),
    *_members("ITSTracksROF", _RECORD),
    *_members("Vertices", {**_VERTEX, "mTimeStamp.mTimeStamp": "int32"}),
    *_members("VerticesROF", _RECORD),
)
"""o2trac_its.root."""

CLUSTER_FILE = (
    Branch("ITSClusterComp.mData", "uint32"),
    Branch("ITSClusterComp.mChipID", "uint16"),
    Branch("ITSClusterPatt", "uint8"),
    *_members("ITSClustersROF", _RECORD),
)
"""o2clus_its.root."""

VERTEX_FILE = _members(
    "PrimaryVertex",
    {
        **_VERTEX, "mTimeStamp.mTimeStamp": "float32", "mTimeStamp.mTimeStampError": "float32",
        "mIRMin.bc": "uint16", "mIRMin.orbit": "uint32", "mIRMax.bc": "uint16", "mIRMax.orbit": "uint32",
        "mTMAD": "float32", "mZMAD": "float32",
    },
)  # fmt: skip
"""o2_primary_vertex.root."""


def some(branches: Sequence[Branch], *names: str) -> tuple[Branch, ...]:
    """The branches of these names, and all of the collections of these names."""
    return tuple(branch for branch in branches if branch.name in names or branch.collection in names)


@dataclass(frozen=True)
class Frames:
    """Branches of consecutive time frames; objects of frame f are rows offset(c)[f]:offset(c)[f + 1].

    Args:
        counts: objects of each collection in each frame, int64 (frames,).
        columns: their members, (objects,) or (objects, size), by branch name.
        first: number of the first frame in its file.
    """

    counts: dict[str, Array]
    columns: dict[str, Array]
    first: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.counts.values())))

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def offset(self, collection: str) -> Array:
        """First row of each frame and the total, int64 (frames + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts[collection])]).astype(np.int64)

    def frame_of(self, collection: str) -> Array:
        """Frame (from 0) of each row of a collection."""
        return np.repeat(np.arange(len(self)), self.counts[collection])


class FrameReader:
    """Some branches of one O2 file, by ranges of time frames.

    Args:
        file: an open ROOT file (`open_root`).
        path: its name, for messages.
        branches: what is read.

    Raises:
        SchemaError: there is no tree `o2sim`, a branch is missing or of another type, or there is no frame.
    """

    def __init__(self, file: Any, path: str | Path, branches: Sequence[Branch]) -> None:
        self.path, self.branches = path, tuple(branches)
        with damage_named(path):
            names = file.classnames(cycle=False)
            if names.get(TREE) != "TTree":
                raise SchemaError(
                    f"{path}: has no tree {TREE}, only {sorted(names)}; is it a file of ALICE O2?"
                )
            self._tree = file[TREE]
            self._keys = self._find()
            self.n_frames = int(self._tree.num_entries)
            self.n_bytes = sum(int(self._tree[key].uncompressed_bytes) for key in self._keys.values())
        if self.n_frames == 0:
            raise SchemaError(f"{path}: tree {TREE} is empty, expected one entry a time frame")

    def read(self, start: int, stop: int) -> Frames:
        """Frames `start` up to `stop`.

        Raises:
            SchemaError: members of a collection differ in number, a type is not O2's, or the file is damaged.
        """
        with damage_named(self.path):
            found = self._tree.arrays(
                list(self._keys.values()), entry_start=start, entry_stop=stop, library="ak", how=dict
            )
        counts: dict[str, Array] = {}
        columns: dict[str, Array] = {}
        for branch in self.branches:
            count, values = self._flat(branch, found[self._keys[branch.name]])
            known = counts.setdefault(branch.collection, count)
            if len(count) != stop - start or not np.array_equal(known, count):
                raise SchemaError(
                    f"{self.path}: branch {branch.name} has {int(count.sum())} values in time frames "
                    f"{start}:{stop}, other members of {branch.collection} {int(known.sum())}; it is damaged"
                )
            columns[branch.name] = values
        return Frames(counts, columns, start)

    def _find(self) -> dict[str, str]:
        """The file's name of each wanted branch."""
        paths = self._tree.keys(recursive=True, full_paths=True)
        by_name = {path.rpartition("/")[2].rstrip("."): path for path in paths}
        keys, missing = {}, []
        for branch in self.branches:
            names = (f"{branch.name}[{branch.size}]", branch.name) if branch.size else (branch.name,)
            key = next((by_name[name] for name in names if name in by_name), None)
            if key is None:
                missing.append(branch.name)
            else:
                keys[branch.name] = key
        if missing:
            near = [name for name in by_name if collection_of(name) == collection_of(missing[0])]
            every = {collection_of(name) for name in by_name}
            found = near or sorted(every - {f"n{name}" for name in every})  # without counters
            raise SchemaError(
                f"{self.path}: tree {TREE} has no branch {', '.join(missing)}; found {', '.join(found)}. "
                "It was written by another version of O2, or is another file than expected"
            )
        return keys

    def _flat(self, branch: Branch, column: ak.Array) -> tuple[Array, Array]:
        shape = (branch.size,) if branch.size else ()
        count = np.asarray(ak.num(column, axis=1)).astype(np.int64)
        values = np.asarray(ak.flatten(column, axis=1))
        if values.dtype != np.dtype(branch.dtype) or values.shape[1:] != shape:
            expected = f"lists of {branch.dtype}" + (f"[{branch.size}]" if branch.size else "")
            raise SchemaError(
                f"{self.path}: branch {branch.name} holds {column.type.content}, expected {expected}; "
                "it was written by another version of O2"
            )
        return count, values
