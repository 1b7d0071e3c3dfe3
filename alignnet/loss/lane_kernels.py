"""Paths, planes, normal equations and forces of 32 tracks at a time, in the lanes of the processor.

A tile holds `LANES` tracks, one row of numbers for each quantity, so that every loop over lanes is one of
packed instructions. With h = ωs/2 and the plane (c, u, v, n = v×u), the path

    x(s) = x0 + (A t_⊥ + B ẑ×t_⊥, s t_z),     A = s sinc h cos h,   B = s sinc h sin h

comes from two polynomials in h² that hold up to half a turn: nothing divides by ω. Near the crossing, a
residual is taken along the tangent, with an error of ω ds²/2 where the path length is off by ds:

    r_u = u·d − (t_u/t_n) n·d − u_measured,     d = x(s) − c,     ds = −n·d / n·t

Its derivatives are those of `physics.trackfit`: with p = u − (t_u/t_n) n,

    dr_u = (p·e1, p·e2, q·e1, q·e2, s² (C p·ẑ×t − D p·t_⊥)),    q = (A p_x + B p_y, A p_y − B p_x, s p_z)

where s² C = ½s² (h E sin h + sinc h cos h), −s² D = ½s² (h E cos h − sinc h sin h) and E = sinc'(h)/h. A hit
pushes its sensor, at the point (u, v) where the track passes, with the force −∂(χ²/2) of displacements

    f = (−f_u, −f_v, f_u t_u/t_n + f_v t_v/t_n),     f_u = c r_u/σ_u²

Rows of a tile: `POSITION` (3), `DIRECTION` (3), `OMEGA`, `WEIGHT` c, `NDF`, `CHI2` and `USABLE` (both found
here), then for each plane, from `PLANES` on: s, u and v measured, 1/σ_u, 1/σ_v; then (c, u, v) of the
vertex's plane, the last, if there is one. Rows of the work space: e1 and e2, the normal equations, Σ|ds|;
then the pose and then the force of each plane.

Callers are cached with these functions inside, by the date of their own file: after a change here,
`gradient_kernels` has to be compiled anew (touch it).
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, pi
from typing import Any

import numba
import numpy as np

from alignnet.data.tracks import Array
from alignnet.physics.jit import kept_on_disk

LANES = 32
POSITION, DIRECTION, OMEGA, WEIGHT, NDF, CHI2, USABLE, PLANES = 0, 3, 6, 7, 8, 9, 10, 11
HIT_ROWS = 5
"""Rows of a plane in a tile."""
POSE_ROWS = 9
"""Numbers of a sensor's place: a point c of its plane, u and v."""
FRAME, NORMAL, REACH, WORK = 0, 6, 26, 27
"""Rows of the work space."""
FOUND = 1e-4
"""Σ|ds| of a last step [cm] beyond which a crossing was not found."""
_FASTMATH = {"contract", "nsz", "arcp"}
_FAR = (0.5 * pi) ** 2  # h² of half a turn, as far as the polynomials reach
_PIVOT = 1e-14  # of a determined track, relative

_S = [(-1.0) ** n / factorial(2 * n + 1) for n in range(11)]
_C = [(-1.0) ** n / factorial(2 * n) for n in range(11)]
_S0, _S1, _S2, _S3, _S4, _S5, _S6, _S7, _S8, _S9, _S10 = _S
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10 = _C
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9 = (2 * n * _S[n] for n in range(1, 11))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code, made at the first call and kept on disk; no sum is reordered, other threads may run."""
    return kept_on_disk(function, fastmath=_FASTMATH)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, as a part of its callers: calls keep loops from being vectorised."""
    made: Callable[..., Any] = numba.njit(
        nogil=True, error_model="numpy", fastmath=_FASTMATH, forceinline=True
    )(function)
    return made


@inlined
def sinc_cos(y: float) -> tuple[float, float]:
    """sin(h)/h and cos h of y = h² up to half a turn."""
    s = _S5 + y * (_S6 + y * (_S7 + y * (_S8 + y * (_S9 + y * _S10))))
    c = _C5 + y * (_C6 + y * (_C7 + y * (_C8 + y * (_C9 + y * _C10))))
    s = _S0 + y * (_S1 + y * (_S2 + y * (_S3 + y * (_S4 + y * s))))
    return s, _C0 + y * (_C1 + y * (_C2 + y * (_C3 + y * (_C4 + y * c))))


