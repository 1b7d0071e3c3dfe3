"""Events are split once and dealt out so that N ranks together see what one process sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import GUN, barrel, batch_of, simulated

from alignnet.data import cache_write
from alignnet.data.batch import Batch
from alignnet.data.cache import SUFFIX
from alignnet.data.datamodule import PARTS, AlignmentData, EventBatches, Events, split_rows
from alignnet.data.event_batches import POOL
from alignnet.data.root_write import write_simulation
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError

BARREL = barrel()
N_EVENTS = 40


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return simulated(BARREL, replace(GUN, n_tracks_per_event=3), N_EVENTS, hit_efficiency=1.0)


@pytest.fixture(scope="module")
def file(tracks, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "tracks.root"
    write_simulation(path, BARREL, tracks, None, {"generator": "gun", "seed": 0})
    return str(path)


@given(st.integers(1, 300), st.integers(0, 2**31), st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3))
def test_parts_are_disjoint_and_complete_and_of_the_sizes_asked_for(n, seed, sizes):
    split = np.array(sizes) / sum(sizes)
    rows = split_rows(n, split.tolist(), seed)
    assert sorted(np.concatenate([rows[name] for name in PARTS]).tolist()) == list(range(n))
    for name, fraction in zip(PARTS, split, strict=True):
        assert abs(len(rows[name]) - fraction * n) <= 1
        assert (np.diff(rows[name]) > 0).all()


def test_the_split_depends_on_the_seed_alone():
    one, again, other = (split_rows(500, (0.6, 0.2, 0.2), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in PARTS)
    assert not np.array_equal(one["train"], other["train"])


def joined(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def dealt(
    world: int, epoch: int = 0, partitioned: bool = False, n: int = 23, size: int = 6
) -> list[list[list[int]]]:
    """Lists of events of each rank, batch by batch."""
    samplers = [
        EventBatches(np.arange(100, 100 + n), size, True, 3, rank, world, partitioned)
        for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    lists = [list(sampler) for sampler in samplers]
    assert all(len(part) == len(sampler) for part, sampler in zip(lists, samplers, strict=True))
    return lists


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 5), st.integers(0, 3))
def test_joint_batches_of_n_ranks_are_those_of_one_process(n, size, world, epoch):
    (one,), many = dealt(1, epoch, n=n, size=size), dealt(world, epoch, n=n, size=size)
    assert len({len(part) for part in many}) == 1
    for k, batch in enumerate(one):
        shares = [part[k] for part in many]
        assert sorted(joined(shares)) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(joined(one)) == list(range(100, 100 + n))


@given(st.integers(5, 60), st.integers(1, 5))
def test_partitioned_ranks_keep_their_own_events_in_all_epochs(n, world):
    epochs = [dealt(world, epoch, True, n, 4) for epoch in range(3)]
    owned = [sorted(set(joined(joined(epoch[rank]) for epoch in epochs))) for rank in range(world)]
    assert len(set(joined(owned))) == len(joined(owned))
    for epoch in epochs:
        assert len({len(part) for part in epoch}) == 1  # as many steps on each rank
        assert all(len(joined(part)) == len(set(joined(part))) for part in epoch)
        assert min(len(joined(part)) for part in epoch) >= n // world
    if n % world == 0:
        assert len(joined(owned)) == n


def test_each_epoch_has_another_order_and_repeats_it_in_another_run():
    assert dealt(1, 0) != dealt(1, 1)
    assert dealt(1, 1) == dealt(1, 1)
    unshuffled = list(EventBatches(np.arange(7), 3, False, 0))
    assert unshuffled == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_of_events_has_all_their_tracks(tracks):
    events = Events(tracks, BARREL)
    assert len(events) == len(np.unique(tracks.event))
    batch = events.__getitems__([7, 2])
    wanted = np.isin(tracks.event, events.numbers[[7, 2]])
    assert sorted(batch.event_number.tolist()) == sorted(events.numbers[[7, 2]].tolist())
    assert batch.n_tracks == int(wanted.sum())
    assert sorted(batch.uv[batch.is_hit].flatten().tolist()) == sorted(
        tracks.select(wanted).uv.flatten().tolist()
    )
    assert events.__getitems__([]).n_tracks == 0


def test_events_may_have_any_numbers_in_any_order(tracks):
    order = np.random.default_rng(0).permutation(N_EVENTS)
    shuffled = replace(tracks, event=order[tracks.event] * 2**44 + 5)
    one, other = Events(tracks, BARREL), Events(shuffled, BARREL)
    assert torch.equal(one.__getitems__([3]).uv, other.__getitems__([3]).uv)
    assert np.array_equal(other.tracks_of(np.arange(len(other))), np.arange(len(tracks)))


def module(file: str, **options: object) -> AlignmentData:
    return AlignmentData([file], BARREL, **{"batch_size": 8, **options})


def hits_of(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.uv[batch.is_hit] for batch in batches]).sort(0).values


def test_loaders_of_the_parts_hold_every_track_once(file, tracks):
    data = module(file, split=(0.5, 0.25, 0.25))
    data.setup()
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]
    assert sum(batch.n_tracks for batch in batches) == len(tracks)
    assert torch.equal(hits_of(batches), hits_of([batch_of(tracks, BARREL)]))
    assert [len(np.unique(data.part(name).event)) for name in PARTS] == [20, 10, 10]
    assert all(batch.n_events <= 8 for batch in batches)


def test_a_part_holds_the_tracks_of_its_loader(file):
    data = module(file)
    for name in PARTS:
        loaded = list(data.loader(name))
        assert torch.equal(hits_of(loaded), hits_of([batch_of(data.part(name), BARREL)]))


def test_training_events_come_in_a_new_order_each_epoch_and_the_others_do_not(file):
    data = module(file)
    data.setup()
    numbers = {}
    for epoch in (0, 1):
        for name, loader in (("train", data.train_dataloader()), ("validation", data.val_dataloader())):
            loader.batch_sampler.set_epoch(epoch)
            numbers[name, epoch] = [batch.event_number.tolist() for batch in loader]
    assert numbers["train", 0] != numbers["train", 1]
    assert numbers["validation", 0] == numbers["validation", 1]


def test_tracks_may_be_limited_and_short_ones_left_out(file, tracks):
    limited = module(file, max_tracks=30)
    limited.setup()
    assert len(limited.tracks) == 30
    long = module(file, min_hits=5)
    assert np.array_equal(long.tracks.hits_per_track, tracks.hits_per_track[tracks.hits_per_track >= 5])


def test_a_part_without_events_is_one_batch_without_tracks(file):
    data = module(file, split=(1.0, 0.0, 0.0))
    data.setup()
    assert [batch.n_tracks for batch in data.val_dataloader()] == [0]
    assert len(data.rows["train"]) == N_EVENTS


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"files": []}, r"data\.files is empty.*data\.files="),
        ({"split": (0.5, 0.5)}, r"data\.split is \[0\.5, 0\.5\]; expected three fractions"),
        ({"split": (0.5, 0.4, 0.2)}, r"data\.split is .* add up to 1"),
        ({"split": (1.5, -0.5, 0.0)}, r"data\.split is"),
        ({"split": (0.0, 0.5, 0.5)}, r"the first > 0"),
        ({"cache": ""}, r"data\.cache is ''; expected auto, a folder, or null"),
        ({"batch_size": 0}, r"data\.batch_size is 0; expected .*at least 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        AlignmentData(**{"files": ["tracks.root"], "detector": BARREL, **option})


def test_no_event_to_train_on_is_an_error(file):
    with pytest.raises(ConfigError, match="no events to train on; 1 events"):
        module(file, max_tracks=1, split=(0.1, 0.9, 0.0)).setup()


def blockwise(world: int, epoch: int, sizes: list[int], size: int) -> list[list[list[int]]]:
    """Lists of every third event left out, of blocks of these sizes, for each rank."""
    edges = np.cumsum([0, *sizes])
    rows = np.setdiff1d(np.arange(edges[-1]), np.arange(0, edges[-1], 3))
    samplers = [EventBatches(rows, size, True, 3, rank, world, blocks=edges) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=40),
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_shuffled_by_blocks_joint_batches_are_the_same_for_any_number_of_ranks(sizes, size, world, epoch):
    (one,), many = blockwise(1, epoch, sizes, size), blockwise(world, epoch, sizes, size)
    for k, batch in enumerate(one):
        assert sorted(joined(part[k] for part in many)) == sorted(batch)
    n = sum(sizes)
    assert sorted(joined(one)) == sorted(set(range(n)) - set(range(0, n, 3)))


def test_a_batch_draws_from_few_blocks_at_a_time_and_from_all_of_them_in_an_epoch():
    sizes = [30] * 5 * POOL
    (one,), (other,) = (blockwise(1, epoch, sizes, 20) for epoch in (0, 1))
    order, blocks = joined(one), np.array(joined(one)) // 30
    pools = blocks.reshape(5, -1)
    assert all(len(np.unique(pool)) == POOL for pool in pools)
    assert len(np.unique(blocks)) == len(sizes)
    assert min(len(np.unique(np.array(batch) // 30)) for batch in one) > POOL // 2  # within, they are mixed
    assert {frozenset(pool) for pool in pools.tolist()} != {
        frozenset(pool) for pool in (np.array(joined(other)) // 30).reshape(5, -1).tolist()
    }
    assert order != sorted(order)
    assert one == blockwise(1, 0, sizes, 20)[0]


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of some nine tracks."""
    monkeypatch.setattr(cache_write, "BLOCK", 9)


