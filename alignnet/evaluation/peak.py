"""A peak on a straight background: binned maximum likelihood, with errors.

    μ_i = N ∫_i gauss(x; m, s) dx + (b + c (x_i − x̄)) · width of bin i

Counts are Poisson's; steps are Fisher's scoring, (Jᵀ diag(1/μ) J)⁻¹ Jᵀ (n − μ)/μ, halved while the likelihood
falls, and the inverse matrix at the end has the errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from alignnet.data.tracks import Array

_STEPS = 100
_LEAST = 1e-6  # of a bin's expectation


class Peak(NamedTuple):
    """A fitted peak, in the units of its axis."""

    yield_: float
    mean: float
    mean_error: float
    width: float
    width_error: float


def fit_peak(counts: Array, edges: Array, mean: float, width: float) -> Peak | None:
    """The peak in a histogram; None where there is none to be found.

    Args:
        counts: of the bins (bins,).
        edges: of the bins, even (bins + 1,).
        mean, width: where the search starts.
    """
    n = counts.sum()
    if n < 50:
        return None
    span = edges[-1] - edges[0]
    p = np.array([0.7 * n, mean, width, 0.3 * n / span, 0.0])
    likelihood = _likelihood(counts, _model(p, edges)[0])
    for _ in range(_STEPS):
        mu, jacobian = _model(p, edges)
        information = (jacobian / mu[:, None]).T @ jacobian
        step, ok = _solved(information, jacobian.T @ ((counts - mu) / mu))
        if not ok:
            return None
        for _ in range(30):
            tried = p + step
            better = _likelihood(counts, _model(tried, edges)[0])
            if tried[2] > 0 and better >= likelihood - 1e-9:
                break
            step = 0.5 * step
        p, gain, likelihood = tried, better - likelihood, better
        if abs(gain) < 1e-7:
            break
    return _checked(p, edges)


def _checked(p: Array, edges: Array) -> Peak | None:
    """The answer, if it is a peak within the histogram with a yield that is not by chance."""
    mu, jacobian = _model(p, edges)
    covariance = np.linalg.pinv((jacobian / mu[:, None]).T @ jacobian, hermitian=True)
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    inside = edges[0] < p[1] < edges[-1] and edges[1] - edges[0] < 4 * p[2] < 2 * (edges[-1] - edges[0])
    if not inside or not p[0] > 5 * errors[0] > 0:
        return None
    return Peak(float(p[0]), float(p[1]), float(errors[1]), float(p[2]), float(errors[2]))


def _model(p: Array, edges: Array) -> tuple[Array, Array]:
    """Expected counts (bins,), and their derivatives (bins, 5)."""
    n, mean, width, level, slope = p
    width = max(width, 1e-12)
    z = (edges - mean) / width
    below = 0.5 * (1 + torch.special.erf(torch.from_numpy(z / np.sqrt(2.0))).numpy())
    density = np.exp(-0.5 * np.minimum(z**2, 1400.0)) / np.sqrt(2 * np.pi)
    middle, bins = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    offset = (middle - middle.mean()) * bins
    peak = np.diff(below)
    mu = np.maximum(n * peak + level * bins + slope * offset, _LEAST)
    columns = (peak, -n * np.diff(density) / width, -n * np.diff(density * z) / width, bins, offset)
    return mu, np.stack(columns, -1)


def _likelihood(counts: Array, mu: Array) -> float:
    return float((counts * np.log(mu) - mu).sum())


def _solved(matrix: Array, right: Array) -> tuple[Array, bool]:
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale
    if not np.isfinite(scaled).all() or np.linalg.cond(scaled) > 1e14:
        return right, False
    return np.linalg.solve(scaled, right * scale) * scale, True
