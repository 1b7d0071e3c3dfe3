"""Line parameters with their errors and correlation: the logarithm of a Gaussian likelihood.

A network emits u₀, u₁, u₂: σ_b² = exp u₀, σ_m² = exp u₁, ρ = tanh u₂. The loss of a track with residual r
is r·C⁻¹·r + ln det C, −2 ln L without its constant, here as a mean over tracks (published sums are over 256
events). As published, a first stage trains the parameters alone, by least squares.

Residuals are not normally distributed: steps of pixels leave more of them within one σ, lines taken for one
another more of them far off. A factor for each parameter then gives pulls an r.m.s. of 1, but how large the
ellipses are that hold 68.27 and 95.45 % is measured beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.events import LineEvents
from alignnet.trackfinding.metrics import (
    NORMAL_RADIUS2,
    PARTS,
    Mean,
    squared_distances,
    squared_pulls,
)
from alignnet.trackfinding.objectives.lines import Lines, required
from alignnet.trackfinding.systems.lines import LineOutput


class LineLikelihood(Lines):
    """Intercepts and slopes with their covariance.

    Args:
        scale: factor of slopes.
        first_stage: epochs of least squares before the likelihood.
    """

    def __init__(self, scale: float = 25.0, first_stage: int = 5) -> None:
        super().__init__(scale)
        self.first_stage, self.epoch = first_stage, 0
        self.widening, self.radius2 = torch.ones(2), dict(NORMAL_RADIUS2)
        self.merits = ("loss", "mse", "minus_2_ln_l", "pull2_intercept", "pull2_slope", "covered_68")

    def begin_epoch(self, epoch: int) -> None:
        """Know the stage."""
        self.epoch = epoch

    def calibrate(self, residual: Tensor, spread: Tensor) -> None:
        """Scale the errors so that pulls of such events have an r.m.s. of 1, and measure their ellipses.

        Args:
            residual: (tracks, 2) of events not tested with, by `residuals`.
            spread: (tracks, 3) as trained.
        """
        residual, covariance = residual.double(), covariance_of(spread.double())
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        self.widening = (residual.square() / variance).mean(0).sqrt().float()
        scaled = covariance_of(self._widened(spread).double())
        distance2 = squared_distances(residual, scaled)
        self.radius2 = {name: float(distance2.quantile(part)) for name, part in PARTS.items()}

    def residuals(self, output: LineOutput, batch: LineEvents) -> tuple[Tensor, Tensor]:
        """True minus found (tracks, 2) of all tracks that there are, and their errors (tracks, 3)."""
        return self._residual(output, batch), required(output.spread)[batch.present]

    def loss(self, output: LineOutput, batch: LineEvents) -> Tensor:
        """Squared errors in the first stage, −2 ln L a track after it."""
        if self.epoch < self.first_stage:
            return super().loss(output, batch)
        return minus_2_ln_l(*self.residuals(output, batch)).mean()

    def score(self, answer: LineOutput, batch: LineEvents) -> dict[str, Mean]:
        """As of `Lines`, and where there are errors "minus_2_ln_l" a track, squared pulls, and coverage.

        "covered_…" is of the ellipses as measured, "covered_…_normal" of those of a normal distribution.
        """
        if answer.spread is None:
            return super().score(answer, batch)
        residual, spread = self.residuals(answer, batch)
        scaled = self._widened(spread)
        pulls = residual.double(), covariance_of(scaled.double())
        normal = squared_pulls(*pulls)
        return {
            **super().score(answer, batch),
            "minus_2_ln_l": Mean.of(minus_2_ln_l(residual, scaled)),
            **squared_pulls(*pulls, self.radius2),
            **{f"{name}_normal": normal[name] for name in PARTS},
        }

    def _residual(self, output: LineOutput, batch: LineEvents) -> Tensor:
        return (self.target(batch) - output.lines)[batch.present]

    def _widened(self, spread: Tensor) -> Tensor:
        factors = torch.cat([self.widening, torch.ones(1)]).to(spread.device)
        return spread + 2 * factors.log()


def covariance_of(spread: Tensor) -> Tensor:
    """Covariance matrices (…, 2, 2) of ln σ² of both and artanh of their correlation (…, 3)."""
    sigma_b, sigma_m = (spread[..., 0] / 2).exp(), (spread[..., 1] / 2).exp()
    mixed = spread[..., 2].tanh() * sigma_b * sigma_m
    rows = [torch.stack([sigma_b**2, mixed], -1), torch.stack([mixed, sigma_m**2], -1)]
    return torch.stack(rows, -2)


def minus_2_ln_l(residual: Tensor, spread: Tensor) -> Tensor:
    """r·C⁻¹·r + ln det C of each track, by the inverse of a 2 × 2 matrix in closed form.

    Args:
        residual: (tracks, 2) true minus found.
        spread: (tracks, 3) as of `covariance_of`.
    """
    z = residual * torch.exp(-spread[..., :2] / 2)
    rho = spread[..., 2].tanh()
    # 1 − tanh² u = 1/cosh² u, whose logarithm stays exact where tanh u rounds to 1
    log_one_minus = -2 * (spread[..., 2].abs() + torch.log1p(torch.exp(-2 * spread[..., 2].abs())) - LN2)
    quadratic = (z[..., 0] ** 2 - 2 * rho * z[..., 0] * z[..., 1] + z[..., 1] ** 2) * torch.exp(
        -log_one_minus
    )
    return quadratic + spread[..., 0] + spread[..., 1] + log_one_minus


LN2 = 0.6931471805599453
