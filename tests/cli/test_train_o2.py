"""`alignnet train` and `evaluate` on runs of ALICE O2, directly."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uproot
from omegaconf import OmegaConf
from training_runs import configured, evaluate, train

from alignnet.cli.app import build
from alignnet.cli.convert import main as convert_command
from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, FrameReader
from alignnet.data.o2_dictionary import TopologyDictionary, read_dictionary, write_dictionary
from alignnet.data.o2_output import NAMES, O2Writer
from alignnet.data.o2_pixels import Boxes, SubPixels
from alignnet.data.o2_runs import O2Runs
from alignnet.data.o2_write import FrameWriter
from alignnet.data.root_alignment import read_alignment_table
from alignnet.data.root_columns import open_root
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.geometry.its2 import its2

TRACKS, CLUSTERS, VERTICES, DICTIONARY = NAMES
BRIEF = (
    "require_convergence=false", "figure_every=0", "trainer.accelerator=cpu", "trainer.max_epochs=1",
    "data.batch_size=50", "sensors.fixed.layers=[3,4,5,6]", "evaluation.limit=false",
    "evaluation.report=false", "optimizer=sgd", "optimizer.lr=1e-9",
    "evaluation.numbers=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """100 collisions of five tracks."""
    folder = tmp_path_factory.mktemp("original") / "run"
    gun = ParticleGun(n_tracks_per_event=5, pt_min=0.5)
    with O2Writer(folder, its2(), SubPixels()) as writer:
        for seed in (3, 4):
            writer.append(Simulation(gun, its2(), seed=seed).generate(50))
    return folder


@pytest.fixture
def run(original, tmp_path):
    """The same run, that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def test_a_run_gives_what_its_conversion_gives(run, tmp_path, no_pictures):
    files = {
        "direct": f"data.files=[{run}]",
        "converted": f"data.files=[{tmp_path / 'run.root'}]",
    }
    convert_command.__wrapped__(configured("convert", f"input={run}", f"output={tmp_path / 'run.root'}"))
    found = {}
    for name, file in files.items():
        cache = tmp_path / "cache" if name == "direct" else "null"
        train(tmp_path / name, file, *BRIEF, f"data.cache={cache}")
        found[name] = read_alignment_table(tmp_path / name / "alignment.root")
    assert len(list((tmp_path / "cache").glob("*/*/index.json"))) == 1
    direct, known = found["direct"], found["converted"]
    assert known.n_hits.sum() > 1000
    assert np.array_equal(direct.n_hits, known.n_hits)
    size = np.abs(known.local).max()
    assert size > 1e-9  # something moved
    np.testing.assert_allclose(direct.local, known.local, rtol=0, atol=1e-4 * size)
    data = json.loads((tmp_path / "direct" / "metrics.json").read_text())["run"]["data"]
    size = sum((run / name).stat().st_size for name in (TRACKS, CLUSTERS, DICTIONARY))
    assert data[0]["tracks"] == known_tracks(tmp_path / "run.root")
    assert data[0]["megabytes"] == pytest.approx(size / 2**20)


def test_a_run_is_evaluated_with_another_selection(original, tmp_path, no_pictures):
    settings = (f"data.files=[{original}]", *BRIEF, f"o2.dictionary={original / DICTIONARY}")
    train(tmp_path, *settings, "data.max_tracks=200")
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(configured("train", *settings), tmp_path / ".hydra" / "config.yaml")
    found = {}
    for key in ("+selection.pt=[0.5,null]", "selection.pt=[2,null]"):
        evaluate(f"run={tmp_path}", key)
        found[key] = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["n_tracks"]
    assert list(found.values()) == [n_tracks(original, low) for low in (0.5, 2)]


def n_tracks(run, pt_min):
    source = O2Runs().run(run)
    selection = build(configured("train", f"selection.pt=[{pt_min},null]").selection)
    return sum(map(len, source.chunks(its2(), selection)))


def known_tracks(path):
    with uproot.open(path) as file:
        return int(file["tracks"].num_entries)


def rewrite(path, branches, change=None):
    """The file with some branches, and the first number of some columns replaced."""
    with open_root(path) as file:
        reader = FrameReader(file, path, branches)
        frames = reader.read(0, reader.n_frames)
    columns = {name: column.copy() for name, column in frames.columns.items()}
    for name, value in (change or {}).items():
        columns[name][0] = value
    with FrameWriter(path, branches) as writer:
        writer.append(replace(frames, columns=columns))


