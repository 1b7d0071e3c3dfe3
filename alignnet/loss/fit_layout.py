"""What the compiled fit of tracks reads, writes, and works in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignnet.physics.jit import Array, compiled

NONE, DIAGONAL, FULL = 0, 1, 2
"""Kinds of weights of the rows."""


class Measured(NamedTuple):
    """What a batch's tracks are fitted to; dimensions (tracks), (hits)."""

    origin: Array  # planes through the measured positions (tracks, hits, 3) [cm]
    u: Array
    v: Array
    normal: Array
    is_hit: Array
    variance: Array  # of the intrinsic resolution (tracks, hits, 2) [cm²]
    x_over_x0: Array  # of the hits' sensors (tracks, hits)
    outward: Array
    vertex: Array
    vertex_cov: Array
    has_vertex: Array
    p: Array  # [GeV/c]; NaN where the fit must tell
    mass: Array
    crossed: Array  # (tracks, cylinders)


class Model(NamedTuple):
    """How they are fitted."""

    radius: Array  # cylinders (cylinders,) [cm]
    cylinder_x_over_x0: Array
    b_z: float
    n_parameters: int
    kind: int  # NONE, DIAGONAL or FULL: of the hits' rows
    vertex_kind: int  # of the vertex' rows
    log_term: bool
    energy_loss: bool
    systematic: float  # [cm²], added to the variance
    low: float  # limits of a fitted momentum [GeV/c]
    high: float
    vertex: bool
    iterations: int


class Fitted(NamedTuple):
    """What comes out; weights are a matrix or one number a row, the other of the two is empty."""

    state: Array  # (tracks, 7)
    factor: Array  # L⁻¹ (tracks, 2·hits, 2·hits)
    inverse_sigma: Array  # (tracks, 2·hits)
    vertex_factor: Array  # (tracks, 2, 2)
    vertex_inverse: Array  # (tracks, 2)
    axes: Array  # of the vertex' rows (tracks, 3, 3)
    ok: Array
    s: Array  # (tracks, hits)
    settled: Array  # whether χ² is at its minimum (tracks,)


class Room(NamedTuple):
    """Room for one track."""

    columns: Array  # its hits
    s: Array
    raw: Array  # derivatives and residual of each row (rows, 6)
    rows: Array  # the same, whitened
    covariance: Array
    weights: Array  # L⁻¹, or 1/σ on the diagonal
    axes: Array
    lever: Array
    sums: Array
    frame: Array
    vertex_frame: Array
    x: Array
    t: Array
    delta: Array
    normal: Array
    scale: Array
    two: Array
    before: Array  # where the last full step began
    s_before: Array  # and its path lengths


@compiled
def room_for(n: int) -> Room:
    """Room for tracks of up to n hits."""
    return Room(
        np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros((2 * n + 2, 6)), np.zeros((2 * n + 2, 6)),
        np.zeros((2 * n, 2 * n)), np.zeros((2 * n, 2 * n)), np.zeros((n, 2, 2)), np.zeros((3, n)),
        np.zeros((2, n, n)), np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3), np.zeros(3), np.zeros(5),
        np.zeros((6, 6)), np.zeros(5), np.zeros((2, 2)), np.zeros(7), np.zeros(n),
    )  # fmt: skip
