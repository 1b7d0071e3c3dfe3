"""A cache gives back what was read, is written once, and is not believed when anything is wrong with it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from cached_tracks import BARREL, assert_same, counted, everything, folders, source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_detectors import GUN, barrel, planes, simulated

from alignnet.data import cache_write
from alignnet.data.cache import cache_folder, cached
from alignnet.data.cache_layout import stamp
from alignnet.data.cache_read import CachedTracks
from alignnet.data.event_table import CachedEvents, Events
from alignnet.data.root_tracks import read_tracks
from alignnet.data.root_write import write_simulation
from alignnet.data.track_source import root_source
from alignnet.data.tracks import Tracks
from alignnet.errors import SchemaError


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return simulated(BARREL, replace(GUN, n_tracks_per_event=3), 40, hit_efficiency=1.0)


@pytest.fixture
def file(tracks, tmp_path) -> Path:
    write_simulation(tmp_path / "tracks.root", BARREL, tracks, None, {"generator": "gun", "seed": 0})
    return tmp_path / "tracks.root"


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of some ten tracks."""
    monkeypatch.setattr(cache_write, "BLOCK", 10)


numbers = st.floats(1e-6, 1e6)
places = st.floats(-200.0, 200.0)


@st.composite
def tables(draw: st.DrawFn) -> Tracks:
    """Tracks with hits anywhere and any of the optional columns."""
    tracks_per_event = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    event_numbers = draw(
        st.lists(st.integers(-(2**62), 2**62), min_size=8, max_size=8, unique=True)
    )  # in any order
    n = sum(tracks_per_event)
    count = draw(arrays(np.int64, n, elements=st.integers(3, 6)))
    n_hits = int(count.sum())
    optional = {
        "vertex": arrays(np.float64, (n, 3), elements=places),
        "vertex_cov": arrays(np.float64, (n, 6), elements=numbers),
        "p": arrays(np.float64, n, elements=numbers),
        "mass": arrays(np.float64, n, elements=numbers),
        "kind": arrays(np.int8, n, elements=st.integers(0, 2)),
    }
    known = [name for name in ("position", "vertex", "momentum") if draw(st.booleans())]
    return Tracks(
        event=np.repeat(event_numbers[: len(tracks_per_event)], tracks_per_event),
        offset=np.concatenate([[0], np.cumsum(count)]),
        sensor=draw(arrays(np.int64, n_hits, elements=st.integers(0, len(BARREL) - 1))),
        uv=draw(arrays(np.float64, (n_hits, 2), elements=places)),
        sigma=draw(arrays(np.float64, (n_hits, 2), elements=numbers)),
        truth={name: draw(arrays(np.float64, (n, 3), elements=places)) for name in known},
        **{name: draw(column) for name, column in optional.items() if draw(st.booleans())},
    )


@settings(max_examples=30)
@given(tables(), st.integers(1, 12), st.integers(1, 3), st.data())
def test_events_come_back_in_any_order_as_they_are_in_memory(table, block, window, data):
    before, cache_write.BLOCK = cache_write.BLOCK, block
    with TemporaryDirectory() as folder:
        try:
            Path(folder, "a").write_text("tracks")
            found = cached(source_of(Path(folder, "a"), table), BARREL)
        finally:
            cache_write.BLOCK = before
        found.window = window
        events = Events(table, BARREL)
        assert len(found) == len(events)
        for _ in range(3):
            rows = np.array(data.draw(st.permutations(range(len(events)))), dtype=np.int64)
            rows = rows[: data.draw(st.integers(0, len(rows)))]
            assert_same(found.tracks(rows), events.of(rows))
            assert np.array_equal(found.counts(rows), events.counts(rows))
        whole = everything(found)
        Path(folder, "b").write_text("tracks")
        again = everything(cached(source_of(Path(folder, "b"), whole), BARREL))
        assert_same(again, whole, exact=True)  # what is rounded once stays


def test_a_hit_takes_18_bytes_and_the_whole_less_than_24(tracks, file):
    found = cached(root_source(file, BARREL), BARREL)
    size = {path.stem: path.stat().st_size - 128 for path in found.folder.glob("*.npy")}
    hits = tracks.n_hits
    assert sum(size[name] for name in ("sensor", "uv", "sigma")) == 18 * hits
    events = replace(GUN, n_tracks_per_event=8)
    many = simulated(barrel((2.3, 3.2, 3.9, 19.6, 24.5, 34.4, 39.3)), events, 50, hit_efficiency=1.0)
    whole = cached(source_of(file, many), barrel((2.3, 3.2, 3.9, 19.6, 24.5, 34.4, 39.3)))
    assert sum(p.stat().st_size - 128 for p in whole.folder.glob("*.npy")) < 24 * many.n_hits


def test_sensors_of_metres_keep_their_positions_in_full(tracks, file):
    wide = replace(BARREL, half=torch.full_like(BARREL.half, 150.0))
    assert np.array_equal(everything(cached(source_of(file, tracks), wide)).uv, tracks.uv)
    off = replace(tracks, uv=np.full_like(tracks.uv, 300.0))
    with pytest.raises(SchemaError, match=r"uv is 300, for which a cache has no room.*data\.cache=null"):
        cached(source_of(file, off), BARREL)


