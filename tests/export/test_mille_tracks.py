"""Tracks for Millepede: solving their records is solving the alignment, and finds where the sensors are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alignnet.data.batch import collate, cylinders_of
from alignnet.data.mille import MilleRecords, join
from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam, ParticleGun
from alignnet.errors import ConfigError
from alignnet.export.mille_tracks import iterate_records
from alignnet.export.millepede import sensor_labels
from alignnet.geometry.its2 import its2
from alignnet.geometry.telescope import telescope
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.robust import TrackWeights
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise

PLANES = telescope([0.0, 3.0, 6.0, 9.0, 12.0, 15.0], 2.0, 2.0, x_over_x0=0.01)
"""Of matter enough that the residuals of a track are far from independent."""

MOVED = 2
SIX = torch.zeros(6, 6, dtype=torch.float64)
SIX[MOVED] = torch.tensor([40e-4, -30e-4, 60e-4, 1e-3, -2e-3, 3e-3])


def simulated(detector):
    beam = Beam(momentum=3.0, divergence=0.03, spot=0.6, start_z=-1.0)
    return Simulation(beam, detector, SIX, seed=3).generate(400)


def reduced(records: MilleRecords):
    """Labels, and the equations of all records without their tracks' parameters: (rows, labels), (rows,)."""
    labels, column = np.unique(records.global_label, return_inverse=True)
    n_local = int(records.local_index.max())
    rows = np.zeros((len(records.y), n_local + len(labels) + 1))
    rows[records.measurement_of_local, records.local_index - 1] = records.local_value
    rows[records.measurement_of_global, n_local + column] = records.global_value
    rows[:, -1] = records.y
    rows /= records.sigma[:, None]
    for first, last in zip(records.record_offset[:-1], records.record_offset[1:], strict=True):
        q, _ = np.linalg.qr(rows[first:last, :n_local])
        rows[first:last] -= q @ (q.T @ rows[first:last])
    return labels, rows[:, n_local:-1], rows[:, -1]


def problem_of(tracks, detector, start, loss):
    """This package's own linear problem."""
    sensors = SensorLayer.of(detector)
    sensors.set_local(start)
    return Problem(sensors, [linearise(loss, sensors, collate(tracks, detector, cylinders_of(detector)))])


CASES = {
    "independent residuals": ("diagonal", 0.0, TrackWeights()),
    "correlated residuals": ("full", 0.0, TrackWeights()),
    "in a field": ("full", 0.5, TrackWeights()),
    "robust": ("full", 0.0, TrackWeights("cauchy", 2.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_millepede_finds_the_one_sensor_that_is_not_at_its_place(case):
    kind, b_z, weights = CASES[case]
    detector = replace(PLANES, b_z=b_z)
    tracks = simulated(detector)
    loss = HelixChi2(detector, NoiseModel(detector, kind), vertex="absent", weights=weights, iterations=6)
    start = 0.9 * SIX  # what is found counts from 0, not from here
    labels, matrix, y = reduced(join(list(iterate_records(tracks, detector, start, loss))))
    matrix = matrix[:, np.isin(labels, sensor_labels(detector)[MOVED])]
    found = np.linalg.lstsq(matrix, y, rcond=None)[0]
    problem = problem_of(tracks, detector, start, loss)
    step = torch.linalg.solve(problem.diagonal_blocks()[MOVED], problem.gradient()[MOVED])
    assert found == pytest.approx((start[MOVED] - step).numpy(), rel=1e-6, abs=1e-9)
    truth = SIX[MOVED].numpy()
    assert np.square(matrix @ (found - truth)).sum() < 25  # χ² of six numbers
    assert np.square(matrix @ truth).sum() > 1e3


@pytest.mark.parametrize("vertex", ["given", "absent"])
def test_records_have_the_gradient_and_the_curvature_of_the_cost(vertex):
    detector = its2()
    generator = torch.Generator().manual_seed(1)
    six = torch.randn(len(detector), 6, generator=generator, dtype=torch.float64)
    six *= torch.tensor([30e-4, 30e-4, 30e-4, 1e-4, 1e-4, 1e-4])
    tracks = Simulation(ParticleGun(), detector, six, seed=5).generate(6)
    loss = HelixChi2(detector, vertex=vertex, iterations=8)
    labels, matrix, y = reduced(join(list(iterate_records(tracks, detector, six, loss))))
    sensor, dof = np.divmod(np.searchsorted(sensor_labels(detector).ravel(), labels), 6)
    problem = problem_of(tracks, detector, six, loss)
    gradient = problem.gradient()[sensor, dof].numpy()
    found = -matrix.T @ (y - matrix @ six[sensor, dof].numpy())
    assert found == pytest.approx(gradient, rel=1e-6, abs=1e-6 * np.abs(gradient).max())
    direction = torch.zeros(len(detector), 6, dtype=torch.float64)
    direction[sensor, dof] = torch.randn(len(labels), generator=generator, dtype=torch.float64)
    expected = problem(direction)[sensor, dof].numpy()
    found = matrix.T @ (matrix @ direction[sensor, dof].numpy())
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9 * np.abs(expected).max())


def test_a_vertex_without_a_covariance_is_no_measurement():
    detector = replace(PLANES, b_z=0.0)
    tracks = simulated(detector)
    given, absent = (
        join(list(iterate_records(tracks, detector, SIX, HelixChi2(detector, vertex=vertex))))
        for vertex in ("given", "absent")
    )
    assert len(given.y) == len(absent.y) == 2 * tracks.n_hits


def test_origins_that_tracks_share_are_refused():
    loss = HelixChi2(PLANES, vertex="fitted")
    with pytest.raises(ConfigError, match=r"loss.vertex=given or absent"):
        next(iterate_records(simulated(PLANES), PLANES, SIX, loss))