def without(branches, *collections):
    return [b for b in branches if b.name not in collections and b.collection not in collections]


def shortened(folder):
    entries = read_dictionary(folder / DICTIONARY).entries[:100]
    write_dictionary(folder / DICTIONARY, TopologyDictionary(entries))


def of_another_run(folder):
    """Clusters of one time frame more."""
    with O2Writer(folder / "other", its2(), Boxes()) as writer:
        for seed in range(3):
            writer.append(Simulation(ParticleGun(), its2(), seed=seed).generate(5))
    (folder / "other" / CLUSTERS).replace(folder / CLUSTERS)


BAD = {
    "a branch is missing": (
        lambda run: rewrite(run / TRACKS, without(TRACK_FILE, "ITSTrack.mClusRef.mData")),
        "o2trac_its.root: tree o2sim has no branch ITSTrack.mClusRef.mData; found .*another version of O2",
    ),
    "another version": (
        lambda run: rewrite(run / CLUSTERS, without(CLUSTER_FILE, "ITSClusterComp")),
        "o2clus_its.root: tree o2sim has no branch ITSClusterComp.mData, .* It was written by another",
    ),
    "no dictionary": (
        lambda run: (run / DICTIONARY).unlink(),
        "found pattern ID [0-9]+, which needs a dictionary of cluster topologies; give o2.dictionary=FILE",
    ),
    "another dictionary": (
        shortened,
        "pattern ID [0-9]+, expected less than 100, the entries of .*give that",
    ),
    "cluster index": (
        lambda run: rewrite(run / TRACKS, TRACK_FILE, {"ITSTrackClusIdx": 99999}),
        "o2trac_its.root: time frame 0, track 0: found cluster 99999, expected 0 to .*both files of the same",
    ),
    "chip": (
        lambda run: rewrite(run / CLUSTERS, CLUSTER_FILE, {"ITSClusterComp.mChipID": 24120}),
        "o2clus_its.root: time frame 0, cluster 0: found chip 24120, expected 0 to 24119",
    ),
    "another run's clusters": (of_another_run, "has 3 time frames, .* 2; give files of the same run"),
    "no clusters": (lambda run: (run / CLUSTERS).unlink(), "o2clus_its.root: found no such file, expected a"),
    "no tracks": (
        lambda run: (run / TRACKS).unlink(),
        "run: a folder without o2trac_its.root, expected that",
    ),
    "truncated": (
        lambda run: (run / CLUSTERS).write_bytes((run / CLUSTERS).read_bytes()[:9000]),
        "o2clus_its.root: cannot be read as a ROOT file: .*truncated",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_run_that_cannot_be_read_is_one_line_and_leaves_nothing(what, refused, run, tmp_path):
    damage, told = BAD[what]
    damage(run)
    for cache in (str(tmp_path / "cache"), "null"):
        line = refused(train, tmp_path / "out", f"data.files=[{run}]", *BRIEF, f"data.cache={cache}")
        assert re.search(told, line)
    assert not list(tmp_path.rglob("index.json"))
    assert not list(tmp_path.rglob("*.partial"))
    assert not list((tmp_path / "out").rglob("*.root"))


BAD_KEYS = {
    "o2.vertices=null": "o2.vertices is None, expected the name of a file",
    "o2.vertices=none.root": "none.root: found no such file",
    "o2.dictionary=none.bin": "none.bin: found no such file, expected a dictionary",
    "o2.timing.length=0": "o2.timing.length is 0, expected at least 1",
    "+o2.tracks=3": "o2.tracks: O2Runs takes no 'tracks', only clusters, dictionary",
    "selection.pt=high": "selection.pt is 'high'; expected",
    "selection.min_clusters=2": "selection.min_clusters is 2, expected at least 3",
    "selection.pt=[99,null]": "no track is left .*, 0 within the selection.*; loosen selection",
    "detector.b_z=-0.5": "its tracks turn as in a field of 0.50 T along z, the detector's is -0.5 T",
    "detector=file": "detector.path is null; give the file whose tree `sensors` is the detector",
}


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_cannot_be_used_is_named(key, refused, original, tmp_path):
    line = refused(train, tmp_path, f"data.files=[{original}]", *BRIEF, key)
    assert re.search(BAD_KEYS[key], line)


def test_a_run_that_is_named_twice_would_count_twice(refused, original, tmp_path):
    line = refused(train, tmp_path, f"data.files=[{original},{original / TRACKS}]", *BRIEF)
    assert line.endswith("more than once; its tracks would count twice")
