"""Simulated tracks: ideal paths without matter, Highland's widths with it, and reproducible numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import QUIET, true_helix
from torch import Tensor

from alignnet.data.crossings import crossings
from alignnet.data.simulate import Simulation
from alignnet.data.sources import MUON_MASS, Beam, Cosmics, ParticleGun, Particles
from alignnet.data.streams import Streams
from alignnet.data.tracks import Tracks, concatenate
from alignnet.data.transport import Transport, momentum_left
from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.misalign import misaligned
from alignnet.geometry.telescope import telescope
from alignnet.physics.helix import Helix, path_to_plane, point
from alignnet.physics.material import energy_loss_width, highland, mean_energy_loss
from alignnet.units import PION_MASS, UM

COVERAGE = (1.064, 1.058, 1.067, 1.070, 1.070, 1.070, 1.069)
"""Active chips around each layer of ITS2, summed, over 2π."""


@pytest.fixture(scope="module")
def barrel() -> Detector:
    return its2()


@pytest.fixture(scope="module")
def six(barrel) -> Tensor:
    """100 µm and 1 mrad, each sensor by itself."""
    width = torch.tensor([0.01, 0.01, 0.01, 1e-3, 1e-3, 1e-3], dtype=torch.float64)
    return width * torch.randn(
        len(barrel), 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )


@pytest.fixture(scope="module")
def noisy(barrel, six) -> Tracks:
    """800 tracks with everything switched on."""
    return Simulation(ParticleGun(), barrel, six, seed=11).generate(100)


@pytest.fixture(scope="module")
def ideal(barrel) -> Tracks:
    """4,000 stiff tracks without matter in the perfect detector, seen with full efficiency."""
    return Simulation(ParticleGun(pt_min=1.0, eta_max=0.9), barrel, seed=3, **QUIET).generate(500)


def same(first: Tracks, second: Tracks) -> bool:
    names = ("event", "offset", "sensor", "uv", "sigma", "vertex", "vertex_cov", "p", "mass", "kind")
    equal = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)
    return equal and all(np.array_equal(first.truth[name], second.truth[name]) for name in first.truth)


def test_without_matter_and_noise_hits_lie_on_the_helix_at_the_misaligned_sensors(barrel, six):
    tracks = Simulation(ParticleGun(), barrel, six, **QUIET).generate(100)
    actual, helix = misaligned(barrel, six), true_helix(tracks, barrel.b_z)
    sensor, along = torch.from_numpy(tracks.sensor), Helix(*(f[tracks.track_of_hit] for f in helix))
    uv = torch.from_numpy(tracks.uv)
    local = torch.stack([uv[:, 0], torch.zeros(len(uv), dtype=torch.float64), uv[:, 1]], -1)
    place = (actual.rotation[sensor] @ local[..., None]).squeeze(-1) + actual.translation[sensor]
    # The path through the plane across the hit's direction from the beam line passes through the hit.
    s = path_to_plane(along, place, torch.nn.functional.normalize(place, dim=-1), steps=6)
    assert (point(along, s) - place).norm(dim=-1).max() < 1e-9
    assert len(tracks.sensor) == len(crossings(actual, helix).s)


def test_measurements_scatter_about_the_truth_by_the_resolution(barrel, six):
    tracks = Simulation(ParticleGun(), barrel, six, hit_resolution=[5e-4, 8e-4], seed=11).generate(120)
    np.testing.assert_array_equal(tracks.sigma[0], [5e-4, 8e-4])
    pull = (tracks.uv - tracks.truth["hit_uv"]) / tracks.sigma
    assert np.abs(pull.mean(0)).max() < 4 / len(pull) ** 0.5
    np.testing.assert_allclose(pull.std(0), 1.0, atol=0.03)
    assert abs(np.corrcoef(pull.T)[0, 1]) < 0.05


def test_overlapping_hits_have_errors_of_their_own(noisy, barrel):
    layer = barrel.layer.numpy()[noisy.sensor]
    overlap = np.flatnonzero((np.diff(layer) == 0) & (np.diff(noisy.track_of_hit) == 0))
    pull = (noisy.uv - noisy.truth["hit_uv"]) / noisy.sigma
    assert len(overlap) > 200
    assert np.abs((pull[overlap] * pull[overlap + 1]).mean(0)).max() < 4 / len(overlap) ** 0.5


def test_true_hits_lie_in_the_active_areas(noisy, barrel):
    apart = np.abs(noisy.truth["hit_uv"] - barrel.centre.numpy()[noisy.sensor])
    assert (apart <= barrel.half.numpy()[noisy.sensor]).all()


def test_hits_are_in_order_from_the_inside_out(noisy, barrel):
    layer = barrel.layer.numpy()[noisy.sensor]
    inside = np.diff(noisy.track_of_hit) == 0
    assert (np.diff(layer)[inside] >= 0).all()


def test_columns_hold_what_the_particles_were(noisy):
    np.testing.assert_allclose(noisy.p, np.linalg.norm(noisy.truth["momentum"], axis=1))
    np.testing.assert_array_equal(noisy.truth["pdg"], 211 * noisy.truth["q"].astype(int))
    assert set(noisy.truth["q"]) == {-1, 1}
    assert (noisy.mass == PION_MASS).all()
    assert (noisy.kind == 0).all()
    error = (noisy.vertex - noisy.truth["position"]) / (15e-4, 15e-4, 20e-4)
    per_event = error[np.unique(noisy.event, return_index=True)[1]]
    np.testing.assert_allclose(per_event.std(0), 1.0, atol=0.2)
    np.testing.assert_allclose(noisy.vertex_cov[0, [0, 2, 5]], np.square([15e-4, 15e-4, 20e-4]))


def test_layers_are_hit_as_often_as_they_are_covered(ideal, barrel):
    per_layer = np.bincount(barrel.layer.numpy()[ideal.sensor], minlength=7) / len(ideal)
    # Along z, chips of 29.94 mm stand every 30.15 mm.
    np.testing.assert_allclose(per_layer, np.array(COVERAGE) * 2.994176 / 3.015, rtol=0.012)


def test_central_tracks_meet_all_seven_layers_but_for_dead_strips(ideal, barrel):
    layers = np.zeros((len(ideal), 7), dtype=bool)
    layers[ideal.track_of_hit, barrel.layer.numpy()[ideal.sensor]] = True
    assert (layers.mean(0) > 0.97).all()
    assert (ideal.hits_per_track >= 7).mean() > 0.9
    assert ideal.hits_per_track.mean() > 7.2


@pytest.mark.parametrize("efficiency", [0.99, 0.6])
def test_inefficiency_loses_hits_but_not_their_matter(barrel, efficiency):
    gun = ParticleGun()
    full, some = (
        Simulation(gun, barrel, hit_efficiency=e, min_hits=1, seed=4).generate(100) for e in (1.0, efficiency)
    )
    lost = 1 - some.n_hits / full.n_hits
    assert lost == pytest.approx(1 - efficiency, abs=0.015)
    left = {tuple(uv) for uv in some.uv.tolist()}
    assert left < {tuple(uv) for uv in full.uv.tolist()}


def test_equal_seeds_give_equal_numbers_and_others_do_not(noisy, barrel, six):
    assert same(noisy, Simulation(ParticleGun(), barrel, six, seed=11).generate(100))
    other = Simulation(ParticleGun(), barrel, six, seed=12).generate(20)
    assert not np.isin(other.uv, noisy.uv).any()


def test_a_chunk_depends_on_its_number_alone(barrel):
    simulation = Simulation(ParticleGun(), barrel, seed=7)
    chunks = list(simulation.chunks(50, chunk_events=20))
    assert [len(np.unique(chunk.event)) for chunk in chunks] == [20, 20, 10]
    assert same(chunks[1], simulation.chunk(1, 20, first_event=20))
    shorter = list(simulation.chunks(30, chunk_events=20))
    assert same(shorter[0], chunks[0])
    first = chunks[1].event < 30
    assert same(shorter[1], chunks[1].select(first))
    assert not np.isin(chunks[0].uv, chunks[1].uv).any()


def test_generate_joins_the_chunks_and_tells_its_progress(barrel):
    simulation, told = Simulation(ParticleGun(), barrel, seed=7), []
    tracks = simulation.generate(50, lambda done, total: told.append((done, total)), chunk_events=20)
    assert told == [(20, 50), (40, 50), (50, 50)]
    assert same(tracks, concatenate(list(simulation.chunks(50, chunk_events=20))))
    assert (np.diff(tracks.event) >= 0).all()


def test_a_stave_moved_along_u_moves_its_hits_the_other_way(barrel):
    stave, names = barrel.groups("stave")
    moved = stave == names.index("ITS/ITSULayer1/ITSUHalfBarrel0/ITSUStave3")
    six = torch.zeros(len(barrel), 6, dtype=torch.float64)
    six[moved, 0] = 100 * UM
    before, after = (Simulation(ParticleGun(), barrel, m, seed=5).generate(200) for m in (None, six))

    def table(tracks: Tracks) -> dict[tuple[float, int], np.ndarray]:
        keys = zip(tracks.truth["momentum"][tracks.track_of_hit, 0], tracks.sensor.tolist(), strict=True)
        return dict(zip(keys, tracks.uv, strict=True))

    old, new = table(before), table(after)
    shared = sorted(old.keys() & new.keys())
    shift = np.array([new[key] - old[key] for key in shared])
    on_stave = moved.numpy()[[sensor for _, sensor in shared]]
    assert on_stave.sum() > 50
    assert len(shared) > 0.99 * len(old)
    # A plane that slides in itself is met at the same place by the same kinks.
    np.testing.assert_allclose(shift[on_stave], np.tile([-100 * UM, 0.0], (on_stave.sum(), 1)), atol=1e-10)
    assert np.median(np.abs(shift[~on_stave])) == 0.0


def test_scattering_widens_the_beam_by_highlands_angle_times_the_lever_arm():
    planes = telescope([0.0, 10.0, 30.0], 5.0, 5.0, x_over_x0=[0.01, 0.0, 0.0])
    beam = Beam(momentum=1.0, divergence=0.0, spot=0.0)
    tracks = Simulation(beam, planes, smearing=False, energy_loss=False, hit_efficiency=1.0).generate(20_000)
    hits = tracks.uv.reshape(-1, 3, 2)
    angle = float(highland(*torch.tensor([1.0, PION_MASS, 0.01], dtype=torch.float64)))
    np.testing.assert_allclose(hits.std(0)[1:], angle * np.array([[10.0, 10.0], [30.0, 30.0]]), rtol=0.02)
    np.testing.assert_allclose(hits[:, 2], 3 * hits[:, 1], atol=1e-5)  # one kink: all in a line
    assert abs(np.corrcoef(hits[:, 1].T)[0, 1]) < 0.03
    assert not hits[:, 0].any()


def test_scattering_in_tilted_sensors_grows_with_the_path_inside_them():
    planes = telescope([0.0, 10.0], 50.0, 50.0, x_over_x0=[0.01, 0.0])
    beam = Beam(momentum=1.0, divergence=0.0, spot=0.0)
    turned = torch.zeros(2, 6, dtype=torch.float64)
    turned[0, 3] = np.pi / 3
    quiet = {"smearing": False, "energy_loss": False, "hit_efficiency": 1.0, "min_hits": 1}
    tracks = Simulation(beam, planes, turned, **quiet).generate(20_000)
    angle = float(highland(*torch.tensor([1.0, PION_MASS, 0.02], dtype=torch.float64)))
    np.testing.assert_allclose(tracks.uv.reshape(-1, 2, 2).std(0)[1], 10 * angle, rtol=0.02)


def test_sensors_of_one_layer_scatter_one_after_another():
    planes = telescope([0.0, 1.0, 2.0, 30.0], 5.0, 5.0, x_over_x0=0.01)
    columns = {name: getattr(planes, name) for name in Detector.__dataclass_fields__}
    together = Detector(**{**columns, "layer": torch.zeros(4, dtype=torch.int64)})
    beam = Beam(momentum=1.0, divergence=0.0, spot=0.0)
    apart, joint = (
        Simulation(beam, d, smearing=False, hit_efficiency=1.0).generate(10_000).uv.reshape(-1, 4, 2)
        for d in (planes, together)
    )
    np.testing.assert_allclose(joint.std(0)[1:], apart.std(0)[1:], rtol=0.04)
    angle = float(highland(*torch.tensor([1.0, PION_MASS, 0.01], dtype=torch.float64)))
    np.testing.assert_allclose(joint.std(0)[3], angle * np.sqrt(30**2 + 29**2 + 28**2), rtol=0.03)


def test_the_beam_pipe_scatters_what_comes_out_of_it():
    gun = ParticleGun(pt_min=0.5, pt_max=0.5, eta_max=0.0, vertex_sigma=(0.0, 0.0, 0.0))
    quiet = {"smearing": False, "energy_loss": False, "hit_efficiency": 1.0, "min_hits": 1, "seed": 1}
    detector = its2(x_over_x0=[0.0] * 7)
    with_pipe = Simulation(gun, detector, **quiet).generate(400)
    first = np.unique(with_pipe.track_of_hit, return_index=True)[1]
    z = with_pipe.truth["hit_uv"][first, 1] + 0.0
    chip = detector.translation.numpy()[with_pipe.sensor[first], 2]
    place = chip - z  # local v looks along −z in the inner barrel
    radius = np.hypot(*detector.translation.numpy()[with_pipe.sensor[first], :2].T).mean()
    angle = float(highland(*torch.tensor([0.5, PION_MASS, 0.00227], dtype=torch.float64)))
    assert place.std() == pytest.approx(angle * (radius - 1.86), rel=0.06)


def test_energy_loss_has_bethes_mean_and_landaus_core():
    p, mass, x = (torch.tensor(value, dtype=torch.float64) for value in (0.4, PION_MASS, 0.01))
    draw = torch.randn(400_000, dtype=torch.float64)
    left = momentum_left(p, mass, x, draw)
    lost = (torch.hypot(p, mass) - torch.hypot(left, mass)).numpy()
    assert lost.mean() == pytest.approx(float(mean_energy_loss(p, mass, x)), rel=0.005)
    assert lost.min() >= 0
    width = float(energy_loss_width(p, mass, x)) * 2.3548
    count, edge = np.histogram(lost, bins=np.arange(lost.min(), lost.min() + 6 * width, width / 15))
    above = np.flatnonzero(count > count.max() / 2)
    assert edge[above[-1] + 1] - edge[above[0]] == pytest.approx(width, rel=0.15)
    assert np.median(lost) < lost.mean()  # the tail is on the side of large losses


def test_energy_loss_makes_tracks_bend_more(barrel):
    gun = ParticleGun(pt_min=0.3, pt_max=0.3, charges=[1], eta_max=0.5)
    quiet = {**QUIET, "seed": 2}
    without = Simulation(gun, barrel, **quiet).generate(50)
    with_loss = Simulation(gun, barrel, **{**quiet, "energy_loss": True}).generate(50)
    _, first, second = np.intersect1d(
        without.track_of_hit * len(barrel) + without.sensor,
        with_loss.track_of_hit * len(barrel) + with_loss.sensor,
        return_indices=True,
    )
    u_along_phi = -torch.sign(
        barrel.rotation[:, 0, 0] * barrel.translation[:, 1]
        - barrel.rotation[:, 1, 0] * barrel.translation[:, 0]
    ).numpy()
    sensor = without.sensor[first]
    moved = (with_loss.uv[second, 0] - without.uv[first, 0]) * u_along_phi[sensor]
    outer = barrel.layer.numpy()[sensor] == 6
    assert outer.sum() > 200
    assert (moved[outer] < 0).all()  # a positive charge turns clockwise
    assert moved[outer].mean() < 10 * moved[barrel.layer.numpy()[sensor] == 2].mean()


def test_particles_stop_in_thick_matter():
    planes = telescope([0.0, 1.0, 2.0, 3.0], 5.0, 5.0, x_over_x0=0.2)
    slow = Beam(momentum=0.08, divergence=0.0, spot=0.0)
    tracks = Simulation(slow, planes, scattering=False, min_hits=1, hit_efficiency=1.0).generate(100)
    assert (tracks.hits_per_track < 4).all()
    fast = Beam(momentum=1.0, divergence=0.0, spot=0.0)
    assert (Simulation(fast, planes, min_hits=1, hit_efficiency=1.0).generate(100).hits_per_track == 4).all()


def test_a_beam_has_no_vertex_and_goes_straight_without_a_field():
    planes = telescope([0.0, 2.0, 10.0], 5.0, 5.0)
    tracks = Simulation(Beam(divergence=0.02), planes, smearing=False, hit_efficiency=1.0).generate(200)
    assert tracks.vertex is None
    assert (tracks.kind == 2).all()
    first, second, third = tracks.uv.reshape(-1, 3, 2).swapaxes(0, 1)
    np.testing.assert_allclose(third, first + 5 * (second - first), atol=1e-10)


def test_cosmic_muons_leave_two_legs(barrel):
    tracks = Simulation(Cosmics(half_x=2.0, half_z=5.0), barrel, min_hits=10, seed=3).generate(50)
    y = barrel.translation.numpy()[tracks.sensor, 1]
    assert (tracks.kind == 1).all()
    assert tracks.vertex is None
    for track in range(len(tracks)):
        legs = np.sign(y[tracks.offset[track] : tracks.offset[track + 1]])
        assert (np.diff(legs) <= 0).all()  # from above, then below
    assert tracks.hits_per_track.mean() > 13


def test_short_tracks_and_empty_events_vanish(barrel):
    gun = ParticleGun(n_tracks_per_event=1, eta_max=4.0)
    simulation = Simulation(gun, barrel, min_hits=7, seed=3)
    tracks = simulation.generate(300)
    assert tracks.hits_per_track.min() >= 7
    assert len(tracks) == len(np.unique(tracks.event)) < 250
    assert tracks.event.max() > 250


def test_outliers_are_as_many_as_asked_for_and_far_away(barrel):
    outliers = {"outlier_fraction": 0.05, "outlier_width": 0.1}
    tracks = Simulation(ParticleGun(), barrel, hit_efficiency=0.8, **outliers, seed=1).generate(100)
    apart = np.abs(tracks.uv - tracks.truth["hit_uv"]).max(1)
    wrong = apart > 6 * 5e-4
    assert wrong.mean() == pytest.approx(0.05, abs=0.01)
    assert apart.max() < 0.1 + 30 * UM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hit_resolution": 0.0}, "hit_resolution is 0.0"),
        ({"hit_resolution": [1e-3] * 3}, "hit_resolution"),
        ({"hit_efficiency": 1.2}, "hit_efficiency is 1.2, expected a number between 0 and 1"),
        ({"outlier_fraction": -0.1}, "outlier_fraction"),
        ({"min_hits": 0}, "min_hits"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_values_that_cannot_be_simulated_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        Simulation(Beam(), telescope([0.0, 1.0], 1.0, 1.0), **changes)


def test_a_misalignment_of_another_detector_is_refused():
    with pytest.raises(GeometryError, match=r"\(5, 6\), expected \(2, 6\)"):
        Simulation(Beam(), telescope([0.0, 1.0], 1.0, 1.0), torch.zeros(5, 6, dtype=torch.float64))


def test_scattering_and_energy_loss_are_as_wide_as_in_acts(acts_sample):
    nominal, actual, tracks, truth = acts_sample
    charge = truth["q"].double()
    mass, event = torch.full_like(charge, MUON_MASS), torch.from_numpy(tracks.event)
    muons = Particles(event, truth["position"], truth["momentum"], charge, mass, -13 * truth["q"].long())
    ours = Transport(actual)(muons, Streams(1, 0))
    straight = crossings(actual, true_helix(tracks, nominal.b_z))
    n, p = len(actual), truth["momentum"].norm(dim=-1)
    reference = dict(zip((straight.track * n + straight.sensor).tolist(), straight.uv, strict=True))

    def width(track: Tensor, sensor: Tensor, uv: Tensor, layer: int) -> Tensor:
        rows = ((actual.layer[sensor] == layer) & (p[track] > 0.5) & (p[track] < 2.0)).nonzero().squeeze(-1)
        keys = (track * n + sensor)[rows].tolist()
        found = [
            (row, reference[key]) for row, key in zip(rows.tolist(), keys, strict=True) if key in reference
        ]
        apart = uv[[row for row, _ in found]] - torch.stack([uv for _, uv in found])
        return (apart * p[track[[row for row, _ in found]], None]).std(0)

    theirs = (torch.from_numpy(tracks.track_of_hit), torch.from_numpy(tracks.sensor), truth["hit_uv"])
    for layer in (1, 2, 4, 6):
        found, expected = width(*ours[:3], layer), width(*theirs, layer)
        np.testing.assert_allclose(found / expected, 1.0, atol=0.05)