def assert_alike(one: list[Batch], other: list[Batch], within: float = 0.51e-7) -> None:
    """Batches of the same tracks in the same order, positions rounded to 1 nm."""
    for a, b in zip(one, other, strict=True):
        for name in Batch._fields:
            x, y = getattr(a, name), getattr(b, name)
            close = torch.allclose(x, y, 6e-8, within if name == "uv" else 0.0, equal_nan=True)
            assert close if x.is_floating_point() else torch.equal(x, y), name


def test_batches_from_a_cache_of_few_blocks_are_those_from_memory(file, tmp_path):
    memory, from_cache = module(file), module(file, cache=str(tmp_path))
    for name, shuffle in (("train", True), ("validation", False), ("test", False)):
        assert_alike(list(from_cache.loader(name, shuffle)), list(memory.loader(name, shuffle)))


def test_events_are_split_alike_with_a_cache_of_many_blocks(file, tmp_path, small_blocks):
    memory, from_cache = module(file, batch_size=1), module(file, batch_size=1, cache=str(tmp_path))
    for name in PARTS:
        assert_alike(list(from_cache.loader(name)), list(memory.loader(name)))
    shuffled = [batch.event_number.item() for batch in from_cache.loader("train", shuffle=True)]
    numbers = [batch.event_number.item() for batch in memory.loader("train")]
    assert sorted(shuffled) == numbers != shuffled


