"""`material` for one track at a time, compiled: the scatterers' part of the covariance of its residuals."""

from __future__ import annotations

import math

from alignnet.physics.jit import Array, compiled, is_finite
from alignnet.physics.material import _K_Z_OVER_A_SI, RADIATION_LENGTH_SI

_WIDTH = 4.018 / 2.3548 * 0.5 * _K_Z_OVER_A_SI * RADIATION_LENGTH_SI


@compiled
def widths(p: float, mass: float, omega: float, x: float, log_term: bool) -> tuple[float, float]:
    """`highland`'s angle [rad] and `curvature_width` [1/cm] of a scatterer x radiation lengths thick."""
    if not x > 0:
        return 0.0, 0.0
    energy2 = p * p + mass * mass
    beta2 = p * p / energy2
    thick = max(x, 1e-12)
    correction = 1 + 0.038 * math.log(thick / beta2) if log_term else 1.0
    angle = 0.0136 / (math.sqrt(beta2) * p) * math.sqrt(thick) * max(correction, 0.0)
    return angle, abs(omega) * _WIDTH * x / beta2 * math.sqrt(energy2) / (p * p)


@compiled
def axes_in_plane(e: Array, t: Array, u: Array, v: Array, normal: Array, out: Array) -> None:
    """What a displacement along e1 and along e2 is in a plane, moved there along t; (axis, row)."""
    along = t[0] * normal[0] + t[1] * normal[1] + t[2] * normal[2]
    for k in range(2):
        slip = (e[k, 0] * normal[0] + e[k, 1] * normal[1] + e[k, 2] * normal[2]) / along
        x, y, z = e[k, 0] - t[0] * slip, e[k, 1] - t[1] * slip, e[k, 2] - t[2] * slip
        out[k, 0] = x * u[0] + y * u[1] + z * u[2]
        out[k, 1] = x * v[0] + y * v[1] + z * v[2]


@compiled
def add_scatterer(
    s: Array, n: int, here: float, omega: float, angle: float, curvature: float, lever: Array, sums: Array
) -> None:
    """Add what a scatterer does along e1 and along e2 to all pairs of hits behind it.

    Args:
        s: path lengths of the hits, of which `n` are used.
        here: that of the scatterer.
        angle, curvature: its `widths`.
        lever: room (3, hits).
        sums: of products of levers (2, hits, hits), j ≤ i.
    """
    for i in range(n):
        reach = s[i] - here
        if not reach > 0:
            lever[0, i] = lever[1, i] = lever[2, i] = 0.0
            continue
        turn = omega * reach
        across = 1.0 if abs(turn) < 1e-8 else math.sin(turn) / turn
        lever[0, i], lever[1, i] = reach * across * angle, reach * angle
        lever[2, i] = 0.5 * reach * reach * curvature
    for i in range(n):
        if lever[1, i] == 0:
            continue
        a, b, c = lever[0, i], lever[1, i], lever[2, i]
        for j in range(i + 1):
            sums[0, i, j] += a * lever[0, j] + c * lever[2, j]
            sums[1, i, j] += b * lever[1, j]


@compiled
def add_covariance(sums: Array, axes: Array, n: int, out: Array) -> None:
    """Add the scatterers' part to the rows' covariance (2·hits, 2·hits), its lower triangle."""
    for i in range(n):
        for j in range(i + 1):
            a, b = sums[0, i, j], sums[1, i, j]
            for k in range(2):
                for m in range(2):
                    out[2 * i + k, 2 * j + m] += (
                        a * axes[i, 0, k] * axes[j, 0, m] + b * axes[i, 1, k] * axes[j, 1, m]
                    )


@compiled
def invert_cholesky(v: Array, n: int, w: Array) -> bool:
    """W = L⁻¹ with L Lᵀ = V of the lower triangle of V, which is used up; whether V was positive definite."""
    for a in range(n):
        for b in range(a + 1):
            x = v[a, b]
            for k in range(b):
                x -= v[a, k] * v[b, k]
            if b < a:
                v[a, b] = x * v[b, b]
            elif not x > 0 or not is_finite(x):
                return False
            else:
                v[a, a] = 1 / math.sqrt(x)  # the diagonal holds its inverse
    for b in range(n):
        for a in range(b):
            w[a, b] = 0.0
        w[b, b] = v[b, b]
        for a in range(b + 1, n):
            x = 0.0
            for k in range(b, a):
                x -= v[a, k] * w[k, b]
            w[a, b] = x * v[a, a]
    return True
