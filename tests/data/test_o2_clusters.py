"""Compact clusters and patterns of O2: packed and found again, and at the places that O2's own steps give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alignnet.data.o2_branches import Frames
from alignnet.data.o2_clusters import (
    CompactClusters,
    local_points,
    pack,
    pattern_bytes,
    read_patterns,
    unpack,
)
from alignnet.data.o2_dictionary import ENTRY, NO_ENTRY, TopologyDictionary
from alignnet.data.o2_pixels import Boxes, SubPixels
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.its2 import CENTRE_U, COLUMN_PITCH, HALF_U, HALF_V, ROW_PITCH, pixel_to_local

SETTINGS = settings(max_examples=60)
WORDS = arrays(np.uint32, st.integers(0, 40), elements=st.integers(0, 2**31 - 1))


def dictionary(groups=(2, 4)):
    """Six entries, two of them groups, all different."""
    entries = np.zeros(6, dtype=ENTRY)
    k = np.arange(6)
    entries["x_cog"], entries["z_cog"] = -k * 3e-4, k * 5e-4
    entries["err2_x"], entries["err2_z"] = 1e-7 * (k + 1), 2e-7 * (k + 1)
    entries["is_group"] = np.isin(k, groups)
    entries["bitmap"][:, :3] = 1, 1, 128
    return TopologyDictionary(entries)


@st.composite
def boxes(draw):
    """A pattern: any box up to 128 × 128, any pixels but none."""
    rows = draw(st.one_of(st.integers(1, 9), st.just(128)))
    columns = draw(st.one_of(st.integers(1, 9), st.just(128)))
    seed = draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).random((rows, columns)) < draw(st.sampled_from([0.05, 0.5, 1.0]))
    pixels[draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))] = True
    return pixels


def frames_of(clusters, patterns, chip=0):
    """Time frames of clusters (lists of CompactClusters rows) and of boxes."""
    data = [pack(CompactClusters(*np.array(rows, dtype=int).reshape(-1, 4).T)) for rows in clusters]
    streams = [pattern_bytes(each) for each in patterns]
    counts = {"ITSClusterComp": [len(d) for d in data], "ITSClusterPatt": [len(s) for s in streams]}
    joined = np.concatenate(data)
    columns = {
        "ITSClusterComp.mData": joined,
        "ITSClusterComp.mChipID": np.full(len(joined), chip, dtype=np.uint16),
        "ITSClusterPatt": np.concatenate(streams),
    }
    return Frames({name: np.array(count) for name, count in counts.items()}, columns, first=7)


def o2_place(row, column, pattern_id, pixels, entries):
    """A cluster's place by O2's own steps, one cluster at a time in float32."""
    f = np.float32
    if pattern_id != NO_ENTRY and not entries.entries["is_group"][pattern_id]:
        entry = entries.entries[pattern_id]
        x, z = f(0.744912 - 26.88e-4 * row), f(-1.495626 + 29.24e-4 * column)  # SegmentationAlpide.h
        return float(x + entry["x_cog"]), float(z + entry["z_cog"])
    i, j = np.nonzero(pixels)
    mean = f(i.sum()) / f(len(i)), f(j.sum()) / f(len(j))
    if pattern_id != NO_ENTRY:
        row, column = (n - int(np.floor(m + f(0.5))) for n, m in zip((row, column), mean, strict=True))
    row, column = float(f(row) + mean[0]), float(f(column) + mean[1])
    return 0.744912 - 26.88e-4 * row, -1.495626 + 29.24e-4 * column


@SETTINGS
@given(WORDS)
def test_a_compact_cluster_is_its_31_bits(words):
    fields = unpack(words)
    assert np.array_equal(pack(fields), words)
    for value, bits in zip(fields, (9, 10, 11, 1), strict=True):
        assert ((value >= 0) & (value < 1 << bits)).all()


def test_bits_are_where_o2_has_them():
    one = unpack(np.array([5 | 1000 << 9 | 1234 << 19 | 1 << 30], dtype=np.uint32))
    assert [int(field[0]) for field in one] == [5, 1000, 1234, 1]


@SETTINGS
@given(st.lists(st.lists(boxes(), max_size=4), min_size=1, max_size=4))
def test_patterns_of_any_box_are_found_one_after_the_other(per_frame):
    clusters = [[(0, 0, NO_ENTRY, 0)] * len(each) for each in per_frame]
    frames = frames_of(clusters, per_frame)
    found = read_patterns(frames, np.ones(len(frames["ITSClusterComp.mData"]), dtype=bool), "x")
    flat = [box for each in per_frame for box in each]
    assert list(zip(found.rows, found.columns, strict=True)) == [box.shape for box in flat]
    assert found.n_pixels.tolist() == [box.sum() for box in flat]
    for k, box in enumerate(flat):
        i, j = np.nonzero(box)
        assert (found.row_mean[k], found.column_mean[k]) == (i.sum() / len(i), j.sum() / len(j))


@st.composite
def clusters(draw):
    """Clusters of ordinary entries, groups and none, with their boxes inside the chip."""
    rows, patterns = [], []
    for _ in range(draw(st.integers(1, 6))):
        pattern_id = draw(st.sampled_from([0, 1, 2, 3, 4, 5, NO_ENTRY]))
        row, column = draw(st.integers(200, 300)), draw(st.integers(400, 800))
        box = None
        if pattern_id in (2, 4, NO_ENTRY):
            box = draw(boxes())
            patterns.append(box)
        rows.append((row, column, pattern_id, box))
    return rows, patterns


@SETTINGS
@given(st.lists(clusters(), min_size=1, max_size=3))
def test_clusters_are_where_o2_puts_them(per_frame):
    entries = dictionary()
    frames = frames_of(
        [[(r, c, i, 0) for r, c, i, _ in rows] for rows, _ in per_frame], [p for _, p in per_frame]
    )
    flat = [row for rows, _ in per_frame for row in rows]
    expected = np.array([o2_place(*row, entries) for row in flat])
    points = local_points(frames, entries, np.arange(len(flat)), "x")
    assert np.abs(points.uv - expected).max() < 3e-7  # cm; O2 calculates in float32
    half = ROW_PITCH / 2, COLUMN_PITCH / 2
    err2 = [half if i == NO_ENTRY else np.sqrt([1e-7 * (i + 1), 2e-7 * (i + 1)]) for _, _, i, _ in flat]
    assert points.sigma == pytest.approx(np.array(err2), rel=1e-6)
    few = np.arange(len(flat))[::-2]
    assert np.array_equal(local_points(frames, entries, few, "x").uv, points.uv[few])


def test_a_group_gives_the_pixel_of_its_centre_and_an_explicit_one_its_corner():
    box = np.array([[1, 1, 1], [0, 0, 1]], dtype=bool)  # centre: row 1/4, column 5/4
    corner = frames_of([[(100, 200, NO_ENTRY, 0)]], [[box]])
    centre = frames_of([[(100, 201, 2, 0)]], [[box]])
    places = [local_points(each, dictionary(), np.arange(1), "x").uv[0] for each in (corner, centre)]
    assert np.array_equal(*places)
    assert places[0].tolist() == pytest.approx([float(x) for x in pixel_to_local(100.25, 201.25)], abs=1e-12)


BOX = np.ones((2, 5), dtype=bool)
FAULTS = {
    "cut in a pattern": (lambda f: f["ITSClusterPatt"][:-1], "ends within pattern 1 of 2"),
    "cut in a size": (lambda f: f["ITSClusterPatt"][:5], "ends within pattern 1 of 2"),
    "nothing": (lambda f: f["ITSClusterPatt"][:0], "ends within pattern 0 of 2"),
    "too much": (lambda f: np.append(f["ITSClusterPatt"], np.uint8(1)), "goes on after the 2 patterns"),
    "no rows": (lambda f: np.where(np.arange(8) == 0, 0, f["ITSClusterPatt"]), "pattern 0 of 2 has no rows"),
    "too wide": (lambda f: np.where(np.arange(8) == 5, 129, f["ITSClusterPatt"]), "pattern 1 of 2 has no ro"),
    "no pixel": (lambda f: np.where(np.arange(8) > 5, 0, f["ITSClusterPatt"]), "pattern 1 of 2 has no pixel"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_stream_is_named_by_time_frame_and_pattern(fault):
    change, message = FAULTS[fault]
    frames = frames_of([[], [(9, 9, NO_ENTRY, 0), (9, 9, 1, 0), (9, 9, 2, 0)]], [[], [BOX, BOX]])
    stream = change(frames).astype(np.uint8)
    frames.columns["ITSClusterPatt"], frames.counts["ITSClusterPatt"][1] = stream, len(stream)
    with pytest.raises(SchemaError, match=f"clus.root: time frame 8: .*{message}"):
        local_points(frames, dictionary(), np.arange(3), "clus.root")


@pytest.mark.parametrize(
    ("row", "chip", "entries", "message"),
    [
        ((9, 9, 6, 0), 0, dictionary(), "cluster 1: found pattern ID 6, expected less than 6"),
        (
            (9, 9, 0, 0),
            0,
            TopologyDictionary.empty(),
            "ID 0, which needs a dictionary.*give o2.dictionary=FI",
        ),
        ((9, 9, 0, 0), 24120, dictionary(), "cluster 0: found chip 24120, expected 0 to 24119"),
        ((511, 9, 5, 0), 0, dictionary(), "cluster 1: found a centre outside the 512 × 1024 pixels"),
    ],
)
def test_what_is_no_cluster_of_the_detector_is_refused(row, chip, entries, message):
    frames = frames_of([[(9, 9, NO_ENTRY, 0), row]], [[BOX]], chip)
    with pytest.raises(SchemaError, match=f"clus.root: time frame 7, {message}|pattern {message}"):
        local_points(frames, entries, np.arange(2), "clus.root")


def test_an_entry_without_an_error_is_refused_where_it_is_used():
    entries = dictionary()
    entries.entries["err2_z"][3] = 0
    frames = frames_of([[(9, 9, 1, 0), (9, 9, 3, 0)]], [[]])
    local_points(frames, entries, np.arange(1), "x")
    with pytest.raises(SchemaError, match="cluster 1: found pattern ID 3, which has no error in dictionary"):
        local_points(frames, entries, np.arange(2), "x")


def pixelated(uv, pixels):
    made = pixels(uv, np.full(uv.shape, 5e-4))
    stream = made.record[np.arange(made.record.shape[1]) < made.length[:, None]]
    columns = {"ITSClusterComp.mData": made.data, "ITSClusterPatt": stream}
    columns["ITSClusterComp.mChipID"] = np.zeros(len(uv), dtype=np.uint16)
    counts = {"ITSClusterComp": np.array([len(uv)]), "ITSClusterPatt": np.array([len(stream)])}
    entries = pixels.dictionary or TopologyDictionary.empty()
    return local_points(Frames(counts, columns), entries, np.arange(len(uv)), "x")


@pytest.mark.parametrize(
    ("pixels", "most", "rms"),
    [(SubPixels(), (3.0e-5, 3.3e-5), (1.73e-5, 1.88e-5)), (Boxes(), None, (6.2e-5, 6.7e-5))],
)
def test_a_cluster_keeps_a_point_as_well_as_its_file_says(pixels, most, rms):
    rng = np.random.default_rng(3)
    inside = np.array([HALF_U - 2 * ROW_PITCH, HALF_V - 2 * COLUMN_PITCH])
    uv = (2 * rng.random((20_000, 2)) - 1) * inside + [CENTRE_U, 0]
    lost = pixelated(uv, pixels).uv - uv
    assert np.sqrt(np.square(lost).mean(0)) == pytest.approx(rms, rel=0.03)
    if most is not None:
        assert (np.abs(lost).max(0) < most).all()


@pytest.mark.parametrize("pixels", [SubPixels(), Boxes()])
def test_a_point_outside_the_matrix_is_brought_to_its_edge(pixels):
    out = np.array([HALF_U + 20e-4, HALF_V + 20e-4])
    uv = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * out + [CENTRE_U, 0]
    distance = np.abs(pixelated(uv, pixels).uv - uv)
    assert (distance <= 20e-4 + np.array([ROW_PITCH, COLUMN_PITCH]) * 0.51).all()
    assert (distance >= 20e-4).all()


def test_hits_of_different_resolutions_need_patterns():
    sigma = np.array([[5e-4, 5e-4], [5e-4, 6e-4]])
    with pytest.raises(ConfigError, match=r"different resolutions.*o2\.patterns=true"):
        SubPixels()(np.zeros((2, 2)), sigma)
    assert len(Boxes()(np.zeros((2, 2)), sigma).data) == 2
