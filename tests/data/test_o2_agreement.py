"""Files of O2 that have the same shape and do not belong together."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from o2_run_files import (
    DETECTOR,
    EVERY,
    changed,
    collisions,
    joined,
    read,
    source_of,
    two_time_frames,
    with_vertices,
)

from alignnet.data.o2 import ABSENT
from alignnet.data.o2_output import frames_of
from alignnet.data.o2_pixels import SubPixels
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.misalign import Gaussian

FOREIGN = (
    r"trac_its\.root, .*clus_its\.root: time frame {}: .* tracks pass [0-9.]+ cm \(median\) from .* 0\.3 cm"
)


@pytest.fixture(scope="module")
def frames():
    """Two time frames of tracks, clusters and vertices, with a dictionary."""
    return two_time_frames()


def reversed_clusters(part, frame):
    """The clusters of one time frame in the opposite order."""
    offset = part.offset("ITSClusterComp")
    rows = np.arange(offset[-1])
    rows[offset[frame] : offset[frame + 1]] = rows[offset[frame] : offset[frame + 1]][::-1]
    names = [name for name in part.columns if name.startswith("ITSClusterComp.")]
    return changed(part, {name: part[name][rows] for name in names})


@pytest.mark.parametrize("frame", [0, 1])
def test_clusters_in_another_order_are_refused(frame, frames, tmp_path):
    (tracks, clusters, vertices), dictionary = frames
    parts = [tracks, reversed_clusters(clusters, frame), vertices]
    with pytest.raises(SchemaError, match=FOREIGN.format(frame)):
        read(source_of(tmp_path, parts, dictionary))


def test_clusters_of_other_collisions_are_refused(frames, tmp_path):
    """As many of them in every time frame, at the same crossings."""
    (tracks, clusters, vertices), dictionary = frames
    gun, pixels = ParticleGun(n_tracks_per_event=30, pt_min=0.4), SubPixels(cells=9)
    others = Simulation(gun, DETECTOR, seed=4).generate(30)
    halves = others.select(others.event < 10), others.select(others.event >= 10)
    found = joined(*(frames_of(half, DETECTOR, pixels, k)[1] for k, half in enumerate(halves)))
    names = [name for name in found.columns if name.startswith("ITSClusterComp.")]
    wanted, offset = clusters.counts["ITSClusterComp"], found.offset("ITSClusterComp")
    rows = np.concatenate([offset[k] + np.arange(wanted[k]) for k in range(2)])
    parts = [tracks, changed(clusters, {name: found[name][rows] for name in names}), vertices]
    with pytest.raises(SchemaError, match=FOREIGN.format(0)):
        read(source_of(tmp_path, parts, dictionary))


def test_a_misaligned_detector_is_not_taken_for_another_run(tmp_path):
    """Chips by half a millimetre, and by a degree; O2's fit knows nothing of it."""
    moves = Gaussian({"sensor": {"translation": 0.05, "rotation": 0.0175}}, seed=1)
    gun = ParticleGun(n_tracks_per_event=5, pt_min=0.4)
    tracks = Simulation(gun, DETECTOR, moves(DETECTOR), seed=3).generate(10)
    pixels = SubPixels(cells=9)
    source = source_of(tmp_path, frames_of(tracks, DETECTOR, pixels), pixels.dictionary, ABSENT)
    assert len(read(source)) == len(tracks)


def test_readout_frames_at_other_crossings_are_refused(frames, tmp_path):
    (tracks, clusters, vertices), dictionary = frames
    bc = clusters["ITSClustersROF.mBCData.bc"].copy()
    bc[3] += 1
    parts = [tracks, changed(clusters, {"ITSClustersROF.mBCData.bc": bc}), vertices]
    with pytest.raises(SchemaError, match=r"clus_its\.root: time frame 0 has no readout frame in orbit 0 at"):
        read(source_of(tmp_path, parts, dictionary))


def moved(part, by):
    """Vertices elsewhere along z [cm]."""
    name = "PrimaryVertex.mPos.fCoordinates.fZ"
    return changed(part, {name: (part[name] + by).astype(np.float32)})


def test_vertices_that_hardly_any_track_passes_are_told(frames, tmp_path, caplog):
    parts, dictionary = frames
    source = source_of(tmp_path, parts, dictionary, "primary")
    with caplog.at_level(logging.WARNING, "alignnet.data"):
        every = read(source)
        assert not caplog.messages
        found = read(with_vertices(source, moved(parts[2], 0.4), tmp_path / "other.root"))
    assert len(found) == len(every) == len(collisions())  # max_dca is 1 cm
    told = r"other.root: only 0 of 150 tracks pass within 1 mm of a vertex of their readout frame, expected"
    assert told in caplog.messages[-1].replace(str(tmp_path), "")
    with pytest.raises(ConfigError, match=r"no track is left .*; only 0 of 150 tracks pass within 1 mm"):
        read(with_vertices(source, moved(parts[2], 4.0), tmp_path / "far.root"))


@pytest.mark.parametrize("kind", ["seeding", "primary"])
@pytest.mark.parametrize(("member", "value"), [("mPos.fCoordinates.fY", np.nan), ("mCov", np.inf)])
def test_vertices_that_are_no_numbers_are_refused(kind, member, value, frames, tmp_path):
    (tracks, clusters, vertices), dictionary = frames
    name, collection = (vertices, "PrimaryVertex") if kind == "primary" else (tracks, "Vertices")
    column = name[f"{collection}.{member}"].copy()
    column[12] = value  # the third of the second time frame
    damaged = changed(name, {f"{collection}.{member}": column})
    parts = [tracks, clusters, damaged] if kind == "primary" else [damaged, clusters, vertices]
    with pytest.raises(
        SchemaError, match=rf"root: time frame 1, {collection} 2: found position \[.*{value}.*, expected fin"
    ):
        read(source_of(tmp_path, parts, dictionary, kind), EVERY)


def test_a_track_that_has_a_cluster_twice_is_refused(frames, tmp_path):
    (tracks, *others), dictionary = frames
    index = tracks["ITSTrackClusIdx"].copy()
    first, n = divmod(int(tracks["ITSTrack.mClusRef.mData"][6]), 16)
    index[first + n - 1] = index[first + 1]
    damaged = changed(tracks, {"ITSTrackClusIdx": index})
    with pytest.raises(SchemaError, match=rf"frame 0, track 6: found cluster {index[first + 1]} twice, expe"):
        read(source_of(tmp_path, [damaged, *others], dictionary))


def test_what_is_not_a_number_is_named(frames, tmp_path):
    (tracks, *others), dictionary = frames
    for name in ("mX", "mChi2"):
        column = tracks[f"ITSTrack.{name}"].copy()
        column[6] = np.nan
        parts = [replace(tracks, columns={**tracks.columns, f"ITSTrack.{name}": column}), *others]
        with pytest.raises(SchemaError, match=rf"track 6: found parameters .*{name} nan.*, expected finite"):
            read(source_of(tmp_path, parts, dictionary))
