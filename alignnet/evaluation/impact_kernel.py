"""`impact` for one track at a time, compiled."""

from __future__ import annotations

import math

import numpy as np

from alignnet.physics import track_kernels as tk
from alignnet.physics.jit import Array, compiled


@compiled
def impact_tracks(
    state: Array, covariance: Array, reference: Array, five: Array, spread: Array, towards: Array
) -> None:
    """Closest approaches of tracks to the axes along z through their reference points.

    Args:
        state: (tracks, 7).
        covariance: of its local numbers (tracks, 5, 5).
        reference: (tracks, 3) [cm].
        five: d0, z0, φ, tan λ and ω/cos λ there, set here (tracks, 5).
        spread: covariance of d0 and z0, set here (tracks, 2, 2) [cm²].
        towards: how they follow the reference points, set here (tracks, 2, 3).
    """
    e, x, t, u, v, along = (
        np.zeros((2, 3)), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    )  # fmt: skip
    rows = np.zeros((2, 6))
    v[2] = 1.0
    for i in range(len(state)):
        q = state[i]
        s = tk.path_to_axis(q, reference[i, 0], reference[i, 1])
        tk.point_and_tangent(q, s, x, t)
        c = math.sqrt(t[0] * t[0] + t[1] * t[1])
        along[0], along[1] = t[0] / c, t[1] / c
        u[0], u[1] = -along[1], along[0]
        tk.frame(q[3:6], e)
        tk.rows_of_plane(q, e, s, reference[i], u, v, along, rows)
        five[i, 0], five[i, 1], five[i, 2] = rows[0, 5], rows[1, 5], math.atan2(t[1], t[0])
        five[i, 3], five[i, 4] = t[2] / c, q[6] / c
        for k in range(3):
            towards[i, 0, k] = -u[k]
            towards[i, 1, k] = five[i, 3] * along[k] - v[k]
        for a in range(2):
            for b in range(2):
                total = 0.0
                for j in range(5):
                    for k in range(5):
                        total += rows[a, j] * covariance[i, j, k] * rows[b, k]
                spread[i, a, b] = total
