"""Optimisers do their algebra: against dense matrices, and on problems with a known answer."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from small_detectors import BEAM, GUN, barrel, batch_of, exact, planes, random_local, simulated
from training_runs import PRIOR, TOLERANCE, fitted, problem_of, theta_of

from alignnet.errors import ConfigError
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.constraints import set_free
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, level, prior_weight
from alignnet.solvers.linearised import linearise
from alignnet.solvers.pcg import BlockJacobi
from alignnet.training.optim import GaussNewton, PreconditionedSGD, largest_eigenvalue

DETECTOR = barrel()
TRUTH = random_local(len(DETECTOR), 20e-4, 2e-4, seed=4)
LOSS = HelixChi2(DETECTOR, normalisation="total")


@pytest.fixture(scope="module")
def batch():
    return batch_of(simulated(DETECTOR, GUN, 60, TRUTH, seed=2), DETECTOR)


def dense(matrix, example):
    """Columns of a linear map of tensors like `example`."""
    columns = [
        matrix(unit.view_as(example)).flatten() for unit in torch.eye(example.numel(), dtype=example.dtype)
    ]
    return torch.stack(columns, -1)


def linearised(batch, layer, loss=LOSS):
    return Problem(layer, [linearise(loss, layer, batch)])


class Quadratic:
    """½ (x − answer)ᵀ H (x − answer), H of one block a sensor; stands for a `Problem`."""

    def __init__(self, n, n_dof):
        root = torch.randn(n, n_dof, n_dof, dtype=torch.float64)
        self.blocks = root @ root.transpose(-1, -2) + 0.1 * torch.eye(n_dof, dtype=torch.float64)
        self.answer = torch.randn(n, n_dof, dtype=torch.float64)
        self.free, self.dtype = torch.ones(n, n_dof, dtype=torch.float64), torch.float64
        self.is_rigid = True

    def __call__(self, x):
        return (self.blocks @ x[..., None]).squeeze(-1)


def test_plain_descent_moves_by_exactly_eta_times_the_gradient(barrel_file, tmp_path):
    eta = 2.0**-30
    module, data = problem_of(barrel_file, partial(torch.optim.SGD, lr=eta), split=(1, 0, 0), batch_size=1000)
    twin, _ = problem_of(barrel_file, None, split=(1, 0, 0))
    (batch,) = data.loader("train", shuffle=True)
    cost = twin.loss.cost(twin.loss(twin.sensors, batch))
    (gradient,) = torch.autograd.grad(cost, twin.sensors.theta)
    fitted(tmp_path, module, data, epochs=1)
    assert torch.equal(module.sensors.theta.detach(), -eta * gradient)
    assert torch.equal(theta_of(tmp_path), -eta * gradient)


@pytest.mark.parametrize("block", ["sensor", "diagonal"])
def test_preconditioned_descent_is_the_dense_algebra(barrel_file, tmp_path, block):
    make = partial(PreconditionedSGD, lr=0.7, block=block, tolerance=TOLERANCE)
    module, data = problem_of(barrel_file, make, split=(1, 0, 0), batch_size=1000)
    (batch,) = data.loader("train", shuffle=True)
    problem = linearised(batch, module.sensors, module.loss)
    h = dense(problem, problem.free)
    cost = module.loss.cost(module.loss(module.sensors, batch))
    (gradient,) = torch.autograd.grad(cost, module.sensors.theta)

    fitted(tmp_path, module, data, epochs=1)
    same = torch.arange(len(h))[:, None] == torch.arange(len(h))
    if block == "sensor":
        same = same.view(24, 6, 24, 6).any(3).any(1).repeat_interleave(6, 0).repeat_interleave(6, 1)
    sigma = torch.tensor([TOLERANCE["translation"]] * 3 + [TOLERANCE["rotation"]] * 3, dtype=torch.float64)
    b = h * same + torch.diag(sigma.pow(-2).repeat(24))
    largest = torch.linalg.eigvals(torch.linalg.solve(b, h)).real.max()
    n_hits = batch.is_hit.sum() + batch.has_vertex.sum()
    ndf = 2 * n_hits - 5 * batch.n_tracks
    step = -0.7 * 0.5 * ndf * torch.linalg.solve(b, gradient.flatten()) / largest
    ratio = module.sensors.theta.detach().flatten() / step
    assert ratio.std() < 1e-8 * ratio.mean()
    assert 1 / 1.05 <= ratio.mean() < 1.0  # the eigenvalue comes out between its value and 5 % above


def test_a_curvature_of_single_sensors_is_inverted_in_one_step():
    toy = Quadratic(7, 6)
    theta = torch.nn.Parameter(torch.zeros(7, 6, dtype=torch.float64))
    optimizer = PreconditionedSGD([theta], lr=1.05)  # makes up for the margin of the largest eigenvalue
    ndf = 11.0
    assert optimizer.precondition(toy.blocks, [toy], ndf) == pytest.approx(1.05)
    theta.grad = 2 * toy(theta - toy.answer).detach() / ndf
    optimizer.step()
    assert torch.allclose(theta, toy.answer, rtol=0, atol=1e-12)


def test_any_learning_rate_up_to_one_converges_where_sensors_are_coupled(batch):
    layer = SensorLayer.of(DETECTOR)
    problem = linearised(batch, layer)
    blocks = problem.diagonal_blocks()
    theta = torch.nn.Parameter(random_local(24, seed=9))
    optimizer = PreconditionedSGD([theta], lr=1.0)
    largest = optimizer.precondition(blocks, [problem], 100.0)
    assert largest > 1.5  # without the scale, a step of one would overshoot
    energies = []
    for _ in range(20):
        theta.grad = 2 * problem(theta.detach()) / 100.0
        energies.append(float((theta.detach() * theta.grad).sum()))
        optimizer.step()
    assert all(later < earlier for earlier, later in pairwise(energies))


def test_the_largest_eigenvalue_is_that_of_the_dense_matrices(batch):
    layer = SensorLayer.of(DETECTOR)
    problem = linearised(batch, layer)
    blocks = problem.diagonal_blocks()
    h = dense(problem, problem.free)
    exact_value = torch.linalg.eigvals(torch.linalg.solve(torch.block_diag(*blocks), h)).real.max()
    found = largest_eigenvalue(problem, BlockJacobi(blocks), iterations=300)
    assert found == pytest.approx(1.05 * float(exact_value), rel=1e-3)


def test_momentum_is_that_of_a_heavy_ball():
    toy = Quadratic(3, 6)
    theta = torch.nn.Parameter(torch.zeros(3, 6, dtype=torch.float64))
    optimizer = PreconditionedSGD([theta], lr=0.2, momentum=0.6)
    optimizer.precondition(toy.blocks, [toy], 2.0)
    inverse = torch.linalg.inv(toy.blocks) / 1.05
    velocity, expected = torch.zeros_like(theta), torch.zeros_like(theta)
    for _ in range(4):
        theta.grad = toy(theta - toy.answer).detach()
        velocity = 0.6 * velocity + (inverse @ toy(expected - toy.answer)[..., None]).squeeze(-1)
        expected = expected - 0.2 * velocity
        optimizer.step()
    assert torch.allclose(theta, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("refresh", "due"), [(0, [0]), (2, [0, 2, 4]), (1, [0, 1, 2, 3, 4])])
def test_the_curvature_is_measured_as_often_as_asked(refresh, due):
    toy = Quadratic(2, 6)
    theta = torch.nn.Parameter(torch.zeros(2, 6, dtype=torch.float64))
    optimizer, measured = PreconditionedSGD([theta], refresh=refresh), []
    for epoch in range(5):
        if optimizer.needs_curvature(epoch):
            measured.append(epoch)
            optimizer.precondition(toy.blocks, [toy], 1.0)
    assert measured == due


def test_gauss_newton_solves_the_dense_normal_equations(first_order, batch):
    layer = SensorLayer.of(DETECTOR)
    problem = linearised(batch, layer)
    least = int(problem.hits().sort().values[3])  # three sensors only follow their staves
    levels = [level(DETECTOR, layer, name, (0.01, 0.001)) for name in ("half_barrel", "stave")]
    system = Hierarchical(problem, levels, prior_weight((0.002, 0.0005)), problem.hits() >= least)
    h = dense(system, torch.zeros(len(system), dtype=torch.float64))
    expected = system.expand(torch.linalg.pinv(h, hermitian=True) @ -system.collect(problem.gradient()))

    priors, own = dict.fromkeys(("half_barrel", "stave"), PRIOR), {"translation": 0.002, "rotation": 0.0005}
    optimizer = GaussNewton([layer.theta], 1.0, priors, own, least, tolerance=1e-12, max_iterations=3000)
    optimizer.attach(DETECTOR, layer)
    optimizer.add(linearise(LOSS, layer, batch))
    optimizer.step()
    assert optimizer.report.solution.converged
    assert torch.allclose(layer.theta, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_one_step_of_one_brings_exact_tracks_to_their_hits():
    detector = planes(6)
    truth = random_local(6, 10e-4, 1e-4)
    truth[[0, 5]] = 0.0
    fixed = ["telescope/plane0", "telescope/plane5"]
    tracks = exact(detector, BEAM, 200)
    loss, layer = HelixChi2(detector, vertex="absent"), SensorLayer.of(detector)
    set_free(layer, detector, names=fixed)
    layer.set_local(truth)  # the hits are those of the nominal places
    batch = batch_of(tracks, detector)
    before = loss(layer, batch).track.sum().detach()
    optimizer = GaussNewton([layer.theta], min_hits=0, tolerance=1e-10)
    optimizer.attach(detector, layer)
    optimizer.add(linearise(loss, layer, batch))
    optimizer.step()
    after = loss(layer, batch).track.sum().detach()
    assert before > 100
    assert after < 1e-6 * before
    assert layer.theta.abs().max() < 1e-3 * truth.abs().max()
    assert optimizer.report.expected_drop == pytest.approx(float(before), rel=1e-4)


def test_a_prior_holds_against_the_drawing_and_not_against_the_last_step(batch):
    layer = SensorLayer.of(DETECTOR)
    optimizer = GaussNewton(
        [layer.theta], sensor_prior={"translation": 1e-5, "rotation": 1e-6}, tolerance=1e-9
    )
    optimizer.attach(DETECTOR, layer)
    places = []
    for _ in range(4):
        optimizer.add(linearise(LOSS, layer, batch))
        optimizer.step()
        places.append(layer.theta.detach().clone())
    first = places[0].norm()
    assert (places[3] - places[0]).norm() < 0.02 * first


def test_the_levels_that_a_detector_does_not_have_are_left_out(batch):
    answers = []
    for levels in ({}, {"module": PRIOR, "half_stave": None}):
        layer = SensorLayer.of(DETECTOR)
        optimizer = GaussNewton([layer.theta], levels=levels, sensor_prior=PRIOR)
        optimizer.attach(DETECTOR, layer)
        optimizer.add(linearise(LOSS, layer, batch))
        optimizer.step()
        answers.append(layer.theta.detach())
    assert torch.equal(*answers)


BAD = [
    (PreconditionedSGD, {"block": "stave"}, "optimizer.block is 'stave'; choose diagonal or sensor"),
    (PreconditionedSGD, {"lr": 0.0}, "optimizer.lr is 0.0"),
    (PreconditionedSGD, {"momentum": 1.0}, "momentum 1.0"),
    (PreconditionedSGD, {"tolerance": {"translation": 1.0}}, "expected translation .* and rotation"),
    (PreconditionedSGD, {"tolerance": 0.1}, "optimizer prior of sensor is 0.1"),
    (GaussNewton, {"lr": -1.0}, "optimizer.lr is -1.0"),
    (GaussNewton, {"min_hits": -1}, "min_hits -1"),
    (GaussNewton, {"precision": "float16"}, "optimizer.precision is 'float16'; choose float64 or float32"),
    (GaussNewton, {"tolerance": 1.0}, "optimizer.tolerance is 1.0"),
    (GaussNewton, {"max_iterations": 0}, "max_iterations 0"),
    (GaussNewton, {"levels": {"stave": {"translation": 0.1, "rotation": 0.0}}}, "prior of stave"),
    (GaussNewton, {"sensor_prior": {"shift": 0.1, "rotation": 0.1}}, "prior of sensor"),
]


@pytest.mark.parametrize(("optimizer", "options", "complaint"), BAD)
def test_a_value_that_an_optimizer_cannot_use_is_refused_with_what_it_accepts(optimizer, options, complaint):
    theta = torch.nn.Parameter(torch.zeros(2, 6))
    with pytest.raises(ConfigError, match=complaint):
        optimizer([theta], **options)


def test_a_prior_of_six_numbers_is_refused_for_nine_degrees_of_freedom():
    layer = SensorLayer.of(DETECTOR, "affine")
    with pytest.raises(ConfigError, match=r"set optimizer\.sensor_prior=null"):
        GaussNewton([layer.theta], sensor_prior=PRIOR).attach(DETECTOR, layer)


def test_a_prior_of_the_sensors_is_about_their_own_frames_whatever_is_trained(barrel_file, tmp_path):
    """Stiff in rotation, soft in translation: in ALICE's global six these two are mixed by the lever arm."""
    make = partial(GaussNewton, sensor_prior={"translation": 20e-4, "rotation": 1e-5}, tolerance=1e-10)
    found = {}
    for name in ("local", "global"):
        module, data = problem_of(barrel_file, make, name, split=(1, 0, 0))
        fitted(tmp_path / name, module, data, epochs=1)
        found[name] = module.sensors.local().detach()
    moved = found["local"].abs().amax(0)
    assert (moved > torch.tensor([1e-4] * 3 + [1e-7] * 3)).all()
    assert ((found["global"] - found["local"]).abs() < 1e-3 * moved).all()
