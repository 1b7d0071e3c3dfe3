"""Tracks in memory and in the tree `tracks`: what is written is read, and what cannot be is named."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from alignnet.data.check import positive_definite
from alignnet.data.root import EVENT_STRIDE, iterate_tracks, read_tracks, write_simulation
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.telescope import telescope

DETECTOR = replace(telescope([0.0, 2.0, 4.0, 6.0], 1.0, 1.0), sensor_id=torch.tensor([70, 3, 100, 42]))
METADATA = {"generator": "test", "seed": 1}
COUNT = np.array([3, 4, 3, 4, 5])


def make_tracks(count=COUNT, seed=0, **columns) -> Tracks:
    """Tracks whose every hit has its own position, so that a hit in a wrong place is seen."""
    rng = np.random.default_rng(seed)
    n, offset = len(count), np.concatenate([[0], np.cumsum(count)])
    hits = int(offset[-1])
    truth = {
        "position": rng.normal(size=(n, 3)),
        "q": np.ones(n, np.int8),
        "hit_uv": rng.normal(size=(hits, 2)),
    }
    whole = {
        "event": np.arange(n) // 2,
        "offset": offset,
        "sensor": rng.integers(0, 4, hits),
        "uv": np.stack([np.arange(hits) * 0.01, -np.arange(hits) * 0.02], -1),
        "sigma": np.full((hits, 2), 2.0**-11),
        "vertex": rng.normal(size=(n, 3)),
        "vertex_cov": np.tile([2.0, 0.5, 1.0, 0.1, 0.2, 3.0], (n, 1)),
        "p": np.full(n, 1.5),
        "mass": np.full(n, 0.125),
        "kind": np.zeros(n, np.int8),
        "truth": truth,
    }
    return Tracks(**{**whole, **columns})


def raw(**changes):
    """Branches of a file as somebody else's script might fill them; None leaves one out."""
    tracks = make_tracks()
    lists = {
        "hit_sensor": DETECTOR.sensor_id.numpy()[tracks.sensor].astype(np.int32),
        "hit_u": tracks.uv[:, 0],
        "hit_v": tracks.uv[:, 1],
        "hit_sigma_u": tracks.sigma[:, 0],
        "hit_sigma_v": tracks.sigma[:, 1],
    }
    branches = {name: ak.unflatten(column, COUNT) for name, column in lists.items()}
    branches |= {"event": tracks.event, "vertex_cov": tracks.vertex_cov, "p": tracks.p, "mass": tracks.mass}
    return {name: c for name, c in {**branches, "kind": tracks.kind, **changes}.items() if c is not None}


def write_raw(path, branches, ntuple=False):
    with uproot.recreate(path) as file:
        if ntuple:
            file.mkrntuple("tracks", branches)
        else:
            types = {name: ak.Array(column).type.content for name, column in branches.items()}
            file.mktree("tracks", types).extend(branches)
    return path


def equal(a: Tracks, b: Tracks) -> bool:
    names = ("event", "offset", "sensor", "uv", "sigma", "vertex", "vertex_cov", "p", "mass", "kind")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return (
        same
        and a.truth.keys() == b.truth.keys()
        and all(np.array_equal(a.truth[k], b.truth[k]) for k in a.truth)
    )


def altered(values, row, value):
    column = np.array(values, dtype=float)
    column[row] = value
    return column


def altered_hit(row, value, like="hit_u"):
    return ak.unflatten(altered(ak.flatten(raw()[like]), row, value), COUNT)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_the_parts_of_a_table_joined_again_are_the_table(count, data):
    tracks = make_tracks(np.array(count))
    cut = data.draw(st.integers(0, len(count)))
    rows = np.arange(len(count))
    assert equal(concatenate([tracks.select(rows < cut), tracks.select(rows[cut:])]), tracks)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_hits_go_where_their_track_goes(count, data):
    tracks = make_tracks(np.array(count))
    rows = np.array(data.draw(st.permutations(range(len(count)))))
    chosen = tracks.select(rows)
    for new, old in enumerate(rows):
        here, there = slice(*chosen.offset[new : new + 2]), slice(*tracks.offset[old : old + 2])
        assert np.array_equal(chosen.uv[here], tracks.uv[there])
        assert np.array_equal(chosen.truth["hit_uv"][here], tracks.truth["hit_uv"][there])


def test_a_file_gives_back_the_tracks_it_was_given(tmp_path):
    tracks = make_tracks()
    write_simulation(tmp_path / "a.root", DETECTOR, tracks, torch.zeros(4, 6), METADATA)
    assert equal(read_tracks(tmp_path / "a.root", DETECTOR), tracks)


