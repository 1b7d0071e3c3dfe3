"""Tracks whose Gauss–Newton steps overshoot come to the minimum of their χ² all the same, or are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from small_detectors import GUN, batch_of, random_local, simulated
from small_problems import BARREL, loss_of

from alignnet.loss import compiled_fit
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.physics import helix as hx
from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise

BATCH = batch_of(simulated(BARREL, GUN, 40, random_local(len(BARREL), 2e-3, 2e-4)), BARREL)
FAR = batch_of(simulated(BARREL, GUN, 60, random_local(len(BARREL), 2e-2, 2e-3)), BARREL)
SENSORS = SensorLayer.of(BARREL)
VERTEX = ("absent", "given", "fitted")


def planes(batch=BATCH):
    return SENSORS.planes(batch.uv, batch.sensor).detach()


def gradient_of_tracks(loss: HelixChi2, fit: Fit, batch=BATCH) -> torch.Tensor:
    """Σ of |r·J| over |r||J| along each parameter: 0 at the minimum (tracks,)."""
    r, j, _ = loss.rows(planes(batch), fit, batch)
    along = torch.einsum("tmk,tm->tk", j, r).abs() / j.norm(dim=1).clamp_min(1e-30)
    return along.amax(-1) / (1 + r.square().sum(-1)).sqrt()


def test_full_steps_go_to_and_fro_for_ever_and_damped_ones_settle():
    loss = loss_of(BARREL, iterations=80)
    start = loss.fit(planes(), BATCH)
    plain = loss.refit(planes(), start, BATCH, 200)
    assert (gradient_of_tracks(loss, plain) > 0.1).any()
    assert start.ok.all()
    assert (gradient_of_tracks(loss, start) < 2e-3).all()


@pytest.mark.parametrize("iterations", [1, 3, 80])
def test_the_answer_is_the_minimum_that_scipy_finds(iterations):
    loss = loss_of(BARREL, iterations=iterations)
    fit = loss.fit(planes(), BATCH)
    overshooting = gradient_of_tracks(loss, loss.refit(planes(), fit, BATCH, 200)).topk(3).indices
    for track in overshooting.tolist():

        def rows(delta: np.ndarray, track: int = track) -> np.ndarray:
            change = torch.zeros(BATCH.n_tracks, 5, dtype=torch.float64)
            change[track] = torch.from_numpy(delta)
            moved = fit._replace(helix=hx.updated(fit.helix, change))
            return loss.rows(planes(), moved, BATCH)[0][track].numpy()

        scale = [1e-4, 1e-4, 1e-3, 1e-3, 1e-5]
        best = least_squares(rows, np.zeros(5), x_scale=scale, xtol=1e-14, ftol=1e-14, gtol=1e-14)
        found = float(loss.at(planes(), fit, BATCH).track[track])
        assert found == pytest.approx(2 * best.cost, rel=2e-6)


@pytest.mark.parametrize("vertex", VERTEX)
def test_the_gradient_is_that_of_the_cost_where_steps_overshoot(vertex):
    loss = loss_of(BARREL, "full", vertex)
    gradient = Problem(SENSORS, [linearise(loss, SENSORS, BATCH)]).gradient()
    base, scale, before = (
        loss.fit(planes(), BATCH),
        gradient[:, 3:].abs().max(),
        SENSORS.theta.detach().clone(),
    )
    for sensor, k in ((17, 3), (17, 4), (17, 5), (11, 3)):
        cost = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                SENSORS.theta[sensor, k] += step
                fit = base
                for _ in range(8):
                    fit = loss.at_minimum(planes(), fit, BATCH)
                chi2 = loss.at(planes(), fit, BATCH)
                total = (chi2.weight * (chi2.track + chi2.vertex)).sum() + chi2.origin.sum()
                cost.append(float(total) / 2)
                SENSORS.theta.copy_(before)
        assert (cost[0] - cost[1]) / 2e-6 == pytest.approx(
            float(gradient[sensor, k]), abs=2e-3 * float(scale)
        )


@pytest.mark.parametrize("vertex", ["absent", "given"])
@pytest.mark.parametrize("batch", [BATCH, FAR], ids=["near", "far"])
def test_compiled_steps_are_damped_alike(monkeypatch, batch, vertex):
    loss = loss_of(BARREL, "full", vertex)
    monkeypatch.setenv(SWITCH, "on")
    found = loss.fit(planes(batch), batch)
    monkeypatch.setattr(compiled_fit, "applies", lambda *_: False)
    expected = loss.fit(planes(batch), batch)
    assert torch.equal(found.ok, expected.ok)
    for a, b in zip(found.helix, expected.helix, strict=True):
        assert torch.allclose(a[found.ok], b[found.ok], rtol=1e-9, atol=1e-10)


def test_tracks_that_do_not_settle_have_no_weight(monkeypatch):
    monkeypatch.setattr("alignnet.loss.descent.STEPS", 2)
    monkeypatch.setattr(compiled_fit, "applies", lambda *_: False)
    loss = loss_of(BARREL)
    fit = loss.fit(planes(FAR), FAR)
    assert 0 < (~fit.ok).sum() < FAR.n_tracks / 2
    assert (gradient_of_tracks(loss, fit, FAR)[fit.ok] < 2e-3).all()
    assert torch.equal(loss.at(planes(FAR), fit, FAR).weight > 0, fit.ok)
