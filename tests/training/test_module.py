"""What a training step is: the cost that it reports, what it moves, and the events that it names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from small_detectors import barrel
from training_runs import OPTIMIZERS, PRIOR, fitted, problem_of

from alignnet.data.root import read_misalignment
from alignnet.errors import ConfigError, ConvergenceError
from alignnet.evaluation.residuals import residual_summary
from alignnet.geometry.recovery import Recovery, difference
from alignnet.loss.residuals import LayerSums
from alignnet.sensors.constraints import set_free
from alignnet.sensors.sensor import SensorLayer
from alignnet.training.optim import GaussNewton
from alignnet.units import UM

GAUSS_NEWTON = OPTIMIZERS["gauss_newton"]


def summary_of(module, data, part, local):
    """Residuals of a part of the data with the sensors at `local`."""
    sensors = SensorLayer.of(module.detector)
    sensors.set_local(local)
    return residual_summary(module.loss, sensors, module.detector, data.loader(part))


def test_the_numbers_of_an_epoch_are_those_of_the_evaluation(barrel_file, tmp_path):
    module, data = problem_of(barrel_file, GAUSS_NEWTON)
    history = fitted(tmp_path, module, data, epochs=1).history
    before = summary_of(module, data, "train", torch.zeros(24, 6, dtype=torch.float64))
    after = summary_of(module, data, "validation", module.sensors.local())
    (row,) = history
    assert row["train/chi2_per_ndf"] == pytest.approx(before.chi2_per_ndf, rel=1e-6)
    assert row["train/chi2_vertex_per_ndf"] == pytest.approx(before.chi2_vertex_per_ndf, rel=1e-6)
    parts = row["train/chi2_track_per_ndf"] + row["train/chi2_vertex_per_ndf"]
    assert row["train/chi2_per_ndf"] == pytest.approx(parts, rel=1e-6)
    assert row["val/chi2_per_ndf"] == pytest.approx(after.chi2_per_ndf, rel=1e-6)
    for i, layer in enumerate(after.layers):
        for k, name in enumerate("uv"):
            mean, width = after.biased.mean[i, k] / UM, after.biased.width[i, k] / UM
            assert row[f"residual_mean_um/layer{layer}_{name}"] == pytest.approx(
                float(mean), rel=1e-4, abs=1e-4
            )
            assert row[f"residual_width_um/layer{layer}_{name}"] == pytest.approx(float(width), rel=1e-4)


def test_what_remains_of_the_misalignment_falls_as_the_truth_says(barrel_file, tmp_path):
    module, data = problem_of(barrel_file, GAUSS_NEWTON)
    truth = read_misalignment(barrel_file, module.detector)
    every = torch.ones(24, dtype=torch.bool)

    class Truth(L.Callback):
        def on_fit_start(self, trainer, module):
            trainer.callbacks[0].truth = truth

    row = fitted(tmp_path, module, data, epochs=1, callbacks=(Truth(),)).history[-1]
    recovery = Recovery(module.detector, every)
    before, after = (
        recovery.per_layer(difference(local, truth, module.detector))
        for local in (torch.zeros_like(truth), module.sensors.local())
    )
    for layer in range(4):
        for k, name in enumerate("uvw"):
            assert row[f"remaining_um/layer{layer}_{name}"] == pytest.approx(after[layer][k] / UM, rel=1e-5)
    assert all(after[layer][0] < 0.5 * before[layer][0] for layer in range(3))


def test_the_cost_of_a_batch_is_the_losss_own(barrel_file):
    module, data = problem_of(barrel_file, OPTIMIZERS["sgd"])
    module._trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    batch = next(iter(data.loader("train")))
    expected = module.loss.cost(module.loss(module.sensors, batch))
    assert module._cost(batch) == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_fixed_does_not_move_and_the_rest_does(barrel_file, tmp_path, name):
    module, data = problem_of(barrel_file, OPTIMIZERS[name], max_tracks=240)
    set_free(module.sensors, module.detector, layers=[0], dof=["dw", "rot_u"])
    start = 1e-4 * torch.ones(24, 6, dtype=torch.float64)
    module.sensors.set_local(start)
    fitted(tmp_path, module, data, epochs=2)
    moved = (module.sensors.local() != start) & module.sensors.free
    assert torch.equal(module.sensors.local()[~module.sensors.free], start[~module.sensors.free])
    assert moved.sum() >= 0.95 * module.sensors.free.sum()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_validation_events_are_not_trained_on(barrel_file, tmp_path, name):
    """Other events in the validation change nothing but the validation."""
    places, losses = [], []
    for rows in (slice(0, 5), slice(5, 10)):
        module, data = problem_of(barrel_file, OPTIMIZERS[name], max_tracks=240)
        data.rows["validation"] = np.concatenate([data.rows["validation"], data.rows["test"]])[rows]
        losses.append(
            fitted(tmp_path / str(rows.start), module, data, epochs=1).history[-1]["val/chi2_per_ndf"]
        )
        places.append(module.sensors.theta.detach().clone())
    assert torch.equal(*places)
    assert losses[0] != losses[1]


def test_a_gauss_newton_step_does_not_depend_on_the_batches(barrel_file, tmp_path):
    """Solved to the end: conjugate gradients on their way amplify the rounding of sums in another order."""
    make = partial(GaussNewton, sensor_prior=PRIOR, tolerance=1e-9, max_iterations=2000)
    places = []
    for size in (7, 1000):
        module, data = problem_of(barrel_file, make, batch_size=size)
        fitted(tmp_path / str(size), module, data, epochs=1)
        places.append(module.sensors.theta.detach())
    assert torch.allclose(*places, rtol=0, atol=1e-9)


def test_every_epoch_has_an_order_of_its_own_and_every_run_the_same(barrel_file, tmp_path):
    seen: list[list[int]] = []

    class Listen(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 0:
                seen.append(batch.event_number.tolist())

    for folder in ("one", "two"):
        module, data = problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240)
        fitted(tmp_path / folder, module, data, epochs=2, callbacks=(Listen(),))
    assert seen[0] == seen[2] != seen[1] == seen[3]


def spoilt(chi2, *events):
    """χ² that is not finite for the tracks of some events."""
    bad = torch.isin(chi2.batch.event_number[chi2.batch.event], torch.tensor(events))
    return replace(chi2, track=torch.where(bad, torch.inf, chi2.track))


def test_events_whose_chi2_is_not_finite_are_named(barrel_file):
    module, data = problem_of(barrel_file, OPTIMIZERS["sgd"])
    module._trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    batch = data.events.__getitems__(range(30))
    chi2 = module.loss(module.sensors, batch)
    module._check(module.objective.sets[0], chi2)
    with pytest.raises(
        ConvergenceError, match=r"χ² is not finite in epoch 0, events \[4, 17\]; the last good"
    ):
        module._check(module.objective.sets[0], spoilt(chi2, 4, 17))
    many = list(range(2, 25))
    with pytest.raises(ConvergenceError, match=r"events \[2, 3, 4, 5, 6, 7, 8, 9, 10, 11\] …"):
        module._check(module.objective.sets[0], spoilt(chi2, *many))


def test_a_few_tracks_that_cannot_be_fitted_are_left_out_but_most_are_an_error(barrel_file):
    module, data = problem_of(barrel_file, OPTIMIZERS["sgd"])
    module._trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    chi2 = module.loss(module.sensors, data.events.__getitems__(range(4)))

    def lost(*events):
        ok = ~torch.isin(chi2.batch.event, torch.tensor(events))
        return replace(chi2, fit=chi2.fit._replace(ok=ok), track=torch.where(ok, chi2.track, torch.nan))

    module._check(module.objective.sets[0], lost(0))
    with pytest.raises(ConvergenceError, match=r"tracks cannot be fitted in epoch 0, events \[0, 1, 2\]"):
        module._check(module.objective.sets[0], lost(0, 1, 2))


def test_what_an_optimizer_does_not_take_is_an_error_of_the_configuration(barrel_file):
    for options in ({"lr": -1.0}, {"lr": "fast"}, {"nesterov": True}, {"speed": 3}):
        module, _ = problem_of(barrel_file, partial(torch.optim.SGD, **options))
        with pytest.raises(ConfigError, match=r"^optimizer: "):
            module.configure_optimizers()


def test_residual_sums_of_parts_add_up_to_those_of_the_whole():
    layer = barrel().layer
    residual = torch.randn(50, 4, 2, dtype=torch.float64)
    sensor, keep = torch.randint(24, (50, 4)), torch.rand(50, 4) > 0.2
    whole, first, second = (LayerSums(layer) for _ in range(3))
    whole.add(residual, sensor, keep)
    first.add(residual[:20], sensor[:20], keep[:20])
    second.add(residual[20:], sensor[20:], keep[20:])
    first.sums += second.sums
    for found, expected in zip(first.mean_and_width(), whole.mean_and_width(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)