def test_optional_branches_may_be_absent(tmp_path):
    tracks = make_tracks(vertex=None, vertex_cov=None, p=None, mass=None, kind=None, truth={})
    write_simulation(tmp_path / "a.root", DETECTOR, tracks, None, METADATA)
    read = read_tracks(tmp_path / "a.root", DETECTOR)
    assert equal(read, tracks)
    assert read.vertex is None


def test_trees_and_ntuples_read_alike(tmp_path):
    tree = read_tracks(write_raw(tmp_path / "tree.root", raw()), DETECTOR)
    assert equal(read_tracks(write_raw(tmp_path / "ntuple.root", raw(), ntuple=True), DETECTOR), tree)
    assert tree.n_hits == COUNT.sum()


def test_single_precision_positions_are_read(tmp_path):
    path = write_raw(tmp_path / "a.root", raw(hit_u=ak.values_astype(raw()["hit_u"], np.float32)))
    assert read_tracks(path, DETECTOR).uv[:, 0] == pytest.approx(make_tracks().uv[:, 0], rel=1e-7)


EVENTS, NAN = make_tracks().event, float("nan")
HITS = ("hit_sensor", "hit_u", "hit_v", "hit_sigma_u", "hit_sigma_v")
FAULTS = {
    "NaN position": (raw(hit_u=altered_hit(4, NAN)), "hit_u, entry 1, hit 1: found nan, expected finite"),
    "infinite resolution": (
        raw(hit_sigma_v=altered_hit(0, np.inf)),
        "hit_sigma_v, entry 0, hit 0: found inf",
    ),
    "no resolution": (
        raw(hit_sigma_u=altered_hit(6, 0.0, "hit_sigma_u")),
        "hit_sigma_u, entry 1, hit 3: found 0.0, expected a resolution > 0",
    ),
    "unknown sensor": (
        raw(hit_sensor=ak.values_astype(altered_hit(3, 9, "hit_sensor"), "int32")),
        "hit_sensor, entry 1, hit 0: found 9, expected a sensor_id of detector telescope",
    ),
    "lists of other lengths": (
        raw(hit_v=ak.unflatten(np.zeros(19), COUNT[::-1])),
        "hit_v, entry 0: found 5 hits, expected 3, as many as hit_sensor has",
    ),
    "no hit": (
        raw(**{name: ak.unflatten(ak.flatten(raw()[name]), [3, 0, 7, 4, 5]) for name in HITS}),
        "hit_sensor, entry 1: found 0 hits, expected at least 3",
    ),
    "event in two places": (
        raw(event=np.array([5, 5, 6, 5, 7])),
        "event, entry 3: found 5, expected tracks of",
    ),
    "degenerate covariance": (
        raw(vertex_cov=np.tile([1.0, 1, 1, 0, 0, 1], (5, 1))),
        "vertex_cov, entry 0.*posi",
    ),
    "no momentum": (raw(p=altered(np.ones(5), 2, 0.0)), "p, entry 2: found 0.0, expected p > 0"),
    "NaN momentum": (raw(p=altered(np.ones(5), 2, NAN)), "p, entry 2: found nan, expected finite"),
    "negative mass": (raw(mass=altered(np.ones(5), 4, -0.1)), "mass, entry 4: found -0.1"),
    "unknown kind": (
        raw(kind=np.array([0, 1, 2, 3, 0], np.int8)),
        "kind, entry 3: found 3, expected 0 .coll",
    ),
    "real event numbers": (raw(event=EVENTS.astype(float)), "event: found type float64, expected integer"),
    "integer positions": (raw(hit_u=ak.unflatten(np.arange(19), COUNT)), "hit_u: found type var . int64"),
    "one position a track": (raw(hit_u=np.zeros(5)), "hit_u: found type float64, expected lists"),
    "lists of momenta": (raw(p=raw()["hit_u"]), "p: found type var . float64, expected float numbers"),
    "five covariances": (raw(vertex_cov=np.ones((5, 5))), "vertex_cov, entry 0: found 5, expected 6 numbers"),
    "missing branch": (raw(hit_sigma_u=None), "tree tracks has no branch hit_sigma_u, expected event"),
    "half of the truth": (raw(truth_hit_u=raw()["hit_u"]), "truth_hit_u alone"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_branch_and_entry(fault, tmp_path):
    branches, message = FAULTS[fault]
    with pytest.raises(SchemaError, match=message) as error:
        read_tracks(write_raw(tmp_path / "faulty.root", branches), DETECTOR)
    assert "faulty.root" in str(error.value)


def test_entries_are_counted_from_the_beginning_of_the_file(tmp_path):
    path = write_raw(tmp_path / "a.root", FAULTS["no momentum"][0])
    assert len(read_tracks(path, DETECTOR, 3, 5)) == 2
    with pytest.raises(SchemaError, match="branch p, entry 2"):
        read_tracks(path, DETECTOR, 1, 4)


def test_an_empty_tree_a_missing_tree_and_a_missing_file_are_told_apart(tmp_path):
    with uproot.recreate(tmp_path / "empty.root") as file:
        file.mktree("tracks", {"event": "int64"})
    with uproot.recreate(tmp_path / "other.root") as file:
        file["tracks"] = "a text"
        file["words"] = "a text"
    with pytest.raises(SchemaError, match=r"empty.root: tree tracks is empty"):
        read_tracks(tmp_path / "empty.root", DETECTOR)
    with pytest.raises(SchemaError, match=r"tracks is a TObjString, expected a TTree"):
        read_tracks(tmp_path / "other.root", DETECTOR)
    with pytest.raises(SchemaError, match="no such file"):
        read_tracks(tmp_path / "none.root", DETECTOR)
    with pytest.raises(SchemaError, match="a folder"):
        read_tracks(tmp_path, DETECTOR)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "whole.root"
    write_simulation(path, DETECTOR, make_tracks(), None, METADATA)
    content = path.read_bytes()
    for size in [0, 3, 50, 120, 300, *range(500, len(content), 499)]:
        cut = tmp_path / "cut.root"
        cut.write_bytes(content[:size])
        with pytest.raises(
            SchemaError, match=r"cut.root: cannot be read as a ROOT file.*copy or produce it again"
        ):
            read_tracks(cut, DETECTOR)


@settings(max_examples=50)
@given(st.data())
def test_changed_bytes_give_a_schema_error_or_tracks_but_nothing_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed.root"
    write_raw(path, raw())
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(SchemaError):
        assert len(read_tracks(path, DETECTOR)) > 0


def test_events_of_joined_files_stay_apart_and_can_be_told_again(tmp_path):
    for name in ("a", "b"):
        write_simulation(tmp_path / f"{name}.root", DETECTOR, make_tracks(seed=ord(name)), None, METADATA)
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    joined, first = read_tracks(files, DETECTOR), read_tracks(files[0], DETECTOR)
    assert equal(joined.select(np.arange(5)), first)
    assert np.divmod(joined.event, EVENT_STRIDE)[0].tolist() == [0] * 5 + [1] * 5
    assert np.array_equal(joined.event % EVENT_STRIDE, np.tile(first.event, 2))
    assert equal(read_tracks(files, DETECTOR, 3, 8), joined.select(np.arange(3, 8)))


def test_event_numbers_too_large_to_join_are_refused(tmp_path):
    large = write_raw(tmp_path / "a.root", raw(event=EVENTS + EVENT_STRIDE))
    assert read_tracks(large, DETECTOR).event[0] == EVENT_STRIDE
    with pytest.raises(SchemaError, match="several files are joined; renumber"):
        read_tracks([large, large], DETECTOR)


def test_a_range_without_tracks_is_refused(tmp_path):
    path = write_raw(tmp_path / "a.root", raw())
    with pytest.raises(ConfigError, match=r"tracks 5:9 of .*there are 5"):
        read_tracks(path, DETECTOR, 5, 9)
    with pytest.raises(ConfigError, match="none of 5 tracks has 6 hits"):
        read_tracks(path, DETECTOR, min_hits=6)


def test_tracks_with_fewer_hits_than_wanted_are_left_out_and_counted(tmp_path, caplog):
    path = write_raw(tmp_path / "a.root", raw())
    with caplog.at_level(logging.INFO, "alignnet.data"):
        assert np.array_equal(read_tracks(path, DETECTOR, min_hits=4).hits_per_track, [4, 4, 5])
        assert sum(len(chunk) for chunk in iterate_tracks(path, DETECTOR, 2, min_hits=4)) == 3
        assert len(read_tracks(path, DETECTOR)) == 5
    said = f"{path}: left out 2 of 5 tracks, with fewer than 4 hits"
    assert [record.getMessage() for record in caplog.records] == [said] * 2


def short_file(path):
    """Tracks of 3, 2, 5, 0 and 9 hits."""
    lists = {name: ak.unflatten(ak.flatten(raw()[name]), [3, 2, 5, 0, 9]) for name in HITS}
    return write_raw(path, raw(**lists))


@pytest.mark.parametrize("min_hits", [1, 3, 4])
def test_a_track_with_two_hits_is_refused_and_the_message_says_what_to_do(tmp_path, min_hits):
    path = short_file(tmp_path / "a.root")
    message = (
        r"a.root: tree tracks, branch hit_sensor, entry 1: found 2 hits, "
        r"expected at least 3.*data.short_tracks=drop"
    )
    with pytest.raises(SchemaError, match=message):
        read_tracks(path, DETECTOR, min_hits=min_hits)
    with pytest.raises(SchemaError, match=message):
        list(iterate_tracks(path, DETECTOR, 2, min_hits=min_hits))
    with pytest.raises(SchemaError, match="entry 3: found 0 hits"):
        read_tracks(path, DETECTOR, 2, 5)


def test_tracks_with_fewer_than_three_hits_may_be_dropped(tmp_path, caplog):
    path = short_file(tmp_path / "a.root")
    with caplog.at_level(logging.INFO, "alignnet.data"):
        dropped = read_tracks(path, DETECTOR, short_tracks="drop")
    assert caplog.messages == [f"{path}: left out 2 of 5 tracks, with fewer than 3 hits"]
    assert dropped.hits_per_track.tolist() == [3, 5, 9]
    assert np.array_equal(dropped.event, EVENTS[[0, 2, 4]])
    assert equal(concatenate(list(iterate_tracks(path, DETECTOR, 2, short_tracks="drop"))), dropped)
    # min_hits cannot call them back
    assert equal(read_tracks(path, DETECTOR, min_hits=1, short_tracks="drop"), dropped)
    with pytest.raises(ConfigError, match="none of 1 tracks has 3 hits"):
        read_tracks(path, DETECTOR, 3, 4, short_tracks="drop")


def test_a_fault_of_a_dropped_track_is_still_a_fault(tmp_path):
    lists = {name: ak.unflatten(ak.flatten(raw()[name]), [3, 2, 5, 0, 9]) for name in HITS}
    lists["hit_u"] = ak.unflatten(altered(ak.flatten(raw()["hit_u"]), 11, NAN), [3, 2, 5, 0, 9])
    path = write_raw(tmp_path / "a.root", raw(**lists))
    with pytest.raises(SchemaError, match="hit_u, entry 4, hit 1: found nan"):
        read_tracks(path, DETECTOR, short_tracks="drop")


def test_short_tracks_are_an_error_or_dropped_and_nothing_else(tmp_path):
    path = write_raw(tmp_path / "a.root", raw())
    for read in (read_tracks, lambda *a, **k: list(iterate_tracks(*a, **k))):
        with pytest.raises(ConfigError, match=r"data.short_tracks is 'keep', expected error or drop"):
            read(path, DETECTOR, short_tracks="keep")


@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 100])
def test_chunks_hold_whole_events_and_together_the_file(step, tmp_path):
    rng = np.random.default_rng(step)
    event = np.repeat(np.arange(9), rng.integers(1, 6, 9))
    tracks = make_tracks(rng.integers(3, 6, len(event)), event=event)
    write_simulation(tmp_path / "a.root", DETECTOR, tracks, None, METADATA)
    chunks = list(iterate_tracks(tmp_path / "a.root", DETECTOR, step))
    assert equal(concatenate(chunks), tracks)
    assert sum(len(np.unique(chunk.event)) for chunk in chunks) == 9


