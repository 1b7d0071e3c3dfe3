"""Terms of the user's own: the answer of a prior that says the same; in rows, matrix-free, as a number."""

from __future__ import annotations

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated

from alignnet.errors import ConfigError
from alignnet.loss import terms as own
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.terms import Terms, local_six
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import term_system
from alignnet.solvers.linearised import linearise
from alignnet.solvers.term_system import TermSystem
from alignnet.training.optim import GaussNewton

DETECTOR = barrel()
PRIOR = {"translation": 20e-4, "rotation": 1e-3}
SIGMA = torch.tensor([20e-4] * 3 + [1e-3] * 3, dtype=torch.float64)


def as_residuals(local):
    return (local / SIGMA).flatten()


def as_a_number(local):
    return (local / SIGMA).square().sum()


def bent(local):
    """Residuals that are not linear: neighbours' distances in space."""
    return ((local[1:, :3] - local[:-1, :3]).square().sum(-1) / 1e-6 + local[1:, 0] / 1e-3).flatten()


@pytest.fixture(scope="module")
def block():
    tracks = simulated(DETECTOR, GUN, 40, random_local(24, 20e-4, 2e-4), seed=2)
    return linearise(
        HelixChi2(DETECTOR, normalisation="total"), SensorLayer.of(DETECTOR), batch_of(tracks, DETECTOR)
    )


def stepped(block, terms=None, **options):
    layer = SensorLayer.of(DETECTOR)
    optimizer = GaussNewton([layer.theta], min_hits=0, tolerance=1e-9, max_iterations=3000, **options)
    optimizer.attach(DETECTOR, layer, terms)
    optimizer.add(block)
    optimizer.step()
    return layer.theta.detach(), optimizer.report


@pytest.mark.parametrize(("term", "few"), [(as_residuals, 300), (as_residuals, 0), (as_a_number, 300)])
def test_a_term_that_says_what_a_prior_says_gives_its_answer(block, monkeypatch, term, few):
    monkeypatch.setattr(term_system, "FEW", few)
    expected, _ = stepped(block, sensor_prior=PRIOR)
    found, report = stepped(block, Terms({"mine": term}))
    assert report.solution.converged
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_weight_counts_residuals_as_often(block):
    half = {key: value * 2**0.5 for key, value in PRIOR.items()}
    expected, _ = stepped(block, sensor_prior=half)
    found, _ = stepped(block, Terms({"mine": as_residuals}, {"mine": 0.5}))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("few", [0, 300])
def test_the_system_is_the_jacobian_of_the_residuals(monkeypatch, few):
    monkeypatch.setattr(term_system, "FEW", few)
    sensors = SensorLayer.of(DETECTOR)
    sensors.set_local(random_local(24))
    found = TermSystem(Terms({"bent": bent}, {"bent": 3.0}), sensors)
    theta, vector = sensors.theta.detach(), random_local(24, seed=5)
    rows = torch.autograd.functional.jacobian(bent, theta).flatten(1)
    product = found(vector).flatten() + (found.rows.flatten(1).T @ (found.rows.flatten(1) @ vector.flatten()))
    expected = 3 * rows.T @ (rows @ vector.flatten())
    assert (product - expected).abs().max() < 1e-10 * expected.abs().max()
    slope = 3 * rows.T @ bent(theta)
    assert (found.gradient.flatten() - slope).abs().max() < 1e-10 * slope.abs().max()


def test_few_rows_cost_few_iterations(block):
    """A term a thousand times stiffer than the tracks: its rows are part of the preconditioner."""

    def stiff(local):
        return torch.stack([local[:, 0].mean(), local[:12, 1].mean() - local[12:, 1].mean()]) / 1e-7

    _, plain = stepped(block, sensor_prior=PRIOR)
    found, report = stepped(block, Terms({"stiff": stiff}), sensor_prior=PRIOR)
    assert stiff(found).abs().max() < 1e-3
    assert report.solution.iterations <= plain.solution.iterations + 6


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_a_term_sees_the_local_six_whatever_is_trained(parametrisation):
    sensors, six = SensorLayer.of(DETECTOR, parametrisation), random_local(24, 0.01, 0.01)
    sensors.set_local(six)
    found = local_six(sensors, sensors.theta)
    assert (found - six).abs().max() < 1e-12
    own.Terms({"mine": as_a_number}).chi2(sensors).backward()
    assert sensors.theta.grad.isfinite().all()
    step = 1e-7 * sensors.theta.grad / sensors.theta.grad.abs().amax(0)
    values = [as_a_number(local_six(sensors, (sensors.theta + s * step).detach())) for s in (1, -1)]
    assert float(values[0] - values[1]) / 2 == pytest.approx(
        float((sensors.theta.grad * step).sum()), rel=1e-4
    )


def test_what_is_no_term_is_refused_by_name():
    sensors = SensorLayer.of(DETECTOR)
    for term, said in (
        (lambda local: local, r"mine returned \(24, 6\)"),
        (lambda local: 3.0, "mine returned float"),
        (lambda local: torch.ones(3), "has no gradient"),
        (lambda local: local[:, 0] / 0, "is not finite"),
        (lambda local: local[:, 99], r"mine raised IndexError: .* \(.*test_terms.py, line [0-9]+\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            Terms({"mine": term}).at(sensors)
    with pytest.raises(ConfigError, match="weight is 0"):
        Terms({"mine": as_residuals}, {"mine": 0.0})
    with pytest.raises(ConfigError, match="need rigid sensors"):
        Terms({"mine": as_residuals}).at(SensorLayer.of(DETECTOR, "affine"))


def test_terms_without_a_minimum_are_refused_by_name():
    sensors = SensorLayer.of(DETECTOR)
    for term, said in (
        (lambda local: -1e9 * local.square().sum(), "terms.mine bends downwards .* must be convex"),
        (lambda local: local[:, 0].abs().sqrt(), "terms.mine has a slope that is not finite"),
    ):
        with pytest.raises(ConfigError, match=said):
            TermSystem(Terms({"mine": term}), sensors)
    TermSystem(Terms({"mine": lambda local: 1e9 * local[:, 0].sum()}), sensors)  # no curvature at all
