"""Cores and histograms: what they say of distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignnet.evaluation.statistics import Histogram, gaussian_core, number


def test_the_core_of_a_gaussian_is_its_mean_and_standard_deviation() -> None:
    core = gaussian_core(np.random.default_rng(1).normal(3.0, 0.5, 400_000))
    assert core.mean == pytest.approx(3.0, abs=4e-3)
    assert core.width == pytest.approx(0.5, rel=6e-3)


def test_the_core_moves_and_scales_with_the_values() -> None:
    values = np.random.default_rng(2).standard_t(3, 2000)
    core, moved = gaussian_core(values), gaussian_core(7 - 40 * values)
    assert moved.mean == pytest.approx(7 - 40 * core.mean, rel=1e-7)
    assert moved.width == pytest.approx(40 * core.width, rel=1e-7)


def test_wrong_matches_far_out_hardly_touch_the_core() -> None:
    rng = np.random.default_rng(3)
    good = rng.normal(0, 1, 50_000)
    mixed = np.concatenate([good, rng.uniform(-200, 200, 2500)])
    assert np.std(mixed) > 20
    assert gaussian_core(mixed).width == pytest.approx(gaussian_core(good).width, rel=0.02)


def test_nothing_has_no_core() -> None:
    core = gaussian_core(np.zeros(0))
    assert np.isnan(core.mean)
    assert number(core.width) is None


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 0.3])
def test_quantiles_of_one_histogram_are_right_from_micrometres_to_millimetres(scale: float) -> None:
    values = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64) * scale
    values[:, 1] = 2 * values[:, 1] + scale
    histogram = Histogram(2, scale=2e-4, largest=2.0)
    for part in values.split(30_000):
        histogram.add(part, torch.ones(len(part), dtype=torch.int64))
    for fraction in (0.158655, 0.5, 0.9):
        exact = values.quantile(fraction, dim=0)
        torch.testing.assert_close(histogram.quantile(fraction)[1], exact, rtol=0, atol=0.004 * scale)
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64) * scale
    torch.testing.assert_close(histogram.core_width()[1], exact, rtol=0.01, atol=0)
    assert histogram.core_width()[0].isnan().all()


def test_a_histogram_counts_what_is_beyond_its_range_and_leaves_out_what_is_no_number() -> None:
    histogram = Histogram(1, scale=1.0, largest=10.0)
    values = torch.tensor([[1e9, -1e9], [torch.nan, 0.0], [torch.inf, 0.0]])
    histogram.add(values, torch.zeros(3, dtype=torch.int64))
    assert histogram.counts.sum(-1).tolist() == [[1.0, 3.0]]
    assert histogram.counts[0, 0, -1] == 1
    assert histogram.counts[0, 1, 0] == 1


def test_what_lies_within_is_the_same_of_values_and_of_their_widths() -> None:
    random = torch.Generator().manual_seed(4)
    width = 10 ** (torch.rand(300_000, 2, generator=random, dtype=torch.float64) * 3 - 4)
    values = width * torch.randn(300_000, 2, generator=random, dtype=torch.float64)
    of_values, of_widths = (Histogram(2, scale=2e-4, largest=2.0) for _ in range(2))
    group = torch.zeros(300_000, dtype=torch.int64)
    of_values.add(values, group)
    of_widths.add(width, group)
    exact = values.abs().quantile(0.682689, dim=0)
    torch.testing.assert_close(of_values.within()[0], exact, rtol=0.005, atol=0)
    torch.testing.assert_close(of_widths.within_of_widths()[0], exact, rtol=0.01, atol=0)
    assert of_widths.within_of_widths()[1].isnan().all()
    of_values.add(values + 0.5, group + 1)  # an offset counts
    exact = (values + 0.5).abs().quantile(0.682689, dim=0)
    torch.testing.assert_close(of_values.within()[1], exact, rtol=0.01, atol=0)
