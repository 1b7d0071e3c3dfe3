"""`seed` for one track at a time, compiled."""

from __future__ import annotations

import math

import numpy as np

from alignnet.physics.jit import Array, compiled


@compiled
def seed_state(points: Array, index: Array, n: int, outward: bool, b_z: float, q: Array) -> None:
    """The first guess of a track.

    Args:
        points: measured positions (hits, 3) [cm].
        index: which of them are hits, of which `n` are used.
        outward, b_z: as for `seed`.
        q: the state (7,).
    """
    first, middle, last = _three(points, index, n, outward)
    a, b, c = points[first], points[middle], points[last]
    if b_z == 0:
        _line(a, c, q)
    else:
        _circle(a, b, c, q)


@compiled
def _three(points: Array, index: Array, n: int, outward: bool) -> tuple[int, int, int]:
    mean = (0.0, 0.0, 0.0)
    for k in range(n):
        x = points[index[k]]
        mean = (mean[0] + x[0], mean[1] + x[1], mean[2] + x[2])
    mean = (mean[0] / n, mean[1] / n, mean[2] / n)
    largest, far = -1.0, (0.0, 0.0, 0.0)
    for k in range(n):
        x = points[index[k]]
        offset = (x[0] - mean[0], x[1] - mean[1], x[2] - mean[2])
        size = offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2]
        if size > largest:
            largest, far = size, offset
    low, high, least, most = 0, 0, np.inf, -np.inf
    for k in range(n):
        along = _along(points[index[k]], mean, far)
        if along < least:
            low, least = k, along
        if along > most:
            high, most = k, along
    middle, nearest = 0, np.inf
    for k in range(n):
        distance = abs(_along(points[index[k]], mean, far) - 0.5 * (least + most))
        if k != low and k != high and distance < nearest:
            middle, nearest = k, distance
    first, last = index[low], index[high]
    if _is_reversed(points[first], points[last], outward):
        first, last = last, first
    return first, index[middle], last


@compiled
def _along(x: Array, mean: tuple[float, float, float], far: tuple[float, float, float]) -> float:
    return (x[0] - mean[0]) * far[0] + (x[1] - mean[1]) * far[1] + (x[2] - mean[2]) * far[2]


@compiled
def _is_reversed(a: Array, b: Array, outward: bool) -> bool:
    if outward:
        return bool(b[0] * b[0] + b[1] * b[1] < a[0] * a[0] + a[1] * a[1])
    y, z = b[1] - a[1], b[2] - a[2]
    return bool(y > 0 if abs(y) > abs(z) else z < 0)


@compiled
def _line(first: Array, last: Array, q: Array) -> None:
    x, y, z = last[0] - first[0], last[1] - first[1], last[2] - first[2]
    norm = math.sqrt(x * x + y * y + z * z)
    q[0], q[1], q[2] = first[0], first[1], first[2]
    q[3], q[4], q[5], q[6] = x / norm, y / norm, z / norm, 0.0


@compiled
def _circle(first: Array, middle: Array, last: Array, q: Array) -> None:
    near_x, near_y = middle[0] - first[0], middle[1] - first[1]
    full_x, full_y = last[0] - first[0], last[1] - first[1]
    rest = math.hypot(last[0] - middle[0], last[1] - middle[1])
    length = max(math.hypot(full_x, full_y), 1e-12)
    cross = near_x * full_y - near_y * full_x
    kappa = 2 * cross / max(math.hypot(near_x, near_y) * length * rest, 1e-12)
    sine = min(max(0.5 * kappa * length, -0.99), 0.99)
    cosine, angle = math.sqrt(1 - sine * sine), math.asin(sine)
    ratio = 1.0 if abs(sine) < 1e-6 else angle / sine
    tan_lambda = (last[2] - first[2]) / (length * ratio)
    cos_lambda = 1 / math.sqrt(1 + tan_lambda * tan_lambda)
    q[0], q[1], q[2] = first[0], first[1], first[2]
    q[3] = cos_lambda * (full_x * cosine + full_y * sine) / length
    q[4] = cos_lambda * (full_y * cosine - full_x * sine) / length
    q[5], q[6] = cos_lambda * tan_lambda, 2 * sine / length * cos_lambda
