"""`HelixChi2.fit` for one track at a time, compiled: seed, rough fit, weights, steps with these weights."""

from __future__ import annotations

import math

import numpy as np

from alignnet.loss.fit_layout import FULL, NONE, Fitted, Measured, Model, Room, room_for
from alignnet.physics import material_kernel as mk
from alignnet.physics import track_kernels as tk
from alignnet.physics.damping import STEPS, enough_of_one, settled_of_one
from alignnet.physics.jit import Array, compiled, is_finite
from alignnet.physics.seed_kernel import seed_state
from alignnet.units import CURVATURE

REACH = 1.0
"""By how much a track that is seeded by its hits may miss its vertex [cm]: more, and it is seeded by both."""

LEAST_HITS = 3
"""Tracks of fewer hits are not seeded by their vertex."""


@compiled
def fit_tracks(measured: Measured, model: Model, out: Fitted, first: int, last: int) -> None:
    """Fit tracks first … last − 1; those that are not determined keep what was reached, without weights."""
    n = measured.is_hit.shape[1]
    room = room_for(n)
    for t in range(first, last):
        count = tk.columns_of(measured.is_hit[t], room.columns)
        out.ok[t] = count > 0 and _fit_track(t, count, measured, model, out, room)
        _finish(t, count, measured, out, room)


@compiled
def _fit_track(t: int, n: int, measured: Measured, model: Model, out: Fitted, room: Room) -> bool:
    q, good, vertex = out.state[t], True, model.vertex and measured.has_vertex[t]
    found = rough_fit(t, n, q, measured, model, room)
    if vertex and n >= LEAST_HITS and not (found and meets_vertex(t, q, measured, room)):
        found = rough_fit_to_vertex(t, n, q, measured, model, out, room)
    if not found:
        return False
    if model.vertex:
        weigh_vertex(t, q, measured, model, out, room)
    begin(n, q, room)
    drop = 0.0
    for _ in range(model.iterations):
        used = whitened(t, n, q, vertex, measured, model, out, room)
        drop = step(used, model, room)
        good = good and drop >= 0
        tk.update(q, room.frame, room.delta)
    if good and settled_of_one(drop, room.normal[5, 5]):
        out.settled[t] = True
        return True
    return _descend(t, n, q, measured, model, out, room)


@compiled
def _descend(t: int, n: int, q: Array, measured: Measured, model: Model, out: Fitted, room: Room) -> bool:
    """Damped steps from where the others began, until the fit has settled; whether the hits determine it."""
    go_back(n, q, room)
    vertex = model.vertex and measured.has_vertex[t]
    chi2, promise, fraction, settled = 0.0, 0.0, 1.0, True
    for _ in range(STEPS):
        used = whitened(t, n, q, vertex, measured, model, out, room)
        if settled or enough_of_one(tk.square(room.rows, 0, used), chi2, promise, fraction):
            promise, fraction = step(used, model, room), 1.0
            if not promise >= 0:
                return False
            chi2 = room.normal[5, 5]
            settled = settled_of_one(promise, chi2)
            begin(n, q, room)
        else:
            fraction *= 0.5
            halve(n, q, room)
        tk.update(q, room.frame, room.delta)
        if settled:
            out.settled[t] = True
            return True
    return True


@compiled
def step(used: int, model: Model, room: Room) -> float:
    """Find the step of the whitened rows; by how much χ² drops, NaN where they do not determine it."""
    return tk.gauss_newton(room.rows, used, model.n_parameters, room.normal, room.scale, room.delta)


@compiled
def whitened(
    t: int, n: int, q: Array, vertex: bool, measured: Measured, model: Model, out: Fitted, room: Room
) -> int:
    """Whitened rows of the hits at a state, with those of the vertex or without; how many there are."""
    _raw_rows(t, n, 2, q, measured, room)
    _whiten(n, model.kind == FULL, room)
    if not vertex:
        return 2 * n
    vertex_rows(t, q, 2 * n, model.vertex_kind == FULL, measured, out, room)
    return 2 * n + 2


@compiled
def begin(n: int, q: Array, room: Room) -> None:
    """Note where a step begins."""
    for k in range(7):
        room.before[k] = q[k]
    for i in range(n):
        room.s_before[i] = room.s[i]


@compiled
def go_back(n: int, q: Array, room: Room) -> None:
    """Return to where the step began."""
    for k in range(7):
        q[k] = room.before[k]
    for i in range(n):
        room.s[i] = room.s_before[i]
    tk.frame(q[3:6], room.frame)


@compiled
def halve(n: int, q: Array, room: Room) -> None:
    """Return to where the step began, and leave half of it in `room.delta`."""
    go_back(n, q, room)
    for k in range(5):
        room.delta[k] *= 0.5