@inlined
def sinc_slope(y: float) -> float:
    """sinc'(h)/h of y = h²."""
    e = _E4 + y * (_E5 + y * (_E6 + y * (_E7 + y * (_E8 + y * _E9))))
    return _E0 + y * (_E1 + y * (_E2 + y * (_E3 + y * e)))


@inlined
def dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The scalar product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def path(t: tuple[float, ...], omega: float, s: float) -> tuple[float, ...]:
    """h, sinc h, sin h, cos h, A and B; then the chord's x and y, and the tangent's."""
    h = 0.5 * omega * s
    sinc, c = sinc_cos(h * h)
    sine = h * sinc
    a, b = s * sinc * c, s * sinc * sine
    c2, s2 = 1.0 - 2.0 * sine * sine, 2.0 * sine * c
    chord = a * t[0] - b * t[1], a * t[1] + b * t[0]
    return h, sinc, sine, c, a, b, chord[0], chord[1], c2 * t[0] - s2 * t[1], c2 * t[1] + s2 * t[0]


@inlined
def three(rows: Array, at: int) -> tuple[float, float, float]:
    """Three rows of a lane."""
    return rows[at], rows[at + LANES], rows[at + 2 * LANES]


@inlined
def crossing(tile: Array, hit: Array, pose: Array, i: int) -> tuple[tuple[float, ...], ...]:
    """d = x(s) − c, the tangent, u, v and n of a lane (three numbers each); and its path."""
    x, t = three(tile, POSITION * LANES + i), three(tile, DIRECTION * LANES + i)
    c, u, v = three(pose, i), three(pose, 3 * LANES + i), three(pose, 6 * LANES + i)
    way = path(t, tile[OMEGA * LANES + i], hit[i])
    d = x[0] - c[0] + way[6], x[1] - c[1] + way[7], x[2] - c[2] + hit[i] * t[2]
    n = v[1] * u[2] - v[2] * u[1], v[2] * u[0] - v[0] * u[2], v[0] * u[1] - v[1] * u[0]
    return d, (way[8], way[9], t[2]), u, v, n, way


@inlined
def meet(near: tuple[tuple[float, ...], ...], hit: Array, work: Array, i: int) -> tuple[float, ...]:
    """Where the path meets the plane, (u, v), and its slopes there; s moves on to it."""
    d, t, u, v, n, way = near
    inverse = 1.0 / dot(t, n)
    slope_u, slope_v, ahead = dot(t, u) * inverse, dot(t, v) * inverse, dot(d, n)
    ds = ahead * inverse
    work[REACH * LANES + i] += abs(ds) if way[0] * way[0] < _FAR else np.inf
    hit[i] -= ds
    return dot(d, u) - slope_u * ahead, dot(d, v) - slope_v * ahead, slope_u, slope_v


