"""Tracks into the histograms of `DcaSums`, compiled."""

from __future__ import annotations

import math

from alignnet.physics.jit import Array, compiled


@compiled
def bin_of(x: float, scale: float, step: float, half: int) -> int:
    """The bin of a value, `binned_core.Bins.row`."""
    place = math.asinh(x / scale) / step + half
    return int(min(max(place, 0.0), 2 * half - 1e-9))


@compiled
def add_tracks(
    cells: Array, group: Array, dca: Array, pull: Array, reference: int,
    bins: tuple[float, float, int, float, float, int],
    counts: Array, totals: Array, differences: Array, pulls: Array,
) -> None:  # fmt: skip
    """Add tracks.

    Args:
        cells: bins of the variables that each track is in, −1 for none (tracks, variables).
        group: of its event (tracks,).
        dca, pull: (geometries, tracks, 2).
        reference: a geometry.
        bins: scale, step and half of the bins of the DCA, and of its pull.
        counts, totals, differences: (cells, 2, geometries, groups, bins).
        pulls: counts and totals (2, cells, 2, geometries, bins).
    """
    scale, step, half, pull_scale, pull_step, pull_half = bins
    for t in range(len(group)):
        for k in range(2):
            other = bin_of(dca[reference, t, k], scale, step, half)
            for g in range(len(dca)):
                x, z = dca[g, t, k], pull[g, t, k]
                row, place = bin_of(x, scale, step, half), bin_of(z, pull_scale, pull_step, pull_half)
                for v in range(cells.shape[1]):
                    cell = cells[t, v]
                    if cell < 0:
                        continue
                    counts[cell, k, g, group[t], row] += 1.0
                    totals[cell, k, g, group[t], row] += x
                    differences[cell, k, g, group[t], other] += x - dca[reference, t, k]
                    pulls[0, cell, k, g, place] += 1.0
                    pulls[1, cell, k, g, place] += z
