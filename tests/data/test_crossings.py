"""The search of the sensors that a track hits, against trying them all and against another program."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import COLUMNS, part_of, true_helix
from torch import Tensor

from alignnet.data.crossings import Crossings, crossings, in_active_area, layers_of, local_point
from alignnet.data.sources import Beam, Cosmics, ParticleGun, Source
from alignnet.data.streams import Streams
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.misalign import misaligned
from alignnet.geometry.rigid import exp
from alignnet.geometry.telescope import telescope
from alignnet.physics.helix import Helix, from_momentum, move, path_to_cylinder, path_to_plane, point
from alignnet.units import UM

SHIFTS = torch.tensor([0.01, 0.01, 0.01, 1e-3, 1e-3, 1e-3], dtype=torch.float64)


@pytest.fixture(scope="module")
def barrel() -> Detector:
    """ITS2 with its sensors 100 µm and 1 mrad away from where they belong."""
    detector = its2()
    generator = torch.Generator().manual_seed(3)
    six = torch.randn(len(detector), 6, generator=generator, dtype=torch.float64)
    return misaligned(detector, SHIFTS * six)


def helices(source: Source, n: int, b_z: float) -> Helix:
    particles = source.particles(n, Streams(1, 0))
    return from_momentum(particles.position, particles.momentum, particles.charge, b_z)


def one_by_one(detector: Detector, helix: Helix) -> set[tuple[int, int]]:
    """(track, sensor) of every crossing in the first 180 cm, found by walking along the tracks."""
    found: set[tuple[int, int]] = set()
    step = 4.0
    for begin in torch.arange(0.0, 180.0, step, dtype=torch.float64):
        state = move(helix, begin.expand_as(helix.omega))
        close = torch.cdist(state.position, detector.translation) < 2 * step
        track, sensor = close.nonzero(as_tuple=True)
        along = Helix(*(field[track] for field in state))
        s = path_to_plane(along, detector.translation[sensor], detector.rotation[sensor, :, 1], steps=6)
        place = point(along, s)
        landed = ((place - detector.translation[sensor]) * detector.rotation[sensor, :, 1]).sum(
            -1
        ).abs() < 1e-9
        uv = local_point(detector, sensor, place)
        hit = landed & (s >= 0) & (s < step) & in_active_area(detector, sensor, uv)
        found |= set(zip(track[hit].tolist(), sensor[hit].tolist(), strict=True))
    return found


def pairs(found: Crossings) -> set[tuple[int, int]]:
    return set(zip(found.track.tolist(), found.sensor.tolist(), strict=True))


def rings(z: float, layer: int, detector: Detector) -> Detector:
    """A disc at z of 8 × 8 overlapping sensors as in a telescope, by turns 2 mm in front of z and behind."""
    x, y = torch.meshgrid(*[1.8 * (torch.arange(8.0, dtype=torch.float64) - 3.5)] * 2, indexing="ij")
    side = 0.2 * (-1.0) ** (torch.arange(64) // 8 + torch.arange(64) % 8)
    n = 64
    return Detector(
        name="disc",
        sensor_id=torch.arange(n) + 100 * layer,
        names=tuple(f"disc{layer}/sensor{i}" for i in range(n)),
        layer=torch.full((n,), layer),
        rotation=detector.rotation[:1].expand(n, 3, 3) @ exp(0.05 * torch.randn(n, 3, dtype=torch.float64)),
        translation=torch.stack([x.flatten(), y.flatten(), z + side], -1),
        half=torch.ones(n, 2, dtype=torch.float64),
        centre=torch.zeros(n, 2, dtype=torch.float64),
        x_over_x0=torch.zeros(n, dtype=torch.float64),
        curvature_radius=torch.zeros(n, dtype=torch.float64),
        b_z=0.5,
    )


def joined(parts: list[Detector]) -> Detector:
    tables = {name: torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS}
    return Detector(name="all", names=tuple(name for part in parts for name in part.names), b_z=0.5, **tables)


@pytest.mark.parametrize(
    "source",
    [
        ParticleGun(n_tracks_per_event=1),
        ParticleGun(n_tracks_per_event=1, eta_max=2.5, pt_min=0.1, pt_max=0.3, vertex_sigma=(1.0, 1.0, 10.0)),
        Cosmics(p_min=0.5, p_max=20.0),
    ],
    ids=["collisions", "soft and forward", "cosmics"],
)
def test_a_barrel_is_crossed_where_a_walk_along_the_track_crosses_it(barrel, source):
    helix = helices(source, 100, barrel.b_z)
    found = crossings(barrel, helix)
    assert pairs(found) == one_by_one(barrel, helix)
    assert len(pairs(found)) == len(found.s)


@pytest.mark.parametrize(
    "source",
    [
        ParticleGun(n_tracks_per_event=1, pt_min=0.05, eta_max=1.7),
        ParticleGun(n_tracks_per_event=1, pt_min=0.05, eta_max=4.0, vertex_sigma=(0.5, 0.5, 5.0)),
        Cosmics(p_min=0.3, half_x=4.5, half_z=15.0),
    ],
    ids=["collisions", "forward", "cosmics"],
)
def test_the_grids_know_every_sensor_that_a_track_may_hit(barrel, source):
    inner = part_of(barrel, (barrel.layer < 3).nonzero().squeeze(-1))
    helix = helices(source, 3000, inner.b_z)
    for layer in layers_of(inner):
        known = layer.near(helix)
        layer.grids = []  # try all sensors
        assert pairs(known) == pairs(layer.near(helix))
        assert len(known.s) > 50 or not getattr(layer.surface, "outward", True)


def test_discs_and_planes_are_crossed_where_a_walk_along_the_track_crosses_them():
    plane = telescope([5.0, 9.0], 6.0, 6.0)
    detector = joined([plane, rings(15.0, 2, plane), rings(22.0, 3, plane)])
    helix = helices(Beam(momentum=1.0, divergence=0.15, start_z=-1.0), 60, detector.b_z)
    found = crossings(detector, helix)
    assert pairs(found) == one_by_one(detector, helix)
    per_layer = torch.bincount(detector.layer[found.sensor], minlength=4)
    assert per_layer[2] > 60  # sensors of a disc overlap


def test_a_layer_may_hold_a_disc_at_either_end():
    plane = telescope([0.0], 1.0, 1.0)
    both = joined([rings(15.0, 2, plane), rings(-15.0, 3, plane)])
    both = replace(both, layer=torch.zeros(128, dtype=torch.int64))
    forward = helices(Beam(momentum=1.0, divergence=0.1, start_z=-1.0, spot=0.1), 20, 0.5)
    backward = forward._replace(direction=-forward.direction, omega=-forward.omega)
    helix = Helix(*(torch.cat(columns) for columns in zip(forward, backward, strict=True)))
    found = crossings(both, helix)
    assert pairs(found) == one_by_one(both, helix)
    assert {sensor < 64 for _, sensor in pairs(found)} == {True, False}


def test_sensors_that_form_no_layer_are_still_found():
    plane = telescope([5.0, 6.0, 20.0], 3.0, 3.0)
    turned = plane.rotation @ exp(
        torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [0.3, 0, 1.0]], dtype=torch.float64)
    )
    odd = replace(plane.placed(turned, plane.translation), layer=torch.zeros(3, dtype=torch.int64))
    helix = helices(Beam(divergence=0.05), 50, 0.0)
    assert layers_of(odd)[0].surface is None
    assert pairs(crossings(odd, helix)) == one_by_one(odd, helix)


def test_crossings_lie_on_the_path_on_the_plane_and_in_the_active_area(barrel):
    helix = helices(ParticleGun(), 200, barrel.b_z)
    found = crossings(barrel, helix)
    place = point(Helix(*(field[found.track] for field in helix)), found.s)
    local = torch.stack([found.uv[:, 0], torch.zeros_like(found.s), found.uv[:, 1]], -1)
    rotation, translation = barrel.rotation[found.sensor], barrel.translation[found.sensor]
    on_sensor = (rotation @ local[..., None]).squeeze(-1) + translation
    torch.testing.assert_close(on_sensor, place, rtol=0, atol=1e-10)
    assert in_active_area(barrel, found.sensor, found.uv).all()


def test_crossings_are_sorted_by_track_and_path(barrel):
    found = crossings(barrel, helices(Cosmics(), 200, barrel.b_z))
    same = found.track[1:] == found.track[:-1]
    assert (found.track.diff() >= 0).all()
    assert (found.s.diff()[same] > 0).all()
    assert (found.s > 0).all()


def test_cosmic_tracks_cross_the_barrel_on_the_way_in_and_on_the_way_out(barrel):
    source = Cosmics(half_x=1.0, half_z=5.0, p_min=20.0)
    found = crossings(barrel, helices(source, 200, barrel.b_z))
    count = torch.bincount(found.track, minlength=200)
    above = barrel.translation[found.sensor, 1] > 0
    assert count.median() >= 14
    assert 0.4 < above.double().mean() < 0.6


def test_a_path_that_starts_between_layers_looks_ahead_only(barrel):
    helix = helices(ParticleGun(n_tracks_per_event=1, pt_min=1.0), 100, barrel.b_z)
    outside = move(helix, path_to_cylinder(helix, torch.full_like(helix.omega, 10.0)))
    found = crossings(barrel, outside)
    assert set(barrel.layer[found.sensor].tolist()) == {3, 4, 5, 6}


def test_rotating_detector_and_tracks_about_z_gives_the_same_crossings(barrel):
    helix = helices(ParticleGun(), 50, barrel.b_z)
    turn = exp(torch.tensor([0.0, 0.0, 0.4321], dtype=torch.float64))
    rotated = barrel.placed(turn @ barrel.rotation, barrel.translation @ turn.T)
    first = crossings(barrel, helix)
    second = crossings(rotated, Helix(helix.position @ turn.T, helix.direction @ turn.T, helix.omega))
    assert torch.equal(first.track, second.track)
    assert torch.equal(first.sensor, second.sensor)
    torch.testing.assert_close(first.uv, second.uv, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def acts(acts_sample):
    """Tracks that ACTS simulated with scattering in a misaligned detector, and our unscattered crossings."""
    nominal, detector, tracks, truth = acts_sample
    helix = true_helix(tracks, nominal.b_z)
    return detector, tracks, truth, crossings(detector, helix)


def matched(detector: Detector, tracks, found: Crossings, layer: int, p_min: float, p: Tensor):
    """ACTS's hits in a layer that we find on the same sensor, our rows, and the part of each that agrees."""
    track, sensor = torch.from_numpy(tracks.track_of_hit), torch.from_numpy(tracks.sensor)
    theirs = ((detector.layer[sensor] == layer) & (p[track] > p_min)).nonzero().squeeze(-1)
    ours = ((detector.layer[found.sensor] == layer) & (p[found.track] > p_min)).nonzero().squeeze(-1)
    key = found.track[ours] * len(detector) + found.sensor[ours]
    sought = track * len(detector) + sensor
    place = torch.searchsorted(key.sort().values, sought[theirs]).clamp(max=len(key) - 1)
    same = key.sort().values[place] == sought[theirs]
    return theirs[same], ours[key.argsort()][place[same]], float(same.double().mean()), len(same) / len(ours)


