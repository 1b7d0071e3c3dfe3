"""Sensors that need attention: those that were made to, for the reason that they were given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import barrel

from alignnet.evaluation.attention import BEYOND, FAR, SIGNIFICANT, UNCERTAIN, SensorAnswer, sensor_metrics

UM = 1e-4
DETECTOR = barrel(chips=6)
N = len(DETECTOR)


def flawless():
    """Local six, residuals and answer of sensors that are much alike, each with 400 hits."""
    generator = torch.Generator().manual_seed(1)
    local = 20 * UM * torch.randn(N, 6, generator=generator, dtype=torch.float64).clamp(-2, 2)
    hits, width = torch.full((N,), 400.0).double(), torch.full((N, 2), 5 * UM).double()
    mean = 0.25 * UM * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    error = UM * (1 + 0.1 * torch.rand(N, 6, generator=generator, dtype=torch.float64))
    status = torch.zeros(N, dtype=torch.int8)
    return local, (hits, mean, width), SensorAnswer(hits.long(), status, error)


def found(local, residuals, answer, most=20):
    return sensor_metrics(DETECTOR, local, residuals, answer, most)


def test_sensors_that_are_much_alike_need_no_attention():
    metrics = found(*flawless())
    assert (metrics["n"], metrics["aligned"], metrics["attention"]["n"]) == (N, N, 0)
    assert metrics["attention"]["worst"] == []


@pytest.mark.parametrize("k", [0, 1])
def test_a_mean_residual_that_is_significant_is_found_with_its_size(k):
    local, (hits, mean, width), answer = flawless()
    mean[17, k] = -(SIGNIFICANT + 3) * 0.25 * UM  # the standard error is 5 µm / √400
    metrics = found(local, (hits, mean, width), answer)["attention"]
    assert metrics["by_reason"] == {
        "residuals": 1, "correction": 0, "prior": 0, "error": 0, "few hits": 0
    }  # fmt: skip
    (row,) = metrics["worst"]
    assert (row["name"], row["sensor_id"], row["n_hits"]) == (DETECTOR.names[17], 17, 400)
    assert row["reasons"] == [f"mean residual {'uv'[k]} is -2 µm, 8.0 σ from 0"]
    assert row["excess"] == pytest.approx(8 / 5)


def test_few_hits_carry_no_judgement_of_a_mean():
    local, (hits, mean, width), answer = flawless()
    mean[17], hits[17] = 500 * UM, 3
    assert found(local, (hits, mean, width), answer)["attention"]["n"] == 0


def test_a_correction_far_from_those_of_its_layer_is_found_wherever_the_layer_went():
    local, residuals, answer = flawless()
    local[DETECTOR.layer == 1, 2] += 1000 * UM  # the whole layer: no sensor of it stands out
    local[40, 2] += (FAR + 10) * 20 * UM
    metrics = found(local, residuals, answer)["attention"]
    assert [row["sensor_id"] for row in metrics["worst"]] == [40]
    assert metrics["worst"][0]["reasons"][0].startswith("correction dw is ")


def test_a_sensor_far_beyond_its_prior_is_found_and_stands_where_its_excess_puts_it():
    local, (hits, mean, width), answer = flawless()
    own = 20 * UM * torch.randn(N, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    own[:, 3:] *= 0.5e-3 / (20 * UM)
    own[7, 2], own[9, 4] = -3 * BEYOND * 20 * UM, 2 * BEYOND * 0.5e-3
    mean[5, 0] = 2.5 * SIGNIFICANT * 0.25 * UM  # between the two
    answer = replace(answer, own=own, prior=(20 * UM, 0.5e-3))
    metrics = found(local, (hits, mean, width), answer)["attention"]
    assert metrics["by_reason"]["prior"] == 2
    assert [row["sensor_id"] for row in metrics["worst"]] == [7, 5, 9]
    first, _, last = (row["reasons"][0] for row in metrics["worst"])
    assert first == "its own dw is -300 µm, 15.0 times the width of its prior, 20 µm"
    assert last == "its own rot_v is 5 mrad, 10.0 times the width of its prior, 0.5 mrad"


def test_without_a_prior_nothing_is_beyond_it():
    local, residuals, answer = flawless()
    own = torch.full((N, 6), 1.0).double()
    assert found(local, residuals, replace(answer, own=own))["attention"]["n"] == 0


def test_an_error_that_is_large_for_its_layer_is_found():
    local, residuals, answer = flawless()
    answer.error[3, 1] = (UNCERTAIN + 1) * 1.1 * UM
    metrics = found(local, residuals, answer)["attention"]
    assert metrics["by_reason"]["error"] == 1
    assert metrics["worst"][0]["reasons"][0].startswith("error of dv is 6.6 µm, ")


def test_the_worst_come_first_and_no_more_than_asked_for():
    local, (hits, mean, width), answer = flawless()
    for i, sigmas in ((5, 6.0), (90, 30.0), (60, 12.0)):
        mean[i, 0] = sigmas * 0.25 * UM
    metrics = found(local, (hits, mean, width), answer, most=2)["attention"]
    assert metrics["n"] == 3
    assert [row["sensor_id"] for row in metrics["worst"]] == [90, 60]


def test_a_few_sensors_without_hits_are_named_and_many_are_counted():
    local, residuals, answer = flawless()
    answer.status[:3], answer.n_hits[:3] = 2, torch.tensor([0, 1, 7])
    metrics = found(local, residuals, answer)
    assert (metrics["aligned"], metrics["too_few_hits"], metrics["without_hits"]) == (N - 3, 3, 1)
    assert metrics["layer0"]["too_few_hits"] == 3
    assert metrics["layer1"] == {"n": 36, "aligned": 36, "fixed": 0, "too_few_hits": 0, "without_hits": 0}
    assert [row["reasons"][0].partition(":")[0] for row in metrics["attention"]["worst"]] == [
        "no hits of training tracks", "1 hit of training tracks", "7 hits of training tracks",
    ]  # fmt: skip
    assert metrics["attention"]["n"] == 0  # none of them is at fault
    answer.status[:50] = 2
    assert found(local, residuals, answer)["attention"]["worst"] == []


def test_what_is_fixed_is_not_said_to_lack_hits():
    local, residuals, answer = flawless()
    answer.status[:6], answer.n_hits[:6] = 1, 0
    metrics = found(local, residuals, answer)
    assert (metrics["fixed"], metrics["without_hits"], metrics["attention"]["n"]) == (6, 0, 0)
