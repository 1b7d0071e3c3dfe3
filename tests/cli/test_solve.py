"""`alignnet solve`: Millepede's problems, solved as dense least squares solves them, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mille_toys import normal_equations, toy
from solved_toys import EXACT, TOY, shifted, solved, written

from alignnet.cli.solve import Options, run
from alignnet.data.mille import MilleRecords
from alignnet.errors import ConvergenceError
from alignnet.export.millepede import read_result
from alignnet.solvers.mille_solver import chi2_limit


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_parameters_and_errors_are_those_of_dense_least_squares():
    labels, h, g, chi2, ndf = normal_equations(TOY.records)
    found, numbers = solved()
    assert found.label.tolist() == labels.tolist()
    assert np.allclose(found.value, np.linalg.solve(h, g), rtol=1e-9)
    assert np.allclose(found.error, np.sqrt(np.linalg.inv(h).diagonal()), rtol=1e-9)
    assert numbers["ndf"] == ndf - len(labels)
    assert numbers["chi2"] == pytest.approx(chi2 - g @ np.linalg.solve(h, g), rel=1e-9)
    assert numbers["records"] == 150
    assert (numbers["passes"], numbers["settled"]) == (1, True)


def test_pulls_to_the_truth_are_normal():
    pulls = []
    for seed in range(12):
        problem = toy(n=100, seed=seed)
        found, _ = solved(problem=problem)
        pulls.append((found.value - [problem.truth[label] for label in found.label]) / found.error)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)
    assert abs(np.mean(pulls)) < 0.25


def test_the_sign_is_that_of_the_parameter():
    """y = measured − predicted with ∂(predicted)/∂p: more y along the derivative is a larger parameter."""
    before, _ = solved()
    after, _ = solved(records=shifted(by=0.3))
    assert np.allclose(after.value - before.value, np.where(before.label == 11, 0.3, 0.0), atol=1e-9)


def test_starts_priors_and_fixed_parameters():
    labels, h, g, *_ = normal_equations(TOY.records)
    found, _ = solved("Parameter\n11 0.7 -1\n12 0.5 0.1\n13 0 0.05\n")
    free = labels != 11
    start = np.select([labels == 11, labels == 12], [0.7, 0.5], 0.0)
    weight = np.diag(np.select([labels == 12, labels == 13], [0.1**-2, 0.05**-2], 0.0))
    full = (h + weight)[np.ix_(free, free)]
    x = np.linalg.solve(full, (g - h @ start)[free])
    assert np.allclose(found.value[free], start[free] + x, rtol=1e-8)
    assert np.allclose(found.error[free], np.sqrt(np.linalg.inv(full).diagonal()), rtol=1e-8)
    assert found.value[~free] == 0.7
    assert found.presigma[~free] == -1


def test_a_default_presigma_is_for_all_without_their_own():
    labels, h, g, *_ = normal_equations(TOY.records)
    found, _ = solved("presigma 0.2\n")
    assert np.allclose(found.value, np.linalg.solve(h + np.eye(len(labels)) / 0.04, g), rtol=1e-8)


def test_constraints_are_exact_and_measurements_are_not():
    labels, h, g, *_ = normal_equations(TOY.records)
    text = "Constraint 0.25\n11 1\n21 1\n31 -2\nConstraint 0\n12 1\n22 1\nMeasurement 1.5 0.1\n41 1\n42 2\n"
    found, _ = solved(text)
    c = np.zeros((2, len(labels)))
    for row, pairs in enumerate(({11: 1, 21: 1, 31: -2}, {12: 1, 22: 1})):
        for label, factor in pairs.items():
            c[row, labels == label] = factor
    m = np.select([labels == 41, labels == 42], [1.0, 2.0], 0.0)
    a, b = h + np.outer(m, m) / 0.01, g + m * 1.5 / 0.01
    kkt = np.linalg.inv(np.block([[a, c.T], [c, np.zeros((2, 2))]]))
    assert np.allclose(found.value, (kkt @ [*b, 0.25, 0])[: len(labels)], rtol=1e-7)
    assert np.allclose(found.error, np.sqrt(kkt.diagonal()[: len(labels)]), rtol=1e-7)


def test_cuts_and_down_weighting_survive_a_start_that_is_far_off():
    """A tenth of the measurements are wrong by 40 σ, and parameter 11 starts 30 of its errors off."""
    problem = toy(n=400, seed=2)
    records = shifted(problem, 0.0)
    y = records.y.copy()
    y[::23] += 40 * records.sigma[::23]
    spoilt = type(records)(**{**vars(records), "y": y})
    truth = np.array([problem.truth[label] for label in sorted(problem.truth)])
    plain, _ = solved(records=spoilt)
    text = "Parameter\n11 5.0 0\nmethod inversion 12 1e-6\noutlierdownweighting 5\n"
    robust, numbers = solved(text, records=spoilt)
    assert np.abs(robust.value - truth).max() < 0.35 * np.abs(plain.value - truth).max()
    assert numbers["chi2_per_ndf"] < 2
    assert (numbers["passes"] > 2, numbers["settled"]) == (True, numbers["passes"] < 12)
    _, first = solved("method inversion 1 1e-6\noutlierdownweighting 5\n", records=spoilt)
    assert (first["passes"], first["settled"]) == (1, False)


def test_a_chi2_cut_leaves_out_wrong_records():
    records = shifted(by=0.0)
    y = records.y.copy()
    y[records.record_offset[:10]] += 1000
    spoilt = type(records)(**{**vars(records), "y": y})
    found, numbers = solved("method inversion 5 1e-4\nchisqcut 30 3", records=spoilt)
    assert numbers["rejected"]["chi2"] == pytest.approx(10, abs=4)
    assert np.allclose(found.value, [TOY.truth[label] for label in found.label], atol=0.5)


def test_the_three_sigma_limit_is_that_of_the_chi2_distribution():
    stats = pytest.importorskip("scipy.stats")
    found = chi2_limit(60)
    assert np.allclose(found[1:], stats.chi2.isf(2 * stats.norm.sf(3), np.arange(1, 61)), rtol=1e-9)


def test_few_entries_fix_a_parameter_at_its_start():
    _, counts = np.unique(TOY.records.global_label, return_counts=True)
    least = int(np.sort(counts)[2]) + 1
    found, numbers = solved(f"entries {least}")
    assert (found.presigma[counts < least] == -1).all()
    assert (found.value[counts < least] == 0).all()
    assert numbers["free"] == (counts >= least).sum()


def test_a_singular_problem_is_refused_with_its_rank_defect():
    """Derivatives of 11 and 12 that are the same everywhere: only their sum is known."""
    records = TOY.records
    label = records.global_label.copy()
    label[label == 12] = 11
    both = np.flatnonzero(label == 11)
    n = len(label)
    doubled = np.sort(np.concatenate([np.arange(n), both]))
    again = np.concatenate([[False], np.diff(doubled) == 0])
    count = np.diff(records.global_offset) + np.bincount(
        records.measurement_of_global[both], minlength=len(records.y)
    )
    twins = type(records)(**{
        **vars(records),
        "global_offset": np.concatenate([[0], np.cumsum(count)]),
        "global_label": np.where(again, 12, label[doubled]),
        "global_value": records.global_value[doubled],
    })  # fmt: skip
    with pytest.raises(ConvergenceError, match="parameters 11 to 13 are 3, and their records determine 2"):
        solved(records=twins)
    assert not Path("millepede.res").exists()


def blind() -> MilleRecords:
    """A local parameter of the same shape makes a common shift of 11, 21 … 51 invisible."""
    records = TOY.records
    first = records.global_label % 10 == 1
    value = np.where(first, 1.0, records.global_value)
    has = np.bincount(records.measurement_of_global[first], minlength=len(records.y))
    n_local = np.diff(records.local_offset)
    at = np.cumsum(n_local)  # one local parameter more, after the others of each measurement
    return type(records)(**{
        **vars(records),
        "global_value": value,
        "local_offset": np.concatenate([[0], np.cumsum(n_local + 1)]),
        "local_index": np.insert(records.local_index, at, n_local + 1),
        "local_value": np.insert(records.local_value, at, has.astype(float) + 1e-300),
    })  # fmt: skip


def test_a_rank_defect_of_several_sensors_is_found():
    with pytest.raises(ConvergenceError, match="the problem is singular: its matrix has a rank defect of 1"):
        solved(records=blind(), options=Options(errors="exact", tolerance=1e-9))
    solved("Constraint 0\n11 1\n21 1\n31 1\n41 1\n51 1\n", records=blind())


@pytest.mark.parametrize(
    "rows",
    [{11: 1.0}, {11: 1.0, 21: 1.0, 31: 1.0, 41: 1.0, 51: 1.0}, {21: -3.0, 42: 1.0}, {11: 1e-3}],
)
def test_measurements_alone_hold_what_records_do_not(rows):
    labels, h, g, *_ = normal_equations(blind())
    text = "Measurement 0.4 0.02\n" + "".join(f"{label} {factor}\n" for label, factor in rows.items())
    found, _ = solved(text, records=blind(), options=Options(errors="exact", tolerance=1e-9))
    m = np.array([rows.get(int(label), 0.0) for label in labels]) / 0.02
    a = h + np.outer(m, m)
    assert np.allclose(found.value, np.linalg.solve(a, g + m * 0.4 / 0.02), rtol=1e-5, atol=1e-7)
    assert np.allclose(found.error, np.sqrt(np.linalg.inv(a).diagonal()), rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 10.0, 1000.0])
def test_loose_priors_hold_it_too(sigma):
    labels, h, g, *_ = normal_equations(blind())
    found, _ = solved(f"presigma {sigma}\n", records=blind(), options=Options(errors="exact"))
    a = h + np.eye(len(labels)) / sigma**2
    assert np.allclose(found.value, np.linalg.solve(a, g), rtol=1e-3, atol=1e-5 * sigma)
    assert np.allclose(found.error, np.sqrt(np.linalg.inv(a).diagonal()), rtol=1e-3)


def test_the_factor_of_the_regularization_multiplies_the_priors():
    labels, h, g, *_ = normal_equations(TOY.records)
    found, _ = solved("regularization 5 0.2\n")
    assert np.allclose(found.value, np.linalg.solve(h + 5 * np.eye(len(labels)) / 0.04, g), rtol=1e-8)


def test_chi2_is_that_of_the_records_at_the_answer_whatever_else_is_in_the_problem():
    labels, h, g, chi2, ndf = normal_equations(TOY.records)
    text = "Parameter\n12 0.5 0.1\nConstraint 0.25\n11 1\n21 1\nMeasurement 1.5 0.1\n41 1\n42 2\n"
    found, numbers = solved(text + "method inversion 3 0.1\n")
    assert numbers["chi2"] == pytest.approx(chi2 + found.value @ (h @ found.value - 2 * g), rel=1e-9)
    assert numbers["ndf"] == ndf - len(labels) + 1


def test_records_that_are_cut_off_at_the_start_come_back_when_the_parameters_are_right():
    """Parameter 11 starts far off, so that the cut of huge χ² takes whole records."""
    records = shifted(by=4.0)
    text = "Cfiles\ndata.bin\nentries 1\nhugecut 15\nmethod inversion 8 0.001\nend\n"
    written(records=records)
    Path("steer.txt").write_text(text)
    run(Path("steer.txt"), EXACT)
    found, numbers = read_result("millepede.res"), json.loads(Path("millepede.json").read_text())
    _, h, g, *_ = normal_equations(records)
    assert (numbers["passes"] > 1, numbers["rejected"]["chi2"], numbers["settled"]) == (True, 0, True)
    assert np.allclose(found.value, np.linalg.solve(h, g), rtol=1e-8)


def test_the_gradient_is_what_is_left_of_it_and_not_what_was_asked_for():
    _, numbers = solved(options=Options(tolerance=1e-30, max_iterations=3, errors="exact"))
    assert 1e-18 < numbers["gradient"] < 1e-10


@pytest.mark.parametrize("wrong", [60, 2049, 1_000_000_000])
def test_a_record_with_more_track_parameters_than_measurements_is_left_out(wrong):
    """As one flipped bit of a local index makes it."""
    records = TOY.records
    index = records.local_index.copy()
    index[40] = wrong
    measurement = np.repeat(np.arange(len(records.y)), np.diff(records.local_offset))[40]
    record = int(np.searchsorted(records.record_offset, measurement, side="right")) - 1
    found, numbers = solved(records=type(records)(**{**vars(records), "local_index": index}))
    weightless = records.sigma.copy()
    weightless[records.record_offset[record] : records.record_offset[record + 1]] *= 1e8
    expected, _ = solved(records=type(records)(**{**vars(records), "sigma": weightless}))
    assert numbers["rejected"] == {"undetermined": 1, "chi2": 0, "weight": 0}
    assert np.allclose(found.value, expected.value, rtol=1e-9)
