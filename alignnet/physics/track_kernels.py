"""One track at a time, compiled: the formulas of `helix`, `seed` and `trackfit` for a state of seven numbers.

A state q is (position, direction, ω) as `Helix` has them; planes are rows of 3-vectors. `tests/loss` holds
these to the batched functions, which remain the reference.
"""

from __future__ import annotations

import math

import numpy as np

from alignnet.physics.jit import Array, compiled, is_finite

_ARRIVED = 1e-9  # [cm] a Newton step below this is the last: the next would be 1e-18 times the curvature


@compiled
def columns_of(is_hit: Array, columns: Array) -> int:
    """Writes which columns of a track's hits hold one; returns how many.

    A count of the caller's own would begin as the constant 0, for which numba compiles all that takes it once
    more.
    """
    count = 0
    for h in range(len(is_hit)):
        if is_hit[h]:
            columns[count] = h
            count += 1
    return count


@compiled
def circle(half: float) -> tuple[float, float, float]:
    """sin(h)/h, cos h and sin h; their series below 0.3, to rounding."""
    x = half * half
    if x < 0.09:
        ratio = 1 - x / 6 * (1 - x / 20 * (1 - x / 42 * (1 - x / 72 * (1 - x / 110 * (1 - x / 156)))))
        cosine = 1 - x / 2 * (1 - x / 12 * (1 - x / 30 * (1 - x / 56 * (1 - x / 90 * (1 - x / 132)))))
        return ratio, cosine, half * ratio
    sine = math.sin(half)
    return sine / half, math.cos(half), sine


@compiled
def dot(a: Array, b: Array) -> float:
    """a · b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def point_and_tangent(q: Array, s: float, x: Array, t: Array) -> None:
    """Position and direction after the path length s."""
    ratio, c, sn = circle(0.5 * q[6] * s)
    c2, s2 = c * c - sn * sn, 2 * c * sn
    x[0] = q[0] + s * ratio * (c * q[3] - sn * q[4])
    x[1] = q[1] + s * ratio * (sn * q[3] + c * q[4])
    x[2] = q[2] + s * q[5]
    t[0], t[1], t[2] = c2 * q[3] - s2 * q[4], s2 * q[3] + c2 * q[4], q[5]


@compiled
def line_to_plane(q: Array, origin: Array, normal: Array) -> float:
    """Where the straight line along the state's direction crosses the plane."""
    ahead = (origin[0] - q[0]) * normal[0] + (origin[1] - q[1]) * normal[1] + (origin[2] - q[2]) * normal[2]
    return ahead / (q[3] * normal[0] + q[4] * normal[1] + q[5] * normal[2])


@compiled
def path_to_plane(q: Array, origin: Array, normal: Array, s: float, steps: int) -> float:
    """Newton's steps to the plane from s."""
    for _ in range(steps):
        ratio, c, sn = circle(0.5 * q[6] * s)
        c2, s2 = c * c - sn * sn, 2 * c * sn
        x = q[0] + s * ratio * (c * q[3] - sn * q[4]) - origin[0]
        y = q[1] + s * ratio * (sn * q[3] + c * q[4]) - origin[1]
        z = q[2] + s * q[5] - origin[2]
        speed = (c2 * q[3] - s2 * q[4]) * normal[0] + (s2 * q[3] + c2 * q[4]) * normal[1] + q[5] * normal[2]
        change = (x * normal[0] + y * normal[1] + z * normal[2]) / speed
        s -= change
        if abs(change) < _ARRIVED:
            break
    return s


@compiled
def path_to_axis(q: Array, x: float, y: float) -> float:
    """Path length to the closest transverse approach to the axis along z through (x, y)."""
    c = math.sqrt(q[3] * q[3] + q[4] * q[4])
    dx, dy = q[0] - x, q[1] - y
    kappa = q[6] / c
    reach = (q[3] * dx + q[4] * dy) / c / (1 + kappa * (q[3] * dy - q[4] * dx) / c)
    a = kappa * reach
    a2 = a * a
    if a2 < 2.5e-3:
        ratio = 1 - a2 * (1 / 3 - a2 * (1 / 5 - a2 * (1 / 7 - a2 * (1 / 9 - a2 / 11))))
    else:
        ratio = math.atan(a) / a
    return -reach * ratio / c


@compiled
def path_to_cylinder(q: Array, radius: float, x: Array, t: Array) -> float:
    """Path length of the outward crossing of a cylinder about the z axis, NaN where there is none.

    `x` and `t` are position and direction there.
    """
    s = 0.0
    for _ in range(5):
        point_and_tangent(q, s, x, t)
        slope, speed = x[0] * t[0] + x[1] * t[1], t[0] * t[0] + t[1] * t[1]
        r2 = x[0] * x[0] + x[1] * x[1]
        s += (math.sqrt(slope * slope + speed * (radius * radius - r2)) - slope) / speed
    point_and_tangent(q, s, x, t)
    miss = abs(math.sqrt(x[0] * x[0] + x[1] * x[1]) - radius)
    return s if miss <= 1e-4 * radius else np.nan


