"""Linearised tracks added to the matrix, the gradient and noise draws of the sensors' unknowns.

With the change D_i of a hit's two rows by its own sensor's Θ and the track's metric M, the blocks are
H_ij += D_iᵀ M_ij D_j of every pair of hits, and the gradient g_i += D_iᵀ f_i.
"""

from __future__ import annotations

import numpy as np

from alignnet.data.tracks import Array
from alignnet.solvers.jit import compiled
from alignnet.solvers.pair_blocks import PAIR
from alignnet.solvers.record_kernels import find


@compiled
def accumulate(
    sensor: Array,
    is_hit: Array,
    slope: Array,
    arm: Array,
    response: Array,
    force: Array,
    noise: Array,
    metric: Array,
    jacobian: Array,
    moves: Array,
    order: Array,
    first: int,
    tracks_before: int,
    share: tuple[int, int],
    table: Array,
    values: Array,
    used: Array,
    gradient: Array,
    draws: Array,
    hits: Array,
    width: tuple[int, ...],
) -> int:
    """Add tracks from the `first` in an order on, as long as there is room for their blocks.

    Args:
        sensor, is_hit, slope, arm, response, force, noise, metric: of a `Block`.
        jacobian: `SensorLayer.motion`, 0 for what is fixed.
        moves: sensors with anything free (sensors,).
        order: of the tracks (tracks,).
        tracks_before: tracks added by earlier blocks; the track's number makes the signs of its noise.
        share: (k, n): only rows of blocks k, k + n, k + 2n … and only these sensors' gradients.
        table, values, used: of `PairBlocks`.
        gradient: (sensors, dof), to be added to.
        draws: (sensors, dof, draws), to be added to, at most 64 draws.
        hits: with weight, of each sensor (sensors,), to be added to.
        width: as long as there are dof.

    Returns:
        Where in the order it stopped.
    """
    n = sensor.shape[1]
    change, half = np.zeros((n, 2, len(width))), np.zeros((2, len(width)))
    column, rows = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    where, sign = np.zeros((n, n), dtype=np.int64), np.zeros(draws.shape[2])
    for turn in range(first, len(order)):
        if used[0] + n * (n - 1) // 2 > len(values):
            return turn
        t, count = order[turn], 0
        for h in range(n):
            own = metric[t, 2 * h, 2 * h] + metric[t, 2 * h + 1, 2 * h + 1]
            if is_hit[t, h] and not own <= 0:
                if sensor[t, h] % share[1] == share[0]:  # an added 0 would undo what another thread adds
                    hits[sensor[t, h]] += 1
                if moves[sensor[t, h]]:
                    column[count], rows[count] = h, sensor[t, h]
                    if response.shape[3]:
                        chained(jacobian[rows[count]], response[t, h], change[count], width)
                    else:
                        derivative(jacobian[rows[count]], slope[t, h], arm[t, h], change[count], width)
                    count += 1
        places(count, rows, share, table, used, where)
        signs(tracks_before + t, sign)
        for a in range(count):
            i = column[a]
            for d in range(len(width) if where[a, a] >= 0 else 0):
                g = change[a, 0, d] * force[t, 2 * i] + change[a, 1, d] * force[t, 2 * i + 1]
                x = change[a, 0, d] * noise[t, 2 * i] + change[a, 1, d] * noise[t, 2 * i + 1]
                gradient[rows[a], d] += g
                for k in range(len(sign)):
                    draws[rows[a], d, k] += x * sign[k]
            for b in range(a, count):
                if where[a, b] < 0:
                    continue
                target = values[where[a, b]]
                if rows[a] <= rows[b]:
                    add_pair(a, b, column, change, metric[t], target, half, width)
                if a != b and rows[a] >= rows[b]:  # its transpose, or both for two hits of one sensor
                    add_pair(b, a, column, change, metric[t], target, half, width)
    return len(order)


