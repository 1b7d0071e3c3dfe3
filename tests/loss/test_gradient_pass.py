"""The pass over stored tracks: what tensors and autograd say, in machine code, in parts, in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from small_problems import BARREL, LINES, PLACES, loss_of, noisy
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.loss import gradient_pass, lane_kernels
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.gradient_pass import Gradient, GradientPass
from alignnet.loss.lane_kernels import LANES
from alignnet.loss.track_store import TrackStore
from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer

MODELS = [(place, noise, vertex) for place in PLACES for noise in ("none", "diagonal")
          for vertex in ("absent", "given") if vertex == "absent" or place != "telescope"]  # fmt: skip
HUNDREDTH_MICRON = 1e-6  # [cm]


def moved(detector, parametrisation="local", scale=1.0, seed=4) -> SensorLayer:
    """Sensors some 10 µm and 0.1 mrad off their places."""
    sensors = SensorLayer.of(detector, parametrisation)
    sensors.set_local(random_local(len(detector), 1e-3 * scale, 1e-4 * scale, seed))
    return sensors


def stored(place="barrel", noise="none", vertex="absent", n_events=15) -> tuple[HelixChi2, Batch, TrackStore]:
    """Tracks fitted to sensors at their nominal places."""
    detector, source = PLACES[place]
    loss, batch = (
        loss_of(detector, noise, vertex, normalisation="total"),
        batch_of(noisy(detector, source, n_events), detector),
    )
    return loss, batch, TrackStore.of(loss, SensorLayer.of(detector), batch)


def copy_of(store: TrackStore) -> TrackStore:
    return TrackStore(store.tiles.clone(), store.sensor, store.n_tracks, store.n_parameters)


def by_tensors(loss: HelixChi2, sensors: SensorLayer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """χ² of each track, residuals and gradient after one step from the fit to nominal sensors."""
    theta = sensors.theta.detach().clone()
    with torch.no_grad():
        sensors.theta.zero_()
        fit = loss.fit(sensors.planes(batch.uv, batch.sensor), batch)
        sensors.theta.copy_(theta)
    planes = sensors.planes(batch.uv, batch.sensor)
    chi2 = loss.at(planes, loss.refit(planes.detach(), fit, batch, 1), batch)
    each = chi2.track + chi2.vertex
    (gradient,) = torch.autograd.grad(each.sum(), sensors.theta)
    return each.detach(), chi2.residual.detach(), gradient


def assert_equal(found: Gradient, expected: Gradient, relative: float = 1e-9) -> None:
    assert found.chi2 == pytest.approx(expected.chi2, rel=relative)
    assert found.ndf == pytest.approx(expected.ndf, rel=1e-12)
    assert (found.n_tracks, found.n_left_out) == (expected.n_tracks, expected.n_left_out)
    assert (found.theta - expected.theta).norm() < relative * expected.theta.norm()


@pytest.mark.parametrize(("place", "noise", "vertex"), MODELS)
def test_one_step_chi2_and_gradient_are_those_of_tensors_and_autograd(place, noise, vertex):
    loss, batch, store = stored(place, noise, vertex)
    sensors = moved(PLACES[place][0])
    each, residual, gradient = by_tensors(loss, sensors, batch)
    gradient_pass = GradientPass(sensors, fused=True)
    found = gradient_pass(store)
    assert found.n_tracks == batch.n_tracks
    assert torch.allclose(store.chi2, each, rtol=1e-8)
    assert found.chi2 == pytest.approx(float(each.sum()), rel=1e-9)
    assert (found.theta - gradient).norm() < 1e-8 * gradient.norm()
    apart = (gradient_pass.residuals(store) - residual)[batch.is_hit]
    assert apart.abs().max() < 1e-4 * HUNDREDTH_MICRON


@pytest.mark.parametrize("parametrisation", ["local", "global"])
@pytest.mark.parametrize(("place", "noise", "vertex"), MODELS)
def test_kernels_and_the_plain_path_leave_the_same_in_the_store(place, noise, vertex, parametrisation):
    _, _, store = stored(place, noise, vertex)
    other, sensors = copy_of(store), moved(PLACES[place][0], parametrisation)
    fused, plain = (GradientPass(sensors, steps=2, fused=way) for way in (True, False))
    assert_equal(fused(store), plain(other), 1e-8)
    for one, two in zip(store.helix, other.helix, strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-11)
    assert torch.equal(store.usable, other.usable)
    assert torch.allclose(store.chi2, other.chi2, rtol=1e-8)
    assert torch.allclose(fused.residuals(store), plain.residuals(other), rtol=0, atol=1e-10)


@pytest.mark.parametrize("omega", [0.0, 1e-15, -1e-12, 1e-9, -1e-6, 1e-4, -0.01, 0.03])
def test_paths_meet_planes_where_tensors_say_at_every_curvature_and_at_none(omega):
    _, _, store = stored("straight")
    store.put(lane_kernels.OMEGA, torch.full((len(store), 1), omega, dtype=torch.float64))
    sensors = moved(LINES)
    fused, plain = (GradientPass(sensors, fused=way).residuals(copy_of(store)) for way in (True, False))
    assert (fused - plain).abs().max() < 1e-10


def test_the_pass_goes_over_into_that_of_straight_lines_as_the_curvature_goes_to_zero():
    sensors, found = moved(LINES), {}
    for omega in (0.0, 1e-12, 1e-11, 1e-10):
        _, _, store = stored("straight")
        store.put(lane_kernels.OMEGA, torch.full((len(store), 1), omega, dtype=torch.float64))
        found[omega] = GradientPass(sensors, fused=True)(store).theta
    change = [float((found[omega] - found[0.0]).norm()) for omega in (1e-12, 1e-11, 1e-10)]
    assert change[1] == pytest.approx(10 * change[0], rel=0.05)
    assert change[2] == pytest.approx(100 * change[0], rel=0.05)


@pytest.mark.parametrize(("pt_min", "pt_max"), [(0.1, 0.12), (1.0, 10.0), (900.0, 1000.0)])
def test_residuals_out_to_40_cm_are_right_to_a_fraction_of_a_hundredth_of_a_micron(pt_min, pt_max):
    detector = barrel((2.5, 10.0, 25.0, 40.0), x_over_x0=0.0)
    source = replace(GUN, pt_min=pt_min, pt_max=pt_max)
    batch = batch_of(simulated(detector, source, 15, energy_loss=False), detector)
    loss, sensors = loss_of(detector, "none"), moved(detector)
    each, residual, _ = by_tensors(loss, sensors, batch)
    nominal = SensorLayer.of(detector)
    store, gradient_pass = TrackStore.of(loss, nominal, batch), GradientPass(sensors, fused=True)
    gradient_pass(store)
    apart = (gradient_pass.residuals(store) - residual)[batch.is_hit]
    assert apart.abs().max() < 0.01 * HUNDREDTH_MICRON
    assert torch.allclose(store.chi2, each, rtol=1e-6)


def test_a_path_of_more_than_half_a_turn_is_left_out():
    _, _, store = stored()
    omega = store.helix.omega.clone()
    omega[3] = 2.0
    store.put(lane_kernels.OMEGA, omega[:, None])
    before = store.helix.position[3].clone()
    found = GradientPass(moved(BARREL), fused=True)(store)
    assert (found.n_tracks, found.n_left_out) == (len(store) - 1, 1)
    assert not store.usable[3]
    assert torch.equal(store.helix.position[3], before)


def test_the_order_of_tracks_and_of_their_hits_does_not_matter():
    loss, batch, store = stored(n_events=25)
    sensors = moved(BARREL)
    expected = GradientPass(sensors, steps=4, fused=True)(store)
    tracks = torch.randperm(batch.n_tracks)
    names = [name for name in Batch._fields if name != "event_number"]
    shuffled = batch._replace(**{name: getattr(batch, name)[tracks] for name in names})
    full = shuffled.is_hit.all(1)
    hits = torch.arange(batch.sensor.shape[1]).repeat(batch.n_tracks, 1)
    hits[full] = hits[full].flip(1)
    names = ["sensor", "uv", "sigma"]
    turned = {k: torch.take_along_dim(v, hits.view(*hits.shape, *[1] * (v.dim() - 2)), 1)
              for k in names for v in [getattr(shuffled, k)]}  # fmt: skip
    other = TrackStore.of(loss, SensorLayer.of(BARREL), shuffled._replace(**turned))
    assert_equal(GradientPass(sensors, steps=4, fused=True)(other), expected, 1e-8)


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(gradient_pass, "_PART", 1)
    _, _, store = stored(n_events=60)
    assert len(store.tiles) > 5
    sensors, found = moved(BARREL), []
    for threads in (1, 2, 3):
        own = copy_of(store)
        found.append((GradientPass(sensors, threads=threads, fused=True)(own), own))
    for gradient, own in found[1:]:
        assert gradient[:2] == found[0][0][:2]
        assert torch.equal(gradient.theta, found[0][0].theta)
        assert torch.equal(own.rows(0, own.tiles.shape[1]), found[0][1].rows(0, own.tiles.shape[1]))


def test_tracks_with_fewer_hits_count_as_they_do_without_padding():
    detector = barrel((2.5, 4.0, 7.0, 11.0, 15.0))
    batch = batch_of(simulated(detector, GUN, 30, hit_efficiency=0.8), detector)
    assert len(set(batch.is_hit.sum(-1).tolist())) > 2
    loss, nominal, sensors = loss_of(detector, "diagonal", "given"), SensorLayer.of(detector), moved(detector)
    whole = GradientPass(sensors, fused=True)(TrackStore.of(loss, nominal, batch))
    lengths = batch.is_hit.sum(-1)
    parts = []
    for n in sorted(set(lengths.tolist())):
        rows = lengths == n
        fields = {k: getattr(batch, k)[rows] for k in Batch._fields if k != "event_number"}
        fields |= {k: fields[k][:, :n] for k in ("sensor", "uv", "sigma", "is_hit")}
        parts.append(TrackStore.of(loss, nominal, batch._replace(**fields)))
    assert_equal(GradientPass(sensors, fused=True)(parts), whole, 1e-9)


def test_lanes_that_no_track_fills_add_nothing():
    _, _, store = stored(n_events=15)
    assert len(store) % LANES
    sensors, filled = moved(BARREL), store.part(0, len(store) // LANES)
    rest = store.part(len(store) // LANES, 1)
    together = GradientPass(sensors, fused=True)([copy_of(filled), copy_of(rest)])
    plain = GradientPass(sensors, fused=False)([copy_of(filled), copy_of(rest)])
    assert_equal(together, plain, 1e-8)
    assert together.theta.isfinite().all()


def test_what_is_fixed_has_no_gradient_and_changes_no_other():
    _, _, store = stored()
    sensors = moved(BARREL)
    free = GradientPass(sensors, fused=True)(copy_of(store)).theta
    sensors.free[:, 2], sensors.free[5] = False, False
    held = GradientPass(sensors, fused=True)(copy_of(store)).theta
    assert torch.equal(held, torch.where(sensors.free, free, 0.0))
    assert free[5].abs().min() > 0


@pytest.mark.parametrize("parametrisation", ["local", "global"])
@pytest.mark.parametrize(("place", "noise", "vertex"), MODELS)
def test_the_gradient_is_the_slope_of_the_refitted_chi2(place, noise, vertex, parametrisation):
    _, _, store = stored(place, noise, vertex)
    sensors = moved(PLACES[place][0], parametrisation, scale=0.3)
    gradient_pass = GradientPass(sensors, steps=8, fused=True)
    found, start = gradient_pass(copy_of(store)).theta, sensors.theta.detach().clone()
    for seed in (8, 9):
        way = random_local(len(sensors), 1e-5, 1e-6 if parametrisation == "local" else 1e-7, seed)
        f = []
        for k in (-2, -1, 1, 2):
            sensors.theta.data.copy_(start + k * way)
            f.append(gradient_pass(copy_of(store)).chi2)
        slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12
        assert float((found * way).sum()) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("turn", [0.0, 1e-3, 0.09, 0.11, 1.5])
def test_forces_lead_to_local_sixes_as_autograd_leads_them(turn):
    sensors = SensorLayer.of(BARREL)
    sensors.set_local(random_local(len(BARREL), 0.1, turn))
    forces = gradient_pass._Forces(sensors)
    forces.parts = torch.randn(2, len(BARREL) * 8, dtype=torch.float64)
    by_hand = forces.gradient()
    by_autograd = forces._by_autograd(2 * forces.parts.sum(0).unflatten(0, (-1, 8)))
    assert torch.allclose(by_hand, by_autograd, rtol=1e-11, atol=1e-11)
    slope, centre = sensors.affine_map()
    nine = torch.cat([centre, (slope / sensors.half_length[:, None]).transpose(1, 2).flatten(1)], 1)
    assert torch.allclose(torch.from_numpy(forces.table), nine.flatten(), rtol=0, atol=1e-14 * 20)


@pytest.mark.parametrize("fused", [True, False])
def test_tracks_that_their_hits_do_not_determine_are_left_out(fused):
    _, _, store = stored()
    for k in range(store.n_planes):
        for row in (3, 4):
            weight = store.rows(lane_kernels.PLANES + lane_kernels.HIT_ROWS * k + row).clone()
            weight[[0, 7, 33]] = 0.0
            store.put(lane_kernels.PLANES + lane_kernels.HIT_ROWS * k + row, weight)
    sensors = moved(BARREL)
    keep = torch.ones(len(store))
    keep[[0, 7, 33]] = 0.0
    found = GradientPass(sensors, fused=fused)(store)
    assert (found.n_tracks, found.n_left_out) == (len(store) - 3, 3)
    assert found.chi2 == pytest.approx(float((store.chi2 * keep).nansum()), rel=1e-12)
    assert found.theta.isfinite().all()
    assert torch.equal(store.usable, keep > 0)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_of_tracks_are_factors_of_their_parts(fused):
    _, _, store = stored()
    sensors, n = moved(BARREL), len(store)
    parts = []
    for weight in (torch.arange(n) % 2, 1 - torch.arange(n) % 2, torch.ones(n)):
        own = copy_of(store)
        own.weight = weight.double()
        parts.append(GradientPass(sensors, fused=fused)(own))
    odd, even, whole = parts
    assert odd.chi2 + even.chi2 == pytest.approx(whole.chi2, rel=1e-12)
    assert odd.ndf + even.ndf == pytest.approx(whole.ndf, rel=1e-12)
    assert torch.allclose(odd.theta + even.theta, whole.theta, rtol=1e-9, atol=1e-9)


def test_saved_tracks_go_on_from_where_a_pass_left_them(tmp_path):
    _, _, store = stored(vertex="given")
    store.save(tmp_path / "tracks")
    sensors = moved(BARREL)
    for _ in range(2):
        first = GradientPass(sensors, fused=True)(store)
        second = GradientPass(sensors, fused=True)(TrackStore.open(tmp_path / "tracks"))
        assert first.chi2 == second.chi2
        assert torch.equal(first.theta, second.theta)


def test_stores_are_joined_by_the_places_of_their_tracks():
    _, _, store = stored(n_events=30)
    sensors, expected = moved(BARREL), GradientPass(moved(BARREL), fused=True)(copy_of(store))
    joined = TrackStore.joined([store.part(0, 2), store.part(2, len(store.tiles))])
    assert (joined.hit_sensor[:, -1].diff() >= 0).all()
    assert_equal(GradientPass(sensors, fused=True)(joined), expected, 1e-9)
    with pytest.raises(ConfigError, match="same planes"):
        TrackStore.joined([store, stored(vertex="given")[2]])


def test_bent_parametrisations_and_correlated_noise_are_for_the_plain_path():
    loss, batch, store = stored()
    sensors = moved(BARREL, "affine")
    with pytest.raises(ConfigError, match="fused=False"):
        GradientPass(sensors, fused=True)
    each, _, gradient = by_tensors(loss, sensors, batch)
    found = GradientPass(sensors)(store)
    assert found.chi2 == pytest.approx(float(each.sum()), rel=1e-9)
    assert (found.theta - gradient).norm() < 1e-8 * gradient.norm()
    with pytest.raises(ConfigError, match="none or diagonal"):
        TrackStore.of(loss_of(BARREL, "full"), SensorLayer.of(BARREL), batch)


def test_a_pass_leaves_tracks_to_tensors_unless_kernels_pay(monkeypatch):
    _, _, store = stored()
    for switch in ("on", "off"):
        monkeypatch.setenv(SWITCH, switch)
        assert GradientPass(moved(BARREL)).is_fused(store) == (switch == "on")
