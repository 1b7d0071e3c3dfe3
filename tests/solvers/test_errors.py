"""Errors of all sensors together: exact ones are the inverse's, draws estimate them as well as they say."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from small_problems import dense
from torch import Tensor

from alignnet.geometry.recovery import displacement_metric
from alignnet.geometry.weak_modes import rigid_motion_basis
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.hierarchy import theta_motions
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.errors import Errors, Removal, drawn_errors, error_draws, exact_errors
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, level, prior_weight
from alignnet.solvers.linearised import linearise
from alignnet.solvers.spectrum import exact_spectrum

DETECTOR = barrel(radii=(2.5, 4.0, 7.0), staves=6, chips=2)
METRIC = displacement_metric(DETECTOR)
PRIORS = {"half_barrel": (30e-4, 2e-4), "stave": (20e-4, 3e-4)}
OWN = (10e-4, 1e-4)
FREE = dict.fromkeys(("half_barrel", "stave"))

CASES = {
    "held volumes": {"levels": PRIORS, "own": OWN},
    "some follow": {"levels": PRIORS, "own": OWN, "few": 25},
    "no volumes": {"levels": {}, "own": OWN},
    "no priors": {"levels": FREE, "own": None},
    "fixed": {"levels": PRIORS, "own": OWN, "fixed": True},
}


@cache
def batch():
    return batch_of(simulated(DETECTOR, GUN, 60, random_local(36, 10e-4, 1e-4)), DETECTOR)


def system_of(
    levels, own, few: int = 0, fixed: bool = False, seed: int = 0, name: str = "local"
) -> Hierarchical:
    sensors = SensorLayer.of(DETECTOR, name)
    if fixed:
        sensors.free[3], sensors.free[:, 2] = False, False
    problem = Problem(sensors, [linearise(HelixChi2(DETECTOR, vertex="absent"), sensors, batch(), seed=seed)])
    volumes = [level(DETECTOR, sensors, name, sigma) for name, sigma in levels.items()]
    basis = None
    if name != "local":
        basis = theta_motions(sensors, torch.eye(6, dtype=torch.float64).expand(36, 6, 6))
    return Hierarchical(problem, volumes, prior_weight(own), problem.hits() >= few, basis)


def null_of(system: Hierarchical) -> Removal:
    found = exact_spectrum(system, METRIC, 10)
    return Removal(found.motion[: found.n_null], METRIC)


@cache
def drawn(name: str, n: int) -> Errors:
    """The estimate from draws of one linearisation each."""
    case = CASES[name]
    system = system_of(**case)
    preconditioner, pairs = system.preconditioner(), []
    for seed in range(0, 2 * n, 2):
        pairs += error_draws(system_of(**case, seed=seed), preconditioner, [seed], 1e-8, 2000)
    return drawn_errors(system, preconditioner, null_of(system), pairs)


def test_exact_errors_are_those_of_the_inverse_with_the_marginal_prior():
    system = system_of(PRIORS, OWN)
    prior = torch.diag(prior_weight(OWN).repeat(36).reciprocal())
    for some in system.levels:
        unit = torch.eye(6 * some.n_groups, dtype=torch.float64).view(-1, some.n_groups, 6)
        z = torch.stack([some.prolong(one).flatten() for one in unit], -1)
        prior = prior + z @ torch.diag(some.weight.repeat(some.n_groups).reciprocal()) @ z.T
    expected = torch.linalg.inv(dense(system.problem) + torch.linalg.inv(prior))
    found = exact_errors(system, METRIC)
    assert torch.allclose(found.sigma.flatten(), expected.diagonal().sqrt(), rtol=1e-6)
    columns = found.columns.flatten(1)
    scale = expected.diagonal().rsqrt()
    assert (((columns.T @ columns - expected) * scale[:, None] * scale).abs() < 1e-6).all()
    assert found.n_draws == 0
    assert (found.relative == 0).all()
    assert (torch.stack(found.draws).square().mean(0).sqrt() - found.sigma).abs().max() < 1e-9


def test_without_priors_null_motions_are_taken_out():
    found = exact_errors(system_of(FREE, None), METRIC)
    assert len(found.removal.motions) == 4
    h = dense(system_of({}, None).problem)
    scale = h.diagonal().rsqrt()
    values, vectors = torch.linalg.eigh(h * scale[:, None] * scale)
    root = (scale[:, None] * vectors[:, 4:] * values[4:].rsqrt()).T.view(-1, 36, 6)
    expected = found.removal(root).square().sum(0).sqrt()
    assert torch.allclose(found.sigma, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("no volumes", "no priors") else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_draws_are_unbiased_and_as_good_as_they_say(name):
    exact, found = exact_errors(system_of(**CASES[name]), METRIC), drawn(name, 40)
    free = exact.sigma > 0
    assert torch.equal(free, found.sigma > 0)
    pull = ((found.sigma / exact.sigma - 1) / found.relative)[free]
    assert 0.6 < float(pull.square().mean().sqrt()) < 1.4
    assert float((found.sigma / exact.sigma - 1)[free].mean().abs()) < 0.08  # collective motions are common
    assert found.n_draws == 40
    assert float(found.relative.max()) < 1.3 / 80**0.5


@pytest.mark.parametrize("name", ["no volumes", "held volumes"])
def test_conditioning_on_the_other_sensors_is_better_than_plain_draws(name):
    exact, found = exact_errors(system_of(**CASES[name]), METRIC), drawn(name, 40)
    plain = found.columns.square().sum(0).sqrt()
    better, worse = (
        float((sigma / exact.sigma - 1).square().mean().sqrt()) for sigma in (found.sigma, plain)
    )
    assert better < (0.45 if name == "no volumes" else 0.97) * worse


def test_draws_of_one_linearisation_say_how_few_tracks_they_are_of():
    system = system_of(**CASES["no priors"])
    preconditioner, hits = system.preconditioner(), system.problem.hits()
    exact = exact_errors(system, METRIC)
    draws = list(error_draws(system, preconditioner, range(60), 1e-6, 2000))
    found = drawn_errors(system, preconditioner, null_of(system), draws, hits)
    pull = (found.sigma / exact.sigma - 1) / found.relative
    assert float(pull.square().mean().sqrt()) < 1.4
    blind = drawn_errors(system, preconditioner, null_of(system), draws)
    assert (blind.relative < 0.8 * found.relative).all()


def test_errors_without_rigid_motions_are_smaller_and_the_same_by_draws():
    name = "held volumes"
    removal = Removal(rigid_motion_basis(DETECTOR), METRIC)
    exact, found = exact_errors(system_of(**CASES[name]), METRIC), drawn(name, 40)
    left, _ = exact.without(removal)
    assert (left < exact.sigma)[:, :3].double().mean() > 0.9
    assert torch.allclose(removal(exact.columns).square().sum(0).sqrt(), left, rtol=1e-9)
    sigma, relative = found.without(removal)
    ratio = sigma / left - 1
    assert 0.7 < float((ratio / relative).square().mean().sqrt()) < 1.3
    assert float(ratio.mean().abs()) < 0.04


def test_a_removal_takes_its_motions_out_and_nothing_else():
    removal = Removal(rigid_motion_basis(DETECTOR), METRIC)
    motion = random_local(36)
    once = removal(motion)
    assert torch.allclose(removal(once), once, rtol=0, atol=1e-12)
    assert removal(rigid_motion_basis(DETECTOR)).abs().max() < 1e-12
    left = torch.einsum("asd,sde,se->a", rigid_motion_basis(DETECTOR), METRIC, once)
    assert left.abs().max() < 1e-10
    alone = torch.zeros(36, 6, dtype=torch.float64)
    alone[5] = motion[5]
    assert torch.allclose((removal.own() @ alone[..., None]).squeeze(-1)[5], removal(alone)[5], atol=1e-14)


def test_sensors_that_follow_are_as_uncertain_as_their_priors_let_them():
    system = system_of(PRIORS, OWN, few=25)
    follow = system.problem.hits() < 25
    assert 0 < follow.sum() < 36
    sigma = exact_errors(system, METRIC).sigma
    assert (sigma[follow] > torch.tensor([OWN[0]] * 3 + [OWN[1]] * 3)).all()
    free = exact_errors(system_of(FREE, None, few=25), METRIC).sigma
    assert free[follow].isnan().all()
    assert free[~follow].isfinite().all()


def test_what_is_fixed_has_no_error():
    for found in (exact_errors(system_of(**CASES["fixed"]), METRIC), drawn("fixed", 3)):
        assert (found.sigma[3] == 0).all()
        assert (found.sigma[:, 2] == 0).all()
        assert (found.sigma[4, :2] > 0).all()


def test_errors_are_the_same_whatever_the_sensors_unknowns_are_called():
    """The global six with a prior in the sensors' frame: the errors of the same motions."""
    local = exact_errors(system_of(PRIORS, OWN), METRIC)
    sensors = SensorLayer.of(DETECTOR, "global")
    turn = theta_motions(sensors, torch.eye(6, dtype=torch.float64).expand(36, 6, 6))
    back = torch.linalg.inv(turn)
    found = exact_errors(system_of(PRIORS, OWN, name="global"), back.mT @ METRIC @ back)
    moved: Tensor = (turn @ local.columns[..., None]).squeeze(-1)
    assert torch.allclose(found.sigma, moved.square().sum(0).sqrt(), rtol=1e-6)


def test_the_draws_repeat():
    system = system_of(PRIORS, OWN)
    preconditioner = system.preconditioner()
    (one, _), (other, _) = (next(error_draws(system, preconditioner, [seed])) for seed in (3, 3))
    assert torch.equal(one, other)