@inlined
def derivative(
    p: tuple[float, ...], way: tuple[float, ...], t: tuple[float, ...], e1: tuple[float, ...],
    e2: tuple[float, ...], s: float, bend: float
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """How the component along p follows the five numbers of the state; `bend` is 0 where ω is fixed."""
    h, sinc, sine, c, a, b = way[:6]
    slope, scale = h * sinc_slope(h * h), 0.5 * s * s * bend
    q = a * p[0] + b * p[1], a * p[1] - b * p[0], s * p[2]
    along, across = t[0] * p[0] + t[1] * p[1], t[0] * p[1] - t[1] * p[0]
    turn = (slope * c - sinc * sine) * along + (slope * sine + sinc * c) * across
    return dot(p, e1), dot(p, e2), dot(q, e1), dot(q, e2), scale * turn


@compiled
def frame(tile: Array, work: Array) -> None:
    """e1 and e2 across the direction, as `physics.helix.frame`."""
    for i in range(LANES):
        tx, ty, tz = three(tile, DIRECTION * LANES + i)
        beam = abs(tz) > 0.99
        x, y, z = 0.0 if beam else -ty, -tz if beam else tx, ty if beam else 0.0
        n = 1.0 / np.sqrt(x * x + y * y + z * z)
        x, y, z = x * n, y * n, z * n
        to = FRAME * LANES + i
        work[to], work[to + LANES], work[to + 2 * LANES] = x, y, z
        work[to + 3 * LANES] = ty * z - tz * y
        work[to + 4 * LANES] = tz * x - tx * z
        work[to + 5 * LANES] = tx * y - ty * x


@compiled
def approach(tile: Array, hit: Array, pose: Array, work: Array) -> None:
    """One Newton step of the path length to a plane."""
    for i in range(LANES):
        d, t, _, _, n, _ = crossing(tile, hit, pose, i)
        ds = dot(d, n) / dot(t, n)
        hit[i] -= ds
        work[REACH * LANES + i] += abs(ds)


@compiled
def linearise(tile: Array, hit: Array, pose: Array, work: Array, bend: float) -> None:
    """Add a plane's two rows to the normal equations, lower triangle first, then the right-hand side."""
    for i in range(LANES):
        t, e1, e2 = three(tile, DIRECTION * LANES + i), three(work, i), three(work, 3 * LANES + i)
        s, wu, wv = hit[i], hit[3 * LANES + i], hit[4 * LANES + i]
        near = crossing(tile, hit, pose, i)
        _, _, u, v, n, way = near
        at_u, at_v, ku, kv = meet(near, hit, work, i)
        r, q = (at_u - hit[LANES + i]) * wu, (at_v - hit[2 * LANES + i]) * wv
        pu = (u[0] - ku * n[0]) * wu, (u[1] - ku * n[1]) * wu, (u[2] - ku * n[2]) * wu
        pv = (v[0] - kv * n[0]) * wv, (v[1] - kv * n[1]) * wv, (v[2] - kv * n[2]) * wv
        a1, a2, a3, a4, a5 = derivative(pu, way, t, e1, e2, s, bend)
        b1, b2, b3, b4, b5 = derivative(pv, way, t, e1, e2, s, bend)
        at = NORMAL * LANES + i
        work[at] += a1 * a1 + b1 * b1
        work[at + LANES] += a1 * a2 + b1 * b2
        work[at + 2 * LANES] += a2 * a2 + b2 * b2
        work[at + 3 * LANES] += a1 * a3 + b1 * b3
        work[at + 4 * LANES] += a2 * a3 + b2 * b3
        work[at + 5 * LANES] += a3 * a3 + b3 * b3
        work[at + 6 * LANES] += a1 * a4 + b1 * b4
        work[at + 7 * LANES] += a2 * a4 + b2 * b4
        work[at + 8 * LANES] += a3 * a4 + b3 * b4
        work[at + 9 * LANES] += a4 * a4 + b4 * b4
        work[at + 10 * LANES] += a1 * a5 + b1 * b5
        work[at + 11 * LANES] += a2 * a5 + b2 * b5
        work[at + 12 * LANES] += a3 * a5 + b3 * b5
        work[at + 13 * LANES] += a4 * a5 + b4 * b5
        work[at + 14 * LANES] += a5 * a5 + b5 * b5
        work[at + 15 * LANES] += a1 * r + b1 * q
        work[at + 16 * LANES] += a2 * r + b2 * q
        work[at + 17 * LANES] += a3 * r + b3 * q
        work[at + 18 * LANES] += a4 * r + b4 * q
        work[at + 19 * LANES] += a5 * r + b5 * q


@inlined
def solution(work: Array, i: int, bend: float) -> tuple[float, float, float, float, float, bool]:
    """δ = −(JᵀJ)⁻¹ Jᵀr by L D Lᵀ, and whether the hits determine it."""
    at = NORMAL * LANES + i
    a11, a21, a22 = three(work, at)
    a31, a32, a33 = three(work, at + 3 * LANES)
    a41, a42, a43 = three(work, at + 6 * LANES)
    a44, a51, a52 = three(work, at + 9 * LANES)
    a53, a54, a55 = three(work, at + 12 * LANES)
    a55 += 1.0 - bend
    i1 = 1.0 / a11
    l21, l31, l41, l51 = a21 * i1, a31 * i1, a41 * i1, a51 * i1
    d2 = a22 - l21 * a21
    i2 = 1.0 / d2
    m32, m42, m52 = a32 - l31 * a21, a42 - l41 * a21, a52 - l51 * a21
    l32, l42, l52 = m32 * i2, m42 * i2, m52 * i2
    d3 = a33 - l31 * a31 - l32 * m32
    i3 = 1.0 / d3
    m43, m53 = a43 - l41 * a31 - l42 * m32, a53 - l51 * a31 - l52 * m32
    l43, l53 = m43 * i3, m53 * i3
    d4 = a44 - l41 * a41 - l42 * m42 - l43 * m43
    i4 = 1.0 / d4
    m54 = a54 - l51 * a41 - l52 * m42 - l53 * m43
    l54 = m54 * i4
    d5 = a55 - l51 * a51 - l52 * m52 - l53 * m53 - l54 * m54
    good = (a11 > 0.0) & (d2 > _PIVOT * a22) & (d3 > _PIVOT * a33) & (d4 > _PIVOT * a44) & (d5 > _PIVOT * a55)
    b1, b2, b3 = three(work, at + 15 * LANES)
    b4, b5 = work[at + 18 * LANES], work[at + 19 * LANES]
    b2 -= l21 * b1
    b3 -= l31 * b1 + l32 * b2
    b4 -= l41 * b1 + l42 * b2 + l43 * b3
    b5 -= l51 * b1 + l52 * b2 + l53 * b3 + l54 * b4
    x5 = b5 / d5
    x4 = b4 * i4 - l54 * x5
    x3 = b3 * i3 - l43 * x4 - l53 * x5
    x2 = b2 * i2 - l32 * x3 - l42 * x4 - l52 * x5
    x1 = b1 * i1 - l21 * x2 - l31 * x3 - l41 * x4 - l51 * x5
    return -x1, -x2, -x3, -x4, -x5, good


@compiled
def move(tile: Array, work: Array, bend: float) -> None:
    """Take the fit step where it is determined and all planes were met; say so in `USABLE`."""
    for i in range(LANES):
        x1, x2, x3, x4, x5, good = solution(work, i, bend)
        good = good & (work[REACH * LANES + i] < FOUND)
        x1, x2, x3, x4 = x1 if good else 0.0, x2 if good else 0.0, x3 if good else 0.0, x4 if good else 0.0
        e1, e2 = three(work, i), three(work, 3 * LANES + i)
        tile[i] += x1 * e1[0] + x2 * e2[0]
        tile[i + LANES] += x1 * e1[1] + x2 * e2[1]
        tile[i + 2 * LANES] += x1 * e1[2] + x2 * e2[2]
        tx, ty, tz = three(tile, DIRECTION * LANES + i)
        tx, ty, tz = tx + x3 * e1[0] + x4 * e2[0], ty + x3 * e1[1] + x4 * e2[1], tz + x3 * e1[2] + x4 * e2[2]
        n = 1.0 / np.sqrt(tx * tx + ty * ty + tz * tz)
        at = DIRECTION * LANES + i
        tile[at], tile[at + LANES], tile[at + 2 * LANES] = tx * n, ty * n, tz * n
        tile[OMEGA * LANES + i] += x5 if good else 0.0
        tile[USABLE * LANES + i] *= 1.0 if good else 0.0


@compiled
def measure(tile: Array, hit: Array, pose: Array, force: Array, work: Array) -> None:
    """Add a plane's two pulls to χ²; its force (three rows) and the point where that acts (two)."""
    for i in range(LANES):
        wu, wv = hit[3 * LANES + i], hit[4 * LANES + i]
        u, v, ku, kv = meet(crossing(tile, hit, pose, i), hit, work, i)
        r, q = (u - hit[LANES + i]) * wu, (v - hit[2 * LANES + i]) * wv
        tile[CHI2 * LANES + i] += r * r + q * q
        fu, fv = tile[WEIGHT * LANES + i] * r * wu, tile[WEIGHT * LANES + i] * q * wv
        force[i], force[i + LANES], force[i + 2 * LANES] = -fu, -fv, fu * ku + fv * kv
        force[i + 3 * LANES], force[i + 4 * LANES] = u, v
