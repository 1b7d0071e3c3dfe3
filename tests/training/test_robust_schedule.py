"""Robust weights over a training: scales that sharpen, limits that stop it, an answer that is not fooled."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from small_detectors import barrel, random_local, simulated
from torch import Tensor
from training_runs import PRIOR, SMALL, fitted, problem_of, run, theta_of, train

from alignnet.data.root import read_misalignment, write_simulation
from alignnet.data.sources import ParticleGun
from alignnet.errors import ConvergenceError
from alignnet.geometry.recovery import Recovery, difference
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.hit_weights import HitWeights
from alignnet.loss.robust import TrackWeights
from alignnet.training.optim import GaussNewton
from alignnet.training.robust_schedule import begin_epoch, measure_scales

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

DETECTOR = barrel((2.5, 4.0, 7.0, 11.0, 15.0, 19.0))
GUN = ParticleGun(n_tracks_per_event=4, pt_min=0.5, pt_max=5.0, eta_max=0.8, vertex_sigma=(0.02, 0.02, 1.0))
WRONG = {"outlier_fraction": 0.05, "wrong_track_fraction": 0.02, "outlier_width": 1.0}
FAR = {"translation": 0.1, "rotation": 0.01}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same collisions in sensors that are 300 µm off, without and with wrong hits and tracks."""
    folder, found = tmp_path_factory.mktemp("far"), {}
    truth = random_local(len(DETECTOR), 300e-4, 1e-3, seed=42)
    for name, options in (("right", {}), ("wrong", WRONG)):
        found[name] = folder / f"{name}.root"
        tracks = simulated(DETECTOR, GUN, 600, truth, seed=2, **options)
        write_simulation(found[name], DETECTOR, tracks, truth, {"generator": "tests", "seed": 2})
    return found


def answer(file, folder, epochs=8, **weights) -> tuple[Tensor, list[dict[str, float]]]:
    """Places that a training finds, and its history."""
    make = partial(GaussNewton, sensor_prior=FAR)
    module, data = problem_of(file, make, split=(1, 0, 0), batch_size=600)
    module.loss = HelixChi2(module.detector, normalisation="total", **weights)
    history = fitted(folder, module, data, epochs, stop_when_converged=True, tensorboard=False).history
    return module.sensors.local().detach(), history


def distance(one: Tensor, other: Tensor) -> float:
    """R.m.s. distance of sensors, collective motions removed [cm]."""
    recovery = Recovery(DETECTOR, torch.ones(len(DETECTOR), dtype=torch.bool))
    rows = recovery.per_layer(difference(one, other, DETECTOR)).values()
    return float(torch.tensor([value for row in rows for value in row]).square().mean().sqrt())


@pytest.mark.slow
def test_wrong_hits_and_a_start_300_um_off_do_not_change_where_it_ends(files, tmp_path):
    """As far from the truth as without any wrong hit, within 10 %, and both much closer than they began."""
    truth = read_misalignment(files["right"], DETECTOR)
    right, _ = answer(files["right"], tmp_path / "right")
    robust = {
        "hit_weights": HitWeights("cut"),
        "weights": TrackWeights("huber_cut", 3.0, 0.5, switch_epoch=0),
    }
    found, history = answer(files["wrong"], tmp_path / "wrong", **robust)
    limit = distance(right, truth)
    assert limit < 5e-4
    assert distance(found, truth) < 1.1 * limit
    assert distance(found, right) < 0.5 * limit
    assert history[-1]["solver/converged"] == 1
    taus = [row["robust/hit_tau_um"] for row in history]
    assert taus[0] > 200
    assert taus[-1] == 0
    assert history[-1]["train/chi2_per_ndf"] == pytest.approx(1.0, abs=0.03)
    assert history[-1]["train/used_hit_fraction"] == pytest.approx(0.93, abs=0.015)
    assert history[-1]["train/used_fraction"] > 0.96


@pytest.mark.slow
def test_without_robust_weights_wrong_hits_fool_it(files, tmp_path):
    truth = read_misalignment(files["right"], DETECTOR)
    found, history = answer(files["wrong"], tmp_path, epochs=4)
    assert distance(found, truth) > 300e-4
    assert history[-1]["solver/converged"] == 0


def small(file, folder, weights, epochs=3, **options):
    module, data = problem_of(file, partial(GaussNewton, sensor_prior=PRIOR), max_tracks=240)
    module.loss = HelixChi2(module.detector, normalisation="total", **weights)
    history = fitted(folder, module, data, epochs, **options).history
    return module, history


