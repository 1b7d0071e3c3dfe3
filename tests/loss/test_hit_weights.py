"""Weights of single hits: pulls to the track without the hit, wrong hits found, good ones left alone."""

from __future__ import annotations

import math

import pytest
import torch
from small_detectors import BEAM, GUN, barrel, batch_of, random_local, simulated
from small_problems import TELESCOPE, loss_of

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.loss.hit_weights import HitWeights, reweighted
from alignnet.loss.leave_one_out import pulls
from alignnet.loss.robust import KINDS, TrackWeights
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import linearise
from alignnet.solvers.unbiased import unbiased

SEVEN = barrel((2.5, 4.0, 7.0, 11.0, 15.0, 19.0, 23.0))
WRONG = {"outlier_fraction": 0.05, "outlier_width": 1.0}
ROBUST = ("huber", "cauchy", "cut", "huber_cauchy", "huber_cut")


def batches(n_events=60, **options):
    """The same tracks without and with wrong hits, and which hits of the second are wrong."""
    good, bad = (
        batch_of(simulated(SEVEN, GUN, n_events, random_local(len(SEVEN), 1e-5, 0.0), seed=3, **o), SEVEN)
        for o in ({}, options)
    )
    return good, bad, (good.uv != bad.uv).any(-1) & good.is_hit


def fitted(batch, noise="full", vertex="given", detector=SEVEN, **options):
    loss = loss_of(detector, noise, vertex, **options)
    sensors = SensorLayer.of(detector)
    planes = sensors.planes(batch.uv, batch.sensor).detach()
    return loss, planes, loss.fit(planes, batch)


def with_seven_hits(batch):
    """The tracks of a batch with a hit on each layer."""
    rows = (batch.is_hit.sum(-1) == 7).nonzero().squeeze(-1)
    per_hit = {name: getattr(batch, name)[rows, :7] for name in Batch._fields[:4]}
    rest = {k: f[rows] for k, f in batch._asdict().items() if k not in per_hit and k != "event_number"}
    return batch._replace(**per_hit, **rest)


def weighted(loss, planes, fit, batch, hit, weight):
    """A fit with V of the tracks of `fit` and another weight of one hit of each."""
    every = torch.ones_like(batch.uv[..., 0])
    every[:, hit] = weight
    return loss.refit(planes, reweighted(loss, planes, fit, batch, every), batch, 6)


@pytest.mark.parametrize("vertex", ["absent", "given"])
@pytest.mark.parametrize("noise", ["none", "diagonal", "full"])
def test_a_pull_squared_is_the_drop_of_chi2_when_the_hit_is_left_out(noise, vertex):
    batch = with_seven_hits(batches(12)[0])
    loss, planes, first = fitted(batch, noise, vertex)
    fit = weighted(loss, planes, first, batch, 0, 1.0)
    x, whole = pulls(loss, planes, fit, batch), loss.at(planes, fit, batch)
    for hit in (0, 3, 6):
        left = loss.at(planes, weighted(loss, planes, first, batch, hit, 0.0), batch)
        drop = whole.track + whole.vertex - left.track - left.vertex
        assert torch.allclose(drop, 2 * x[:, hit].square(), rtol=1e-2, atol=1e-3)


def test_a_pull_does_not_depend_on_the_hits_own_weight():
    batch = with_seven_hits(batches(12)[0])
    loss, planes, first = fitted(batch)
    full, light = (
        pulls(loss, planes, weighted(loss, planes, first, batch, 2, weight), batch)[:, 2]
        for weight in (1.0, 1e-3)
    )
    assert torch.allclose(light, full, rtol=1e-3, atol=1e-4)


