"""Track parameters eliminated from records, and what remains added to a matrix of the shared parameters.

For the whitened measurements of a record, y = L q + G p + ε, with C Cᵀ = LᵀL and B = C⁻¹LᵀG, the parameters p
that it shares with others see

    H = GᵀG − BᵀB,      g = Gᵀy − Bᵀ C⁻¹Lᵀy,      χ² = yᵀy − |C⁻¹Lᵀy|²

(Millepede's reduced matrix). G has few entries a measurement; B is dense but has only as many rows as there
are track parameters. Unknowns come in blocks, a sensor's six, and H is collected block by block.
"""

from __future__ import annotations

import numpy as np

from alignnet.data.tracks import Array
from alignnet.solvers.jit import compiled
from alignnet.solvers.record_kernels import NO_ROOM, UNDETERMINED, Buffers, find, parse

PAIR = 1 << 31  # key of blocks (i, j), i <= j: i · PAIR + j
HUBER, CAUCHY = 1.345, 2.3849
UNDETERMINED_BELOW = 1e-12
"""Track parameters of which others leave less than this part are not determined."""


@compiled
def place(m: int, known: Array, table: Array, unknown: Array, at: Array, b: Buffers) -> int:
    """Take what parameters explain off y; give each derivative its block; returns the blocks, or NO_ROOM."""
    width, blocks, p = len(b.width), 0, -1
    for i in range(m):
        last = -1
        for k in range(b.globals[i]):
            p += 1  # the label after the last one, as a rule
            if p >= len(known) or known[p] != b.label[i, k]:
                p = table[find(table, b.label[i, k]), 1]
            b.y[i] -= b.value[i, k] * at[p]
            b.owner[i, k] = -1
            if unknown[p] < 0:
                continue
            block = unknown[p] // width
            if last < 0 or b.block[last] != block:
                last = blocks - 1
                while last >= 0 and b.block[last] != block:
                    last -= 1
                if last < 0:
                    if blocks == len(b.block):
                        return NO_ROOM
                    b.block[blocks], last, blocks = block, blocks, blocks + 1
            b.owner[i, k], b.inside[i, k] = last, unknown[p] - block * width
    return blocks


@compiled
def fit(m: int, n: int, b: Buffers) -> bool:
    """C and C⁻¹Lᵀy of the n track parameters; whether these are determined."""
    c, pull = b.cholesky, b.pull
    for a in range(n):
        pull[a] = 0.0
        for k in range(a + 1):
            c[a, k] = 0.0
    for i in range(m):
        w = b.weight[i] * b.factor[i]
        for a in range(n):
            x = w * b.local[i, a]
            if x != 0:
                pull[a] += x * b.y[i]
                for k in range(a + 1):
                    c[a, k] += x * b.local[i, k]
    for a in range(n):
        whole = c[a, a]
        for k in range(a + 1):
            s = c[a, k]
            for j in range(k):
                s -= c[a, j] * c[k, j]
            if k < a:
                c[a, k] = s / c[k, k]
            elif not s > UNDETERMINED_BELOW * whole:
                return False
            else:
                c[a, a] = np.sqrt(s)
        s = pull[a]
        for k in range(a):
            s -= c[a, k] * pull[k]
        pull[a] = s / c[a, a]
    return True


@compiled
def reweight(m: int, n: int, cauchy: bool, b: Buffers) -> float:
    """Weight measurements down by their distance to the fitted track; returns the mean loss of weight."""
    q = b.pull
    for a in range(n - 1, -1, -1):  # q = C⁻ᵀ (C⁻¹Lᵀy)
        for k in range(a + 1, n):
            q[a] -= b.cholesky[k, a] * q[k]
        q[a] /= b.cholesky[a, a]
    lost = 0.0
    for i in range(m):
        r = b.y[i]
        for a in range(n):
            r -= b.local[i, a] * q[a]
        z = abs(r) * np.sqrt(b.weight[i])
        b.factor[i] = 1 / (1 + (z / CAUCHY) ** 2) if cauchy else min(1.0, HUBER / max(z, 1e-300))
        lost += 1 - b.factor[i]
    return lost / max(m, 1)


