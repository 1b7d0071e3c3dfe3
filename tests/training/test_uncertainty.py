"""What a run works out of its errors: dense for few unknowns, draws for many, and pulls of width 1."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from training_runs import OPTIMIZERS, PRIOR, problem_of

from alignnet.errors import ConfigError
from alignnet.evaluation.uncertainty import pull_metrics
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.errors import Errors
from alignnet.solvers.linearised import linearise
from alignnet.training import uncertainty
from alignnet.training.answer import answer_of
from alignnet.training.optim import GaussNewton
from alignnet.training.uncertainty import Uncertainty

FREE = partial(GaussNewton, levels=dict.fromkeys(("half_barrel", "stave")), min_hits=0)


@pytest.mark.parametrize("kind", ["exact", "draws", "auto"])
def test_errors_are_larger_than_with_the_other_sensors_held(barrel_file, kind):
    module, data = problem_of(barrel_file, partial(GaussNewton, sensor_prior=PRIOR))
    held = answer_of(module, data)
    answer = answer_of(module, data, uncertainty=Uncertainty(kind, n_draws=8))
    assert answer.errors is not None
    assert answer.errors.n_draws == (8 if kind == "draws" else 0)
    assert (held.error_kind, answer.error_kind) == (0, 2 if kind == "draws" else 1)
    assert torch.equal(answer.error, answer.errors.sigma)
    assert (answer.error / held.error).median() > 1
    prior = torch.tensor([PRIOR["translation"]] * 3 + [PRIOR["rotation"]] * 3, dtype=torch.float64)
    assert (answer.error < prior).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_errors_and_modes(barrel_file, name):
    module, data = problem_of(barrel_file, OPTIMIZERS[name])
    answer = answer_of(module, data, uncertainty=Uncertainty("auto", n_modes=6))
    assert answer.errors is not None
    assert answer.spectrum is not None
    assert len(answer.spectrum.value) == 6
    assert answer.error.isfinite().all()
    assert answer.spectrum.n_null == 0  # the vertices, off the beam line, hold the turn about it


@pytest.mark.parametrize("dense", [True, False])
def test_null_motions_are_found_and_left_out(barrel_file, monkeypatch, dense):
    monkeypatch.setattr(uncertainty, "EXACT", 2000 if dense else 0)
    module, data = problem_of(barrel_file, FREE)
    module.loss.vertex = "absent"
    answer = answer_of(module, data, uncertainty=Uncertainty("auto", n_draws=40, n_modes=5))
    assert answer.errors is not None
    assert answer.spectrum is not None
    assert answer.spectrum.n_null == 4
    assert len(answer.errors.removal.motions) == 4
    assert answer.errors.n_draws == (0 if dense else 40)
    assert len(answer.spectrum.value) == 5
    assert answer.error.isfinite().all()
    assert 1 < float(answer.spectrum.amplitude[4]) / 1e-4 < 5000


def test_what_is_fixed_has_neither_errors_nor_modes(barrel_file):
    module, data = problem_of(barrel_file, partial(GaussNewton, sensor_prior=PRIOR))
    module.sensors.free[:] = False
    answer = answer_of(module, data, uncertainty=Uncertainty("auto", n_modes=3))
    assert answer.errors is None
    assert answer.spectrum is None
    assert (answer.error == 0).all()


@pytest.mark.parametrize("errors", ["exact", "draws"])
def test_where_no_sensor_has_hits_enough_there_are_neither(barrel_file, errors):
    module, data = problem_of(barrel_file, partial(GaussNewton, sensor_prior=PRIOR, min_hits=10**6))
    answer = answer_of(module, data, uncertainty=Uncertainty(errors, n_modes=3, weak_modes=True))
    assert answer.errors is None
    assert answer.spectrum is None
    assert answer.modes is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"errors": "all"}, r"evaluation.errors is 'all'; choose from .*auto"),
        ({"n_draws": 1}, "evaluation.draws is 1"),
        ({"n_modes": -1}, "spectrum -1"),
    ],
)
def test_what_cannot_be_used_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Uncertainty(**options)


DETECTOR = barrel(chips=2)
OWN = {"translation": 20e-4, "rotation": 0.2e-3}


def closure(seed: int, kind: str) -> tuple[Errors, torch.Tensor, torch.Tensor]:
    """Errors, answer and truth of an alignment of sensors that are off by what the prior says."""
    truth = random_local(len(DETECTOR), **{"shift": 20e-4, "turn": 0.2e-3}, seed=seed)
    batch = batch_of(simulated(DETECTOR, GUN, 150, truth, seed=1000 + seed), DETECTOR)
    sensors, loss = SensorLayer.of(DETECTOR), HelixChi2(DETECTOR, vertex="given")
    solver = GaussNewton([sensors.theta], sensor_prior=OWN, min_hits=0, tolerance=1e-6, max_iterations=500)
    solver.attach(DETECTOR, sensors)
    for _ in range(2):
        solver.add(linearise(loss, sensors, batch))
        solver.step()
    solver.add(linearise(loss, sensors, batch, seed=seed))
    errors, _ = Uncertainty(kind, n_draws=24).of(solver.system(), DETECTOR)
    assert errors is not None
    return errors, sensors.local(), truth


@pytest.mark.parametrize(("kind", "n"), [("exact", 6), ("draws", 2)])
def test_errors_cover_the_truth(kind, n):
    """Pulls of six samples have width 1 within 5 %, each degree of freedom within 10 %; few draws, more."""
    everyone = torch.ones(len(DETECTOR), dtype=torch.bool)
    pulls = [pull_metrics(DETECTOR, *closure(seed, kind), everyone)["all"] for seed in range(n)]
    width = {name: (sum(row[name] ** 2 for row in pulls) / n) ** 0.5 for name in pulls[0]}
    tolerance = 0.05 if kind == "exact" else 0.1
    assert width["all"] == pytest.approx(1, abs=tolerance)
    assert all(width[name] == pytest.approx(1, abs=3 * tolerance - 0.05) for name in width)