def test_squared_pulls_of_good_hits_are_exponential():
    batch = batches(250)[0]
    x2 = pulls(*fitted(batch), batch)[batch.is_hit].square()
    x2 = x2[~x2.isnan()]
    assert float(x2.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(x2.median()) == pytest.approx(math.log(2), abs=0.04)


def test_without_weights_a_pull_is_that_of_the_unbiased_residual():
    batch = batches(10)[0]
    loss, sensors = loss_of(SEVEN), SensorLayer.of(SEVEN)
    chi2 = loss(sensors, batch)
    planes = sensors.planes(batch.uv, batch.sensor).detach()
    along = unbiased(loss, sensors, chi2)
    x = pulls(loss, planes, chi2.fit, batch)
    known = batch.is_hit & ~x.isnan()
    largest = (along.residual / along.expected).square().amax(-1)[known]
    assert (2 * x[known].square() >= largest - 1e-6).all()


@pytest.mark.parametrize("kind", ["cut", "cauchy"])
def test_wrong_hits_lose_their_weight_and_their_tracks_do_not(kind):
    _, batch, wrong = batches(**WRONG)
    loss, planes, fit = fitted(batch, hit_weights=HitWeights(kind))
    weight, good = fit.hit_weight, batch.is_hit & ~wrong
    assert wrong.sum() > 50
    assert float((weight[wrong] < 0.1).double().mean()) > 0.97
    assert float(weight[good].mean()) > (0.985 if kind == "cut" else 0.83)
    assert float(loss.at(planes, fit, batch).weight.mean()) > 0.93


def test_what_is_cut_is_as_if_it_had_never_been_there():
    """Hits far off in single tracks: what is left is the fit without them."""
    good = with_seven_hits(batches(10, scattering=False, energy_loss=False)[1])
    uv = good.uv.clone()
    uv[:, 4] += 0.5
    is_hit = good.is_hit.clone()
    is_hit[:, 4] = False
    there, gone = good._replace(uv=uv), good._replace(is_hit=is_hit)
    loss, planes, cut = fitted(there, "none", hit_weights=HitWeights("cut", quantile=None), iterations=10)
    other, elsewhere, without = fitted(gone, "none", iterations=10)
    assert (cut.hit_weight[:, 4] == 0).all()
    found, expected = loss.at(planes, cut, there), other.at(elsewhere, without, gone)
    assert torch.equal(found.ndf, expected.ndf)
    assert torch.allclose(found.track, expected.track, rtol=5e-3)
    assert torch.allclose(found.residual[is_hit], expected.residual[is_hit], atol=2e-5)


@pytest.mark.parametrize("vertex", ["absent", "given", "fitted"])
@pytest.mark.parametrize("kind", ROBUST)
def test_thresholds_that_nothing_reaches_give_the_bits_of_no_weights(kind, vertex):
    batch = batches(10)[0]
    weights = HitWeights(kind, huber=math.inf, cauchy=math.inf, cut=math.inf)
    results = []
    for hit_weights in (HitWeights(), weights):
        loss, sensors = loss_of(SEVEN, "full", vertex, hit_weights=hit_weights), SensorLayer.of(SEVEN)
        chi2 = loss(sensors, batch)
        block = linearise(loss, sensors, batch)
        results.append((chi2.track, chi2.vertex, chi2.ndf, chi2.weight, block.force, block.metric))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", ["huber", "cauchy", "cut"])
def test_the_order_of_hits_and_tracks_does_not_matter(kind):
    batch = with_seven_hits(batches(15, **WRONG)[1])
    order = torch.tensor([0, 4, 2, 5, 1, 3, 6])  # the ends stay, where seeds start
    per_hit = {name: getattr(batch, name)[:, order] for name in Batch._fields[:4]}
    found = []
    for one in (batch, batch._replace(**per_hit)):
        loss = loss_of(SEVEN, hit_weights=HitWeights(kind), iterations=10)
        planes = SensorLayer.of(SEVEN).planes(one.uv, one.sensor).detach()
        found.append(loss.fit(planes, one).hit_weight)
    assert torch.allclose(found[0][:, order], found[1], atol=1e-4)


def test_a_start_that_is_off_is_no_reason_to_reject():
    off = random_local(len(SEVEN), 300e-4, 0.0)
    batch = batch_of(simulated(SEVEN, GUN, 60, off, seed=3), SEVEN)
    kept = {}
    for quantile in (None, 0.5):
        fit = fitted(batch, hit_weights=HitWeights("cut", quantile=quantile))[2]
        kept[quantile] = float(fit.hit_weight[batch.is_hit].mean())
    assert kept[0.5] > 0.97
    assert kept[None] < 0.8


def test_tau_is_how_far_the_sensors_are_off_and_zero_where_they_are_not():
    for shift, low, high in ((300e-4, 200e-4, 600e-4), (0.0, 0.0, 0.0)):
        batch = batch_of(
            simulated(SEVEN, GUN, 60, random_local(len(SEVEN), shift, 0.0), seed=3, **WRONG), SEVEN
        )
        loss, planes, fit = fitted(batch)
        weights = HitWeights("cut")

        def quantile(tau, three=(loss, planes, fit), batch=batch, weights=weights):
            x = weights.search(*three, batch, tau)[0]
            return float(x.square().nanquantile(0.5))

        assert low <= weights.tau(quantile) <= high


def test_the_gradient_is_that_of_the_refitted_minimum_with_the_same_weights():
    _, batch, _ = batches(6, **WRONG)
    loss = loss_of(SEVEN, hit_weights=HitWeights("cauchy"), normalisation="total", iterations=12)
    sensors = SensorLayer.of(SEVEN)
    fit = loss.fit(sensors.planes(batch.uv, batch.sensor).detach(), batch)
    cost = loss.cost(loss.at(sensors.planes(batch.uv, batch.sensor), fit, batch))
    (gradient,) = torch.autograd.grad(cost, sensors.theta)
    way, values = random_local(len(SEVEN), 1e-5, 1e-6, seed=8), []
    for k in (-2, -1, 1, 2):
        sensors.set_local(k * way)
        planes = sensors.planes(batch.uv, batch.sensor).detach()
        values.append(float(loss.cost(loss.at(planes, loss.refit(planes, fit, batch, 4), batch))))
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12
    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-6)