def test_a_beam_spot_of_a_micrometre_is_positive_definite_and_a_line_is_not():
    spot = np.array([[1e-8, 0, 1e-8, 0, 0, 100.0], [1e-8, 1e-8, 1e-8, 0, 0, 100.0], [1.0, 0, 1, 0, 0, 0]])
    assert positive_definite(spot).tolist() == [True, False, False]


@given(st.lists(st.floats(-1, 1), min_size=9, max_size=9))
def test_positive_definite_agrees_with_eigenvalues(entries):
    root = np.array(entries).reshape(3, 3)
    covariance = root @ root.T - 0.2 * np.eye(3)
    lowest = np.linalg.eigvalsh(covariance)[0]
    if abs(lowest) > 1e-9:
        six = covariance[[0, 0, 1, 0, 1, 2], [0, 1, 1, 2, 2, 2]]
        assert positive_definite(six[None])[0] == (lowest > 0)


def test_files_of_other_programs_are_read(shared_data):
    from alignnet.data.root import read_detector

    path = shared_data / "fei4_telescope.root"
    tracks = read_tracks(path, read_detector(path))
    assert (len(tracks), (tracks.hits_per_track == 4).sum()) == (7118, 6286)
    assert (tracks.kind == 2).all()
    path = shared_data / "acts_its2.root"
    tracks = read_tracks(path, read_detector(path), 0, 1000, short_tracks="drop")
    true = tracks.uv - tracks.truth["hit_uv"]
    assert (true / tracks.sigma).std() == pytest.approx(1, abs=0.03)
