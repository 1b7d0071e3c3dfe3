"""Runs of O2 as files of a training: what they are told by, and the caches of them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from alignnet.data.datamodule import AlignmentData
from alignnet.data.o2_output import NAMES, O2Writer
from alignnet.data.o2_pixels import SubPixels
from alignnet.data.o2_runs import O2Runs, is_run
from alignnet.data.o2_selection import Selection
from alignnet.data.root_tracks import EVENT_STRIDE
from alignnet.data.root_write import write_simulation
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.its2 import its2

DETECTOR = its2()
RUNS = O2Runs(selection=Selection(pt=(0.4, None)))


def simulated(seed: int, n_events: int = 40) -> Tracks:
    return Simulation(ParticleGun(n_tracks_per_event=3), DETECTOR, seed=seed).generate(n_events)


def write(folder, tracks):
    with O2Writer(folder, DETECTOR, SubPixels()) as writer:
        writer.append(tracks)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write(tmp_path_factory.mktemp("one"), simulated(1))


@pytest.fixture
def run(tmp_path):
    """A run that a test may change."""
    return write(tmp_path / "run", simulated(1))


def data_of(*files, runs=RUNS, **options):
    data = AlignmentData(list(map(str, files)), DETECTOR, runs=runs, seed=3, **options)
    data.setup()
    return data


def same(a: Tracks, b: Tracks) -> None:
    """All columns within the rounding of a cache."""
    for name in (f.name for f in fields(Tracks) if f.name != "truth"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            atol = 0.5001e-7 if name == "uv" else 0.0
            np.testing.assert_allclose(left, right, rtol=1e-7, atol=atol, err_msg=name)


def test_a_run_is_a_folder_or_a_file_of_tracks(one, tmp_path):
    assert is_run(one)
    assert is_run(one / "o2trac_its.root")
    write_simulation(
        tmp_path / "o2trac.root", DETECTOR, simulated(1, 2), None, {"generator": "gun", "seed": 1}
    )
    assert not is_run(tmp_path / "o2trac.root")
    with pytest.raises(SchemaError, match=r"a folder without o2trac_its\.root, expected that of a run of"):
        is_run(tmp_path)
    with pytest.raises(SchemaError, match="none: found no such file"):
        is_run(tmp_path / "none")


def test_tracks_are_the_same_with_a_cache_and_in_memory(one, tmp_path):
    memory = data_of(one, cache=None)
    cached = data_of(one / NAMES[0], cache=str(tmp_path / "cache"))
    whole = RUNS.run(one).chunks(DETECTOR, RUNS.selection)
    same(memory.tracks, concatenate(list(whole)))
    same(cached.tracks, memory.tracks)
    assert np.array_equal(cached.rows["train"], memory.rows["train"])
    assert 0 < memory.n_tracks < RUNS.run(one).count_tracks() == 120


@pytest.mark.parametrize("cache", [True, False])
def test_runs_and_files_are_read_as_one(cache, one, tmp_path):
    second = write(tmp_path / "second", simulated(2))
    other = simulated(4, 5)
    write_simulation(tmp_path / "tracks.root", DETECTOR, other, None, {"generator": "gun", "seed": 1})
    files = (one, tmp_path / "tracks.root", second)
    data = data_of(*files, cache=str(tmp_path / "cache") if cache else None)
    assert set(data.tracks.event // EVENT_STRIDE) == {0, 1, 2}
    parts = [data.tracks.select(data.tracks.event // EVENT_STRIDE == k) for k in range(3)]
    for k, alone in ((0, data_of(one, cache=None).tracks), (2, data_of(second, cache=None).tracks)):
        same(replace(parts[k], event=parts[k].event - k * EVENT_STRIDE), alone)
    np.testing.assert_allclose(parts[1].uv, other.uv, rtol=0, atol=0.51e-7)


def test_only_so_many_tracks_are_read(one):
    every = data_of(one, cache=None, runs=O2Runs()).tracks
    first = data_of(one, cache=None, runs=O2Runs(), max_tracks=50).tracks
    same(first, every.select(np.arange(50)))
    two = data_of(one, one.parent / one.name / NAMES[0], cache=None, runs=O2Runs(), max_tracks=130).tracks
    assert len(two) == 130


def written(folder):
    return sorted(path.parent.name for path in folder.glob("*/*/index.json"))


@pytest.mark.parametrize("change", ["clusters", "dictionary", "selection", "vertices", "timing", "min_hits"])
def test_a_cache_is_written_again_when_what_it_is_of_changes(change, run, tmp_path):
    cache, runs, options = tmp_path / "cache", RUNS, {}
    before = data_of(run, cache=str(cache)).tracks
    known = written(cache)
    data_of(run, cache=str(cache))
    assert written(cache) == known
    if change in ("clusters", "dictionary"):
        other = write(tmp_path / "other", replace_uv(simulated(1)) if change == "clusters" else simulated(1))
        name = NAMES[1 if change == "clusters" else 3]
        (other / name).replace(run / name)
    elif change == "min_hits":
        options = {"min_hits": 7}
    else:
        runs = replace(
            runs,
            **{
                "selection": {"selection": Selection(pt=(0.8, None))},
                "vertices": {"vertices": "o2_primary_vertex.root"},
                "timing": {"timing": replace(runs.timing, margin=40)},
            }[change],
        )
    after = data_of(run, cache=str(cache), runs=runs, **options).tracks
    assert written(cache) != known
    if change in ("selection", "min_hits"):
        assert len(after) < len(before)
    elif change == "clusters":
        assert np.abs(after.uv - before.uv).max() > 5e-4


def replace_uv(tracks: Tracks) -> Tracks:
    """The same tracks with hits 10 µm beside."""
    return replace(tracks, uv=tracks.uv + 1e-3)


def test_files_that_do_not_belong_together_leave_no_cache(run, tmp_path):
    many = write(tmp_path / "many", simulated(2, 200))
    (many / NAMES[1]).replace(run / NAMES[1])
    with pytest.raises(SchemaError, match=r"has 2 time frames, .* 1; give files of the same run"):
        data_of(run, cache=str(tmp_path / "cache"))
    assert not written(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


def test_clusters_of_another_time_are_refused(run, tmp_path):
    with O2Writer(tmp_path / "later", DETECTOR, SubPixels()) as writer:
        writer._frames = 7  # it begins in another orbit
        writer.append(simulated(1))
    (tmp_path / "later" / NAMES[1]).replace(run / NAMES[1])
    with pytest.raises(SchemaError, match=r"o2clus_its\.root: time frame 0 begins in orbit 224, that of its"):
        data_of(run, cache=None)


def test_a_selection_that_leaves_nothing_says_so(one, tmp_path):
    runs = O2Runs(selection=Selection(pt=(99, None)))
    for cache in (None, str(tmp_path)):
        with pytest.raises(ConfigError, match=r"no track is left .120 tracks, 0 within the selection"):
            data_of(one, runs=runs, cache=cache)
    assert not written(tmp_path)
