"""The cost does not see what no track sees, and is 1 where the noise is the model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import COSMICS, GUN, barrel, batch_of, exact, mixed, random_local, simulated
from small_problems import BARREL, NOISE, PLACES, VERTEX, loss_of, noisy
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.root import read_detector, read_misalignment, read_tracks
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.loss.chi2 import Chi2, HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.sensors.sensor import SensorLayer


@torch.no_grad()
def evaluated(detector: Detector, loss: HelixChi2, batch: Batch, local: Tensor | None = None) -> Chi2:
    sensors = SensorLayer.of(detector)
    if local is not None:
        sensors.set_local(local)
    return loss(sensors, batch)


def per_ndf(chi2: Chi2) -> float:
    total, ndf = chi2.per_event()
    return float(total.sum() / ndf.sum())


@pytest.fixture(scope="module")
def ring() -> tuple[Detector, Tensor]:
    detector = its2()
    return detector, random_local(len(detector), 100e-4, 1e-3)


def moved_together(detector: Detector, shift: tuple[float, ...], turn: tuple[float, ...]) -> Tensor:
    """Local sixes of the sensors when the whole detector turns about its origin and then moves."""
    matrix = rigid.exp(torch.tensor(turn, dtype=torch.float64))
    place = detector.translation @ matrix.T + torch.tensor(shift, dtype=torch.float64)
    return rigid.local_of(detector.rotation, detector.translation, matrix @ detector.rotation, place)


@pytest.mark.parametrize(
    ("place", "noise", "shift", "turn"),
    [
        ("barrel", "none", (0.3, -0.2, 1.5), (0.0, 0.0, 0.8)),
        ("barrel", "full", (0.0, 0.0, 1.5), (0.0, 0.0, 0.8)),  # layers without a hit stay where they are
        ("straight", "none", (0.3, -0.2, 1.5), (0.1, -0.2, 0.8)),
        ("telescope", "full", (0.3, -0.2, 1.5), (0.1, -0.2, 0.8)),
    ],
)
def test_the_cost_does_not_see_a_motion_of_everything(place, noise, shift, turn):
    detector, source = PLACES[place]
    tracks = noisy(detector, source)
    batch, loss = batch_of(tracks, detector), loss_of(detector, noise, iterations=8)
    before = evaluated(detector, loss, batch)
    after = evaluated(detector, loss, batch, moved_together(detector, shift, turn))
    assert torch.allclose(after.track, before.track, rtol=1e-7, atol=1e-7)
    assert torch.equal(after.ndf, before.ndf)


def test_a_tilt_is_seen_through_the_field_and_a_shift_through_a_vertex():
    batch = batch_of(noisy(), BARREL)
    tilt = moved_together(BARREL, (0.0, 0.0, 0.0), (0.3, 0.0, 0.0))
    shift = moved_together(BARREL, (0.05, 0.0, 0.0), (0.0, 0.0, 0.0))
    absent, given = loss_of(BARREL, "none"), loss_of(BARREL, "none", "given")
    assert per_ndf(evaluated(BARREL, absent, batch, tilt)) > 1.5 * per_ndf(evaluated(BARREL, absent, batch))
    assert per_ndf(evaluated(BARREL, given, batch, shift)) > 5 * per_ndf(evaluated(BARREL, given, batch))


def turned_everything(batch: Batch, angle: float) -> tuple[Tensor, Batch]:
    """The barrel turned about z, and the same events in it: hits are local, vertices turn along."""
    local = moved_together(BARREL, (0.0, 0.0, 0.0), (0.0, 0.0, angle))
    matrix = rigid.exp(torch.tensor([0.0, 0.0, angle], dtype=torch.float64))
    return local, batch._replace(
        vertex=batch.vertex @ matrix.T, vertex_cov=matrix @ batch.vertex_cov @ matrix.T
    )


@pytest.mark.parametrize("vertex", VERTEX)
def test_turning_detector_and_vertices_about_the_field_leaves_the_cost(vertex):
    batch = batch_of(noisy(), BARREL)
    loss = loss_of(BARREL, "full", vertex, iterations=8)
    local, turned = turned_everything(batch, 1.1)
    before, after = evaluated(BARREL, loss, batch), evaluated(BARREL, loss, turned, local)
    assert torch.allclose(before.track + before.vertex, after.track + after.vertex, rtol=1e-6, atol=1e-6)
    assert torch.allclose(before.origin, after.origin, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vertex", VERTEX)
def test_the_order_of_tracks_and_hits_and_padding_change_nothing(vertex):
    batch = batch_of(noisy(), BARREL)
    loss = loss_of(BARREL, "full", vertex, iterations=8)
    before = evaluated(BARREL, loss, batch)
    order, hits = torch.randperm(batch.n_tracks), torch.randperm(batch.sensor.shape[1])
    names = ("sensor", "uv", "sigma", "is_hit")
    tables = {name: getattr(batch, name)[order][:, hits] for name in names}
    for name, table in tables.items():
        filler = torch.zeros_like(table[:, :2]) if name == "is_hit" else table[:, :2]
        tables[name] = torch.cat([filler, table], 1)
    rest = ("event", "vertex", "vertex_cov", "has_vertex", "p", "mass", "outward", "crossed")
    changed = batch._replace(**tables, **{name: getattr(batch, name)[order] for name in rest})
    after = evaluated(BARREL, loss, changed)
    assert torch.allclose(after.track, before.track[order], rtol=1e-8, atol=1e-8)
    assert torch.allclose(after.vertex, before.vertex[order], rtol=1e-8, atol=1e-8)
    for one, other in zip(after.per_event(), before.per_event(), strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-8)


def test_events_do_not_know_of_each_other():
    tracks = noisy()
    loss = loss_of(BARREL, "full", "fitted")
    together = evaluated(BARREL, loss, batch_of(tracks, BARREL))
    single = tracks.select(tracks.event == tracks.event[-1])
    alone = evaluated(BARREL, loss, batch_of(single, BARREL))
    assert torch.allclose(alone.track, together.track[-len(single) :], rtol=1e-9)
    assert torch.allclose(alone.per_event()[0][0], together.per_event()[0][-1], rtol=1e-9)


def test_an_event_and_a_total_are_normalised_as_the_documentation_says():
    batch = batch_of(noisy(), BARREL)
    chi2 = evaluated(BARREL, loss_of(BARREL, "full", "given"), batch)
    ratios, total, ndf = [], 0.0, 0.0
    for event in range(batch.n_events):
        mine = batch.event == event
        rows = 2 * batch.is_hit[mine].sum() + 2 * mine.sum() - 5 * mine.sum()
        sum_ = float((chi2.track + chi2.vertex)[mine].sum())
        ratios.append(sum_ / float(rows))
        total, ndf = total + sum_, ndf + float(rows)
    by_event, in_total = (
        loss_of(BARREL, vertex="given"),
        loss_of(BARREL, vertex="given", normalisation="total"),
    )
    assert float(by_event.cost(chi2)) == pytest.approx(np.mean(ratios), rel=1e-12)
    assert float(in_total.cost(chi2)) == pytest.approx(total / ndf, rel=1e-12)


@pytest.mark.parametrize("normalisation", ["event", "total"])
def test_sums_of_parts_add_up_to_those_of_the_whole(normalisation):
    tracks = noisy()
    loss = loss_of(BARREL, "full", "fitted")
    first = tracks.event < 5
    parts = [batch_of(tracks.select(keep), BARREL) for keep in (first, ~first)]
    sums = [torch.stack(evaluated(BARREL, loss, part).sums(normalisation)) for part in parts]
    whole = torch.stack(evaluated(BARREL, loss, batch_of(tracks, BARREL)).sums(normalisation))
    assert torch.allclose(sums[0] + sums[1], whole, rtol=1e-9)


@pytest.mark.parametrize("vertex", VERTEX)
@pytest.mark.parametrize("normalisation", ["event", "total"])
def test_parts_of_a_batch_cost_what_the_batch_costs(ring, normalisation, vertex):
    detector, _ = ring
    batch = batch_of(simulated(detector, ParticleGun(), 10), detector)
    loss = loss_of(detector, "full", vertex, normalisation=normalisation)
    parts = loss.parts(batch)
    assert len(parts) > 1 or normalisation == "event" or vertex == "fitted"
    sums = sum(torch.stack(evaluated(detector, loss, part).sums(normalisation)) for part in parts)
    assert torch.allclose(sums, torch.stack(evaluated(detector, loss, batch).sums(normalisation)), rtol=1e-9)


@pytest.mark.parametrize("vertex", VERTEX)
@pytest.mark.parametrize("noise", NOISE)
def test_an_empty_batch_costs_nothing_and_pulls_at_nothing(noise, vertex):
    tracks = noisy().select(np.array([], dtype=np.int64))
    sensors, loss = SensorLayer.of(BARREL), loss_of(BARREL, noise, vertex)
    chi2 = loss(sensors, batch_of(tracks, BARREL))
    loss.cost(chi2).backward()
    assert [float(value.detach()) for value in chi2.sums("event")] == [0.0, 0.0]
    assert sensors.theta.grad is None or float(sensors.theta.grad.abs().max()) == 0


LIMIT = torch.eye(3, dtype=torch.float64)


def test_a_vertex_that_is_hardly_known_is_no_vertex():
    batch = batch_of(noisy(), BARREL)
    vague = batch._replace(vertex_cov=LIMIT.expand(batch.n_tracks, 3, 3) * 1e8)
    absent = evaluated(BARREL, loss_of(BARREL, iterations=8), batch)
    given = evaluated(BARREL, loss_of(BARREL, vertex="given", iterations=8), vague)
    assert torch.allclose(given.track, absent.track, rtol=1e-7, atol=1e-7)
    assert float(given.vertex.abs().max()) < 1e-6


def test_an_origin_that_was_known_before_is_a_given_vertex():
    batch = batch_of(noisy(), BARREL)
    exactly = batch._replace(vertex_cov=LIMIT.expand(batch.n_tracks, 3, 3) * 1e-16)
    loosely = batch._replace(vertex_cov=LIMIT.expand(batch.n_tracks, 3, 3) * 1e-10)  # what a track may miss
    fitted = evaluated(BARREL, loss_of(BARREL, vertex="fitted", iterations=10), exactly)
    given = evaluated(BARREL, loss_of(BARREL, vertex="given", iterations=10), loosely)
    assert torch.allclose(fitted.track, given.track, rtol=1e-3, atol=1e-3)
    assert torch.equal(fitted.ndf, given.ndf)


def test_without_matter_all_noise_models_are_one():
    detector = barrel(x_over_x0=0.0)
    batch = batch_of(simulated(detector, GUN, 12), detector)
    none, diagonal, full = (evaluated(detector, loss_of(detector, noise), batch) for noise in NOISE)
    assert torch.equal(diagonal.track, none.track)
    assert torch.allclose(full.track, none.track, rtol=1e-9)


def chi2_is_one(detector: Detector, tracks: Tracks, vertex: str, local: Tensor | None = None) -> bool:
    """Whether χ²/ν of all tracks is 1 within four standard deviations."""
    loss = HelixChi2(detector, NoiseModel(detector, energy_loss=False), vertex, iterations=6)
    chi2 = evaluated(detector, loss, batch_of(tracks, detector), local)
    total, ndf = (float(value.sum()) for value in chi2.per_event())
    return bool(chi2.fit.ok.all()) and abs(total / ndf - 1) < 4 * (2 / ndf) ** 0.5


@pytest.mark.parametrize("vertex", VERTEX)
def test_chi2_of_its2_is_one_at_the_true_places_with_the_noise_of_the_model(ring, vertex):
    detector, local = ring
    tracks = simulated(detector, ParticleGun(), 65, local, energy_loss=False, seed=2)
    assert len(tracks) > 500
    assert chi2_is_one(detector, tracks, vertex, local)


SINGLES = replace(GUN, n_tracks_per_event=1, vertex_resolution=None)


@pytest.mark.parametrize(
    ("source", "vertex"),
    [
        (replace(GUN, vertex_resolution=None), "fitted"),
        (SINGLES, "fitted"),
        (COSMICS, "fitted"),
        (COSMICS, "given"),
        (GUN, "fitted"),
    ],
    ids=["no vertex measured", "one track an event", "cosmics fitted", "cosmics given", "vertex measured"],
)
def test_degrees_of_freedom_are_those_of_the_noise(source, vertex):
    tracks = simulated(BARREL, source, 400, energy_loss=False, hit_efficiency=1.0, seed=3)
    assert chi2_is_one(BARREL, tracks, vertex)


def test_collisions_and_cosmics_share_a_batch():
    first, second = (simulated(BARREL, s, 150, energy_loss=False, hit_efficiency=1.0) for s in (GUN, COSMICS))
    for vertex in VERTEX:
        assert chi2_is_one(BARREL, mixed(first, second), vertex)


def test_chi2_of_another_programs_tracks_is_one_at_its_true_places(acts_file):
    detector = read_detector(acts_file)
    local = read_misalignment(acts_file, detector)
    tracks = read_tracks(acts_file, detector, entry_stop=2000, short_tracks="drop")
    batch = batch_of(tracks, detector)
    for vertex in ("absent", "given"):
        loss = loss_of(detector, "full", vertex)
        assert per_ndf(evaluated(detector, loss, batch, local)) == pytest.approx(1.0, abs=0.02)
        assert per_ndf(evaluated(detector, loss, batch)) > 30


def test_without_noise_the_cost_at_the_true_places_vanishes():
    tracks = exact(BARREL, GUN, 20)
    for vertex in VERTEX:
        chi2 = evaluated(BARREL, loss_of(BARREL, "none", vertex, iterations=8), batch_of(tracks, BARREL))
        assert float((chi2.track + chi2.vertex).max()) < 1e-8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"vertex": "maybe"}, r"loss\.vertex is 'maybe'.*given.*fitted.*absent"),
        ({"normalisation": "hit"}, r"loss\.normalisation is 'hit'.*event.*total"),
        ({"precision": "float16"}, r"loss\.precision is 'float16'"),
        ({"iterations": 0}, r"loss\.iterations is 0; expected at least 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        HelixChi2(BARREL, **option)
