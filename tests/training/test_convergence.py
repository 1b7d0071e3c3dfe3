"""Whether a training has converged: what is judged, and that no reader of its answer can overlook it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import uproot
from called import called
from training_runs import OPTIMIZERS, PRIOR, SMALL, fitted, problem_of, train

from alignnet.errors import ConfigError, NotConvergedError
from alignnet.loss.hit_weights import HitWeights
from alignnet.loss.robust import TrackWeights
from alignnet.solvers.pcg import Solution
from alignnet.training.convergence import Convergence, judged
from alignnet.training.optim import GaussNewton, StepReport

GOOD = StepReport(Solution(torch.zeros(1), 7, 1e-5, True), 1e-5, 0.5, 1.0, 100)
STRICT = tuple(option for option in SMALL if not option.startswith("require"))


def judge(problem, report, **options):
    module, _ = problem
    optimizer = GaussNewton([module.sensors.theta], **options)
    optimizer.report = report
    return judged(optimizer, module.loss, 3)


@pytest.fixture
def problem(barrel_file):
    return problem_of(barrel_file, OPTIMIZERS["gauss_newton"])


def test_a_small_step_of_a_solved_system_is_convergence(problem):
    status = judge(problem, GOOD)
    assert status.converged is True
    assert status.chi2_drop_per_unknown == pytest.approx(0.005)
    assert status.step_um == pytest.approx(0.1)
    assert str(status).startswith("converged after 3 epochs: expected Δχ² 0.005 an unknown; step 0.1 µm; ")


def test_motions_that_nothing_knows_of_are_said(problem):
    status = judge(problem, replace(GOOD, n_null=4))
    assert status.converged is True
    assert status.reasons[-1] == "4 motions that no track or prior knows of stay as they were"


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (replace(GOOD, expected_drop=2.0), "expected Δχ² 0.02 an unknown, above 0.01"),
        (replace(GOOD, step=5e-4), "step 5 µm, above 2"),
        (
            replace(GOOD, solution=Solution(torch.zeros(1), 200, 0.03, False)),
            "conjugate gradients at 0.03 after 200 iterations, above optimizer.tolerance=0.0001",
        ),
        (None, "no step was made"),
    ],
)
def test_each_thing_that_fails_is_named(problem, report, says):
    status = judge(problem, report)
    assert status.converged is False
    assert status.reasons == (says,)


def test_weights_that_have_yet_to_change_are_no_end(problem):
    module, _ = problem
    module.loss.weights = TrackWeights("huber_cauchy", switch_epoch=5)
    module.loss.hit_weights = HitWeights("huber_cut", switch_epoch=2)
    module.loss.weights.epoch = module.loss.hit_weights.epoch = 2
    status = judge(problem, GOOD)
    assert status.reasons == ("loss.weights.switch_epoch=5 has not come",)


def test_what_cannot_be_judged_is_neither(problem):
    module, _ = problem
    assert judge(problem, GOOD, converged=None).converged is None
    assert judged(torch.optim.SGD([module.sensors.theta], lr=1.0), module.loss, 2).converged is None


def test_a_status_comes_back_from_its_plain_values(problem):
    for status in (judge(problem, GOOD), judge(problem, None)):
        assert Convergence.of(json.loads(json.dumps(status.plain()))) == status


def test_limits_that_cannot_be_used_are_named():
    theta = torch.nn.Parameter(torch.zeros(2, 6))
    for options in ({"converged": 0.0}, {"converged_step": 0.0}):
        with pytest.raises(ConfigError, match=r"optimizer.converged is .* and converged_step"):
            GaussNewton([theta], **options)


def test_a_training_ends_when_it_has_converged_and_its_history_says_so(barrel_file, tmp_path):
    make = partial(GaussNewton, sensor_prior=PRIOR)
    history = fitted(tmp_path, *problem_of(barrel_file, make), epochs=30, stop_when_converged=True).history
    assert 2 <= len(history) < 8
    assert [row["solver/converged"] for row in history] == [0] * (len(history) - 1) + [1]
    drops = [row["solver/expected_chi2_drop_per_unknown"] for row in history]
    assert drops[-1] <= 0.01 < drops[-2]
    assert history[1]["solver/chi2_drop"] > 0
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["convergence"]["converged"] is True


def test_a_run_that_has_not_converged_cannot_be_overlooked(barrel_file, tmp_path, no_pictures):
    """Everything is written, it says so everywhere, and it fails; unless that is asked for."""
    options = (f"data.files=[{barrel_file}]", *STRICT, "trainer.max_epochs=1", "evaluation.limit=false")
    with pytest.raises(
        NotConvergedError, match=r"^not converged after 1 epochs: .*require_convergence=false"
    ):
        train(tmp_path, *options)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["converged"] is False
    assert metrics["convergence"]["reasons"]
    with uproot.open(tmp_path / "alignment.root") as file:
        assert json.loads(str(file["metadata"]))["convergence"] == metrics["convergence"]
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["convergence"] == metrics["convergence"]
    train(tmp_path, *options, "require_convergence=false")
    train(tmp_path, *options[:-2], "evaluation.limit=false", "trainer.max_epochs=9", f"resume={tmp_path}")
    assert json.loads((tmp_path / "metrics.json").read_text())["converged"] is True


def test_an_optimizer_without_a_measure_of_it_is_not_judged(barrel_file, tmp_path, no_pictures):
    options = ("optimizer=sgd", "optimizer.lr=1e-9", "trainer.max_epochs=1", "evaluation.limit=false")
    train(tmp_path, f"data.files=[{barrel_file}]", *STRICT, *options)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["converged"] is None
    assert metrics["convergence"]["reasons"] == ["SGD has no measure of it"]


def test_the_command_ends_with_code_3_and_says_so_last(barrel_file, tmp_path, no_pictures):
    options = (*STRICT, "trainer.max_epochs=1", "evaluation.limit=false", "hydra.run.dir=run")
    code, out, err = called("train", f"data.files=[{barrel_file}]", *options, folder=tmp_path)
    assert code == 3
    assert out.splitlines()[-1].startswith("not converged after 1 epochs: ")
    assert err.startswith("alignnet: error: not converged after 1 epochs: ")
    assert (tmp_path / "run" / "alignment.root").is_file()
