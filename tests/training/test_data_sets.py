"""Several data sets in one training: what they say adds up, whatever fields and vertices they have."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from small_detectors import COSMICS, GUN, QUIET, barrel, batch_of, random_local, simulated
from training_runs import OPTIMIZERS, PRIOR, fitted, problem_of

from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import write_simulation
from alignnet.errors import ConfigError
from alignnet.geometry.weak_modes import WEAK_MODE_NAMES, weak_mode_basis
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.objective import DataSet, Objective
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.assembled import AssembledProblem, Collection, JoinedProblem
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise
from alignnet.training.answer import answer_of
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton

DETECTOR = barrel()
TRUTH = random_local(len(DETECTOR), 30e-4, 0.2e-3, seed=2)
OPTIMIZER = partial(GaussNewton, sensor_prior=PRIOR, tolerance=1e-9)


@pytest.fixture(scope="module")
def cosmics_file(tmp_path_factory):
    """300 muons without a field through the same misplaced sensors."""
    path, straight = tmp_path_factory.mktemp("cosmics") / "cosmics.root", replace(DETECTOR, b_z=0.0)
    tracks = simulated(straight, COSMICS, 300, TRUTH, seed=8)
    write_simulation(path, straight, tracks, TRUTH, {"generator": "tests", "seed": 8})
    return path


def joint(first, others, weight=1.0, optimizer=OPTIMIZER, batch_size=20):
    """A module and data; of the others file, field, vertex and weight."""
    data, sets = {}, []
    for i, (file, b_z, vertex, share) in enumerate(others):
        detector = replace(DETECTOR, b_z=b_z)
        data[f"set{i}"] = AlignmentData([str(file)], detector, batch_size)
        loss = HelixChi2(detector, vertex=vertex, normalisation="total")
        sets.append(DataSet(f"set{i}", loss, share))
    module, main = problem_of(first, optimizer, others=data, batch_size=batch_size)
    objective = Objective(module.loss, weight, tuple(sets))
    return AlignmentModule(module.sensors, module.loss, optimizer, module.detector, objective=objective), main


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_tracks_twice_with_half_the_weight_are_the_tracks(barrel_file, tmp_path, name):
    optimizer = OPTIMIZERS[name]
    once, data = problem_of(barrel_file, optimizer)
    fitted(tmp_path / "once", once, data, epochs=1)
    twice, both = joint(barrel_file, [(barrel_file, 0.5, "given", 0.5)], 0.5, optimizer)
    (row,) = fitted(tmp_path / "twice", twice, both, epochs=1).history
    moved = once.sensors.local().abs().max()
    assert moved > 0
    assert (twice.sensors.local() - once.sensors.local()).abs().max() < 1e-5 * moved
    assert row["train/tracks/chi2_per_ndf"] == pytest.approx(row["train/set0/chi2_per_ndf"], rel=1e-6)
    assert row["train/chi2_per_ndf"] == pytest.approx(row["train/set0/chi2_per_ndf"], rel=1e-6)


def test_the_matrix_of_two_sets_is_the_sum_of_theirs(barrel_file, cosmics_file):
    module, data = joint(barrel_file, [(cosmics_file, 0.0, "absent", 3.0)])
    expected, vector = torch.zeros(24, 6, dtype=torch.float64), random_local(24, 1.0, 1.0)
    first, other = data, data.others["set0"]
    for one, tracks in zip(module.objective.sets, (first.part("train"), other.part("train")), strict=True):
        block = linearise(one.loss, module.sensors, batch_of(tracks, replace(DETECTOR, b_z=one.loss.b_z)))
        problem = Problem(module.sensors, [block])
        expected += one.weight * problem(vector)
    blocks = [
        b for batch in data.loader("train") for b in module.blocks(batch, module.sensors, torch.float64)
    ]
    found = Problem(module.sensors, blocks)(vector)
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


def test_every_event_of_every_set_is_in_one_batch_of_an_epoch(barrel_file, cosmics_file):
    _, data = joint(barrel_file, [(cosmics_file, 0.0, "absent", 1.0)], batch_size=40)
    batches = list(data.loader("train", shuffle=True))
    for i, one in enumerate((data, data.others["set0"])):
        numbers = torch.cat([batch[i].event_number for batch in batches])
        assert len(numbers) == len(numbers.unique()) == len(one.rows["train"])
        assert max(batch[i].n_events for batch in batches) <= 40


def test_straight_tracks_show_the_curl_that_hides_in_curvature():
    """Without a field φ(R²) is not a change of momentum: the energy of the mode in H says so."""
    drawn, energy = barrel(staves=30), {}
    curl = weak_mode_basis(drawn)[WEAK_MODE_NAMES.index("curl")]
    for name, b_z in (("field", 0.5), ("none", 0.0)):
        detector = replace(drawn, b_z=b_z)
        batch = batch_of(simulated(detector, GUN, 40, seed=3, **QUIET), detector)
        loss, sensors = HelixChi2(detector, NoiseModel(detector, "none"), "absent"), SensorLayer.of(detector)
        problem = Problem(sensors, [linearise(loss, sensors, batch)])
        energy[name] = float((curl * problem(curl)).sum())
    assert energy["field"] < 0.05 * energy["none"]


def test_stored_and_assembled_tracks_add_up(monkeypatch):
    """Tracks with fitted origins stay stored while the others are assembled."""
    sensors, tracks = SensorLayer.of(DETECTOR), simulated(DETECTOR, GUN, 4, TRUTH, seed=4)
    batch = batch_of(tracks, DETECTOR)
    blocks = [linearise(HelixChi2(DETECTOR, vertex=v), sensors, batch) for v in ("fitted", "given", "fitted")]
    stored = Problem(sensors, list(blocks))
    monkeypatch.setattr("alignnet.solvers.assembled.MANY", 10)
    collection = Collection()
    for block in blocks:
        collection.add(sensors, block)
    found = collection.problem(sensors)
    assert isinstance(found, JoinedProblem)
    assert isinstance(found.assembled, AssembledProblem)
    vector = random_local(len(DETECTOR), 1.0, 1.0, seed=6)
    for a, b in (
        (found.gradient(), stored.gradient()), (found(vector), stored(vector)),
        (found.diagonal_blocks(), stored.diagonal_blocks()), (found.hits(), stored.hits()),
    ):  # fmt: skip
        assert (a - b).abs().max() < 1e-9 * b.abs().max()


def test_a_set_adds_what_it_knows_to_the_answer(barrel_file, cosmics_file, tmp_path):
    alone, data = problem_of(barrel_file, OPTIMIZER)
    fitted(tmp_path / "alone", alone, data, epochs=2)
    module, both = joint(barrel_file, [(cosmics_file, 0.0, "absent", 1.0)])
    fitted(tmp_path / "both", module, both, epochs=2)
    one, two = answer_of(alone, data), answer_of(module, both)
    assert (two.n_hits >= one.n_hits).all()
    assert two.n_hits.sum() > one.n_hits.sum()
    assert (two.error[one.error.isfinite()] <= one.error[one.error.isfinite()] * (1 + 1e-9)).all()
    away = [float((x.local - TRUTH)[:, :2].square().mean().sqrt()) for x in (one, two)]
    assert away[1] < away[0]


def test_a_name_a_weight_and_a_normalisation_that_cannot_be_used_are_refused():
    loss = HelixChi2(DETECTOR)
    with pytest.raises(ConfigError, match="the name 'tracks'"):
        Objective(loss, 1.0, (DataSet("tracks", loss),))
    with pytest.raises(ConfigError, match="weight of data set 'a' is 0"):
        Objective(loss, 1.0, (DataSet("a", loss, 0.0),))
    with pytest.raises(ConfigError, match="their costs cannot be added"):
        Objective(loss, 1.0, (DataSet("a", HelixChi2(DETECTOR, normalisation="total")),))
