"""Events are split once and dealt out so that N ranks together see what one process sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import GUN, barrel, batch_of, simulated

from alignnet.data.batch import Batch
from alignnet.data.datamodule import PARTS, AlignmentData, EventBatches, Events, split_rows
from alignnet.data.root_write import write_simulation
from alignnet.data.tracks import Tracks
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
        ({"batch_size": 0}, r"data\.batch_size is 0; expected .*at least 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        AlignmentData(**{"files": ["tracks.root"], "detector": BARREL, **option})


def test_no_event_to_train_on_is_an_error(file):
    with pytest.raises(ConfigError, match="no events to train on; 1 events"):
        module(file, max_tracks=1, split=(0.1, 0.9, 0.0)).setup()
