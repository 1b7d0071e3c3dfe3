"""Places of rigid sensors from their local sixes Θ, and forces on them back to Θ, one sensor at a time.

In the nominal frame of a sensor, (x, y, z) = (u, w, v), a point l goes to E l + d with E = Exp(r×). A force F
there, with the moment M about E 0 + d, gives ∂/∂d = F and ∂/∂r = J_l(r)ᵀ M, where

    J_l(r)ᵀ m = m − (1 − cos a)/a² r×m + (a − sin a)/a³ r×(r×m),     a = |r|

is how a change of r turns what has been turned. The same as autograd finds through
`sensors.parametrisation.RigidLocal`, where tens of thousands of small matrices take longer than the tracks.
"""

from __future__ import annotations

import numpy as np

from alignnet.data.tracks import Array
from alignnet.loss.gradient_kernels import FORCE_ROWS
from alignnet.loss.lane_kernels import POSE_ROWS, compiled, dot, inlined

_SMALL = 1e-2  # a² below which series hold to rounding


@inlined
def coefficients(y: float) -> tuple[float, float, float]:
    """sin(a)/a, (1 − cos a)/a² and (a − sin a)/a³ of y = a²."""
    if y < _SMALL:
        return (
            1.0 - y / 6.0 * (1.0 - y / 20.0 * (1.0 - y / 42.0 * (1.0 - y / 72.0))),
            0.5 - y / 24.0 * (1.0 - y / 30.0 * (1.0 - y / 56.0 * (1.0 - y / 90.0))),
            1.0 / 6.0 - y / 120.0 * (1.0 - y / 42.0 * (1.0 - y / 72.0 * (1.0 - y / 110.0))),
        )
    a = np.sqrt(y)
    half = np.sin(0.5 * a)
    return np.sin(a) / a, 2.0 * half * half / y, (a - np.sin(a)) / (a * y)


@inlined
def cross(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float, float]:
    """The vector product of two vectors."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inlined
def turned_axes(r: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The first and the last column of E."""
    s, c, _ = coefficients(dot(r, r))
    x, y, z = r
    first = 1.0 - c * (y * y + z * z), s * z + c * x * y, c * x * z - s * y
    return first, (s * y + c * x * z, c * y * z - s * x, 1.0 - c * (x * x + y * y))


@compiled
def poses(theta: Array, rotation: Array, translation: Array, centre: Array, table: Array) -> None:
    """Set the table (sensors · `POSE_ROWS`,) of centres, u and v of the sensors by Θ (sensors, 6)."""
    for k in range(len(theta)):
        d = theta[k, 0], theta[k, 2], theta[k, 1]
        u, v = turned_axes((theta[k, 3], theta[k, 5], theta[k, 4]))
        cu, cv = centre[k, 0], centre[k, 1]
        c = d[0] + cu * u[0] + cv * v[0], d[1] + cu * u[1] + cv * v[1], d[2] + cu * u[2] + cv * v[2]
        for j in range(3):
            row = rotation[k, j, 0], rotation[k, j, 1], rotation[k, j, 2]
            table[k * POSE_ROWS + j] = translation[k, j] + dot(row, c)
            table[k * POSE_ROWS + 3 + j] = dot(row, u)
            table[k * POSE_ROWS + 6 + j] = dot(row, v)


@compiled
def to_theta(theta: Array, centre: Array, forces: Array, gradient: Array) -> None:
    """Set the gradient (sensors, 6) of χ² from the forces, those of ½χ² (sensors · `FORCE_ROWS`,)."""
    for k in range(len(theta)):
        at, cu, cv = k * FORCE_ROWS, centre[k, 0], centre[k, 1]
        r = theta[k, 3], theta[k, 5], theta[k, 4]
        u, v = turned_axes(r)
        w = cross(v, u)
        fu, fv, fw = 2.0 * forces[at], 2.0 * forces[at + 1], 2.0 * forces[at + 2]
        mu = -2.0 * forces[at + 3] - cv * fw
        mv = 2.0 * forces[at + 4] + cu * fw
        mw = -2.0 * forces[at + 5] - cu * fv + cv * fu
        m = (
            mu * u[0] + mv * v[0] + mw * w[0],
            mu * u[1] + mv * v[1] + mw * w[1],
            mu * u[2] + mv * v[2] + mw * w[2],
        )
        _, b, c = coefficients(dot(r, r))
        once = cross(r, m)
        twice = cross(r, once)
        for j in range(3):
            to = (3 - j) % 3  # x, y, z stand as u, w, v
            gradient[k, to] = fu * u[j] + fv * v[j] + fw * w[j]
            gradient[k, 3 + to] = m[j] - b * once[j] + c * twice[j]