@pytest.mark.parametrize(("layer", "share"), [(0, 0.9995), (1, 0.998), (2, 0.998), (4, 0.98), (6, 0.96)])
def test_acts_hits_the_same_sensors_at_high_momentum(acts, layer, share):
    detector, tracks, truth, found = acts
    _, _, agreed, ratio = matched(detector, tracks, found, layer, 2.0, truth["momentum"].norm(dim=-1))
    assert agreed > share
    assert ratio == pytest.approx(1.0, abs=0.01)


def test_acts_hits_the_first_layer_in_the_same_places(acts):
    detector, tracks, truth, found = acts
    theirs, ours, _, _ = matched(detector, tracks, found, 0, 0.0, truth["momentum"].norm(dim=-1))
    apart = (truth["hit_uv"][theirs] - found.uv[ours]).norm(dim=-1)
    # Before any scattering; the others are hits behind an overlapping neighbour that scattered.
    assert apart.median() < 0.02 * UM
    assert (apart < 0.2 * UM).double().mean() > 0.9


@pytest.mark.parametrize(("layer", "width"), [(1, 8 * UM), (2, 17 * UM)])
def test_acts_hits_the_next_layers_within_its_scattering(acts, layer, width):
    detector, tracks, truth, found = acts
    theirs, ours, _, _ = matched(detector, tracks, found, layer, 1.0, truth["momentum"].norm(dim=-1))
    apart = truth["hit_uv"][theirs] - found.uv[ours]
    assert apart.std(0).max() < width
    assert (apart.mean(0).abs() < 4 * apart.std(0) / len(apart) ** 0.5).all()