@compiled
def rough_fit(t: int, n: int, q: Array, measured: Measured, model: Model, room: Room) -> bool:
    """One step from the seed with the intrinsic resolution alone, and weights there; whether all went well.

    Args:
        t: the track, of which `n` hits are in `room.columns`.
        q: its state (7,), set here.
    """
    index = room.columns
    seed_state(measured.origin[t], index, n, measured.outward[t], model.b_z, q)
    for i in range(n):
        h = index[i]
        room.s[i] = tk.line_to_plane(q, measured.origin[t, h], measured.normal[t, h])
    _raw_rows(t, n, 5, q, measured, room)
    for i in range(n):
        for k in range(2):
            weight = 1 / math.sqrt(measured.variance[t, index[i], k])
            for c in range(6):
                room.rows[2 * i + k, c] = weight * room.raw[2 * i + k, c]
    good = step(2 * n, model, room) >= 0
    tk.update(q, room.frame, room.delta)
    for i in range(n):
        h = index[i]
        room.s[i] = tk.path_to_plane(q, measured.origin[t, h], measured.normal[t, h], room.s[i], 2)
    return good and _weigh(t, n, q, measured, model, room)


@compiled
def meets_vertex(t: int, q: Array, measured: Measured, room: Room) -> bool:
    """Whether a track passes within `REACH` of its vertex."""
    target = measured.vertex[t]
    tk.point_and_tangent(q, tk.path_to_axis(q, target[0], target[1]), room.x, room.t)
    square = 0.0
    for k in range(3):
        square += (room.x[k] - target[k]) ** 2
    return bool(square <= REACH * REACH)


@compiled
def rough_fit_to_vertex(
    t: int, n: int, q: Array, measured: Measured, model: Model, out: Fitted, room: Room
) -> bool:
    """`rough_fit` with the vertex as a further hit: three hits of one disc leave a track nearly free.

    Nothing is shared with `rough_fit`, which the compiler would not inline any more: half as fast again.
    """
    points = np.empty((n + 1, 3))
    points[n] = measured.vertex[t]
    for i in range(n):
        points[i] = measured.origin[t, room.columns[i]]
    seed_state(points, np.arange(n + 1), n + 1, measured.outward[t], model.b_z, q)
    for i in range(n):
        h = room.columns[i]
        room.s[i] = tk.line_to_plane(q, measured.origin[t, h], measured.normal[t, h])
        for k in range(2):
            room.weights[2 * i + k, 2 * i + k] = 1 / math.sqrt(measured.variance[t, h, k])
    _raw_rows(t, n, 5, q, measured, room)
    _whiten(n, False, room)
    weigh_vertex(t, q, measured, model, out, room)
    vertex_rows(t, q, 2 * n, model.vertex_kind == FULL, measured, out, room)
    good = step(2 * n + 2, model, room) >= 0
    tk.update(q, room.frame, room.delta)
    for i in range(n):
        h = room.columns[i]
        room.s[i] = tk.path_to_plane(q, measured.origin[t, h], measured.normal[t, h], room.s[i], 2)
    return good and _weigh(t, n, q, measured, model, room)


@compiled
def _raw_rows(t: int, n: int, steps: int, q: Array, measured: Measured, room: Room) -> None:
    """Derivatives and residuals of all hits where the track crosses their planes."""
    tk.frame(q[3:6], room.frame)
    for i in range(n):
        h = room.columns[i]
        origin, normal = measured.origin[t, h], measured.normal[t, h]
        room.s[i] = tk.path_to_plane(q, origin, normal, room.s[i], steps)
        tk.rows_of_plane(
            q, room.frame, room.s[i], origin, measured.u[t, h], measured.v[t, h], normal, room.raw[2 * i :]
        )


@compiled
def _whiten(n: int, correlated: bool, room: Room) -> None:
    """The hits' rows times their weights."""
    for a in range(2 * n):
        for c in range(6):
            room.rows[a, c] = 0.0
        for b in range(0 if correlated else a, a + 1):
            weight = room.weights[a, b]
            for c in range(6):
                room.rows[a, c] += weight * room.raw[b, c]


