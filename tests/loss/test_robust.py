"""Weights of tracks: 1 for good ones, falling as the formulas say, and sharpening as the tracks improve."""

from __future__ import annotations

import math

import pytest
import torch

from alignnet.errors import ConfigError
from alignnet.loss.robust import KINDS, TrackWeights

NDF = torch.full((6,), 9.0, dtype=torch.float64)
X = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 40.0], dtype=torch.float64)  # √(χ²/ν)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [1, 1, 1, 1, 1, 1]),
        ("huber", [1, 1, 1, 1, 0.5, 0.05]),
        ("cauchy", [1, 16 / 17, 4 / 5, 1 / 2, 1 / 5, 1 / 401]),
        ("cut", [1, 1, 1, 1, 0, 0]),
    ],
)
def test_weights_follow_their_formulas(kind, expected):
    found = TrackWeights(kind, threshold=2.0)(X.square() * NDF, NDF)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_threshold_is_no_weight(kind):
    assert torch.allclose(
        TrackWeights(kind, threshold=1e9)(X.square() * NDF, NDF), torch.ones(6, dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", ["huber", "cauchy", "cut"])
def test_a_worse_track_never_weighs_more(kind):
    chi2 = torch.linspace(0, 500, 400, dtype=torch.float64)
    found = TrackWeights(kind)(chi2, torch.full_like(chi2, 9.0))
    assert (found.diff() <= 0).all()
    assert found.min() >= 0
    assert found.max() == 1


@pytest.mark.parametrize("kind", ["huber", "cauchy", "cut"])
def test_while_the_start_is_bad_weights_only_rank_the_tracks(kind):
    chi2 = torch.rand(200, dtype=torch.float64) * 18
    ndf = torch.full_like(chi2, 9.0)
    weights = TrackWeights(kind, threshold=1.0, quantile=0.5)
    once, scaled = weights(100 * chi2, ndf), weights(1e6 * chi2, ndf)
    assert torch.allclose(once, scaled, rtol=1e-9)
    assert torch.equal(weights(1e-3 * chi2, ndf), TrackWeights(kind, threshold=1.0)(1e-3 * chi2, ndf))


def test_the_scale_is_the_quantile_of_the_tracks_that_count():
    chi2 = torch.tensor([900.0, 900.0, 900.0, 36e2, math.nan, math.nan], dtype=torch.float64)
    found = TrackWeights("cut", threshold=1.5, quantile=0.5)(chi2, NDF)
    assert found[:4].tolist() == [1, 1, 1, 0]


def test_weights_carry_no_gradient_and_an_empty_batch_has_none():
    chi2 = (X.square() * NDF).requires_grad_()
    assert not TrackWeights("cauchy")(chi2, NDF).requires_grad
    assert TrackWeights("cauchy", quantile=0.5)(chi2[:0], NDF[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kind": "tukey"}, r"loss\.weights\.kind is 'tukey'; choose from"),
        ({"quantile": 1.0}, r"loss\.weights\.quantile is 1\.0; expected a number between 0 and 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        TrackWeights(**option)