def test_scales_come_down_to_those_of_good_tracks(barrel_file, tmp_path):
    weights = {"hit_weights": HitWeights("huber_cauchy", quantile=0.5, max_rejected=0.9)}
    weights["weights"] = TrackWeights("huber_cauchy", quantile=0.5, max_rejected=0.9)
    _, history = small(barrel_file, tmp_path, weights, 4)
    tau, scale = ([row[f"robust/{name}"] for row in history] for name in ("hit_tau_um", "track_scale"))
    assert tau[0] > 5
    assert tau[-1] == 0
    assert scale[0] > 1.5
    assert scale[-1] < 1.2
    assert all(0 < row["train/used_hit_fraction"] <= 1 for row in history)


def test_a_run_that_goes_on_has_the_weights_of_one_that_was_not_stopped(barrel_file, tmp_path):
    def weights():
        return {"hit_weights": HitWeights("huber_cauchy"), "weights": TrackWeights("huber_cut", 3.0, 0.5)}

    whole, _ = small(barrel_file, tmp_path / "whole", weights())
    small(barrel_file, tmp_path / "parts", weights(), 1)
    small(barrel_file, tmp_path / "parts", weights(), resume=tmp_path / "parts")
    assert torch.equal(theta_of(tmp_path / "parts"), whole.sensors.theta)


def test_scales_do_not_depend_on_the_order_of_a_batch(barrel_file):
    module, data = problem_of(barrel_file, None)
    loss = HelixChi2(module.detector, hit_weights=HitWeights("cut"), weights=TrackWeights("cut"))
    batch = data.events.__getitems__(range(60))
    begin_epoch(loss, 0)
    measure_scales(loss, module.sensors, [batch])
    assert loss.hit_weights.scale is not None
    whole = loss.hit_weights.scale
    again = HelixChi2(module.detector, hit_weights=HitWeights("cut"))
    order = data.events.__getitems__(list(range(59, -1, -1)))
    measure_scales(again, module.sensors, [order])
    assert again.hit_weights.scale == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            {"weights": TrackWeights("cut", 0.5, max_rejected=0.333)},
            "tracks have lost .* loss.weights.max_rejected=0.333",
        ),
        (
            {"hit_weights": HitWeights("cut", cut=0.3, quantile=None, max_lost=1.0, passes=8)},
            "hits have lost .* loss.hit_weights.max_rejected=0.333",
        ),
    ],
)
def test_too_much_rejected_stops_a_training_and_keeps_the_checkpoint(barrel_file, tmp_path, weights, says):
    good, _ = small(barrel_file, tmp_path, {}, 1)
    before = theta_of(tmp_path)
    with pytest.raises(ConvergenceError, match=f"{says}.* the last good checkpoint is kept"):
        small(barrel_file, tmp_path, weights, 3, resume=tmp_path)
    assert torch.equal(theta_of(tmp_path), before)
    assert torch.equal(before, good.sensors.theta)


def test_thresholds_that_nothing_reaches_train_to_the_bits_of_no_weights(barrel_file, tmp_path):
    infinite = {name: float("inf") for name in ("huber", "cauchy", "cut")}
    plain, _ = small(barrel_file, tmp_path / "plain", {}, 2)
    other = {"hit_weights": HitWeights("huber_cauchy", **infinite)}
    wide, _ = small(barrel_file, tmp_path / "wide", other, 2)
    assert torch.equal(plain.sensors.theta, wide.sensors.theta)


@pytest.mark.slow
def test_two_processes_weigh_as_one_does(barrel_file, tmp_path, no_pictures):
    """To a nanometre: conjugate gradients end where little is left to gain, before rounding is gone."""
    how = (
        f"data.files=[{barrel_file}]", *SMALL, "data.max_tracks=240", "trainer.max_epochs=3",
        "optimizer.tolerance=1e-10", "optimizer.max_iterations=3000", "optimizer.converged=null",
        "loss.hit_weights.kind=huber_cauchy", "loss.weights.kind=huber_cut", "loss.weights.quantile=0.5",
    )  # fmt: skip
    two = ("trainer.devices=2", "trainer.strategy=ddp", "hydra.run.dir=two")
    run("train", *how, *two, folder=tmp_path)
    train(tmp_path / "one", *how)
    assert (theta_of(tmp_path / "one") - theta_of(tmp_path / "two")).abs().max() < 1e-7
