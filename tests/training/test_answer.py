"""The answer of a run: places, errors and statuses, against dense matrices and counts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from training_runs import OPTIMIZERS, PRIOR, problem_of

from alignnet.sensors.constraints import set_free
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise
from alignnet.training.answer import ALIGNED, FIXED, TOO_FEW_HITS, answer_of
from alignnet.training.optim import GaussNewton


def hessian_of(module, data):
    """The dense H of the training tracks, (144, 144)."""
    blocks = [linearise(module.loss, module.sensors, batch) for batch in data.loader("train")]
    problem = Problem(module.sensors, blocks)
    eye = torch.eye(144, dtype=torch.float64)
    return torch.stack([problem(unit.view(24, 6)).flatten() for unit in eye], -1)


@pytest.mark.parametrize(
    "prior", [None, {"translation": 1e-4, "rotation": 1e-4}, {"translation": 20e-4, "rotation": 5e-4}]
)
def test_errors_are_those_of_a_sensor_while_the_others_stand_still(barrel_file, prior):
    """By its hits and its own prior: none is wider than that."""
    module, data = problem_of(barrel_file, partial(GaussNewton, sensor_prior=prior, min_hits=1))
    answer = answer_of(module, data)
    h = hessian_of(module, data)
    width = torch.full((6,), torch.inf, dtype=torch.float64)
    if prior is not None:
        width = torch.tensor([prior["translation"]] * 3 + [prior["rotation"]] * 3, dtype=torch.float64)
    for sensor in range(24):
        rows = slice(6 * sensor, 6 * sensor + 6)
        expected = torch.linalg.inv(h[rows, rows] + torch.diag(width**-2)).diagonal().sqrt()
        assert torch.allclose(answer.error[sensor], expected, rtol=1e-6)
        assert (answer.error[sensor] < width).all()


def test_hits_are_counted_on_training_tracks(barrel_file):
    module, data = problem_of(barrel_file, OPTIMIZERS["sgd"])
    answer = answer_of(module, data)
    assert answer.n_hits.tolist() == np.bincount(data.part("train").sensor, minlength=24).tolist()


def test_what_is_fixed_or_hardly_hit_has_a_status_and_no_error_of_its_own(barrel_file):
    make = partial(GaussNewton, sensor_prior=PRIOR, min_hits=90)
    module, data = problem_of(barrel_file, make)
    set_free(module.sensors, module.detector, layers=[0], dof=["dw"])
    answer = answer_of(module, data)
    layer = module.detector.layer
    assert (answer.status[layer == 0] == FIXED).all()
    assert (answer.error[layer == 0] == 0).all()
    assert (answer.error[:, 2] == 0).all()
    few = (answer.n_hits < 90) & (layer > 0)
    assert 0 < few.sum() < 18
    assert torch.equal(answer.status == TOO_FEW_HITS, few)
    assert torch.equal(answer.status == ALIGNED, ~few & (layer > 0))


def test_a_sensor_without_hits_has_no_error(barrel_file):
    module, data = problem_of(barrel_file, OPTIMIZERS["gauss_newton"])
    tracks = data.events.tracks
    data.events.tracks = tracks.select_hits(tracks.sensor != 7)
    answer = answer_of(module, data)
    assert answer.n_hits[7] == 0
    assert answer.error[7].isnan().all()
    assert answer.status[7] == TOO_FEW_HITS
    others = torch.arange(24) != 7
    assert answer.error[others].isfinite().all()


def test_draws_of_the_errors_have_the_spread_of_the_inverse(barrel_file):
    """Over many draws, χ² of a draw in H with the priors is its number of unknowns."""
    make = partial(GaussNewton, sensor_prior=PRIOR, min_hits=0, tolerance=1e-6, max_iterations=500)
    module, data = problem_of(barrel_file, make)
    h = hessian_of(module, data)
    sigma = torch.tensor([PRIOR["translation"]] * 3 + [PRIOR["rotation"]] * 3, dtype=torch.float64)
    h = h + torch.diag(sigma.pow(-2).repeat(24))
    norms, draws = [], []
    for seed in range(6):
        module.seed = seed
        (draw,) = answer_of(module, data, draw=True).error_draws
        draws.append(draw)
        norms.append(float(draw.flatten() @ h @ draw.flatten()))
    expected, spread = 144, (2 * 144 / 6) ** 0.5
    assert abs(np.mean(norms) - expected) < 4 * spread
    assert not torch.allclose(draws[0], draws[1])


def test_the_answer_is_in_the_local_six_whatever_was_trained(barrel_file):
    truth = 1e-4 * torch.randn(24, 6, dtype=torch.float64)
    answers = []
    for parametrisation in ("local", "global", "affine"):
        module, data = problem_of(barrel_file, OPTIMIZERS["sgd"], parametrisation)
        module.sensors.set_local(truth)
        answers.append(answer_of(module, data))
    for answer in answers:
        assert torch.allclose(answer.local, truth, rtol=0, atol=1e-12)
        assert torch.allclose(answer.error, answers[0].error, rtol=1e-6)
        assert torch.equal(answer.n_hits, answers[0].n_hits)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_making_the_answer_leaves_the_run_as_it_is(barrel_file, name):
    module, data = problem_of(barrel_file, OPTIMIZERS[name])
    module.sensors.set_local(1e-4 * torch.randn(24, 6, dtype=torch.float64))
    before, free = module.sensors.theta.detach().clone(), module.sensors.free.clone()
    answer = answer_of(module, data, draw=True)
    assert torch.equal(module.sensors.theta, before)
    assert torch.equal(module.sensors.free, free)
    assert torch.equal(answer.local, before)