@compiled
def frame(t: Array, e: Array) -> None:
    """The two unit vectors across a direction, `helix.frame` (2, 3)."""
    if abs(t[2]) > 0.99:
        norm = math.sqrt(t[2] * t[2] + t[1] * t[1])
        e[0, 0], e[0, 1], e[0, 2] = 0.0, -t[2] / norm, t[1] / norm
    else:
        norm = math.sqrt(t[0] * t[0] + t[1] * t[1])
        e[0, 0], e[0, 1], e[0, 2] = -t[1] / norm, t[0] / norm, 0.0
    e[1, 0] = t[1] * e[0, 2] - t[2] * e[0, 1]
    e[1, 1] = t[2] * e[0, 0] - t[0] * e[0, 2]
    e[1, 2] = t[0] * e[0, 1] - t[1] * e[0, 0]


@compiled
def moment_sin(x: float, sine: float, cosine: float) -> float:
    """(sin x − x cos x)/x², its series below 0.3."""
    x2 = x * x
    if x2 < 0.09:
        return x / 3 * (1 - x2 / 10 * (1 - x2 / 28 * (1 - x2 / 54 * (1 - x2 / 88))))
    return (sine - x * cosine) / x2


@compiled
def rows_of_plane(
    q: Array, e: Array, s: float, origin: Array, u: Array, v: Array, normal: Array, out: Array
) -> tuple[float, float]:
    """Derivatives by the five local parameters and, last, the residual of both rows (2, 6), and the slopes.

    Args:
        q, e: the state, and the frame of its direction.
        s: path length at the plane.
    """
    ratio, c, sn = circle(0.5 * q[6] * s)
    c2, s2, reach = c * c - sn * sn, 2 * c * sn, s * ratio
    tx, ty, tz = c2 * q[3] - s2 * q[4], s2 * q[3] + c2 * q[4], q[5]
    along = tx * normal[0] + ty * normal[1] + tz * normal[2]
    slope_u = (tx * u[0] + ty * u[1] + tz * u[2]) / along
    slope_v = (tx * v[0] + ty * v[1] + tz * v[2]) / along
    for k in range(2):
        a, b = u if k == 0 else v, slope_u if k == 0 else slope_v
        x, y, z = a[0] - b * normal[0], a[1] - b * normal[1], a[2] - b * normal[2]
        for i in range(2):
            ex, ey, ez = e[i, 0], e[i, 1], e[i, 2]
            out[k, i] = x * ex + y * ey + z * ez
            out[k, 2 + i] = reach * (x * (c * ex - sn * ey) + y * (sn * ex + c * ey)) + s * z * ez
        across = ratio * c - 0.5 * ratio * ratio
        down = moment_sin(q[6] * s, s2, c2)
        out[k, 4] = s * s * (y * (across * q[3] - down * q[4]) - x * (across * q[4] + down * q[3]))
        px = q[0] + reach * (c * q[3] - sn * q[4]) - origin[0]
        py = q[1] + reach * (sn * q[3] + c * q[4]) - origin[1]
        out[k, 5] = px * a[0] + py * a[1] + (q[2] + s * q[5] - origin[2]) * a[2]
    return slope_u, slope_v


@compiled
def gauss_newton(rows: Array, count: int, n: int, normal: Array, scale: Array, delta: Array) -> float:
    """The least-squares step −(JᵀJ)⁻¹Jᵀr of whitened rows (J, r), `trackfit.solve`.

    Args:
        rows: (rows, 6), of which `count` are used; the last column is r.
        n: parameters, 5 or 4.
        normal: room (6, 6); left with the factor of scaled JᵀJ, and χ² at its end.
        scale: room (5,); left with that scale.
        delta: the step (5,); 0 where it is not determined.

    Returns:
        By how much χ² is to drop, −r·Jδ; NaN where the rows do not determine the step.
    """
    for a in range(6):
        for b in range(a + 1):
            normal[a, b] = 0.0
        if a < 5:
            delta[a] = 0.0
    for i in range(count):
        for a in range(6):
            x = rows[i, a]
            for b in range(a + 1):
                normal[a, b] += x * rows[i, b]
    drop = 0.0
    for a in range(n):
        scale[a] = 1 / max(math.sqrt(normal[a, a]), 1e-30)
        for b in range(a + 1):
            x = normal[a, b] * scale[a] * scale[b]
            for k in range(b):
                x -= normal[a, k] * normal[b, k]
            if b < a:
                normal[a, b] = x / normal[b, b]
            else:
                root = math.sqrt(x)
                if not root > 1e-7:
                    return math.nan
                normal[a, a] = root
        x = normal[5, a] * scale[a]
        for k in range(a):
            x -= normal[a, k] * normal[5, k]
        normal[5, a] = x / normal[a, a]
        drop += normal[5, a] * normal[5, a]
    if not is_finite(drop):
        return math.nan
    for a in range(n - 1, -1, -1):
        x = normal[5, a]
        for k in range(a + 1, n):
            x -= normal[k, a] * normal[5, k]
        normal[5, a] = x / normal[a, a]
        delta[a] = -normal[5, a] * scale[a]
    return drop


@compiled
def square(rows: Array, first: int, last: int) -> float:
    """χ² of some of the whitened rows."""
    total = 0.0
    for i in range(first, last):
        total += rows[i, 5] * rows[i, 5]
    return total


@compiled
def update(q: Array, e: Array, delta: Array) -> None:
    """Move a state by its local parameters, `helix.updated`."""
    norm = 0.0
    for k in range(3):
        q[k] += delta[0] * e[0, k] + delta[1] * e[1, k]
        q[3 + k] += delta[2] * e[0, k] + delta[3] * e[1, k]
        norm += q[3 + k] * q[3 + k]
    norm = 1 / math.sqrt(norm)
    for k in range(3):
        q[3 + k] *= norm
    q[6] += delta[4]
