"""`linearise_at` for one track at a time, compiled; events' origins are not fitted here."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from alignnet.physics import track_kernels as tk
from alignnet.physics.jit import Array, compiled


class Fits(NamedTuple):
    """Fitted tracks with what they are linearised with; dimensions (tracks), (hits)."""

    origin: Array  # planes (tracks, hits, 3) [cm]
    u: Array
    v: Array
    normal: Array
    is_hit: Array
    uv: Array
    half: Array  # of the hits' sensors' active areas (tracks, hits, 2) [cm]
    centre: Array
    state: Array  # (tracks, 7)
    s: Array  # (tracks, hits)
    factor: Array  # L⁻¹ (tracks, 2·hits, 2·hits), or empty
    inverse_sigma: Array  # (tracks, 2·hits), or empty
    vertex_factor: Array  # (tracks, 2, 2), or empty
    vertex_inverse: Array  # (tracks, 2), or empty
    axes: Array  # of the vertex' rows (tracks, 3, 3), or empty where there are none
    vertex: Array  # (tracks, 3)
    weight: Array  # (tracks,)
    epsilon: Array  # whitened pure noise (tracks, rows)


class Linear(NamedTuple):
    """The fields of a `Block` that are computed."""

    slope: Array
    arm: Array
    force: Array
    noise: Array
    metric: Array


class Room(NamedTuple):
    """Room for one track; rows are those of its hits and, last, the two of the vertex."""

    columns: Array
    raw: Array  # derivatives and residual (rows, 6)
    rows: Array  # the same, whitened
    weights: Array  # L⁻¹ (2·hits, 2·hits)
    basis: Array  # orthonormal, of the derivatives' columns (5, rows)
    projected: Array  # P L⁻¹ (rows, 2·hits)
    along: Array  # Qᵀ L⁻¹ (5, 2·hits)
    metric: Array
    frame: Array
    epsilon: Array
    two: Array


@compiled
def linearise_tracks(fits: Fits, n_parameters: int, out: Linear, first: int, last: int) -> None:
    """Fill `out`, which is 0, for those of tracks first … last − 1 that have weight."""
    n = fits.is_hit.shape[1]
    room = Room(
        np.zeros(n, dtype=np.int64), np.zeros((2 * n + 2, 6)), np.zeros((2 * n + 2, 6)),
        np.zeros((2 * n, 2 * n)), np.zeros((5, 2 * n + 2)), np.zeros((2 * n + 2, 2 * n)),
        np.zeros((5, 2 * n)), np.zeros((2 * n, 2 * n)), np.zeros((2, 3)), np.zeros(2 * n + 2),
        np.zeros((2, 2)),
    )  # fmt: skip
    for t in range(first, last):
        if not fits.weight[t] > 0:
            continue
        count = tk.columns_of(fits.is_hit[t], room.columns)
        _rows(t, count, fits, out, room)
        used = 2 * count
        if fits.axes.size:
            _vertex_rows(t, used, fits, room)
            used += 2
        _orthonormal(used, n_parameters, room)
        _project(used, 2 * count, n_parameters, room)
        _store(t, used, count, fits, out, room)


@compiled
def _rows(t: int, n: int, fits: Fits, out: Linear, room: Room) -> None:
    """Whitened rows of the hits, their weights and levers."""
    q = fits.state[t]
    tk.frame(q[3:6], room.frame)
    for i in range(n):
        h = room.columns[i]
        origin, normal = fits.origin[t, h], fits.normal[t, h]
        s = tk.path_to_plane(q, origin, normal, fits.s[t, h], 2)
        out.slope[t, h, 0], out.slope[t, h, 1] = tk.rows_of_plane(
            q, room.frame, s, origin, fits.u[t, h], fits.v[t, h], normal, room.raw[2 * i :]
        )
        for k in range(2):
            place = fits.uv[t, h, k] + room.raw[2 * i + k, 5]
            out.arm[t, h, k] = (place - fits.centre[t, h, k]) / fits.half[t, h, k]
            room.epsilon[2 * i + k] = fits.epsilon[t, 2 * h + k]
        out.arm[t, h, 2] = 1.0
    for a in range(2 * n):
        row = 2 * room.columns[a // 2] + a % 2
        for c in range(6):
            room.rows[a, c] = 0.0
        for b in range(2 * n):
            room.weights[a, b] = 0.0
        for b in range(0 if fits.factor.size else a, a + 1):
            if fits.factor.size:
                w = fits.factor[t, row, 2 * room.columns[b // 2] + b % 2]
            else:
                w = fits.inverse_sigma[t, row]
            room.weights[a, b] = w
            for c in range(6):
                room.rows[a, c] += w * room.raw[b, c]


@compiled
def _vertex_rows(t: int, first: int, fits: Fits, room: Room) -> None:
    q, axes, target = fits.state[t], fits.axes[t], fits.vertex[t]
    s = tk.path_to_plane(q, target, axes[2], tk.line_to_plane(q, target, axes[2]), 5)
    tk.rows_of_plane(q, room.frame, s, target, axes[0], axes[1], axes[2], room.raw[first:])
    two, n = room.two, fits.is_hit.shape[1]
    if fits.vertex_factor.size:
        two[:] = fits.vertex_factor[t]
    else:
        two[0, 0], two[1, 1] = fits.vertex_inverse[t, 0], fits.vertex_inverse[t, 1]
    for c in range(6):
        room.rows[first, c] = two[0, 0] * room.raw[first, c]
        room.rows[first + 1, c] = two[1, 0] * room.raw[first, c] + two[1, 1] * room.raw[first + 1, c]
    room.epsilon[first], room.epsilon[first + 1] = fits.epsilon[t, 2 * n], fits.epsilon[t, 2 * n + 1]


@compiled
def _orthonormal(used: int, n: int, room: Room) -> None:
    """An orthonormal basis of the derivatives' columns: Gram and Schmidt, twice over."""
    for c in range(n):
        column = room.basis[c]
        for i in range(used):
            column[i] = room.rows[i, c]
        for _ in range(2):
            _normalise(column, used)
            for k in range(c):
                other, along = room.basis[k], 0.0
                for i in range(used):
                    along += other[i] * column[i]
                for i in range(used):
                    column[i] -= along * other[i]
        _normalise(column, used)


