"""The likelihood of line parameters is a Gaussian's, and errors wrong by a factor are mended."""

from __future__ import annotations

import pytest
import torch
from drawn import events
from torch import nn
from torch.distributions import MultivariateNormal

from alignnet.errors import ConfigError
from alignnet.trackfinding.filters import convolutions_until, maximised
from alignnet.trackfinding.lines import LineToy
from alignnet.trackfinding.objectives.likelihood import LineLikelihood, covariance_of, minus_2_ln_l
from alignnet.trackfinding.objectives.lines import Lines, n_found
from alignnet.trackfinding.systems.images import TrackCounter
from alignnet.trackfinding.systems.lines import LineOutput, LineSequence

LN_2PI = 1.8378770664093453


def test_it_is_the_density_of_a_normal_distribution():
    residual, spread = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    density = MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance_of(spread)).log_prob(
        residual
    )
    assert torch.allclose(minus_2_ln_l(residual, spread), -2 * density - 2 * LN_2PI)


def test_it_stays_finite_where_the_correlation_rounds_to_one():
    spread = torch.tensor([[0.0, 0.0, 30.0]], requires_grad=True)
    loss = minus_2_ln_l(torch.zeros(1, 2), spread).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-2 * (30 - 0.6931472), rel=1e-5)
    assert spread.grad is not None
    assert spread.grad.isfinite().all()


def test_its_minimum_is_at_the_spread_of_the_residuals():
    true = torch.tensor([[0.2, 0.5, -0.8]], dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance_of(true))[0]
    residual = torch.randn(20_000, 2, dtype=torch.float64) @ factor.T
    spread = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([spread], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = minus_2_ln_l(residual, spread.expand(len(residual), 3)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(spread.detach(), true, atol=0.04)


def test_the_first_stage_is_least_squares_and_the_second_the_likelihood():
    batch = events(LineToy(12, 2, 2), 5)
    output = LineSequence(2, 12, 8, errors=True)(batch.image)
    objective = LineLikelihood(6.0, first_stage=2)
    losses = []
    for epoch in range(4):
        objective.begin_epoch(epoch)
        losses.append(float(objective.loss(output, batch).detach()))
    assert losses[0] == losses[1] == float(Lines(6.0).loss(output, batch).detach())
    assert losses[2] == losses[3] != losses[0]


def test_calibration_gives_pulls_of_other_events_a_width_of_one():
    toy, objective = LineToy(12, 2, 3, "poisson"), LineLikelihood(6.0)
    first, second = events(toy, 3000, 1), events(toy, 3000, 2)
    before = figures(objective, answer(objective, first), first)
    assert before["pull2_slope"] > 5
    assert before["covered_68"] == before["covered_68_normal"] < 0.4
    objective.calibrate(*objective.residuals(answer(objective, first), first))
    after = figures(objective, answer(objective, second), second)
    assert after["pull2_intercept"] == pytest.approx(1, abs=0.06)
    assert after["pull2_slope"] == pytest.approx(1, abs=0.06)
    assert after["minus_2_ln_l"] < before["minus_2_ln_l"]


def test_ellipses_hold_what_they_should_though_residuals_have_tails():
    """A tenth of the tracks is five times as far off: scaled errors of a normal shape cover too much."""
    toy, objective = LineToy(12, 2, 3, "poisson"), LineLikelihood(6.0)
    first, second = events(toy, 5000, 3), events(toy, 5000, 4)
    objective.calibrate(*objective.residuals(answer(objective, first, 0.1), first))
    found = figures(objective, answer(objective, second, 0.1), second)
    assert found["pull2_intercept"] == pytest.approx(1, abs=0.1)
    assert found["covered_68_normal"] > 0.8
    assert found["covered_68"] == pytest.approx(0.6827, abs=0.015)
    assert found["covered_95"] == pytest.approx(0.9545, abs=0.01)


def answer(objective, batch, far=0.0):
    """Normally distributed, with wrong errors and correlation; a part of them five times as far off."""
    factor = torch.where(torch.rand(*batch.lines.shape[:2], 1) < far, 5.0, 1.0)
    noise = torch.randn(*batch.lines.shape) * torch.tensor([0.3, 4.0]) * factor
    spread = torch.tensor([-1.0, 0.5, 0.4]).expand(*batch.lines.shape[:2], 3)
    return LineOutput(objective.target(batch) + noise, spread)


def figures(objective, output, batch):
    return {name: mean.value() for name, mean in objective.score(output, batch).items()}


def test_squared_errors_are_of_the_tracks_that_there_are():
    batch = events(LineToy(12, 2, 3, "poisson"), 100)
    objective = Lines(6.0, stops=True)
    wrong = torch.where(batch.present[..., None], 0.5, 100.0)
    output = LineOutput(objective.target(batch) + wrong, present=batch.present.float() * 20 - 10)
    score = objective.score(output, batch)
    assert score["mse"].value() == pytest.approx(0.25, rel=1e-4)
    assert score["count"].value() == 1
    assert float(objective.loss(output, batch)) == pytest.approx(0.25, rel=1e-3)


def test_tracks_end_at_the_first_that_is_not_there():
    assert n_found(torch.tensor([[1.0, 2.0, -1.0, 3.0], [-1.0, 1.0, 1.0, 1.0]])).tolist() == [2, 0]


def test_the_image_that_excites_a_filter_most_is_its_own_kernel():
    """A filter is excited by what looks like it: by neighbours that are alike along its direction."""
    edge = torch.tensor([[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    convolution = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.stack([edge, edge.T])[:, None])
    layers = nn.Sequential(convolution, nn.ReLU())
    rows, columns = maximised(layers, 16, torch.Generator().manual_seed(1))
    assert 0 <= float(rows.min()) < float(rows.max()) <= 1

    def likeness(image, dim):
        """Correlation of neighbours along a direction."""
        centred = image - image.mean()
        n = image.shape[dim]
        return float((centred.narrow(dim, 0, n - 1) * centred.narrow(dim, 1, n - 1)).mean() / centred.var())

    assert likeness(rows, 1) > likeness(rows, 0) + 0.2
    assert likeness(columns, 0) > likeness(columns, 1) + 0.2


def test_only_convolutions_that_are_there_are_shown():
    with pytest.raises(ConfigError, match="TrackCounter has no 6 convolutions one after another"):
        convolutions_until(TrackCounter(), 6)