@pytest.mark.parametrize("limit", [None, 1, 3, 4, 17, 10**6])
@pytest.mark.parametrize("part", ["all", "train", "test"])
def test_selected_tracks_are_the_same_with_a_cache(part, limit, file, tmp_path, small_blocks):
    memory, from_cache = module(file), module(file, cache=str(tmp_path))
    tables = (data.selected(part, limit) for data in (memory, from_cache))
    one, other = (table.of(np.arange(len(table))) for table in tables)
    assert np.array_equal(one.event, other.event)
    assert np.abs(one.uv - other.uv).max() < 0.51e-7
    if limit is not None and limit < 20:
        assert len(np.unique(one.event[:limit])) == len(np.unique(one.event))


@pytest.mark.parametrize("cache", [False, True])
def test_chunks_are_the_part_in_pieces(cache, file, tmp_path, small_blocks):
    data = module(file, cache=str(tmp_path) if cache else None)
    pieces, whole = list(data.chunks("train", n_events=7)), data.part("train")
    assert all(len(np.unique(piece.event)) <= 7 for piece in pieces)
    assert np.array_equal(concatenate(pieces).uv, whole.uv)
    assert data.part_size("train") == len(whole)


def test_limits_and_several_files_are_the_same_with_a_cache(file, tracks, tmp_path, small_blocks):
    other = tmp_path / "other.root"
    write_simulation(other, BARREL, tracks, None, {"generator": "gun", "seed": 0})
    for options in ({"max_tracks": 30}, {"max_tracks": len(tracks) + 7}, {"min_hits": 4}):
        one, two = (
            AlignmentData([file, str(other)], BARREL, cache=cache, **options)
            for cache in (None, str(tmp_path / "c"))
        )
        assert np.array_equal(one.tracks.event, two.tracks.event)
        assert np.array_equal(one.tracks.sensor, two.tracks.sensor)
        assert one.n_tracks == two.n_tracks
        assert all(np.array_equal(one.rows[name], two.rows[name]) for name in PARTS)


def test_a_cache_is_beside_the_file_where_there_are_many_tracks(file, monkeypatch):
    folder = Path(file + SUFFIX)
    module(file).setup()
    assert not folder.exists()
    monkeypatch.setattr("alignnet.data.datamodule.CACHED_FROM", 50)
    module(file, max_tracks=49).setup()
    assert not folder.exists()
    module(file).setup()
    assert folder.is_dir()


def test_more_than_memory_holds_is_refused_and_comes_in_chunks(file, tmp_path, monkeypatch):
    data = module(file, cache=str(tmp_path))
    monkeypatch.setattr("alignnet.data.datamodule.physical_memory", lambda: 200_000)
    with pytest.raises(ConfigError, match=r"tracks would take .*set evaluation\.max_tracks, or .*chunks"):
        data.part("all")
    assert 40 <= data.selected("all", 40).n_tracks < 43
    assert sum(map(len, data.chunks("all"))) == data.n_tracks
