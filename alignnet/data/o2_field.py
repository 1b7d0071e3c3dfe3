"""In which field O2 has fitted its tracks, told by the tracks themselves.

Between its innermost and its outermost state a track turns by Δφ over the chord c, so its curvature is
κ = 2 sin(Δφ/2)/c = −0.00299792458 B q/p_T, and B is the slope of κ over q/p_T.
"""

from __future__ import annotations

import numpy as np

from alignnet.data.o2_branches import TRACK_FILE, Frames, some
from alignnet.data.o2_tracks import TURN
from alignnet.errors import ConfigError, SchemaError
from alignnet.units import CURVATURE

_MEMBERS = ("mX", "mAlpha", "mP")
NEEDED_FIELD = some(
    TRACK_FILE, *(f"ITSTrack.{state}{name}" for state in ("", "mParamOut.") for name in _MEMBERS)
)

MIN_CHORD, MIN_TRACKS = 5.0, 10
"""Between the two states [cm]; tracks that tell something."""

MAX_CHORD = 100.0
"""No track of ITS2, which is 80 cm across, is longer [cm]."""


def field_of(frames: Frames, path: str = "") -> float | None:
    """The field along z [T], None where too few tracks with possible parameters tell.

    Raises:
        SchemaError: the tracks of file `path` are too long for the lengths to be in cm.
    """
    ends = []
    for state in ("ITSTrack.", "ITSTrack.mParamOut."):
        x, alpha, p = (frames[state + name].astype(np.float64) for name in _MEMBERS)
        c, s = np.cos(alpha), np.sin(alpha)
        possible = (np.abs(p[:, 2]) <= 1) & (np.abs(alpha) <= TURN)
        azimuth = np.where(possible, alpha + np.arcsin(p[:, 2].clip(-1, 1)), np.nan)
        ends.append((x * c - p[:, 0] * s, x * s + p[:, 0] * c, azimuth, p[:, 4]))
    (x0, y0, begin, q_over_pt), (x1, y1, end, _) = ends
    chord = np.hypot(x1 - x0, y1 - y0)
    good = np.isfinite(chord + begin + end + q_over_pt) & (chord > MIN_CHORD)
    if good.sum() < MIN_TRACKS:
        return None
    if (length := float(np.median(chord[good]))) > MAX_CHORD:
        raise SchemaError(
            f"{path}: its tracks are {length:.0f} cm long (median, from mX and mP of ITSTrack to those of "
            f"mParamOut), expected less than {MAX_CHORD:g}, as in ITS2; O2 writes cm"
        )
    turn = (end - begin)[good] - 2 * np.pi * np.round((end - begin)[good] / (2 * np.pi))
    kappa, inverse = 2 * np.sin(turn / 2) / chord[good], q_over_pt[good]
    if not inverse.any():
        return None
    return float(-(kappa * inverse).sum() / (CURVATURE * np.square(inverse).sum()))


def check_field(frames: Frames, b_z: float, path: str) -> None:
    """Look whether the tracks turn as in the field `b_z` [T].

    Raises:
        SchemaError: their lengths are not in cm.
        ConfigError: they turn otherwise.
    """
    found = field_of(frames, path)
    if found is not None and abs(found - b_z) > max(0.05, 0.2 * abs(b_z)):
        raise ConfigError(
            f"{path}: its tracks turn as in a field of {found:.2f} T along z, the detector's is {b_z} T; "
            f"give detector=its2 detector.b_z={round(found, 1)}"
        )
