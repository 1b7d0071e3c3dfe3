"""Damaged files of O2, or such as are not of one run, are refused by time frame and track."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from o2_run_files import DETECTOR, changed, read, source_of, two_time_frames

from alignnet.data.o2_branches import CLUSTER_FILE
from alignnet.data.o2_write import FrameWriter
from alignnet.errors import SchemaError


@pytest.fixture(scope="module")
def frames():
    """Two time frames of tracks, clusters and vertices, with a dictionary."""
    return two_time_frames()


def with_index(frames, column, value):
    """The seventh track's first cluster."""
    values = frames[column].copy()
    values[int(frames["ITSTrack.mClusRef.mData"][6] >> 4) if column == "ITSTrackClusIdx" else 6] = value
    return changed(frames, {column: values})


def with_state(frames):
    values = frames["ITSTrack.mP"].copy()
    values[6, 2] = np.nan
    return changed(frames, {"ITSTrack.mP": values})


def with_value(frames, column, value):
    """Another value of the seventh track."""
    values = frames[column].copy()
    values[6] = value
    return changed(frames, {column: values})


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
        r"track 6: found parameters .*nan.*, expected finite numbers, mAlpha in rad within .*, a sine",
    ),
    "degrees": (
        lambda f: with_value(f, "ITSTrack.mAlpha", 37.0),
        r"track 6: found parameters .*mAlpha 37, .* expected .*mAlpha in rad within ±2π",
    ),
    "negative chi2": (
        lambda f: with_value(f, "ITSTrack.mChi2", -3.0),
        r"track 6: found .*mChi2 -3, expected .*mChi2 >= 0",
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
