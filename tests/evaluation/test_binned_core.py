"""Cores and errors from histograms: those of all values at once, and those that repetitions scatter by."""

from __future__ import annotations

import numpy as np
import pytest

from alignnet.evaluation.binned_core import GROUPS, Bins, cores, group_of, jackknife
from alignnet.evaluation.dca import DcaSample, dca_table
from alignnet.evaluation.statistics import gaussian_core

UM = 1e-4
BINS = Bins(scale=20 * UM, largest=1.0, step=0.05)


def binned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = BINS.row(values)
    return tuple(np.bincount(row, weights, minlength=len(BINS))[None] for weights in (None, values))


@pytest.mark.parametrize("width", [5 * UM, 20 * UM, 110 * UM, 900 * UM])
@pytest.mark.parametrize("mean", [0.0, 7 * UM, -300 * UM])
def test_the_core_of_a_histogram_is_that_of_its_values(width, mean):
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(mean, width, 20_000), rng.uniform(-0.5, 0.5, 500)])
    exact = gaussian_core(values)
    (middle,), (spread,) = cores(BINS, *binned(values))
    coarse = 0.01 if abs(mean) > 10 * width else 0.002  # bins far out are wider than the core is
    assert middle == pytest.approx(
        exact.mean, abs=2 * coarse * exact.width + (0.5 * UM if abs(mean) > 10 * width else 0)
    )
    assert spread == pytest.approx(exact.width, rel=0.25 if abs(mean) > 10 * width else 0.004)


@pytest.mark.parametrize("n", [200, 20_000])
def test_tails_of_four_in_ten_leave_the_core(n):
    """Secondaries, fifty times as far out: quantiles of all values would begin among them."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        tails = rng.normal(0, 1000 * UM, (4 * n) // 10)
        values = np.concatenate([rng.normal(0, 20 * UM, n - len(tails)), tails])
        (_,), (spread,) = cores(BINS, *binned(values))
        exact = gaussian_core(values).width
        assert exact == pytest.approx(20 * UM, rel=0.35 if n < 1000 else 0.06)
        assert spread == pytest.approx(exact, rel=0.2 if n < 1000 else 0.01)  # an end may take one more


def test_nothing_has_no_core():
    mean, width = cores(BINS, np.zeros((2, len(BINS))), np.zeros((2, len(BINS))))
    assert np.isnan(mean).all()
    assert np.isnan(width).all()


def test_a_jackknife_of_means_is_their_standard_error():
    values = np.random.default_rng(2).normal(0, 1, (GROUPS, 50))
    without = (values.sum() - values.sum(1)) / (values.size - 50)
    error = jackknife(without[:, None], np.ones(GROUPS, dtype=bool))
    expected = values.mean(1).std(ddof=1) / np.sqrt(GROUPS)
    assert error == pytest.approx(expected, rel=1e-9)
    assert np.isnan(jackknife(without[:, None], np.arange(GROUPS) < 1)).all()


def test_groups_are_even_and_do_not_follow_the_numbering():
    for events in (np.arange(32_000), 2**44 * 3 + 64 * np.arange(32_000), -np.arange(1, 32_001)):
        count = np.bincount(group_of(events), minlength=GROUPS)
        assert len(count) == GROUPS
        assert count.min() > 800
        assert count.max() < 1200


def sample(rng: np.random.Generator, events: int = 400, size: int = 8) -> DcaSample:
    """Tracks that share a part of their DCA with others of their event, in two geometries."""
    event = np.repeat(np.arange(events), size)
    shared = rng.normal(0, 18 * UM, (events, 2))[event]
    one = shared + rng.normal(0, 24 * UM, (len(event), 2))
    other = one + 5 * UM + rng.normal(0, 10 * UM, one.shape)
    columns = {name: np.ones(len(event)) for name in ("pt", "phi", "eta", "charge")}
    dca = {"before": other, "ideal": one}
    return DcaSample(
        event=event, **columns, dca=dca, sigma={k: np.ones_like(one) for k in dca}, reference="ideal"
    )


def test_errors_of_means_widths_differences_and_ratios_are_what_repetitions_scatter_by():
    rng = np.random.default_rng(4)
    keys = ("mean", "width", "mean_difference", "width_ratio")
    found, quoted = [], []
    for _ in range(150):
        table = dca_table(sample(rng), "pt", [0.5, 1.5])
        assert table is not None
        columns = table["before"]
        found.append([columns[f"{k}_xy" + ("" if "ratio" in k else "_um")][0] for k in keys])
        quoted.append([columns[f"{k}_error_xy" + ("" if "ratio" in k else "_um")][0] for k in keys])
    scatter = np.std(found, axis=0)
    np.testing.assert_allclose(np.mean(quoted, axis=0), scatter, rtol=0.25)
    assert np.mean(found, axis=0)[2] == pytest.approx(5, abs=0.1)
    # Tracks counted one by one, or geometries on their own, would give other errors by far.
    assert scatter[0] > 1.4 * 31 / np.sqrt(3200)
    assert scatter[2] < 0.4 * scatter[0]
