"""One track at a time, compiled: fits with and without the vertex, χ², residuals, and overlapping hits.

Both fits take the steps of `HelixChi2.fit`, from the same rough state and with the same weights. A step
smaller than `_LINEAR` is the last: residuals follow it linearly, so that none is done to find that all are
done. With V the covariance of the residuals r and M = V⁻¹ − V⁻¹J(JᵀV⁻¹J)⁻¹JᵀV⁻¹ (`solvers.unbiased`),
hits left out of their fit have residuals M_ii⁻¹ (M r)_i, where i is one hit, or two together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from alignnet.loss import fit_kernel as fk
from alignnet.loss import fit_layout as fl
from alignnet.physics import track_kernels as tk
from alignnet.physics.damping import STEPS, enough_of_one, settled_of_one
from alignnet.physics.jit import Array, compiled

_LINEAR = 1e-5
"""Drop of χ² below which a step is so small that residuals follow it linearly, 0.003 of an error."""


class Found(NamedTuple):
    """What comes out; dimensions (tracks), (hits), (pairs). NaN where there is no such hit or fit."""

    ok: Array  # whether hits, and the vertex where there is one, determine the track (tracks,)
    chi2: Array  # of the hits (tracks,)
    vertex: Array  # of the vertex (tracks,)
    biased: Array  # against the path that the hit was fitted with (tracks, hits, 2) [cm]
    unbiased: Array  # against the track without the hit (tracks, hits, 2) [cm]
    expected: Array  # width of that (tracks, hits, 2) [cm]
    pair: Array  # both hits of pairs, left out together: u, v, u, v (pairs, 4) [cm]
    pair_covariance: Array  # (pairs, 4, 4) [cm²]
    free_ok: Array  # whether the hits alone determine the track (tracks,)
    free_chi2: Array  # (tracks,)
    state: Array  # of the fit to the hits alone (tracks, 7)
    covariance: Array  # of its local numbers (tracks, parameters, parameters)


class Pairs(NamedTuple):
    """Pairs of hits, in the order of their tracks."""

    first: Array  # of each track, and the total (tracks + 1,)
    hits: Array  # columns of the two hits in the batch (pairs, 2)


class Work(NamedTuple):
    """Room for one track, beside that of its fit."""

    q: Array  # the rough state
    s: Array  # its path lengths
    frame: Array  # the frame of its direction
    rows: Array  # and the whitened rows there
    half: Array  # L⁻¹Jᵀ V⁻¹, L the factor of JᵀV⁻¹J (parameters, rows)
    force: Array  # V⁻¹ r
    left: Array  # M r
    inverse: Array
    block: Array
    block_inverse: Array
    place: Array  # of each column among the hits


@compiled
def find_tracks(
    measured: fl.Measured, model: fl.Model, fitted: fl.Fitted, pairs: Pairs, out: Found, first: int, last: int
) -> None:
    """Fill `out` for tracks first … last − 1.

    Args:
        measured, model: as for `fit_kernel.fit_tracks`.
        fitted: room for axes and weights of the vertex; nothing else is used.
        pairs: of which hits to leave out two together.
        out: the rows of its tracks are set, those of its pairs too.
    """
    n, rows = measured.is_hit.shape[1], 2 * measured.is_hit.shape[1]
    room = fl.room_for(n)
    work = Work(
        np.zeros(7), np.zeros(n), np.zeros((2, 3)), np.zeros((rows, 6)), np.zeros((5, rows)),
        np.zeros(rows), np.zeros(rows), np.zeros((5, 5)), np.zeros((4, 4)), np.zeros((4, 4)),
        np.zeros(n, dtype=np.int64),
    )  # fmt: skip
    for t in range(first, last):
        count = tk.columns_of(measured.is_hit[t], room.columns)
        for i in range(count):
            work.place[room.columns[i]] = i
        _clear(t, pairs, out)
        if count > 0:
            _find_track(t, count, measured, model, fitted, pairs, out, room, work)


@compiled
def _clear(t: int, pairs: Pairs, out: Found) -> None:
    out.ok[t] = out.free_ok[t] = False
    out.chi2[t] = out.vertex[t] = out.free_chi2[t] = 0.0
    out.biased[t], out.unbiased[t], out.expected[t], out.covariance[t] = np.nan, np.nan, np.nan, np.nan
    for p in range(pairs.first[t], pairs.first[t + 1]):
        out.pair[p], out.pair_covariance[p] = np.nan, np.nan


@compiled
def _find_track(
    t: int, n: int, measured: fl.Measured, model: fl.Model, fitted: fl.Fitted, pairs: Pairs, out: Found,
    room: fl.Room, work: Work,
) -> None:  # fmt: skip
    vertex = model.vertex and measured.has_vertex[t]
    found = good = fk.rough_fit(t, n, work.q, measured, model, room)
    near = found and (not vertex or fk.meets_vertex(t, work.q, measured, room))
    again = vertex and n >= fk.LEAST_HITS and not near
    if found:
        _begin(t, n, vertex and not again, measured, model, fitted, room, work)
        out.state[t] = work.q
        good = _descend(t, n, out.state[t], False, measured, model, fitted, room, work)
        out.free_ok[t] = good
    if good:
        out.free_chi2[t] = tk.square(room.rows, 0, 2 * n)
        _covariance(model.n_parameters, room, work, out.covariance[t])
    if again:
        found = fk.rough_fit_to_vertex(t, n, work.q, measured, model, fitted, room)
        _begin(t, n, True, measured, model, fitted, room, work)
    if vertex and found:
        room.s[:], room.frame[:], room.rows[: 2 * n] = work.s, work.frame, work.rows[: 2 * n]
        good = _descend(t, n, work.q, True, measured, model, fitted, room, work)
    good = good and found
    if not good:
        return
    out.ok[t], out.chi2[t] = True, tk.square(room.rows, 0, 2 * n)
    if vertex:
        out.vertex[t] = tk.square(room.rows, 2 * n, 2 * n + 2)
    used = 2 * n + (2 if vertex else 0)
    _project(2 * n, used, model.kind == fl.FULL, model.n_parameters, room, work)
    _residuals(t, n, measured, model, out, room, work)
    for p in range(pairs.first[t], pairs.first[t + 1]):
        _pair(p, n, model.n_parameters, pairs, out, room, work)


@compiled
def _begin(
    t: int, n: int, vertex: bool, measured: fl.Measured, model: fl.Model, fitted: fl.Fitted, room: fl.Room,
    work: Work,
) -> None:  # fmt: skip
    """Rows and weights where the fits to the hits, with the vertex and without, start."""
    if vertex:
        fk.weigh_vertex(t, work.q, measured, model, fitted, room)
    fk.whitened(t, n, work.q, False, measured, model, fitted, room)
    work.s[:], work.frame[:], work.rows[: 2 * n] = room.s, room.frame, room.rows[: 2 * n]


@compiled
def _descend(
    t: int, n: int, q: Array, vertex: bool, measured: fl.Measured, model: fl.Model, fitted: fl.Fitted,
    room: fl.Room, work: Work,
) -> bool:  # fmt: skip
    """Move the state q, from where the rows are, with those of the vertex or without; leave those of its end.

    Returns:
        Whether all went well.
    """
    used, settled = 2 * n + (2 if vertex else 0), False
    fk.begin(n, q, room)
    for i in range(model.iterations + 1):
        if i > 0:
            fk.whitened(t, n, q, vertex, measured, model, fitted, room)
        elif vertex:
            fk.vertex_rows(t, q, 2 * n, model.vertex_kind == fl.FULL, measured, fitted, room)
        drop = fk.step(used, model, room)
        if not drop >= 0 or (i == model.iterations and not settled):
            return _damped(t, n, q, vertex, measured, model, fitted, room, work)
        if i == model.iterations:
            return True
        settled = settled_of_one(drop, tk.square(room.rows, 0, used))
        tk.update(q, room.frame, room.delta)
        if drop < _LINEAR:
            _follow(used, model.n_parameters, room)
            return True
    return False


@compiled
def _damped(
    t: int, n: int, q: Array, vertex: bool, measured: fl.Measured, model: fl.Model, fitted: fl.Fitted,
    room: fl.Room, work: Work,
) -> bool:  # fmt: skip
    """The same by the damped steps of `fit_kernel`, from where the others began."""
    fk.go_back(n, q, room)
    used, settled = 2 * n + (2 if vertex else 0), False
    chi2, promise, fraction = np.inf, 0.0, 1.0
    for _ in range(STEPS + 1):
        fk.whitened(t, n, q, vertex, measured, model, fitted, room)
        now = tk.square(room.rows, 0, used)
        if settled or enough_of_one(now, chi2, promise, fraction):
            drop = fk.step(used, model, room)
            if settled or not drop >= 0:
                return drop >= 0
            chi2, promise, fraction, settled = now, drop, 1.0, settled_of_one(drop, now)
            fk.begin(n, q, room)
        else:
            fraction *= 0.5
            fk.halve(n, q, room)
        tk.update(q, room.frame, room.delta)
    return False


@compiled
def _follow(used: int, n: int, room: fl.Room) -> None:
    """Residuals after the step, to first order."""
    for i in range(used):
        for a in range(n):
            room.rows[i, 5] += room.rows[i, a] * room.delta[a]


@compiled
def _covariance(n: int, room: fl.Room, work: Work, out: Array) -> None:
    """(JᵀJ)⁻¹ from the factor of its scaled form."""
    inverse, normal = work.inverse, room.normal
    for b in range(n):
        inverse[b, b] = 1 / normal[b, b]
        for a in range(b + 1, n):
            x = 0.0
            for k in range(b, a):
                x -= normal[a, k] * inverse[k, b]
            inverse[a, b] = x / normal[a, a]
    for a in range(n):
        for b in range(a + 1):
            x = 0.0
            for k in range(a, n):
                x += inverse[k, a] * inverse[k, b]
            out[a, b] = out[b, a] = x * room.scale[a] * room.scale[b]


@compiled
def _project(rows: int, used: int, correlated: bool, n: int, room: fl.Room, work: Work) -> None:
    """L⁻¹JᵀV⁻¹ and V⁻¹ r of the hits' rows, and M r, in which what a step would still change is left out.

    Args:
        rows, used: of the hits; and with those of the vertex.
    """
    half, force, normal, along = work.half, work.force, room.normal, room.delta
    half[:, :rows] = 0.0
    force[:rows] = 0.0
    for i in range(rows):
        weights, start = room.weights[i], 0 if correlated else i
        for c in range(start, i + 1):
            force[c] += room.rows[i, 5] * weights[c]
        for k in range(n):
            x = room.rows[i, k] * room.scale[k]
            for c in range(start, i + 1):
                half[k, c] += x * weights[c]
    for k in range(n):
        for m in range(k):
            x = normal[k, m]
            for c in range(rows):
                half[k, c] -= x * half[m, c]
        x = 1 / normal[k, k]
        for c in range(rows):
            half[k, c] *= x
    work.left[:rows] = force[:rows]
    for k in range(n):
        along[k] = 0.0
        for i in range(used):
            along[k] += room.rows[i, k] * room.rows[i, 5]
        along[k] *= room.scale[k]
        for m in range(k):
            along[k] -= normal[k, m] * along[m]
        along[k] /= normal[k, k]
        for c in range(rows):
            work.left[c] -= along[k] * half[k, c]


@compiled
def _metric(a: int, b: int, rows: int, n: int, room: fl.Room, work: Work) -> float:
    """M_ab, a ≥ b."""
    total = 0.0
    for i in range(a, rows):
        total += room.weights[i, a] * room.weights[i, b]
    for k in range(n):
        total -= work.half[k, a] * work.half[k, b]
    return total


@compiled
def _residuals(
    t: int, n: int, measured: fl.Measured, model: fl.Model, out: Found, room: fl.Room, work: Work
) -> None:
    correlated, rows, left = model.kind == fl.FULL, 2 * n, work.left
    for i in range(n):
        h, a = room.columns[i], 2 * i
        for k in range(2):
            variance = measured.variance[t, h, k] + model.systematic
            plain = room.rows[a + k, 5] / room.weights[a + k, a + k]
            out.biased[t, h, k] = variance * work.force[a + k] if correlated else plain
        uu, vv = (
            _metric(a, a, rows, model.n_parameters, room, work),
            _metric(a + 1, a + 1, rows, model.n_parameters, room, work),
        )
        uv = _metric(a + 1, a, rows, model.n_parameters, room, work)
        det = uu * vv - uv * uv
        if det > 1e-9 * max(uu * vv, 1e-30):
            out.unbiased[t, h, 0] = (vv * left[a] - uv * left[a + 1]) / det
            out.unbiased[t, h, 1] = (uu * left[a + 1] - uv * left[a]) / det
            out.expected[t, h, 0] = math.sqrt(max(vv / det, 0.0))
            out.expected[t, h, 1] = math.sqrt(max(uu / det, 0.0))


@compiled
def _pair(p: int, n: int, parameters: int, pairs: Pairs, out: Found, room: fl.Room, work: Work) -> None:
    """Residuals of two hits to the track without both, where that is determined."""
    block, inverse = work.block, work.block_inverse
    i, j = work.place[pairs.hits[p, 0]], work.place[pairs.hits[p, 1]]
    index = (2 * i, 2 * i + 1, 2 * j, 2 * j + 1)
    determinant = 1.0
    for a in range(4):
        for b in range(a + 1):
            block[a, b] = _metric(
                max(index[a], index[b]), min(index[a], index[b]), 2 * n, parameters, room, work
            )
    for a in range(4):
        diagonal = block[a, a]
        for b in range(a + 1):
            x = block[a, b]
            for k in range(b):
                x -= block[a, k] * block[b, k]
            if b < a:
                block[a, b] = x / block[b, b]
            else:
                determinant *= x / max(diagonal, 1e-30)
                if not (x > 0 and determinant > 1e-9):
                    return
                block[a, a] = math.sqrt(x)
    for b in range(4):
        inverse[b, b] = 1 / block[b, b]
        for a in range(b + 1, 4):
            x = 0.0
            for k in range(b, a):
                x -= block[a, k] * inverse[k, b]
            inverse[a, b] = x / block[a, a]
    for a in range(4):
        out.pair[p, a] = 0.0
        for b in range(4):
            x = 0.0
            for k in range(max(a, b), 4):
                x += inverse[k, a] * inverse[k, b]
            out.pair_covariance[p, a, b] = x
    for a in range(4):
        for b in range(4):
            out.pair[p, a] += out.pair_covariance[p, a, b] * work.left[index[b]]
