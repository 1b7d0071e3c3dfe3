"""Whether the files of an O2 run belong together: its tracks, their clusters and its vertices.

Files of two runs, or of two passes over one, may have the same shape, and every cluster that a track refers
to is somewhere. So readout frames are compared, and a track must pass near its innermost cluster: O2 has
fitted it to that, and neither a misaligned detector nor one that is not where its ideal geometry says moves
a cluster by `CLUSTER_REACH`, while clusters of another track are mostly many centimetres away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignnet.data.o2_branches import Frames
from alignnet.data.o2_tracks import ORBIT, States
from alignnet.data.o2_vertices import distance_to
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError
from alignnet.geometry.detector import Detector

CLUSTER_REACH = 0.3
"""Between a track of O2 and its innermost cluster, at the ideal place of its chip [cm]."""

VERTEX_REACH = 0.1
"""Within which most of O2's tracks pass the nearest vertex of their own sample [cm]."""

FEWEST = 10
"""Tracks of a time frame that are enough to judge it by."""

_FAR, _NEAR, _FRAME_APART = 1 / 2, 1 / 3, 2**45


def check_same_readout(tracks: Frames, clusters: Frames, path: str) -> None:
    """Whether the clusters (of file `path`) have the readout frames of the tracks, and begin as they do.

    Readout frames without tracks need no clusters.

    Raises:
        SchemaError: a time frame begins in another orbit, or lacks the crossing of a readout frame.
    """
    own, other = "ITSTracksROF", "ITSClustersROF"
    both = np.flatnonzero((tracks.counts[own] > 0) & (clusters.counts[other] > 0))
    begins, found = (
        frames[f"{name}.mBCData.orbit"][frames.offset(name)[both]]
        for frames, name in ((tracks, own), (clusters, other))
    )
    differ = np.flatnonzero(begins != found)
    if len(differ):
        k = int(differ[0])
        raise SchemaError(
            f"{path}: time frame {clusters.first + both[k]} begins in orbit {found[k]}, that of its "
            f"tracks in {begins[k]}; give files of the same run"
        )
    used = tracks[f"{own}.mROFEntry.mEntries"] > 0
    frame, crossing = tracks.frame_of(own)[used], _crossings(tracks, own)[used]
    there = np.isin(
        frame * _FRAME_APART + crossing,
        clusters.frame_of(other) * _FRAME_APART + _crossings(clusters, other),
    )
    if not there.all():
        k = int(np.flatnonzero(~there)[0])
        raise SchemaError(
            f"{path}: time frame {clusters.first + frame[k]} has no readout frame in orbit "
            f"{crossing[k] // ORBIT} at crossing {crossing[k] % ORBIT}, where its tracks have one; give "
            "files of the same run"
        )


def _crossings(frames: Frames, name: str) -> Array:
    """First bunch crossings of readout frames, from orbit 0."""
    orbit, bc = (frames[f"{name}.mBCData.{part}"].astype(np.int64) for part in ("orbit", "bc"))
    crossing: Array = orbit * ORBIT + bc
    return crossing


@dataclass(frozen=True)
class Innermost:
    """Tracks with their innermost clusters, (tracks,)."""

    states: States
    frame: Array  # number of the time frame
    sensor: Array  # rows of the detector
    uv: Array  # (tracks, 2) [cm]

    def distance(self, detector: Detector) -> Array:
        """How far each track passes from its cluster [cm], (tracks,)."""
        rotation = detector.rotation.numpy()[self.sensor][:, :, [0, 2]]
        place = (rotation @ self.uv[..., None])[..., 0] + detector.translation.numpy()[self.sensor]
        return distance_to(self.states, place, detector.b_z)


def check_near_clusters(
    innermost: Innermost, detector: Detector, tracks: str | Path, clusters: str | Path
) -> None:
    """Whether tracks pass near their innermost clusters, by time frames and altogether.

    Args:
        innermost: tracks, and these clusters.
        detector: at its ideal place.
        tracks: the file of tracks, for messages.
        clusters: that of clusters.

    Raises:
        SchemaError: most tracks (of a time frame) do not.
    """
    distance = innermost.distance(detector)
    frame, which = np.unique(innermost.frame, return_inverse=True)
    n, far = np.bincount(which), np.bincount(which, distance > CLUSTER_REACH)
    foreign = np.flatnonzero((far > _FAR * n) & ((n >= FEWEST) | (far.sum() > _FAR * n.sum())))
    if len(foreign):
        own = distance[which == foreign[0]]
        raise SchemaError(
            f"{tracks}, {clusters}: time frame {frame[foreign[0]]}: {len(own):,} tracks pass "
            f"{np.median(own):.2g} cm (median) from their innermost clusters, expected less than "
            f"{CLUSTER_REACH:g} cm; give files of the same run and the same reconstruction"
        )


@dataclass
class VertexTally:
    """How many tracks with a vertex in their readout frame pass near one."""

    candidates: int = 0
    near: int = 0
    unknown: int = 0  # near one, the covariance of which is none

    def count(self, distance: Array) -> None:
        """Add tracks by their distances to the nearest vertex [cm], infinite where there is none."""
        self.candidates += int(np.isfinite(distance).sum())
        self.near += int((distance < VERTEX_REACH).sum())

    @property
    def warning(self) -> str | None:
        """What to say where hardly any do."""
        if self.candidates < FEWEST or self.near > _NEAR * self.candidates:
            return None
        return (
            f"only {self.near:,} of {self.candidates:,} tracks pass within {10 * VERTEX_REACH:g} mm of a "
            "vertex of their readout frame, expected most of them; are the vertices of this run?"
        )

    @property
    def without_covariance(self) -> str | None:
        """What to say of tracks whose vertices have no covariance."""
        if not self.unknown:
            return None
        several = self.unknown > 1
        return (
            f"{self.unknown:,} {'tracks are' if several else 'track is'} left out because mCov of "
            f"{'their vertices' if several else 'its vertex'} is no positive definite covariance"
        )
