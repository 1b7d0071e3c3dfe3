"""Fit steps, χ² and the forces on sensors over many tracks, from kernels that take 32 tracks at a time.

`sweep` reads stored tracks and a table of sensors' poses, and adds to a table of their forces; no two threads
share one.
"""

from __future__ import annotations

import numpy as np

from alignnet.data.tracks import Array
from alignnet.loss.lane_kernels import (
    CHI2,
    FOUND,
    HIT_ROWS,
    LANES,
    NDF,
    NORMAL,
    PLANES,
    POSE_ROWS,
    REACH,
    USABLE,
    WEIGHT,
    WORK,
    approach,
    compiled,
    frame,
    linearise,
    measure,
    move,
    three,
)

FORCE_ROWS = 8
"""Numbers of a sensor's force: along u, v, w, then the moments about them; a cache line."""
TOTALS = 4
"""Sums of a sweep: c χ², c ν, usable tracks, those left out."""
_NEAR = 1e-2  # [cm] Σ|ds| from which a last step along the tangent is exact
_SEARCH = 12


@compiled
def find(n_planes: int, tile: Array, work: Array) -> None:
    """Newton steps to all planes until each track is near them; leaves zeros in `REACH`."""
    for _ in range(_SEARCH):
        for i in range(LANES):
            work[REACH * LANES + i] = 0.0
        for k in range(n_planes):
            hit, pose = (PLANES + HIT_ROWS * k) * LANES, (WORK + POSE_ROWS * k) * LANES
            approach(tile, tile[hit : hit + HIT_ROWS * LANES], work[pose : pose + POSE_ROWS * LANES], work)
        far = False
        for i in range(LANES):
            far |= work[REACH * LANES + i] > _NEAR
            work[REACH * LANES + i] = 0.0
        if not far:
            return


@compiled
def fit_step(n_planes: int, tile: Array, work: Array, bend: float) -> None:
    """One Gauss–Newton step of the tracks of a tile, to planes whose poses are in the work space."""
    frame(tile, work)
    find(n_planes, tile, work)
    for i in range(NORMAL * LANES, REACH * LANES):
        work[i] = 0.0
    for k in range(n_planes):
        hit, pose = (PLANES + HIT_ROWS * k) * LANES, (WORK + POSE_ROWS * k) * LANES
        linearise(tile, tile[hit : hit + HIT_ROWS * LANES], work[pose : pose + POSE_ROWS * LANES], work, bend)
    move(tile, work, bend)


@compiled
def evaluate(n_planes: int, tile: Array, work: Array) -> None:
    """χ² of the tracks of a tile where they are, and the forces on its hits."""
    find(n_planes, tile, work)
    for i in range(LANES):
        tile[CHI2 * LANES + i] = 0.0
    for k in range(n_planes):
        hit, pose = (PLANES + HIT_ROWS * k) * LANES, (WORK + POSE_ROWS * k) * LANES
        to = (WORK + POSE_ROWS * n_planes + HIT_ROWS * k) * LANES
        measure(
            tile,
            tile[hit : hit + HIT_ROWS * LANES],
            work[pose : pose + POSE_ROWS * LANES],
            work[to : to + HIT_ROWS * LANES],
            work,
        )
    for i in range(LANES):
        tile[USABLE * LANES + i] *= 1.0 if work[REACH * LANES + i] < FOUND else 0.0


@compiled
def gather(n_hits: int, n_planes: int, sensor: Array, table: Array, tile: Array, work: Array) -> None:
    """Poses of the hits' sensors, and of the vertex's plane, into the work space."""
    for k in range(n_hits):
        base = (WORK + POSE_ROWS * k) * LANES
        for i in range(LANES):
            row = sensor[k * LANES + i] * POSE_ROWS
            for j in range(POSE_ROWS):
                work[base + j * LANES + i] = table[row + j]
    if n_planes > n_hits:
        base, own = (WORK + POSE_ROWS * n_hits) * LANES, (PLANES + HIT_ROWS * n_planes) * LANES
        for i in range(POSE_ROWS * LANES):
            work[base + i] = tile[own + i]