@compiled
def derivative(jacobian: Array, slope: Array, arm: Array, out: Array, width: tuple[int, ...]) -> None:
    """`Block.derivative` of one hit (2, dof)."""
    for d in range(len(width)):
        u = jacobian[0, d] * arm[0] + jacobian[1, d] * arm[1] + jacobian[6, d]
        v = jacobian[2, d] * arm[0] + jacobian[3, d] * arm[1] + jacobian[7, d]
        w = jacobian[4, d] * arm[0] + jacobian[5, d] * arm[1] + jacobian[8, d]
        out[0, d], out[1, d] = slope[0] * w - u, slope[1] * w - v


@compiled
def chained(jacobian: Array, response: Array, out: Array, width: tuple[int, ...]) -> None:
    """`Block.derivative` of one hit on a curved sensor (2, dof)."""
    for k in range(2):
        for d in range(len(width)):
            s = 0.0
            for e in range(response.shape[1]):
                s += response[k, e] * jacobian[e, d]
            out[k, d] = s


@compiled
def places(count: int, rows: Array, share: tuple[int, int], table: Array, used: Array, where: Array) -> None:
    """Where the blocks of each pair of a track's hits are, −1 in other shares; new ones get a place."""
    for a in range(count):
        for b in range(a, count):
            low, high = min(rows[a], rows[b]), max(rows[a], rows[b])
            where[a, b] = low if low % share[1] == share[0] else -1
            if low != high and where[a, b] >= 0:
                key = low * PAIR + high
                row = find(table, key)
                if table[row, 0] == -1:
                    table[row, 0], table[row, 1] = key, used[0]
                    used[0] += 1
                where[a, b] = table[row, 1]


@compiled
def add_pair(
    a: int,
    b: int,
    column: Array,
    change: Array,
    metric: Array,
    target: Array,
    half: Array,
    width: tuple[int, ...],
) -> None:
    """Add D_aᵀ M_ab D_b to a block; `half` is room for M_ab D_b (2, dof)."""
    i, j = 2 * column[a], 2 * column[b]
    p, q, r, s = metric[i, j], metric[i, j + 1], metric[i + 1, j], metric[i + 1, j + 1]
    for e in range(len(width)):
        half[0, e] = p * change[b, 0, e] + q * change[b, 1, e]
        half[1, e] = r * change[b, 0, e] + s * change[b, 1, e]
    for d in range(len(width)):
        x, y = change[a, 0, d], change[a, 1, d]
        for e in range(len(width)):
            target[d, e] += x * half[0, e] + y * half[1, e]


@compiled
def signs(number: int, out: Array) -> None:
    """±1 for each draw from the bits of a hash of the track's number (splitmix64)."""
    word = np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    for k in range(len(out)):
        out[k] = 1.0 - 2.0 * float((word >> np.uint64(k)) & np.uint64(1))


@compiled
def between_volumes(
    start: Array, column: Array, values: Array, basis: Array, group: Array, total: Array
) -> None:
    """Add ZᵀHZ of the volumes' motions Z to the upper blocks of `total`.

    Args:
        start, column, values: of a `BlockMatrix`.
        basis: (sensors, dof, motions).
        group: volume of each sensor (sensors,).
        total: (volumes, volumes, motions, motions); block (a, b) and its transpose at (b, a) add up to ZᵀHZ.
    """
    n, m = values.shape[1], basis.shape[2]
    half = np.zeros((n, m))
    for i in range(len(start) - 1):
        for k in range(start[i], start[i + 1]):
            j = column[k]
            for d in range(n):
                for y in range(m):
                    s = 0.0
                    for e in range(n):
                        s += values[k, d, e] * basis[j, e, y]
                    half[d, y] = s
            scale = 0.5 if i == j else 1.0
            target = total[group[i], group[j]]
            for x in range(m):
                for d in range(n):
                    f = scale * basis[i, d, x]
                    for y in range(m):
                        target[x, y] += f * half[d, y]
