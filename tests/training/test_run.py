"""A run in its folder: going on where it stopped, stopping by itself, and its best checkpoint."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
from training_runs import OPTIMIZERS, PRIOR, fitted, problem_of, theta_of

from alignnet.errors import CheckpointError, ConfigError, ConvergenceError
from alignnet.training.answer import answer_of
from alignnet.training.optim import GaussNewton
from alignnet.training.run import make_trainer

# Lightning says so of every run that goes on; the command line does not show it.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class StopAfter(L.Callback):
    """Ends a run from within, in the middle of an epoch, as a bug or a signal would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.current_epoch == self.epoch and index == 1:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_goes_on_comes_to_the_same_numbers_bit_by_bit(barrel_file, tmp_path, name):
    module, data = problem_of(barrel_file, OPTIMIZERS[name], max_tracks=240)
    whole = fitted(tmp_path / "whole", module, data, epochs=4)

    parts = tmp_path / "parts"
    with pytest.raises(RuntimeError, match="stopped"):
        fitted(
            parts,
            *problem_of(barrel_file, OPTIMIZERS[name], max_tracks=240),
            epochs=4,
            callbacks=(StopAfter(2),),
        )
    again, data = problem_of(barrel_file, OPTIMIZERS[name], max_tracks=240)
    history = fitted(parts, again, data, epochs=4, resume=parts).history

    assert torch.equal(again.sensors.theta, module.sensors.theta)
    assert torch.equal(theta_of(parts), theta_of(tmp_path / "whole"))
    assert torch.equal(theta_of(parts, "best"), theta_of(tmp_path / "whole", "best"))
    assert history == whole.history
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]


def test_a_longer_run_goes_on_from_a_finished_one(barrel_file, tmp_path):
    make = OPTIMIZERS["preconditioned_sgd"]
    fitted(tmp_path, *problem_of(barrel_file, make), epochs=1)
    first = theta_of(tmp_path)
    history = fitted(tmp_path, *problem_of(barrel_file, make), epochs=3, resume=tmp_path).history
    assert [row["epoch"] for row in history] == [0, 1, 2]
    losses = [row["train/chi2_per_ndf"] for row in history]
    assert losses == sorted(losses, reverse=True)
    assert not torch.equal(theta_of(tmp_path), first)


def test_a_finished_run_that_goes_on_has_nothing_left_to_do(barrel_file, tmp_path):
    fitted(tmp_path, *problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240), epochs=2)
    before = theta_of(tmp_path)
    module, data = problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240)
    history = fitted(tmp_path, module, data, epochs=2, resume=tmp_path).history
    assert torch.equal(module.sensors.theta, before)
    assert [row["epoch"] for row in history] == [0, 1]


def test_another_parametrisation_does_not_go_on_from_a_run(barrel_file, tmp_path):
    fitted(tmp_path, *problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240), epochs=1)
    module, data = problem_of(barrel_file, OPTIMIZERS["sgd"], "affine")
    with pytest.raises(
        CheckpointError, match="for another parametrisation: 'RigidLocal'; this run has 'Affine'"
    ):
        fitted(tmp_path, module, data, epochs=2, resume=tmp_path)
    assert (module.sensors.theta == 0).all()


def test_a_run_with_other_fixed_sensors_or_another_split_is_no_continuation(barrel_file, tmp_path):
    make = OPTIMIZERS["preconditioned_sgd"]
    fitted(tmp_path, *problem_of(barrel_file, make, max_tracks=240), epochs=1)
    module, data = problem_of(barrel_file, make, max_tracks=240)
    module.sensors.free[0, 2] = False
    with pytest.raises(CheckpointError, match=r"other sensors.fixed; resume without changing it"):
        fitted(tmp_path, module, data, epochs=2, resume=tmp_path)
    for name, value in (("seed", 7), ("split", (0.5, 0.4, 0.1))):
        module, data = problem_of(barrel_file, make, max_tracks=240, **{name: value})
        with pytest.raises(CheckpointError, match=f"of a run whose {name} is .*, this run's is "):
            fitted(tmp_path, module, data, epochs=2, resume=tmp_path)


@pytest.mark.parametrize("damage", ["optimizer_states", "loops", "theta"])
def test_a_checkpoint_that_lacks_something_is_named(barrel_file, tmp_path, damage):
    problem = problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240)
    fitted(tmp_path, *problem, epochs=1)
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    if damage == "theta":
        content["state_dict"]["sensors.theta"] = content["state_dict"]["sensors.theta"][:3]
    else:
        del content[damage]
    torch.save(content, last)
    with pytest.raises(CheckpointError, match=f"damaged.*{damage}"):
        fitted(
            tmp_path,
            *problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240),
            epochs=2,
            resume=tmp_path,
        )


