"""O2's tracks and clusters as `Tracks`: what was written comes back, and each track with its own vertex."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alignnet.data.check import check_tracks
from alignnet.data.o2 import ABSENT, FRAME_STRIDE, SEEDING, O2Source
from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, VERTEX_FILE, Frames
from alignnet.data.o2_dictionary import write_dictionary
from alignnet.data.o2_field import field_of
from alignnet.data.o2_output import NAMES, O2Writer, frames_of
from alignnet.data.o2_pixels import Boxes, SubPixels
from alignnet.data.o2_selection import Selection
from alignnet.data.o2_tracks import readout_of, states_of
from alignnet.data.o2_vertices import Timing, nearest_vertex, seeding_vertices
from alignnet.data.o2_write import FrameWriter
from alignnet.data.root_columns import Origin
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.its2 import its2
from alignnet.physics import helix as hx

DETECTOR = its2()
EVERY = Selection()
WRITTEN_BY_ROOT = Path(__file__).parents[1] / "data_files" / "o2"


@pytest.fixture(scope="module")
def tracks():
    """Thirty collisions of five tracks, 15 µm from their vertices; scattering, no misalignment."""
    gun = ParticleGun(n_tracks_per_event=5, pt_min=0.4)
    return Simulation(gun, DETECTOR, seed=3).generate(30)


@pytest.fixture(scope="module")
def frames(tracks):
    """Two time frames of tracks, clusters and vertices, with a dictionary."""
    pixels = SubPixels(cells=9)
    first = tracks.select(tracks.event < 10), tracks.select(tracks.event >= 10)
    parts = [frames_of(part, DETECTOR, pixels, k) for k, part in enumerate(first)]
    return [joined(*pair) for pair in zip(*parts, strict=True)], pixels.dictionary


def joined(one, other):
    counts = {name: np.concatenate([one.counts[name], other.counts[name]]) for name in one.counts}
    return Frames(counts, {name: np.concatenate([one[name], other[name]]) for name in one.columns}, one.first)


def changed(frames, columns=(), counts=()):
    """Copies with other columns or counts."""
    return replace(
        frames, columns={**frames.columns, **dict(columns)}, counts={**frames.counts, **dict(counts)}
    )


def source_of(folder, frames, dictionary, vertices=SEEDING, timing=None):
    """The frames as files."""
    for name, part, branches in zip(NAMES, frames, (TRACK_FILE, CLUSTER_FILE, VERTEX_FILE), strict=False):
        with FrameWriter(folder / name, branches) as writer:
            writer.append(part)
    write_dictionary(folder / NAMES[3], dictionary)
    vertices = folder / NAMES[2] if vertices == "primary" else vertices
    return O2Source(*(folder / name for name in NAMES[:2]), folder / NAMES[3], vertices, timing or Timing())


def with_vertices(source, frames, path):
    """The same run with other primary vertices, in a new file."""
    with FrameWriter(path, VERTEX_FILE) as writer:
        writer.append(frames)
    return replace(source, vertices=path)


def read(source, selection=EVERY, detector=DETECTOR, **options):
    return concatenate(list(source.chunks(detector, selection, **options)))


def sorted_hits(tracks):
    order = np.lexsort((tracks.sensor, tracks.track_of_hit))
    return tracks.sensor[order], tracks.uv[order]


@pytest.mark.parametrize("vertices", [SEEDING, "primary", ABSENT])
def test_a_run_that_was_written_is_read(vertices, tracks, tmp_path):
    halves = tracks.select(tracks.event < 17), tracks.select(tracks.event >= 17)
    with O2Writer(tmp_path, DETECTOR, SubPixels()) as writer:
        for half in halves:
            writer.append(half)
    assert [path.name for path in writer.written] == list(NAMES)
    vertices = tmp_path / NAMES[2] if vertices == "primary" else vertices
    found = read(O2Source(*(tmp_path / name for name in NAMES[:2]), tmp_path / NAMES[3], vertices))
    check_tracks(found, Origin("read", "o2sim"))
    assert np.array_equal(found.hits_per_track, tracks.hits_per_track)
    assert np.array_equal(np.unique(found.event, return_inverse=True)[1], tracks.event)
    assert set(found.event // FRAME_STRIDE) == {0, 1}
    (sensor, uv), (true_sensor, true_uv) = sorted_hits(found), sorted_hits(tracks)
    assert np.array_equal(sensor, true_sensor)
    inside = (np.abs(true_uv - DETECTOR.centre[0].numpy()) < DETECTOR.half[0].numpy()).all(-1)
    assert np.abs(uv - true_uv)[inside].max() < 3.3e-5
    assert found.sigma == pytest.approx(5e-4)
    assert found.p == pytest.approx(tracks.p, rel=0.5)
    if vertices == ABSENT:
        assert found.vertex is None
    else:
        assert found.vertex == pytest.approx(tracks.vertex, abs=1e-6)
        assert found.vertex_cov == pytest.approx(tracks.vertex_cov, rel=1e-6)


def test_hits_go_from_the_inside_to_the_outside(frames, tmp_path):
    found = read(source_of(tmp_path, *frames))
    layer = DETECTOR.layer.numpy()[found.sensor]
    assert (np.diff(layer)[np.diff(found.track_of_hit) == 0] >= 0).all()


def test_chunks_of_one_time_frame_are_the_whole(frames, tmp_path):
    source = source_of(tmp_path, *frames)
    assert source.size(chunk_bytes=1) == (2, 1)
    parts = list(source.chunks(DETECTOR, EVERY, chunk_bytes=1))
    assert len(parts) == 2
    whole, piecewise = read(source), concatenate(parts)
    for name in ("event", "offset", "sensor", "uv", "sigma", "vertex", "p"):
        assert np.array_equal(getattr(whole, name), getattr(piecewise, name)), name


@pytest.mark.parametrize("vertices", [SEEDING, ABSENT, WRITTEN_BY_ROOT / NAMES[2]])
def test_files_that_root_has_written_give_the_same_tracks(vertices, tmp_path):
    known = np.load(WRITTEN_BY_ROOT / "branches.npz")
    counts = {name.removeprefix("count "): known[name] for name in known if name.startswith("count ")}
    columns = {name: known[name] for name in known if not name.startswith("count ")}
    parts = [Frames(counts, {b.name: columns[b.name] for b in kind}) for kind in (TRACK_FILE, CLUSTER_FILE)]
    for part, kind, name in zip(parts, (TRACK_FILE, CLUSTER_FILE), NAMES, strict=False):
        own = {b.collection for b in kind}
        with FrameWriter(tmp_path / name, kind) as writer:
            writer.append(replace(part, counts={k: v for k, v in counts.items() if k in own}))
    entries = WRITTEN_BY_ROOT / "dictionary.root"
    roots, ours = (
        read(O2Source(folder / NAMES[0], folder / NAMES[1], entries, vertices))
        for folder in (WRITTEN_BY_ROOT, tmp_path)
    )
    assert len(roots) == 24
    assert (roots.vertex is None) == (vertices == ABSENT)
    for name in ("event", "offset", "sensor", "uv", "sigma", "p"):
        assert np.array_equal(getattr(roots, name), getattr(ours, name)), name


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


def test_a_track_stands_at_its_innermost_hit_in_o2_s_frame(frames, tracks):
    part = frames[0][0]
    first = np.lexsort((DETECTOR.layer.numpy()[tracks.sensor], tracks.track_of_hit))
    hit = first[tracks.offset[:-1]]
    sensor = tracks.sensor[hit]
    u, v = torch.from_numpy(tracks.uv[hit]).T
    place = DETECTOR.rotation[sensor] @ torch.stack([u, torch.zeros_like(u), v], -1)[..., None]
    measured = (place.squeeze(-1) + DETECTOR.translation[sensor]).numpy()
    assert np.linalg.norm(states_of(part, "x").position - measured, axis=1).max() < 0.03
    on_chip = [2.23456, 2.99967, 3.76233]  # X of the inner layers' tracking frames, from O2's geometry
    layer = DETECTOR.layer.numpy()[sensor]
    inner = layer < 3
    assert part["ITSTrack.mX"][inner] == pytest.approx(np.array(on_chip)[layer[inner]], abs=6e-6)


def test_a_selection_is_what_it_says(frames, tmp_path):
    source = source_of(tmp_path, *frames)
    states = states_of(frames[0][0], "x")
    eta = np.arcsinh(states.tan_lambda)
    dof = 2 * states.n_clusters - 5
    cuts = {
        "pt": ([0.6, 2.0], (states.pt >= 0.6) & (states.pt <= 2.0)),
        "max_abs_eta": (0.5, np.abs(eta) <= 0.5),
        "min_clusters": (8, states.n_clusters >= 8),
        "max_chi2_per_ndf": (20.0, states.chi2 / dof <= 20),
    }
    for name, (value, kept) in cuts.items():
        assert 0 < kept.sum() < len(kept)
        found = read(source, Selection(**{name: value}))
        assert np.allclose(np.sort(found.p), np.sort(states.p[kept])), name
    assert len(read(source, Selection(min_contributors=5))) == len(eta)
    with pytest.raises(ConfigError, match="no track is left"):
        read(source, Selection(min_contributors=6))
    near = [len(read(source, Selection(max_dca=(limit, 0.0)))) for limit in (0.003, 0.01, 1.0)]
    assert 0 < near[0] < near[1] < near[2] == len(eta)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_clusters": 2}, "selection.min_clusters is 2, expected at least 3"),
        ({"pt": (1.0,)}, "selection.pt is .*, expected two numbers"),
        ({"max_dca": (-1.0, 0.0)}, "selection.max_dca is"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Selection(**values)


def test_the_tracks_tell_their_field(frames, tmp_path):
    assert field_of(frames[0][0]) == pytest.approx(0.5, abs=1e-3)
    turned = its2(b_z=-0.5)
    with pytest.raises(
        ConfigError, match=r"turn as in a field of 0\.50 T .*, the detector's is -0\.5 T; giv"
    ):
        read(source_of(tmp_path, *frames), detector=turned)


def with_index(frames, column, value):
    """The seventh track's first cluster."""
    values = frames[column].copy()
    values[int(frames["ITSTrack.mClusRef.mData"][6] >> 4) if column == "ITSTrackClusIdx" else 6] = value
    return changed(frames, {column: values})