@compiled
def scatter(n_hits: int, n_planes: int, sensor: Array, tile: Array, work: Array, forces: Array) -> None:
    """Add usable tracks' forces to their sensors: along u, v, w, then Σ v f_w, Σ u f_w, Σ (u f_v − v f_u)."""
    for k in range(n_hits):
        base = (WORK + POSE_ROWS * n_planes + HIT_ROWS * k) * LANES
        for i in range(LANES):
            if tile[USABLE * LANES + i] > 0.0:
                row = sensor[k * LANES + i] * FORCE_ROWS
                fu, fv, fw = three(work, base + i)
                u, v = work[base + 3 * LANES + i], work[base + 4 * LANES + i]
                forces[row] += fu
                forces[row + 1] += fv
                forces[row + 2] += fw
                forces[row + 3] += v * fw
                forces[row + 4] += u * fw
                forces[row + 5] += u * fv - v * fu


@compiled
def work_space(n_planes: int) -> Array:
    """Room for a tile's frames, normal equations, poses and forces."""
    return np.zeros((WORK + (POSE_ROWS + HIT_ROWS) * n_planes) * LANES)


@compiled
def sweep(
    tiles: Array, sensors: Array, table: Array, n_planes: int, steps: int, bend: float, forces: Array
) -> Array:
    """Fit steps, χ² and forces of all tracks of some tiles.

    Args:
        tiles: (tiles, rows · `LANES`), updated: the states, path lengths, χ² and what was usable.
        sensors: row of each hit's sensor (tiles, hits · `LANES`), int32.
        table: poses (sensors · `POSE_ROWS`,).
        n_planes: of a track: its hits, and a vertex.
        steps: of the fit before χ² is taken.
        bend: 1.0, or 0.0 where ω is not fitted.
        forces: (sensors · `FORCE_ROWS`,), to be added to.

    Returns:
        The `TOTALS`.
    """
    n_hits, totals, work = sensors.shape[1] // LANES, np.zeros(TOTALS), work_space(n_planes)
    for number in range(len(tiles)):
        tile, sensor = tiles[number], sensors[number]
        for i in range(LANES):
            tile[USABLE * LANES + i] = 1.0
        gather(n_hits, n_planes, sensor, table, tile, work)
        for _ in range(steps):
            fit_step(n_planes, tile, work, bend)
        evaluate(n_planes, tile, work)
        scatter(n_hits, n_planes, sensor, tile, work, forces)
        for i in range(LANES):
            if tile[USABLE * LANES + i] > 0.0:
                totals[0] += tile[WEIGHT * LANES + i] * tile[CHI2 * LANES + i]
                totals[1] += tile[WEIGHT * LANES + i] * tile[NDF * LANES + i]
                totals[2] += 1.0
            elif tile[NDF * LANES + i] != 0.0:
                totals[3] += 1.0
    return totals


@compiled
def residuals(tiles: Array, sensors: Array, table: Array, n_planes: int, found: Array) -> None:
    """Predicted minus measured of the hits of some tiles, (tiles, hits, 2, `LANES`), set; states stay."""
    n_hits, work = sensors.shape[1] // LANES, work_space(n_planes)
    tile = np.zeros(tiles.shape[1])
    for number in range(len(tiles)):
        tile[:] = tiles[number]
        gather(n_hits, n_planes, sensors[number], table, tile, work)
        evaluate(n_planes, tile, work)
        for k in range(n_hits):
            hit = (PLANES + HIT_ROWS * k + 1) * LANES
            at = (WORK + POSE_ROWS * n_planes + HIT_ROWS * k + 3) * LANES
            for i in range(LANES):
                found[number, k, 0, i] = work[at + i] - tile[hit + i]
                found[number, k, 1, i] = work[at + LANES + i] - tile[hit + LANES + i]