def test_fewer_epochs_than_a_run_has_done_are_refused(barrel_file, tmp_path):
    fitted(tmp_path, *problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240), epochs=2)
    with pytest.raises(ConfigError, match=r"trainer.max_epochs is 1; the run has done 2 already"):
        fitted(
            tmp_path,
            *problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240),
            epochs=1,
            resume=tmp_path,
        )


def test_a_run_stops_once_the_validation_no_longer_falls(barrel_file, tmp_path):
    make = partial(GaussNewton, sensor_prior=PRIOR)
    history = fitted(
        tmp_path, *problem_of(barrel_file, make), epochs=30, early_stop={"patience": 2, "min_delta": 1e-3}
    ).history
    losses = [row["val/chi2_per_ndf"] for row in history]
    assert 3 <= len(losses) < 8
    assert min(losses[-2:]) > min(losses[:-2]) - 1e-3


def test_without_validation_events_the_training_says_when_to_stop(barrel_file, tmp_path):
    make = partial(GaussNewton, sensor_prior=PRIOR)
    module, data = problem_of(barrel_file, make, split=(1, 0, 0))
    history = fitted(tmp_path, module, data, epochs=30, early_stop={"patience": 1, "min_delta": 1e-3}).history
    assert 3 <= len(history) < 8
    assert not any(key.startswith(("val/", "residual")) for row in history for key in row)
    losses = [row["train/chi2_per_ndf"] for row in history]
    content = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["epoch"] == losses.index(min(losses))


def test_the_best_checkpoint_is_that_of_the_lowest_validation(barrel_file, tmp_path):
    """Steps of more than twice the full one in a nearly quadratic cost go from bad to worse."""
    make = partial(GaussNewton, lr=2.1, sensor_prior=PRIOR)
    places = []

    class Remember(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            places.append(module.sensors.theta.detach().clone())

    module, data = problem_of(barrel_file, make)
    history = fitted(tmp_path, module, data, epochs=5, callbacks=(Remember(),)).history
    losses = [row["val/chi2_per_ndf"] for row in history]
    best = losses.index(min(losses))
    assert best < 4
    assert torch.equal(theta_of(tmp_path, "best"), places[best])
    assert torch.equal(theta_of(tmp_path), places[-1])


def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(barrel_file, tmp_path):
    fitted(tmp_path, *problem_of(barrel_file, OPTIMIZERS["sgd"], max_tracks=240), epochs=2)
    good = theta_of(tmp_path)
    module, data = problem_of(barrel_file, partial(torch.optim.SGD, lr=1.0))
    with pytest.raises(ConvergenceError, match=r"epoch 2, events \[\d+.*; the last good checkpoint is kept"):
        fitted(tmp_path, module, data, epochs=4, resume=tmp_path)
    assert torch.equal(theta_of(tmp_path), good)
    assert good.isfinite().all()


def test_what_a_trainer_does_not_take_is_an_error_of_the_configuration(tmp_path):
    for options, early_stop in (
        ({"max_epoch": 3}, None),
        ({"accelerator": "abacus"}, None),
        ({}, {"patient": 3}),
    ):
        with pytest.raises(ConfigError, match=r"^trainer: "):
            make_trainer(tmp_path, options, [], early_stop)


def test_a_run_that_goes_on_does_so_with_the_options_that_it_is_given_now(barrel_file, tmp_path):
    fitted(tmp_path, *problem_of(barrel_file, OPTIMIZERS["sgd"]), epochs=1)
    before = theta_of(tmp_path)
    module, data = problem_of(barrel_file, partial(torch.optim.SGD, lr=1e-30))
    fitted(tmp_path, module, data, epochs=2, resume=tmp_path)
    assert torch.allclose(module.sensors.theta, before, rtol=1e-12)


def test_another_optimizer_goes_on_from_where_the_first_one_came(barrel_file, tmp_path):
    first = fitted(tmp_path, *problem_of(barrel_file, OPTIMIZERS["sgd"]), epochs=1).history
    module, data = problem_of(barrel_file, OPTIMIZERS["gauss_newton"])
    history = fitted(tmp_path, module, data, epochs=2, resume=tmp_path).history
    assert history[0] == first[0]
    assert history[1]["val/chi2_per_ndf"] < 0.3 * history[0]["val/chi2_per_ndf"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_from_a_cache_ends_where_one_from_memory_does(barrel_file, tmp_path, name):
    ends = []
    for cache in (None, str(tmp_path / "cache")):
        module, data = problem_of(barrel_file, OPTIMIZERS[name], cache=cache)
        fitted(tmp_path / name / str(cache is None), module, data, epochs=2)
        answer = answer_of(module, data)
        ends.append((answer.local, answer.error))
    (memory, sigma), (cached, sigma_cached) = ends
    assert memory.abs().max() > 1e-5  # they have moved, and by the same within 0.01 µm
    assert (memory - cached)[:, :3].abs().max() < 1e-6
    assert torch.allclose(sigma, sigma_cached, rtol=1e-4, equal_nan=True)
