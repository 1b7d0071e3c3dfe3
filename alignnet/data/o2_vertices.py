"""Which primary vertex an O2 track comes from.

Candidates of a track are the vertices of its readout frame: for the seeding vertices of the track file those
that VerticesROF counts in the frame of the same number, for o2_primary_vertex.root those whose interval of
bunch crossings [mIRMin, mIRMax] overlaps

    first crossing + bias … + length of a readout frame, and a margin on both sides

(a vertex without interval has its time ± 3 σ from the orbit of the time frame's first readout frame instead).
Of the candidates the nearest is taken: with u and w the components of vertex − position along and across the
track's azimuth, and κ = −0.00299792458 B q/p_T,

    a = κ (u² + w²) − 2w,     d_xy = a / (1 + √(1 + κa)),
    s = atan2(κu, 1 − κw)/κ,  d_z = z + s tanλ − z_vertex

and d² = d_xy² + d_z². (The signed distance to a circle without its radius: Karimäki, NIM A 410 (1998) 284.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignnet.data.o2_branches import TRACK_FILE, VERTEX_FILE, Frames, some
from alignnet.data.o2_tracks import ORBIT, Readout, States, readout_of
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError, SchemaError
from alignnet.physics.jit import compiled
from alignnet.units import CURVATURE

BUNCH_SPACING = 0.0249504
"""Between two bunch crossings of the LHC [µs]."""

_VERTEX = ("mPos.fCoordinates.fX", "mPos.fCoordinates.fY", "mPos.fCoordinates.fZ", "mCov", "mNContributors")
_RECORD = ("mBCData.bc", "mBCData.orbit", "mROFEntry.mFirstEntry", "mROFEntry.mEntries")
_TIME = ("mTimeStamp.mTimeStamp", "mTimeStamp.mTimeStampError")
_INTERVAL = ("mIRMin.bc", "mIRMin.orbit", "mIRMax.bc", "mIRMax.orbit")
NEEDED_SEEDING = some(
    TRACK_FILE, *(f"Vertices.{name}" for name in _VERTEX), *(f"VerticesROF.{name}" for name in _RECORD)
)
NEEDED_PRIMARY = some(VERTEX_FILE, *(f"PrimaryVertex.{name}" for name in (*_VERTEX, *_TIME, *_INTERVAL)))

_NO_BC, _FRAME_APART = 0xFFFF, 2**45


@dataclass(frozen=True)
class Timing:
    """When a readout frame takes data, in bunch crossings.

    Args:
        length: of a readout frame; None: the least distance of two in a time frame, or 891 where it has one.
        bias: from a frame's nominal first crossing to its true one (ITS: 64).
        margin: by which a vertex may be off.

    Raises:
        ConfigError: a value cannot be used.
    """

    length: int | None = None
    bias: int = 64
    margin: int = 50

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ConfigError(
                f"o2.timing.length is {self.length!r}, expected at least 1 bunch crossing, or null"
            )


class Vertices(NamedTuple):
    """Vertices, and for each readout frame the range of candidates."""

    position: Array  # (vertices, 3) [cm]
    covariance: Array  # xx, xy, yy, xz, yz, zz (vertices, 6) [cm²]
    n_contributors: Array  # (vertices,)
    frame: Array  # time frame (vertices,)
    first: Array  # candidates of each readout frame: rows first:last
    last: Array
    begin: Array  # first and last bunch crossing of each vertex (vertices,)
    end: Array
    opens: Array  # of each readout frame
    closes: Array


def seeding_vertices(frames: Frames, readout: Readout, path: str) -> Vertices:
    """The vertices that O2's track finding started from.

    Raises:
        SchemaError: readout frames of vertices and of tracks are not the same ones, a number is not finite,
            or a variance is negative.
    """
    own = readout_of(frames, path, "VerticesROF", "Vertices")
    if not (np.array_equal(own.frame, readout.frame) and np.array_equal(own.bc, readout.bc)):
        raise SchemaError(
            f"{path}: VerticesROF and ITSTracksROF are not the same readout frames; give "
            "o2.vertices=FILE or absent"
        )
    last = np.cumsum(np.bincount(own.of_track, minlength=len(own.bc)))
    first = np.concatenate([[0], last[:-1]])
    zero = np.zeros(len(own.of_track), dtype=np.int64)
    always = np.zeros(len(own.bc), dtype=np.int64)
    frame = frames.frame_of("Vertices")
    return Vertices(*_places(frames, path, "Vertices"), frame, first, last, zero, zero, always, always)


def primary_vertices(frames: Frames, readout: Readout, timing: Timing, path: str) -> Vertices:
    """The final vertices, ordered by time.

    Raises:
        SchemaError: a number is not finite, or a variance is negative.
    """
    frame = frames.frame_of("PrimaryVertex")
    begin, end = _intervals(frames, readout)
    # frames apart from each other, whatever their crossings are
    begin, end = begin + frame * _FRAME_APART, end + frame * _FRAME_APART
    order = np.argsort(begin, kind="stable")
    opens = readout.bc + timing.bias - timing.margin + readout.frame * _FRAME_APART
    closes = opens + _length(readout, timing) - 1 + 2 * timing.margin
    begin, end = begin[order], end[order]
    first = np.searchsorted(np.maximum.accumulate(end) if len(end) else end, opens, side="left")
    last = np.searchsorted(begin, closes, side="right")
    place, covariance, n = (column[order] for column in _places(frames, path, "PrimaryVertex"))
    return Vertices(place, covariance, n, frame[order], first, last, begin, end, opens, closes)


def nearest_vertex(
    states: States, readout_frame: Array, vertices: Vertices, b_z: float
) -> tuple[Array, Array]:
    """The candidate nearest to each track (−1 for none), and its distance [cm] (inf), each (tracks,)."""
    row, distance = np.full(len(readout_frame), -1), np.full(len(readout_frame), np.inf)
    kappa = -CURVATURE * b_z * states.q_over_pt
    direction = np.stack([np.cos(states.azimuth), np.sin(states.azimuth), states.tan_lambda], -1)
    _search(
        states.position, direction, kappa, readout_frame, vertices.position, vertices.first, vertices.last,
        vertices.begin, vertices.end, vertices.opens, vertices.closes, row, distance,
    )  # fmt: skip
    return row, distance


def distance_to(states: States, points: Array, b_z: float) -> Array:
    """How far each track passes from a point of its own [cm]: points (tracks, 3), answer (tracks,)."""
    own, zero, n = np.arange(len(points)), np.zeros(len(points), dtype=np.int64), len(points)
    alone = Vertices(points, np.zeros((n, 6)), zero, zero, own, own + 1, zero, zero, zero, zero)
    return nearest_vertex(states, own, alone, b_z)[1]


@compiled
def _search(
    position: Array,
    direction: Array,
    kappa: Array,
    readout_frame: Array,
    vertex: Array,
    first: Array,
    last: Array,
    begin: Array,
    end: Array,
    opens: Array,
    closes: Array,
    row: Array,
    distance: Array,
) -> None:
    for t in range(len(kappa)):
        r, k = readout_frame[t], kappa[t]
        c, s, slope = direction[t, 0], direction[t, 1], direction[t, 2]
        for v in range(first[r], last[r]):
            if end[v] < opens[r] or begin[v] > closes[r]:
                continue
            x, y = vertex[v, 0] - position[t, 0], vertex[v, 1] - position[t, 1]
            u, w = c * x + s * y, c * y - s * x
            a = k * (u * u + w * w) - 2 * w
            across = a / (1 + math.sqrt(max(1 + k * a, 0.0)))
            path = math.atan2(k * u, 1 - k * w) / k if abs(k) > 1e-12 else u
            along = position[t, 2] + path * slope - vertex[v, 2]
            d = math.sqrt(across * across + along * along)
            if d < distance[t]:
                row[t], distance[t] = v, d


def _places(frames: Frames, path: str, name: str) -> tuple[Array, Array, Array]:
    position = np.stack([frames[f"{name}.mPos.fCoordinates.f{axis}"] for axis in "XYZ"], -1)
    covariance = frames[f"{name}.mCov"]
    good = np.isfinite(position).all(-1) & np.isfinite(covariance).all(-1)
    good &= (covariance[:, [0, 2, 5]] >= 0).all(-1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        frame = int(frames.frame_of(name)[row])
        number = row - int(frames.offset(name)[frame])
        raise SchemaError(
            f"{path}: time frame {frames.first + frame}, {name} {number}: found position "
            f"{position[row].tolist()}, mCov {covariance[row].tolist()}, expected finite numbers, and "
            "variances (first, third and sixth of mCov) that are not negative"
        )
    n = frames[f"{name}.mNContributors"].astype(np.int64)
    return position.astype(np.float64), covariance.astype(np.float64), n


def _intervals(frames: Frames, readout: Readout) -> tuple[Array, Array]:
    """First and last bunch crossing of each vertex, from orbit 0."""
    bc, orbit, last_bc, last_orbit = (frames[f"PrimaryVertex.{name}"].astype(np.int64) for name in _INTERVAL)
    time, error = (frames[f"PrimaryVertex.{name}"].astype(np.float64) / BUNCH_SPACING for name in _TIME)
    start = np.zeros(len(frames), dtype=np.int64)
    frame, where = np.unique(readout.frame, return_index=True)
    start[frame] = readout.bc[where] // ORBIT * ORBIT
    origin = start[frames.frame_of("PrimaryVertex")]
    known = (bc != _NO_BC) & (last_bc != _NO_BC)
    begin = np.where(known, orbit * ORBIT + bc, origin + np.floor(time - 3 * error).astype(np.int64))
    end = np.where(known, last_orbit * ORBIT + last_bc, origin + np.ceil(time + 3 * error).astype(np.int64))
    return begin, end


def _length(readout: Readout, timing: Timing) -> int:
    if timing.length is not None:
        return timing.length
    step = np.diff(readout.bc)[np.diff(readout.frame) == 0]
    step = step[step > 0]
    return int(step.min()) if len(step) else ORBIT // 4