def test_a_track_that_has_lost_most_of_its_hits_is_left_out():
    good, _, _ = batches(6)
    uv = good.uv + 2 * torch.rand(good.uv.shape, dtype=torch.float64) - 1
    mixed = torch.arange(good.n_tracks) % 5 == 0
    batch = good._replace(uv=torch.where(mixed[:, None, None], uv, good.uv))
    loss, planes, fit = fitted(batch, hit_weights=HitWeights("cut"), weights=TrackWeights("cut", 3.0))
    weight = loss.at(planes, fit, batch).weight
    assert (weight[mixed] == 0).all()
    assert float(weight[~mixed].mean()) > 0.95


@pytest.mark.parametrize("kind", ROBUST)
def test_hits_of_a_telescope_without_a_field_are_weighed_too(kind):
    batch = batch_of(simulated(TELESCOPE, BEAM, 40, seed=3, **WRONG), TELESCOPE)
    loss, planes, fit = fitted(batch, "full", "absent", TELESCOPE, hit_weights=HitWeights(kind))
    assert fit.hit_weight[batch.is_hit].isfinite().all()
    assert 0.02 < float((fit.hit_weight[batch.is_hit] < 0.2).double().mean()) < 0.12
    assert loss.at(planes, fit, batch).weight.sum() > 0


def test_single_precision_finds_the_same_hits():
    _, batch, _ = batches(20, **WRONG)
    found = [
        fitted(batch, hit_weights=HitWeights("cut"), precision=precision)[2].hit_weight
        for precision in ("float64", "float32")
    ]
    assert float((found[0] == found[1]).double().mean()) > 0.995


def test_an_empty_batch_has_no_weights():
    batch = batches(3)[0]
    empty = Batch(*(f if n == "event_number" else f[:0] for n, f in batch._asdict().items()))
    loss, planes, fit = fitted(empty, hit_weights=HitWeights("cut"))
    assert len(loss.at(planes, fit, empty).weight) == 0


@pytest.mark.parametrize("kind", [k for k in KINDS if "_" in k])
def test_a_schedule_begins_with_huber_and_ends_with_the_other_kind(kind):
    for weights in (HitWeights(kind, switch_epoch=2), TrackWeights(kind, switch_epoch=2)):
        assert weights.now == kind.partition("_")[2]  # outside of training
        kinds = []
        for weights.epoch in range(4):
            kinds.append(weights.now)
        assert kinds == ["huber", "huber", weights.now, weights.now]
        assert weights.now == kind.partition("_")[2]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kind": "tukey"}, r"loss\.hit_weights\.kind is 'tukey'; choose from"),
        ({"quantile": 0.0}, r"loss\.hit_weights\.quantile is 0\.0; expected a number between 0 and 1"),
        ({"cut": 0.0}, r"loss\.hit_weights\.cut is 0\.0; expected a number > 0"),
        ({"passes": 0}, r"loss\.hit_weights\.passes is 0; expected at least 1"),
        ({"max_lost": 0.0}, r"loss\.hit_weights\.max_lost is 0\.0; expected a part > 0"),
        ({"max_rejected": 1.5}, r"loss\.hit_weights\.max_rejected is 1\.5; expected a part > 0"),
        ({"switch_epoch": -1}, r"loss\.hit_weights\.switch_epoch is -1; expected an epoch ≥ 0"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        HitWeights(**option)
