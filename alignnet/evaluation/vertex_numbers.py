"""Where events' vertices are, how far they spread, and how well they are known, in one geometry.

The vertex of an event is fitted from those of its tracks that have weight in the cost (`impact.vertices`), as
others are mostly of decays and of matter. Its error is that of the fit; where the
true one is known, or the file gives one that does not depend on the tracks, differences to it say how right
that is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation.fitted_tracks import FreeTracks
from alignnet.evaluation.impact import vertex_fit, vertices
from alignnet.evaluation.statistics import Histogram, number
from alignnet.units import UM

AXES = "xyz"
_LARGEST = 0.1  # [cm] a vertex known worse is not counted


class VertexNumbers:
    """Sums over the vertices of events.

    Args:
        b_z: field [T].
    """

    def __init__(self, b_z: float) -> None:
        self.b_z = b_z
        self.position = np.zeros((3, 3))  # n, Σ, Σ² along x, y, z
        self.variance = np.zeros(3)  # Σ of the fits' own
        self.truth, self.given = (
            np.zeros((3, 4)) for _ in range(2)
        )  # of differences; last, Σ of squared pulls
        self.histogram = Histogram(
            3, 2e-4, 2.0
        )  # differences to the truth, and positions about the beam line

    def add(self, tracks: FreeTracks, batch: Batch, true_vertex: Tensor | None) -> None:
        """Add the events of a batch.

        Args:
            tracks: fitted to their hits alone.
            batch: the same tracks.
            true_vertex: where each track started (tracks, 3), or None.
        """
        place, impacts = vertex_fit(
            tracks.helix,
            tracks.covariance,
            tracks.usable,
            batch,
            self.b_z,
            rounds=1 if batch.has_vertex.any() else 2,
        )
        found = vertices(impacts, tracks.usable, batch.event, place)
        sigma = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        known = found.known & (sigma.amax(-1) < _LARGEST) & found.offset.isfinite().all(-1)
        place = place + found.offset
        _add(self.position, place[known])
        self.variance += sigma[known].square().sum(0).numpy()
        if true_vertex is not None:
            exact = _first(true_vertex, batch)
            self._compare(self.truth, place - exact, sigma, known)
            self.histogram.add(
                torch.stack([(place - exact)[known].flatten()] * 2, -1),
                torch.arange(3).repeat(int(known.sum())),
            )
        given = place.new_zeros(batch.n_events, dtype=torch.bool)
        given[batch.event[batch.has_vertex]] = True
        width = _first(batch.vertex_cov.diagonal(dim1=-2, dim2=-1), batch)
        total = (sigma.square() + width).sqrt()
        self._compare(self.given, place - _first(batch.vertex, batch), total, known & given)

    def _compare(self, sums: np.ndarray, difference: Tensor, sigma: Tensor, known: Tensor) -> None:
        _add(sums[:, :3], difference[known])
        sums[:, 3] += (difference / sigma)[known].square().sum(0).numpy()

    def merge(self, other: VertexNumbers) -> None:
        """Add what another has seen."""
        for name in ("position", "variance", "truth", "given"):
            np.add(getattr(self, name), getattr(other, name), out=getattr(self, name))
        self.histogram.counts += other.histogram.counts

    def metrics(self) -> dict[str, Any]:
        """For metrics.json, by axis."""
        n = self.position[0, 0]
        rows: dict[str, Any] = {"n_events": round(n)}
        core = self.histogram.core_width()[:, 0]
        for k, axis in enumerate(AXES):
            mean, width = _mean_and_width(self.position[k])
            resolution = np.sqrt(self.variance[k] / n) if n else np.nan
            rows[axis] = {
                "mean_um": number(mean / UM),
                "mean_error_um": number(width / np.sqrt(max(n, 1)) / UM),
                "spread_um": number(width / UM),
                "expected_resolution_um": number(resolution / UM),
            }
            for name, sums in (("truth", self.truth[k]), ("given", self.given[k])):
                if sums[0]:
                    mean, width = _mean_and_width(sums)
                    rows[axis] |= {
                        f"to_{name}_mean_um": number(mean / UM),
                        f"to_{name}_width_um": number(width / UM),
                        f"to_{name}_pull_width": number(np.sqrt(sums[3] / sums[0])),
                    }
            if self.truth[k, 0]:
                rows[axis]["to_truth_core_width_um"] = number(core[k] / UM)
        return rows


def _add(sums: np.ndarray, values: Tensor) -> None:
    """Count, sum and squares (3, 3) of (events, 3)."""
    sums[:, 0] += len(values)
    sums[:, 1] += values.sum(0).numpy()
    sums[:, 2] += values.square().sum(0).numpy()


def _first(values: Tensor, batch: Batch) -> Tensor:
    """Of each event, what its tracks share (events, …)."""
    shared = values.new_zeros(batch.n_events, *values.shape[1:])
    shared[batch.event] = values
    return shared


def _mean_and_width(sums: np.ndarray) -> tuple[float, float]:
    if not sums[0]:
        return float("nan"), float("nan")
    mean = sums[1] / sums[0]
    return float(mean), float(np.sqrt(max(sums[2] / sums[0] - mean**2, 0.0)))
