"""O2's branches: what is written is read bit by bit, by us and by ROOT; what ROOT writes is read as well."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, VERTEX_FILE, Branch, FrameReader, Frames, some
from alignnet.data.o2_write import FrameWriter
from alignnet.data.root_columns import open_root
from alignnet.errors import SchemaError

FILES = {
    "o2trac_its.root": TRACK_FILE,
    "o2clus_its.root": CLUSTER_FILE,
    "o2_primary_vertex.root": VERTEX_FILE,
}
WRITTEN_BY_ROOT = Path(__file__).parents[1] / "data_files" / "o2"


def read(path, branches, start=0, stop=None):
    with open_root(path) as file:
        reader = FrameReader(file, path, branches)
        return reader.read(start, reader.n_frames if stop is None else stop)


def random_frames(branches, n_frames, seed):
    """Any bits in every branch, NaN and infinity among them; some frames are empty."""
    rng = np.random.default_rng(seed)
    counts, columns = {}, {}
    for branch in branches:
        count = counts.setdefault(branch.collection, rng.integers(0, 4, n_frames))
        shape = (int(count.sum()), *([branch.size] if branch.size else []))
        n_bytes = int(np.prod(shape)) * np.dtype(branch.dtype).itemsize
        columns[branch.name] = rng.integers(0, 256, n_bytes, dtype=np.uint8).view(branch.dtype).reshape(shape)
    return Frames(counts, columns)


def same(read, written):
    return all(read[name].tobytes() == written[name].tobytes() for name in written.columns) and all(
        np.array_equal(read.counts[name], written.counts[name]) for name in written.counts
    )


@settings(max_examples=3)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@pytest.mark.parametrize("name", FILES)
def test_every_branch_comes_back_bit_by_bit(name, tmp_path_factory, seed, sizes):
    path, branches = tmp_path_factory.getbasetemp() / name, FILES[name]
    parts = [random_frames(branches, n, seed + k) for k, n in enumerate(sizes)]
    with FrameWriter(path, branches) as writer:
        for part in parts:
            writer.append(part)
    for first, part in zip(np.cumsum([0, *sizes]), parts, strict=False):
        found = read(path, branches, int(first), int(first) + len(part))
        assert found.first == first
        assert same(found, part)


@pytest.mark.parametrize("name", FILES)
def test_what_root_writes_from_objects_of_o2_is_read_bit_by_bit(name):
    branches = [branch for branch in FILES[name] if not branch.name.endswith("mPID")]  # an object for ROOT
    known = np.load(WRITTEN_BY_ROOT / "branches.npz")
    found = read(WRITTEN_BY_ROOT / name, branches)
    assert same(found, Frames({}, {branch.name: known[branch.name] for branch in branches}))
    for collection, count in found.counts.items():
        assert np.array_equal(count, known[f"count {collection}"])
    last = read(WRITTEN_BY_ROOT / name, branches, 1, 2)
    for branch in branches:
        before = int(found.counts[branch.collection][0])
        assert last[branch.name].tobytes() == found[branch.name][before:].tobytes()


DRAWN = {"ITSTrack.mX": "mX", "ITSTrack.mP[][4]": "mP", "ITSTrack.mClusRef.mData": "mClusRef.mData"}


def test_root_draws_the_numbers_that_were_written(tmp_path):
    """ALIGNNET_ROOT_PYTHON names an interpreter that has the package ROOT."""
    python = os.environ.get("ALIGNNET_ROOT_PYTHON")
    if python is None:
        pytest.skip("ALIGNNET_ROOT_PYTHON is not set: an interpreter with the package ROOT")
    known = np.load(WRITTEN_BY_ROOT / "branches.npz")
    frames = Frames(
        {name.removeprefix("count "): known[name] for name in known if name.startswith("count ")},
        {branch.name: known[branch.name] for branch in TRACK_FILE},
    )
    with FrameWriter(tmp_path / "t.root", TRACK_FILE) as writer:
        writer.append(frames)
    script = (
        "import ROOT, sys\n"
        "file = ROOT.TFile.Open(sys.argv[1])\n"  # which owns the tree
        "tree = file.Get('o2sim')\n"
        "for name in sys.argv[2:]:\n"
        "    n = tree.Draw(name, '', 'goff')\n"
        "    print(*(tree.GetV1()[i].hex() for i in range(n)))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, "-W", "ignore", "-c", script, str(tmp_path / "t.root"), *DRAWN]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout.splitlines()
    for line, member in zip(lines, DRAWN.values(), strict=True):
        values = known[f"ITSTrack.{member}"]
        values = values[:, 4] if values.ndim == 2 else values
        assert [float.fromhex(word) for word in line.split()] == values.astype(float).tolist()


def columns_of(path, columns):
    """A tree `o2sim` of lists, each with a counter of its own."""
    types = {name: f"var * {values.dtype}" for name, values in columns.items()}
    counts = {f"n{name}": np.array([len(values)], dtype=np.int32) for name, values in columns.items()}
    with uproot.recreate(path) as file:
        lists = {name: ak.Array([values]) for name, values in columns.items()}
        file.mktree("o2sim", types).extend({**lists, **counts})


def test_a_branch_that_is_missing_is_named_with_those_that_are_there(tmp_path):
    columns_of(tmp_path / "a.root", {"ITSClusterComp.mData": np.zeros(3, dtype=np.uint32)})
    message = (
        r"a\.root: tree o2sim has no branch ITSClusterComp\.mChipID, ITSClusterPatt; found "
        r"ITSClusterComp\.mData\. It was written by another version of O2"
    )
    with pytest.raises(SchemaError, match=message):
        read(tmp_path / "a.root", some(CLUSTER_FILE, "ITSClusterComp", "ITSClusterPatt"))


def test_a_branch_of_another_type_is_refused(tmp_path):
    columns_of(tmp_path / "a.root", {"ITSTrackClusIdx": np.zeros(3, dtype=np.int64)})
    with pytest.raises(SchemaError, match=r"ITSTrackClusIdx holds .*int64, expected lists of int32; it was"):
        read(tmp_path / "a.root", (Branch("ITSTrackClusIdx", "int32"),))


def test_members_of_different_numbers_are_refused(tmp_path):
    columns = {
        "ITSClusterComp.mData": np.zeros(3, np.uint32),
        "ITSClusterComp.mChipID": np.zeros(2, np.uint16),
    }
    columns_of(tmp_path / "a.root", columns)
    with pytest.raises(SchemaError, match=r"mChipID has 2 values in time frames 0:1, other members.* 3"):
        read(tmp_path / "a.root", some(CLUSTER_FILE, "ITSClusterComp"))


def test_a_file_without_the_tree_or_without_time_frames_is_refused(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("tracks", {"event": "int64"}).extend({"event": np.arange(2)})
    with pytest.raises(
        SchemaError, match=r"a\.root: has no tree o2sim, only \['tracks'\]; is it a file of AL"
    ):
        read(tmp_path / "a.root", CLUSTER_FILE)
    with FrameWriter(tmp_path / "b.root", CLUSTER_FILE):
        pass
    with pytest.raises(SchemaError, match=r"b\.root: tree o2sim is empty, expected one entry a time frame"):
        read(tmp_path / "b.root", CLUSTER_FILE)


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    frames = random_frames(CLUSTER_FILE, 2, 1)
    del frames.columns["ITSClusterPatt"]
    with pytest.raises(SchemaError, match="ITSClusterPatt: found nothing"), FrameWriter(
        tmp_path / "a.root", CLUSTER_FILE
    ) as writer:  # fmt: skip
        writer.append(frames)
    assert list(tmp_path.iterdir()) == []