@compiled
def chi2_of(m: int, n: int, b: Buffers) -> float:
    """χ² of the record at the fitted track, after `fit`."""
    total = 0.0
    for i in range(m):
        total += b.weight[i] * b.factor[i] * b.y[i] * b.y[i]
    for a in range(n):
        total -= b.pull[a] * b.pull[a]
    return total


@compiled
def reduce(m: int, n: int, blocks: int, b: Buffers) -> None:
    """B, GᵀG and g of the record's unknowns, after `fit`."""
    _clear(blocks, b)
    for i in range(m):
        w = b.weight[i] * b.factor[i]
        for k in range(b.globals[i]):
            row, x = b.owner[i, k], b.inside[i, k]
            if row >= 0:
                v = w * b.value[i, k]
                b.gradient[row, x] += v * b.y[i]
                for a in range(n):
                    b.reduced[row, a, x] += v * b.local[i, a]
                for j in range(b.globals[i]):
                    if b.owner[i, j] >= row:
                        own = b.own[row, b.owner[i, j]]
                        if not b.touched[row, b.owner[i, j]]:
                            b.touched[row, b.owner[i, j]] = True
                            own[:] = 0.0
                        own[x, b.inside[i, j]] += v * b.value[i, j]
    for row in range(blocks):
        target, g = b.reduced[row], b.gradient[row]
        for a in range(n):
            for k in range(a):
                for x in range(len(b.width)):
                    target[a, x] -= b.cholesky[a, k] * target[k, x]
            for x in range(len(b.width)):
                target[a, x] /= b.cholesky[a, a]
                g[x] -= b.pull[a] * target[a, x]


@compiled
def _clear(blocks: int, b: Buffers) -> None:
    for i in range(blocks):
        b.gradient[i] = 0.0
        b.reduced[i] = 0.0
        for j in range(i, blocks):
            b.touched[i, j] = False


@compiled
def scatter(blocks: int, b: Buffers, pairs: Array, values: Array, used: int) -> int:
    """Add the record's GᵀG − BᵀB to the blocks of the matrix; returns how many of these there are now."""
    used = _find_pairs(blocks, b, pairs, values, used)
    for i in range(blocks):
        for j in range(i, blocks):
            flip = b.block[i] > b.block[j]
            target = values[b.pair[i, j]]
            if flip:
                _subtract(b.reduced[j], b.reduced[i], target, b.width, b.depth)
            else:
                _subtract(b.reduced[i], b.reduced[j], target, b.width, b.depth)
            if b.touched[i, j]:
                own = b.own[i, j]
                for x in range(len(b.width)):
                    for y in range(len(b.width)):
                        target[x, y] += own[y, x] if flip else own[x, y]
    return used


@compiled
def _find_pairs(blocks: int, b: Buffers, pairs: Array, values: Array, used: int) -> int:
    """Where each pair of the record's blocks is in the matrix; all their memory is asked for at once."""
    for i in range(blocks):
        for j in range(i, blocks):
            low, high = min(b.block[i], b.block[j]), max(b.block[i], b.block[j])
            row = find(pairs, low * PAIR + high)
            if pairs[row, 0] == -1:
                pairs[row, 0], pairs[row, 1] = low * PAIR + high, used
                values[used] = 0.0
                used += 1
            b.pair[i, j] = pairs[row, 1]
    fetched = 0.0
    for i in range(blocks):
        for j in range(i, blocks):
            target = values[b.pair[i, j]]
            for x in range(len(b.width)):
                fetched += target[x, 0]
    b.double[0] = fetched  # so that it is done
    return used