@compiled
def _weigh(t: int, n: int, q: Array, measured: Measured, model: Model, room: Room) -> bool:
    """The weights of the hits' rows; whether there are any."""
    covariance, sums = room.covariance, room.sums
    for i in range(2 * n):
        for j in range(i + 1):
            covariance[i, j] = 0.0
        covariance[i, i] = measured.variance[t, room.columns[i // 2], i % 2] + model.systematic
    if model.kind != NONE:
        for i in range(n):
            for j in range(i + 1):
                sums[0, i, j] = sums[1, i, j] = 0.0
        _scatter(t, n, q, measured, model, room)
        mk.add_covariance(sums, room.axes, n, covariance)
    if model.kind == FULL:
        return bool(mk.invert_cholesky(covariance, 2 * n, room.weights))
    good, any_weight = True, False
    for i in range(2 * n):
        weight = 1 / math.sqrt(covariance[i, i])
        room.weights[i, i] = weight
        good, any_weight = good and is_finite(weight), any_weight or weight > 0
    return good and any_weight


@compiled
def _scatter(t: int, n: int, q: Array, measured: Measured, model: Model, room: Room) -> None:
    """All scatterers of a track."""
    p, mass, omega = measured.p[t], measured.mass[t], q[6]
    if math.isnan(p):
        p = min(max(abs(CURVATURE * model.b_z / omega), model.low), model.high)
    for i in range(n):
        h = room.columns[i]
        normal = measured.normal[t, h]
        tk.point_and_tangent(q, room.s[i], room.x, room.t)
        tk.frame(room.t, room.vertex_frame)
        mk.axes_in_plane(room.vertex_frame, room.t, measured.u[t, h], measured.v[t, h], normal, room.axes[i])
        cosine = max(abs(tk.dot(room.t, normal)), 0.05)
        angle, curvature = mk.widths(p, mass, omega, measured.x_over_x0[t, h] / cosine, model.log_term)
        curvature = curvature if model.energy_loss else 0.0
        mk.add_scatterer(room.s, n, room.s[i], omega, angle, curvature, room.lever, room.sums)
    for c in range(len(model.radius)):
        s = tk.path_to_cylinder(q, model.radius[c], room.x, room.t) if measured.crossed[t, c] else np.nan
        if is_finite(s):
            along = abs(room.x[0] * room.t[0] + room.x[1] * room.t[1])
            x = model.cylinder_x_over_x0[c] / max(along / model.radius[c], 0.05)
            angle, curvature = mk.widths(p, mass, omega, x, model.log_term)
            curvature = curvature if model.energy_loss else 0.0
            mk.add_scatterer(room.s, n, s, omega, angle, curvature, room.lever, room.sums)


@compiled
def weigh_vertex(t: int, q: Array, measured: Measured, model: Model, out: Fitted, room: Room) -> None:
    """Axes and weights of the vertex' rows."""
    target, axes, two = measured.vertex[t], out.axes[t], room.two
    tk.point_and_tangent(q, tk.path_to_axis(q, target[0], target[1]), room.x, axes[2])
    tk.frame(axes[2], axes)
    if not measured.has_vertex[t]:
        return
    for a in range(2):
        for b in range(a + 1):
            two[a, b] = 0.0
            for i in range(3):
                for j in range(3):
                    two[a, b] += axes[a, i] * measured.vertex_cov[t, i, j] * axes[b, j]
    if model.vertex_kind == FULL:
        if not mk.invert_cholesky(two, 2, out.vertex_factor[t]):
            out.vertex_factor[t] = 0.0
    else:
        out.vertex_inverse[t, 0], out.vertex_inverse[t, 1] = (
            1 / math.sqrt(two[0, 0]),
            1 / math.sqrt(two[1, 1]),
        )


@compiled
def vertex_rows(
    t: int, q: Array, first: int, correlated: bool, measured: Measured, out: Fitted, room: Room
) -> None:
    """The two rows of the vertex, whitened, after the hits'."""
    target, axes, raw, rows = measured.vertex[t], out.axes[t], room.raw, room.rows
    s = tk.path_to_plane(q, target, axes[2], tk.line_to_plane(q, target, axes[2]), 5)
    tk.rows_of_plane(q, room.frame, s, target, axes[0], axes[1], axes[2], raw[first:])
    for c in range(6):
        if correlated:
            w = out.vertex_factor[t]
            rows[first, c] = w[0, 0] * raw[first, c]
            rows[first + 1, c] = w[1, 0] * raw[first, c] + w[1, 1] * raw[first + 1, c]
        else:
            rows[first, c] = out.vertex_inverse[t, 0] * raw[first, c]
            rows[first + 1, c] = out.vertex_inverse[t, 1] * raw[first + 1, c]


@compiled
def _finish(t: int, n: int, measured: Measured, out: Fitted, room: Room) -> None:
    """Weights and path lengths in the batch's own columns; a path to what is no hit starts anew."""
    q = out.state[t]
    for h in range(measured.is_hit.shape[1]):
        if out.ok[t] and not measured.is_hit[t, h]:
            origin, normal = measured.origin[t, h], measured.normal[t, h]
            out.s[t, h] = tk.path_to_plane(q, origin, normal, tk.line_to_plane(q, origin, normal), 5)
    for i in range(n if out.ok[t] else 0):
        out.s[t, room.columns[i]] = room.s[i]
        for k in range(2):
            row = 2 * room.columns[i] + k
            if out.factor.size:
                for j in range(i + 1):
                    for m in range(2):
                        out.factor[t, row, 2 * room.columns[j] + m] = room.weights[2 * i + k, 2 * j + m]
            else:
                out.inverse_sigma[t, row] = room.weights[2 * i + k, 2 * i + k]
