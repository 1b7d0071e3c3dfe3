"""Figures of merit of cases small enough to count by hand."""

from __future__ import annotations

import pytest
import torch

from alignnet.trackfinding.metrics import (
    FoundTrack,
    Mean,
    best_pixels,
    edge_counts,
    joined,
    seeded_accuracies,
    squared_pulls,
)


def values(score):
    return {name: mean.value() for name, mean in score.items()}


def test_seed_layers_are_left_out_and_the_notebooks_form_has_them():
    truth = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    found = FoundTrack(torch.tensor([[0, 1, 2, 0], [3, 2, 0, 1]]), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 1]]))
    score = values(seeded_accuracies(found, truth, seeds=2))
    assert score == {
        "pixel": 1 / 4, "hit": 3 / 4, "track": 1 / 2, "pixel_all_layers": 5 / 8, "hit_all_layers": 7 / 8,
    }  # fmt: skip
    layers, seeds = 4, 2
    for name in ("pixel", "hit"):
        assert score[name] == (layers * score[f"{name}_all_layers"] - seeds) / (layers - seeds)


def test_a_system_that_predicts_the_next_layer_is_scored_from_the_layer_it_answers_first():
    truth = torch.tensor([[0, 1, 2, 3]])
    found = FoundTrack(torch.tensor([[0, 2, 3]]), torch.tensor([[1, 2, 0]]))  # layers 1, 2, 3
    score = values(seeded_accuracies(found, truth, seeds=2))
    assert score["pixel"] == 1
    assert score["hit"] == 1 / 2
    assert score["pixel_all_layers"] == 2 / 3
    assert values(seeded_accuracies(found, truth, seeds=0))["hit"] == 2 / 3


def test_the_best_hit_is_a_lit_pixel_and_the_best_pixel_any():
    logits = torch.tensor([[[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]])
    image = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    found = best_pixels(logits, image)
    assert found.pixel.tolist() == [[0, 2]]
    assert found.hit.tolist() == [[1, 2]]  # nothing lit in the second layer: the best pixel


def test_logits_far_below_are_told_apart_where_their_softmax_is_zero():
    """Scores times the image, as published, are all 0 there and the first pixel would win."""
    logits = torch.tensor([[[0.0, -300.0, -200.0]]])
    assert best_pixels(logits, torch.tensor([[[0.0, 1.0, 1.0]]])).hit.tolist() == [[2]]


def test_means_of_parts_are_the_mean_of_the_whole():
    numbers = torch.randn(1000)
    parts = [{"a": Mean.of(part)} for part in numbers.split(130)]
    total: dict[str, Mean] = {}
    for part in parts:
        total = joined(total, part)
    assert total["a"].value() == pytest.approx(float(numbers.double().mean()), abs=1e-12)
    assert joined({"b": Mean(1, 2)}, {})["b"] == Mean(1, 2)


@pytest.mark.parametrize("correlation", [0.0, -0.8])
def test_pulls_and_coverage_of_gaussian_residuals(correlation):
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
    covariance = torch.outer(sigma, sigma) * torch.tensor([[1, correlation], [correlation, 1]])
    residual = torch.randn(200_000, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    score = values(squared_pulls(residual, covariance.expand(len(residual), 2, 2)))
    assert score["pull2_intercept"] == pytest.approx(1, abs=0.02)
    assert score["pull2_slope"] == pytest.approx(1, abs=0.02)
    for name in ("inside1_intercept", "inside1_slope", "covered_68"):
        assert score[name] == pytest.approx(0.6827, abs=0.005)
    assert score["covered_95"] == pytest.approx(0.9545, abs=0.002)
    wider = values(squared_pulls(residual, 4 * covariance.expand(len(residual), 2, 2)))
    assert wider["pull2_slope"] == pytest.approx(score["pull2_slope"] / 4)
    assert wider["covered_68"] > 0.88


def test_purity_is_of_the_chosen_and_efficiency_of_the_true():
    score = torch.tensor([0.9, 0.8, 0.6, 0.2, 0.1])
    truth = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    assert values(edge_counts(score, truth)) == {"accuracy": 3 / 5, "purity": 2 / 3, "efficiency": 2 / 3}