def test_several_files_are_joined_as_in_memory(tracks, file, tmp_path, small_blocks):
    other = tmp_path / "other.root"
    late = tracks.select(tracks.event % 3 == 1)
    write_simulation(other, BARREL, replace(late, mass=None), None, {"generator": "gun", "seed": 0})
    joined = read_tracks([file, other], BARREL)
    found = CachedEvents([cached(root_source(path, BARREL), BARREL) for path in (file, other)], BARREL)
    events = Events(joined, BARREL)
    assert found.n_tracks == len(joined)
    assert len(found) == len(events)
    for rows in (
        np.arange(len(events)),
        np.random.default_rng(1).permutation(len(events))[:33],
        np.arange(3),
    ):
        assert_same(found.of(rows), events.of(rows))
        assert np.array_equal(found.counts(rows), events.counts(rows))
    assert found.of(np.zeros(0, dtype=np.int64)).n_hits == 0
    each = [(len(np.unique(t.event)), len(t), t.n_hits) for t in (tracks, late)]
    assert found.sizes(3) == events.sizes(3) == [*each, (0, 0, 0)]


def test_an_event_in_two_places_is_an_error(tracks, file):
    with pytest.raises(SchemaError, match=r"event 0 twice.*sort the tracks by event"):
        cached(source_of(file, tracks, tracks.select(tracks.event == 0)), BARREL)
    assert not list(cache_folder(source_of(file)).glob("*.partial"))


def test_a_cache_is_written_once_until_anything_that_it_depends_on_changes(file):
    source, reads = counted(root_source(file, BARREL))
    first = cached(source, BARREL)
    cached(source, BARREL)
    assert len(reads) == 1
    turned = replace(BARREL, translation=BARREL.translation + 1e-3)
    cached(source, turned)
    cached(source._replace(selection={**source.selection, "min_hits": 4}), BARREL)
    assert len(reads) == 3
    assert len(folders(file)) == 3
    os.utime(file, ns=(1, 1))
    second = cached(source, turned)
    assert len(reads) == 4
    assert set(folders(file)) == {first.folder, second.folder}  # the others were of the file as it was
    assert_same(everything(first), everything(second))


def test_a_cache_that_is_being_used_is_left_alone(file):
    source = root_source(file, BARREL)
    used = cached(source, BARREL)
    os.utime(file, ns=(1, 1))
    cached(source, BARREL)
    assert used.folder.is_dir()
    before = everything(used)
    folder = used.folder
    del used
    os.utime(file, ns=(2, 2))
    now = cached(source, BARREL)
    assert not folder.exists()
    assert_same(everything(now), before, exact=True)


def test_the_hash_sees_a_change_of_content_that_size_and_time_do_not_show(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(200_000))
    os.utime(path, ns=(5, 5))
    before = stamp(path)
    path.write_bytes(bytes(150_000) + b"x" + bytes(49_999))
    os.utime(path, ns=(5, 5))
    after = stamp(path)
    assert after.pop("sampled_hash") != before.pop("sampled_hash")
    assert after == before


def test_of_two_that_start_together_one_writes_and_the_other_waits(file, caplog):
    source, reads = counted(root_source(file, BARREL))
    begun, go = threading.Event(), threading.Event()

    def slow() -> Iterator[Tracks]:
        begun.set()
        assert go.wait(20)
        return source.chunks()

    found: list[CachedTracks] = []
    one = threading.Thread(target=lambda: found.append(cached(source._replace(chunks=slow), BARREL)))
    two = threading.Thread(target=lambda: found.append(cached(source, BARREL)))
    with caplog.at_level(logging.INFO, "alignnet.data"):
        one.start()
        assert begun.wait(20)
        two.start()
        while "another process is writing the cache" not in caplog.text:
            assert two.is_alive()
            time.sleep(0.01)
        go.set()
        one.join()
        two.join()
    assert len(found) == 2
    assert len(reads) == 1
    assert_same(everything(found[0]), everything(found[1]), exact=True)


def test_caches_of_files_of_one_name_are_apart(tracks, tmp_path):
    parts = [tracks.select(tracks.event < 10), tracks.select(tracks.event >= 10)]
    for k, part in enumerate(parts):
        write_simulation(tmp_path / str(k) / "a.root", BARREL, part, None, {"generator": "gun", "seed": 0})
    found = [
        cached(root_source(tmp_path / str(k) / "a.root", BARREL), BARREL, tmp_path / "c") for k in (0, 1)
    ]
    for part, cache in zip(parts, found, strict=True):
        assert_same(everything(cache), part)
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_copied_cache_of_another_detector_is_not_taken(file):
    source, reads = counted(root_source(file, BARREL))
    one = cached(source, BARREL)
    turned = replace(BARREL, translation=BARREL.translation + 1e-3)
    place = cached(source, turned).folder
    shutil.rmtree(place)
    shutil.copytree(one.folder, place)
    cached(source, turned)
    assert len(reads) == 3


def test_a_telescope_without_optional_columns(tmp_path):
    flat = planes()
    bare = Tracks(
        event=np.array([3, 3, 1]),
        offset=np.array([0, 3, 6, 9]),
        sensor=np.tile([0, 1, 2], 3),
        uv=np.linspace(-2, 2, 18).reshape(9, 2),
        sigma=np.full((9, 2), 5e-4),
    )
    (tmp_path / "a").write_text("tracks")
    assert_same(everything(cached(source_of(tmp_path / "a", bare), flat)), bare)