def with_state(frames):
    values = frames["ITSTrack.mP"].copy()
    values[6, 2] = np.nan
    return changed(frames, {"ITSTrack.mP": values})


def with_record(frames):
    values = frames["ITSTracksROF.mROFEntry.mEntries"].copy()
    values[2] += 1
    return changed(frames, {"ITSTracksROF.mROFEntry.mEntries": values})


def with_time(frames):
    values = frames["VerticesROF.mBCData.bc"].copy()
    values[2] += 1
    return changed(frames, {"VerticesROF.mBCData.bc": values})


FAULTS = {
    "index too large": (
        lambda f: with_index(f, "ITSTrackClusIdx", 10**6),
        "o2trac_its.root: time frame 0, track 6: found cluster 1000000, expected 0 to [0-9]+, the clusters",
    ),
    "negative index": (lambda f: with_index(f, "ITSTrackClusIdx", -1), "track 6: found cluster -1, expected"),
    "reference too far": (
        lambda f: with_index(f, "ITSTrack.mClusRef.mData", 10**5 << 4 | 7),
        "track 6: found clusters 100000:100007 of ITSTrackClusIdx, expected a range within its",
    ),
    "not a number": (
        with_state,
        r"track 6: found parameters .*nan.*, expected finite numbers, a sine within",
    ),
    "readout frames": (
        with_record,
        "time frame 0: ITSTracksROF does not count every ITSTrack once and in order",
    ),
    "other readout frames": (with_time, "VerticesROF and ITSTracksROF are not the same readout frames; give"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_time_frame_and_track(fault, frames, tmp_path):
    change, message = FAULTS[fault]
    (part, *others), dictionary = frames
    with pytest.raises(SchemaError, match=message):
        read(source_of(tmp_path, [change(part), *others], dictionary))


def test_files_of_different_lengths_are_refused(frames, tmp_path):
    source = source_of(tmp_path / "a", *frames)
    part = frames[0][1]
    with FrameWriter(tmp_path / "clus.root", CLUSTER_FILE) as writer:
        writer.append(part)
        writer.append(part)
    with pytest.raises(SchemaError, match=r"clus\.root: has 4 time frames, .*trac_its.root 2; give files of"):
        read(replace(source, clusters=tmp_path / "clus.root"))


def test_a_cluster_file_in_place_of_a_track_file_is_refused(frames, tmp_path):
    source = source_of(tmp_path, *frames)
    with pytest.raises(
        SchemaError, match=r"clus_its\.root: tree o2sim has no branch ITSTrack\.mX, .*; found "
    ):
        read(replace(source, tracks=source.clusters))


def test_a_chip_that_the_detector_lacks_is_refused(frames, tmp_path):
    other = replace(DETECTOR, sensor_id=DETECTOR.sensor_id + 30_000)
    with pytest.raises(SchemaError, match=r"chip [0-9]+ is no sensor_id of detector ITS2; use detector=its2"):
        read(source_of(tmp_path, *frames), detector=other)


def test_what_was_kept_is_said(frames, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "alignnet.data"):
        read(source_of(tmp_path, *frames), Selection(pt=(1.0, None)))
    assert "150 tracks, " in caplog.messages[-1]
    assert "within the selection" in caplog.messages[-1]


def test_a_writer_refuses_what_o2_cannot_hold(tracks, tmp_path):
    other = replace(DETECTOR, sensor_id=DETECTOR.sensor_id + 30_000)
    with pytest.raises(ConfigError, match=r"ITS2 has sensor_id 30000 to 54119 .*, expected chips of ITS2 b"):
        O2Writer(tmp_path, other, Boxes())
    with pytest.raises(ConfigError, match="no tracks came"), O2Writer(tmp_path, DETECTOR, Boxes()):
        pass
    assert list(tmp_path.iterdir()) == []
    bare = replace(tracks, vertex=None, vertex_cov=None)
    with O2Writer(tmp_path / "run", DETECTOR, Boxes()) as writer:
        writer.append(tracks)
        with pytest.raises(ConfigError, match="some tracks have vertices and others not"):
            writer.append(bare)
