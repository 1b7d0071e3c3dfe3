"""Each track of O2 with its own vertex: candidates, distances, times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from o2_run_files import DETECTOR, changed, read, source_of, two_time_frames, with_vertices

from alignnet.data.o2 import SEEDING
from alignnet.data.o2_branches import Frames
from alignnet.data.o2_selection import Selection
from alignnet.data.o2_tracks import readout_of, states_of
from alignnet.data.o2_vertices import nearest_vertex, seeding_vertices
from alignnet.errors import ConfigError, SchemaError
from alignnet.physics import helix as hx


@pytest.fixture(scope="module")
def frames():
    """Two time frames of tracks, clusters and vertices, with a dictionary."""
    return two_time_frames()


def one_readout(frames):
    """All events of a time frame in its first readout frame."""
    columns, counts = dict(frames.columns), dict(frames.counts)
    pairs = {"ITSTracksROF": "ITSTrack", "VerticesROF": "Vertices", "ITSClustersROF": "ITSClusterComp"}
    for record, of in pairs.items():
        if record not in counts:
            continue
        rows = frames.offset(record)[:-1]
        for name in [name for name in columns if name.startswith(f"{record}.")]:
            columns[name] = columns[name][rows]
        columns[f"{record}.mROFEntry.mEntries"] = frames.counts[of].astype(np.int32)
        counts[record] = np.ones(len(rows), dtype=np.int64)
    return Frames(counts, columns, frames.first)


def interval(bc):
    """Branches that give a vertex the one bunch crossing `bc`, counted from orbit 0."""
    columns = {}
    for end in ("Min", "Max"):
        columns[f"PrimaryVertex.mIR{end}.bc"] = (bc % 3564).astype(np.uint16)
        columns[f"PrimaryVertex.mIR{end}.orbit"] = (bc // 3564).astype(np.uint32)
    return columns


@pytest.mark.parametrize("vertices", [SEEDING, "primary"])
def test_a_track_finds_its_vertex_among_all_of_a_readout_frame(vertices, frames, tmp_path):
    (parts, dictionary), alone = frames, tmp_path / "alone"
    true = read(source_of(alone, parts, dictionary))
    parts = [one_readout(part) for part in parts]
    start = parts[0]["ITSTracksROF.mBCData.orbit"].astype(np.int64) * 3564
    parts[2] = changed(parts[2], interval(start[parts[2].frame_of("PrimaryVertex")] + 100))
    found = read(source_of(tmp_path / "crowd", parts, dictionary, vertices))
    z = np.unique(true.vertex[:, 2])
    assert np.diff(z).min() < 0.2  # they do compete
    by_momentum = [np.argsort(tracks.p) for tracks in (true, found)]
    assert np.array_equal(true.p[by_momentum[0]], found.p[by_momentum[1]])
    right = true.vertex[by_momentum[0]] == found.vertex[by_momentum[1]]
    assert right.all(-1).mean() > 0.95


def test_only_vertices_of_the_readout_frame_s_time_are_candidates(frames, tmp_path):
    """They stand in its middle, 445 crossings before its end; the margin is 50."""
    parts, dictionary = frames
    bc = parts[2]["PrimaryVertex.mIRMin.orbit"].astype(np.int64) * 3564 + parts[2]["PrimaryVertex.mIRMin.bc"]
    near, kept, source = Selection(max_dca=(0.2, 0.0)), {}, source_of(tmp_path, parts, dictionary)
    for late in (0, 495, 496, 496 + 891):
        shifted = changed(parts[2], interval(bc + late))
        kept[late] = _vertices(with_vertices(source, shifted, tmp_path / f"{late}.root"), near)
    assert len(kept[0]) > 140
    assert np.array_equal(kept[495], kept[0])
    assert len(kept[496]) < 30  # accidents: the vertex of the readout frame before
    assert len(kept[496 + 891]) < 30


def _vertices(source, selection):
    """Tracks' vertices; none where no track has one."""
    parts = []
    try:
        for tracks in source.chunks(DETECTOR, selection):
            parts.append(tracks.vertex)
    except ConfigError:
        return np.zeros((0, 3))
    return np.concatenate(parts)


def test_a_vertex_without_interval_is_taken_by_its_time(frames, tmp_path):
    parts, dictionary = frames
    source = source_of(tmp_path, parts, dictionary, "primary")
    columns = {f"PrimaryVertex.mIR{end}.bc": np.full(30, 0xFFFF, np.uint16) for end in ("Min", "Max")}
    timed = with_vertices(source, changed(parts[2], columns), tmp_path / "timed.root")
    assert np.array_equal(read(timed).event, read(source).event)
    columns["PrimaryVertex.mTimeStamp.mTimeStamp"] = np.full(30, -100, np.float32)
    with pytest.raises(ConfigError, match="no track is left"):
        read(with_vertices(source, changed(parts[2], columns), tmp_path / "wrong.root"))


@pytest.mark.parametrize("b_z", [0.5, -0.2, 0.0])
def test_the_distance_to_a_vertex_is_that_of_the_helix(b_z, frames):
    """Against the point of closest approach of `physics.helix`."""
    part = frames[0][0]
    states, readout = states_of(part, "x"), readout_of(part, "x")
    vertices = seeding_vertices(part, readout, "x")
    row, distance = nearest_vertex(states, readout.of_track, vertices, b_z)
    cosine = 1 / np.hypot(1, states.tan_lambda)
    direction = [np.cos(states.azimuth) * cosine, np.sin(states.azimuth) * cosine, states.tan_lambda * cosine]
    momentum = torch.from_numpy(states.p[:, None] * np.stack(direction, -1))
    charge = torch.from_numpy(np.sign(states.q_over_pt))
    helix = hx.from_momentum(torch.from_numpy(states.position), momentum, charge, b_z)
    five = hx.perigee(helix, torch.from_numpy(vertices.position[row]), b_z)
    assert distance == pytest.approx(torch.hypot(five.d0, five.z0).numpy(), abs=1e-9)


def with_covariance(frames, rows, value):
    """Vertices with other covariances in some rows."""
    covariance = frames["Vertices.mCov"].copy()
    covariance[rows] = value
    return changed(frames, {"Vertices.mCov": covariance})


def test_vertices_without_covariance_are_blamed_where_no_track_is_left(frames, tmp_path):
    (part, *others), dictionary = frames
    nothing = [with_covariance(part, slice(None), 0.0), *others]
    with pytest.raises(ConfigError, match="150 tracks are left out because mCov of their vertices is no"):
        read(source_of(tmp_path, nothing, dictionary))


def test_tracks_of_a_vertex_without_covariance_are_counted(frames, tmp_path, caplog):
    (part, *others), dictionary = frames
    caplog.set_level("WARNING", "alignnet.data")
    left = read(source_of(tmp_path, [with_covariance(part, 3, 0.0), *others], dictionary))
    lost = 150 - len(left)
    assert lost >= 3
    assert f"{lost} tracks are left out because mCov of their vertices" in caplog.text


def test_a_negative_variance_is_refused_by_its_vertex(frames, tmp_path):
    (part, *others), dictionary = frames
    part = with_covariance(part, 13, np.array([1e-6, 0, -1e-6, 0, 0, 1e-6], np.float32))
    with pytest.raises(SchemaError, match=r"time frame 1, Vertices 3: .* variances .* that are not negative"):
        read(source_of(tmp_path, [part, *others], dictionary))
