"""O2's tracks and clusters as `Tracks`: what was written comes back, and each track with its own vertex."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from o2_run_files import DETECTOR, EVERY, changed, collisions, read, source_of, two_time_frames

from alignnet.data.check import check_tracks
from alignnet.data.o2 import ABSENT, FRAME_STRIDE, SEEDING, O2Source
from alignnet.data.o2_branches import CLUSTER_FILE, TRACK_FILE, Frames
from alignnet.data.o2_field import field_of
from alignnet.data.o2_output import NAMES, O2Writer
from alignnet.data.o2_pixels import Boxes, SubPixels
from alignnet.data.o2_selection import Selection
from alignnet.data.o2_tracks import states_of
from alignnet.data.o2_write import FrameWriter
from alignnet.data.root_columns import Origin
from alignnet.data.tracks import concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.its2 import its2

WRITTEN_BY_ROOT = Path(__file__).parents[1] / "data_files" / "o2"


@pytest.fixture(scope="module")
def tracks():
    """Those of the time frames."""
    return collisions()


@pytest.fixture(scope="module")
def frames():
    """Two time frames of tracks, clusters and vertices, with a dictionary."""
    return two_time_frames()


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
        ({"pt": (5.0, 0.2)}, "selection.pt is .5.0, 0.2., expected the least one first"),
        ({"pt": (None, -1.0)}, "selection.pt is .None, -1.0., expected the least one first"),
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


def test_tracks_in_mm_and_impossible_sines_are_no_other_field(frames, tmp_path):
    (tracks, *others), dictionary = frames
    states = ("ITSTrack.", "ITSTrack.mParamOut.")
    mm = {f"{state}mX": tracks[f"{state}mX"] * 10 for state in states}
    mm |= {f"{state}mP": tracks[f"{state}mP"] * np.array([10, 10, 1, 1, 1], np.float32) for state in states}
    with pytest.raises(SchemaError, match=r"its tracks are \d{3} cm long .*, expected less than 100, .* cm"):
        read(source_of(tmp_path, [changed(tracks, mm), *others], dictionary))
    impossible = tracks["ITSTrack.mP"].copy()
    impossible[::2, 2] = 2.0
    damaged = changed(tracks, {"ITSTrack.mP": impossible})
    assert field_of(damaged) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(SchemaError, match=r"track 0: found .* a sine mP\[2\] within ±1"):
        read(source_of(tmp_path, [damaged, *others], dictionary))


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
