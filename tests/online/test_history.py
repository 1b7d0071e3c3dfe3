"""Volumes that warm up: the constants follow them, and what is found is of the volume that moved."""

from __future__ import annotations

import numpy as np
import torch
from small_detectors import GUN, barrel, random_local
from small_problems import loss_of

from alignnet.data.simulate import Simulation
from alignnet.data.simulate_time import moving_chunks
from alignnet.data.tracks import concatenate
from alignnet.geometry.motion import Drift, Motion, Moving, Thermal
from alignnet.online.history import History
from alignnet.online.store import Interval
from alignnet.solvers.changes import ChangeSearch
from alignnet.training.intervals import VolumeFit

DETECTOR = barrel(x_over_x0=0.002)
LOCAL = random_local(len(DETECTOR), 20e-4, 0.2e-3)
NAME, N_INTERVALS, N_EVENTS = "B/BLayer1/BHalfBarrel0", 8, 60


def followed(motion: Motion) -> tuple[VolumeFit, History, list[torch.Tensor]]:
    """A history of intervals, and where the volume truly was in each (6,)."""
    moving, n = Moving(DETECTOR, LOCAL, motion), N_INTERVALS * N_EVENTS
    simulation = Simulation(GUN, DETECTOR, LOCAL, seed=4)
    tracks = concatenate([part[0] for part in moving_chunks(simulation, moving, n)])
    fit = VolumeFit(DETECTOR, loss_of(DETECTOR, "full", "given", normalisation="total"), "half_barrel", LOCAL)
    history = History(ChangeSearch(fit.freedom((0.01, 1e-3), (1e-4, 1e-5), False, True)))
    for k in range(N_INTERVALS):
        mine = tracks.select(tracks.event // N_EVENTS == k)
        one = fit.linearised(mine, history.unknowns())
        hits = np.bincount(mine.sensor, minlength=len(DETECTOR))
        history.append(Interval(k * N_EVENTS, (k + 1) * N_EVENTS - 1, one.chi2_per_ndf, one, hits))
        history.changes()
    return fit, history, [step.six[0] for step in moving.steps(0, n)]


def test_a_thermal_drift_is_found_in_its_volume_and_followed():
    motion = Thermal("half_barrel", [NAME], {"du": 60e-4}, 0, 200, step=N_EVENTS)
    fit, history, truth = followed(motion)
    found = history.changes()
    assert found
    assert {fit.volumes.names[one.place.volume] for one in found} == {NAME}
    passes, row = history.passes(), fit.volumes.names.index(NAME)
    for k in range(N_INTERVALS):
        estimate = passes.estimate(k)
        six = fit.sixes(estimate.mean)[row]
        error = fit.sixes(estimate.covariance.diagonal().sqrt())[row]
        assert float(((six - truth[k]) / error).abs().max()) < 4


def test_an_even_drift_is_a_drift_with_its_slope():
    slope = 10e-4  # an interval
    motion = Drift(
        "half_barrel", [NAME], {"du": slope * N_INTERVALS}, 0, N_EVENTS * N_INTERVALS, step=N_EVENTS
    )
    fit, history, _ = followed(motion)
    (found,) = history.changes()
    assert (found.place.kind, fit.volumes.names[found.place.volume]) == ("drift", NAME)
    expected = torch.tensor([slope, 0, 0, 0, 0, 0], dtype=torch.float64)
    pull = (found.change.size - expected) / found.change.covariance.diagonal().sqrt()
    assert float(pull.abs().max()) < 4
    assert found.change.p_value < 1e-6
