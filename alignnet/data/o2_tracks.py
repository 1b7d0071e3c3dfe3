"""O2's ITS tracks: their parameters, their clusters and their readout frames.

A track's state stands in a frame that is the global one turned about z by alpha: at x = X it is at y = mP[0],
z = mP[1], with mP[2] = sin of the azimuth there, mP[3] = p_z/p_T and mP[4] = q/p_T. Its clusters are
ITSTrackClusIdx[first : first + n], first = mClusRef >> 4 and n = mClusRef & 15, from the outermost layer to
the innermost, each a number within the clusters of the same time frame. Its readout frame is the ITSTracksROF
that counts it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignnet.data.o2_branches import TRACK_FILE, Branch, Frames, some
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

ORBIT = 3564
"""Bunch crossings of an orbit of the LHC."""

TURN = 6.3
"""No angle in radians is larger: 2π and the rounding of float32."""

_STATES = "finite numbers, mAlpha in rad within ±2π, a sine mP[2] within ±1, q/pT not 0 and mChi2 >= 0"

NEEDED: tuple[Branch, ...] = some(
    TRACK_FILE, "ITSTrack.mX", "ITSTrack.mAlpha", "ITSTrack.mP", "ITSTrack.mClusRef.mData", "ITSTrack.mChi2",
    "ITSTrackClusIdx", "ITSTracksROF.mBCData.bc", "ITSTracksROF.mBCData.orbit",
    "ITSTracksROF.mROFEntry.mFirstEntry", "ITSTracksROF.mROFEntry.mEntries",
)  # fmt: skip
"""What is read of a file of tracks, but for vertices."""


class States(NamedTuple):
    """Tracks at their innermost points, global; each field (tracks,) or (tracks, 3)."""

    position: Array  # [cm]
    azimuth: Array  # of the momentum [rad]
    tan_lambda: Array
    q_over_pt: Array  # [1/(GeV/c)]
    chi2: Array
    n_clusters: Array

    @property
    def pt(self) -> Array:
        """Transverse momentum [GeV/c]."""
        return 1 / np.abs(self.q_over_pt)

    @property
    def p(self) -> Array:
        """Momentum [GeV/c]."""
        return self.pt * np.hypot(1, self.tan_lambda)

    def select(self, rows: Array) -> States:
        """Some of the tracks."""
        return States(*(field[rows] for field in self))


class Readout(NamedTuple):
    """Readout frames, in the order of the file; each field (readout frames,) but for `of_track`."""

    frame: Array  # time frame
    bc: Array  # first bunch crossing, counted from orbit 0
    of_track: Array  # readout frame of each track (tracks,)


def states_of(frames: Frames, path: str) -> States:
    """The tracks' parameters, in float64.

    Raises:
        SchemaError: a number is not finite, a sine exceeds 1, an angle 2π, or a χ² is negative.
    """
    x, alpha = (frames[f"ITSTrack.{name}"].astype(np.float64) for name in ("mX", "mAlpha"))
    y, z, sine, tan_lambda, q_over_pt = frames["ITSTrack.mP"].astype(np.float64).T
    chi2 = frames["ITSTrack.mChi2"].astype(np.float64)
    good = np.isfinite(np.stack([x, alpha, y, z, tan_lambda, q_over_pt, chi2])).all(0)
    good &= (np.abs(sine) <= 1) & (q_over_pt != 0) & (np.abs(alpha) <= TURN) & (chi2 >= 0)
    if not good.all():
        track = int(np.flatnonzero(~good)[0])
        found = f"parameters mX {x[track]:g}, mAlpha {alpha[track]:g}, mP "
        found += f"{frames['ITSTrack.mP'][track].tolist()}, mChi2 {chi2[track]:g}"
        raise _fault(frames, path, track, found, _STATES)
    c, s = np.cos(alpha), np.sin(alpha)
    position = np.stack([x * c - y * s, x * s + y * c, z], -1)
    n = frames["ITSTrack.mClusRef.mData"] & 0xF
    return States(position, alpha + np.arcsin(sine), tan_lambda, q_over_pt, chi2, n.astype(np.int64))


def clusters_of(frames: Frames, cluster_counts: Array, tracks: Array, path: str) -> tuple[Array, Array]:
    """The clusters of some tracks, from the inside to the outside.

    Args:
        frames: of the tracks.
        cluster_counts: clusters of each time frame (frames,).
        tracks: rows of ITSTrack (n,).
        path: of the file, for messages.

    Returns:
        Number of clusters of each track (n,), and rows of ITSClusterComp of all, one track after the other.

    Raises:
        SchemaError: a reference or an index is out of range, or a track has a cluster twice; names time frame
            and track.
    """
    reference = frames["ITSTrack.mClusRef.mData"][tracks].astype(np.int64)
    first, count = reference >> 4, reference & 0xF
    frame = frames.frame_of("ITSTrack")[tracks]
    there = frames.counts["ITSTrackClusIdx"][frame]
    wrong = np.flatnonzero(first + count > there)
    if len(wrong):
        k = int(wrong[0])
        found = f"clusters {first[k]}:{first[k] + count[k]} of ITSTrackClusIdx"
        raise _fault(frames, path, int(tracks[k]), found, f"a range within its {there[k]}")
    last = frames.offset("ITSTrackClusIdx")[frame] + first + count - 1
    offset = np.concatenate([[0], np.cumsum(count)])
    index = np.repeat(last + offset[:-1], count) - np.arange(offset[-1])
    cluster = frames["ITSTrackClusIdx"][index].astype(np.int64)
    in_frame = np.repeat(cluster_counts[frame], count)
    wrong = np.flatnonzero((cluster < 0) | (cluster >= in_frame))
    if len(wrong):
        k = int(wrong[0])
        track = int(tracks[np.searchsorted(offset, k, side="right") - 1])
        expected = f"0 to {in_frame[k] - 1}, the clusters of its time frame; are both files of the same run?"
        raise _fault(frames, path, track, f"cluster {cluster[k]}", expected)
    twice = _first_twice(cluster, np.repeat(np.arange(len(tracks)), count))
    if twice is not None:
        track = int(tracks[np.searchsorted(offset, twice, side="right") - 1])
        raise _fault(frames, path, track, f"cluster {cluster[twice]} twice", "each cluster of a track once")
    base = np.concatenate([[0], np.cumsum(cluster_counts)])
    return count, np.repeat(base[frame], count) + cluster


def _first_twice(cluster: Array, track: Array) -> int | None:
    """The first row whose cluster is again that of a later row of its track; both (rows,), track by track."""
    for apart in range(1, int(np.bincount(track).max(initial=1))):
        again = (cluster[apart:] == cluster[:-apart]) & (track[apart:] == track[:-apart])
        if again.any():
            return int(np.flatnonzero(again)[0])
    return None


def readout_of(frames: Frames, path: str, collection: str = "ITSTracksROF", of: str = "ITSTrack") -> Readout:
    """The readout frames, and that of each track (or of each of another collection `of`).

    Raises:
        SchemaError: they do not count each track once, in order.
    """
    first, count = (
        frames[f"{collection}.mROFEntry.{name}"].astype(np.int64) for name in ("mFirstEntry", "mEntries")
    )
    frame = frames.frame_of(collection)
    start = frames.offset(of)[frame] + first
    before = np.concatenate([[0], np.cumsum(np.maximum(count, 0))])
    good = (count >= 0) & ((start == before[:-1]) | (count == 0))
    if not good.all() or before[-1] != len(frames.frame_of(of)):
        bad = int(np.flatnonzero(~good)[0]) if not good.all() else len(good) - 1
        number = frames.first + (int(frame[bad]) if len(frame) else 0)
        raise SchemaError(
            f"{path}: time frame {number}: {collection} does not count every {of} once and in order; it is "
            "damaged, or of another version of O2"
        )
    orbit, bc = (frames[f"{collection}.mBCData.{name}"].astype(np.int64) for name in ("orbit", "bc"))
    return Readout(frame, orbit * ORBIT + bc, np.repeat(np.arange(len(count)), count))


def _fault(frames: Frames, path: str, track: int, found: str, expected: str) -> SchemaError:
    offset = frames.offset("ITSTrack")
    frame = int(np.searchsorted(offset, track, side="right")) - 1
    where = f"time frame {frames.first + frame}, track {track - int(offset[frame])}"
    return SchemaError(f"{path}: {where}: found {found}, expected {expected}")