@compiled
def _normalise(column: Array, used: int) -> None:
    norm = 0.0
    for i in range(used):
        norm += column[i] * column[i]
    norm = 1 / max(math.sqrt(norm), 1e-30)
    for i in range(used):
        column[i] *= norm


@compiled
def _project(used: int, rows: int, n: int, room: Room) -> None:
    """P L⁻¹; L⁻¹ of the vertex does not reach the hits' rows."""
    for k in range(n):
        along = room.along[k]
        for c in range(rows):
            along[c] = 0.0
        for i in range(rows):
            f = room.basis[k, i]
            for c in range(i + 1):
                along[c] += f * room.weights[i, c]
    for i in range(used):
        target = room.projected[i]
        for c in range(rows):
            target[c] = room.weights[i, c] if i < rows else 0.0
        for k in range(n):
            f, along = room.basis[k, i], room.along[k]
            for c in range(rows):
                target[c] -= f * along[c]


@compiled
def _store(t: int, used: int, n: int, fits: Fits, out: Linear, room: Room) -> None:
    """Metric, force and noise in the batch's own columns."""
    weight, rows = fits.weight[t], 2 * n
    metric, root = room.metric, math.sqrt(weight)
    for a in range(rows):
        for b in range(a + 1):
            metric[a, b] = 0.0
    for i in range(used):
        row = room.projected[i]
        for a in range(rows):
            f = row[a] * weight
            for b in range(a + 1):
                metric[a, b] += f * row[b]
    for a in range(rows):
        to, force, noise = 2 * room.columns[a // 2] + a % 2, 0.0, 0.0
        for i in range(used):
            force += room.projected[i, a] * room.rows[i, 5]
            noise += room.projected[i, a] * room.epsilon[i]
        out.force[t, to], out.noise[t, to] = force * weight, noise * root
        for b in range(a + 1):
            other = 2 * room.columns[b // 2] + b % 2
            out.metric[t, to, other] = out.metric[t, other, to] = metric[a, b]