@compiled
def _subtract(
    left: Array, right: Array, target: Array, width: tuple[int, ...], depth: tuple[int, ...]
) -> None:
    """Two blocks' product of Bᵀ and B from a block of the matrix."""
    for x in range(len(width)):
        for a in range(0, len(depth), 5):  # five at a time stay in registers; beyond the record's own it is 0
            p, q, r, s, t = left[a, x], left[a + 1, x], left[a + 2, x], left[a + 3, x], left[a + 4, x]
            for y in range(len(width)):
                target[x, y] -= (
                    p * right[a, y]
                    + q * right[a + 1, y]
                    + r * right[a + 2, y]
                    + s * right[a + 3, y]
                    + t * right[a + 4, y]
                )


@compiled
def accumulate(
    words: Array,
    singles: Array,
    starts: Array,
    order: Array,
    first: int,
    known: Array,
    table: Array,
    unknown: Array,
    at: Array,
    b: Buffers,
    scale: Array,
    passes: int,
    most_lost: float,
    limit: Array,
    pairs: Array,
    values: Array,
    gradient: Array,
    totals: Array,
) -> tuple[int, int]:
    """Add records from the `first` in `order` on to the matrix and the gradient of the shared parameters.

    Args:
        words, singles, starts: a block of records, its words as int32 and as float32.
        order: in which they are taken; those that touch the same blocks should follow each other.
        known: label of each parameter (parameters,).
        table: label to row of a parameter.
        unknown: which unknown each parameter is, −1 if it is fixed (parameters,).
        at: where the parameters are (parameters,).
        scale: what multiplies 1/σ² of measurements with and without shared parameters (2,).
        passes: of the local fit: 1 without down-weighting, then Huber's weights twice, then Cauchy's.
        most_lost: records that lose more of their weight are rejected.
        limit: largest χ² by degrees of freedom (…,), its last for all beyond; empty for none.
        pairs, values: blocks of the matrix so far: a table of `PAIR` keys, and (room, width, width); values
            beyond them need not be 0.
        gradient: (unknowns,), to be added to.
        totals: χ², ndf, weight loss, records taken, undetermined, beyond `limit`, beyond `most_lost`, blocks
            of the matrix; to be added to (8,).

    Returns:
        The first place in `order` that was not taken, and why: 0 if none is left or the matrix needs more
        room, else UNREADABLE or NO_ROOM.
    """
    used, width = np.int64(totals[7]), len(b.width)
    for k in range(first, len(order)):
        need = used + len(b.block) * (len(b.block) + 1) // 2
        if need > len(values) or 2 * need > len(pairs):
            return k, 0
        m, n = parse(words, singles, starts[order[k]], b)
        if m == UNDETERMINED:
            totals[4] += 1
            continue
        if m < 0:
            return k, m
        blocks = place(m, known, table, unknown, at, b)
        if blocks < 0:
            return k, blocks
        for i in range(m):
            b.weight[i] *= scale[0] if b.globals[i] > 0 else scale[1]
            b.factor[i] = 1.0
        good, lost = fit(m, n, b), 0.0
        for fits in range(1, passes):
            if good:
                lost = reweight(m, n, fits > 2, b)
                good = fit(m, n, b)
        chi2, ndf = (chi2_of(m, n, b), m - n) if good else (0.0, 0)
        if not good or not np.isfinite(chi2):
            totals[4] += 1
        elif len(limit) > 0 and ndf > 0 and chi2 > limit[min(ndf, len(limit) - 1)]:
            totals[5] += 1
        elif lost > most_lost:
            totals[6] += 1
        else:
            totals[0], totals[1], totals[2] = totals[0] + chi2, totals[1] + ndf, totals[2] + lost
            totals[3] += 1
            reduce(m, n, blocks, b)
            for i in range(blocks):
                for x in range(width):
                    gradient[b.block[i] * width + x] += b.gradient[i, x]
            used = scatter(blocks, b, pairs, values, used)
            totals[7] = used
    return len(order), 0
