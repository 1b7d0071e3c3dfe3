"""Where helices cross bent and deformed sensors, against a walk along them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_detectors import GUN, QUIET, barrel, planes, random_local, simulated
from torch import Tensor

from alignnet.data.crossings import crossings
from alignnet.data.meeting import sheets
from alignnet.data.sources import ParticleGun
from alignnet.data.streams import Streams
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.its3 import its3
from alignnet.geometry.misalign import Composed, Gaussian, SurfaceModes, misaligned
from alignnet.geometry.tracker import barrel_endcap
from alignnet.physics.helix import Helix, from_momentum, point
from alignnet.sensors.sensor import SensorLayer
from alignnet.units import UM

INNER = its3(outer_barrel=False)
DEFORMED = Composed(
    [Gaussian({"sensor": {"translation": 100 * UM, "rotation": 1e-3}}), SurfaceModes(4, 100 * UM)]
)


def states(n_events: int = 12, pt_min: float = 0.05, b_z: float = 0.5) -> Helix:
    """Helices from near the middle, down to 50 MeV/c."""
    gun = ParticleGun(n_tracks_per_event=8, eta_max=1.2, pt_min=pt_min, vertex_sigma=(0.1, 0.1, 2.0))
    particles = gun.particles(n_events, Streams(1, 0), 0, b_z)
    return from_momentum(particles.position, particles.momentum, particles.charge, b_z)


def walked(detector: Detector, helix: Helix, length: float = 40.0, step: float = 5e-3) -> Counter:
    """Changes of sign of the height above each sensor's sheet along helices, as (track, sensor)."""
    s, found = torch.arange(0, length, step, dtype=torch.float64), Counter()
    for track in range(len(helix.omega)):
        path = point(Helix(*(field[track : track + 1] for field in helix)), s)
        for sensor in range(len(detector)):
            sheet = sheets(detector, torch.tensor([sensor]))
            uv, height = sheet.coordinates(path)
            above = height - sheet.surface.height(uv)[0]
            part = (above[:-1] / (above[:-1] - above[1:]))[:, None]
            place = uv[:-1] + part * (uv[1:] - uv[:-1])
            inside = ((place - detector.centre[sensor]).abs() <= detector.half[sensor]).all(-1)
            found[track, sensor] += int(
                ((above[1:] * above[:-1] < 0) & (above[1:].abs() < 0.1) & inside).sum()
            )
    return +found


@pytest.mark.parametrize("moved", [False, True])
def test_half_cylinders_are_crossed_where_a_walk_crosses_them(moved):
    detector, helix = misaligned(INNER, DEFORMED(INNER)) if moved else INNER, states()
    found = crossings(detector, helix)
    assert Counter(zip(found.track.tolist(), found.sensor.tolist(), strict=True)) == walked(detector, helix)


def test_a_bent_sensor_across_a_beam_is_crossed_where_a_walk_crosses_it():
    flat = planes(4)
    radius, half = torch.tensor([0.0, 2.0, -2.0, 0.0]).double(), torch.tensor([2.9, 3.0]).double()
    detector = replace(flat, curvature_radius=radius, half=half.repeat(4, 1))
    generator = torch.Generator().manual_seed(2)
    draw = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    direction = torch.nn.functional.pad(0.8 * draw, (0, 1), value=1.0)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    start = torch.cat(
        [2 * torch.rand(60, 2, generator=generator) - 1, torch.full((60, 1), -5.0)], -1
    ).double()
    start[0], direction[0] = torch.tensor([-4.0, 0.0, 1.2]), torch.tensor([1.0, 0.0, 0.01])
    helix = Helix(start, direction, torch.zeros(60, dtype=torch.float64))
    found = Counter(zip(*(column.tolist() for column in crossings(detector, helix)[:2]), strict=True))
    assert found == walked(detector, helix, 20.0)
    assert found[0, 1] == 2  # through both legs of a sheet of 2 cm radius


def test_turning_everything_about_the_field_turns_the_crossings():
    detector, helix = misaligned(INNER, DEFORMED(INNER)), states(pt_min=0.2)
    turn = rigid.exp(torch.tensor([0.0, 0.0, 0.4321], dtype=torch.float64))
    other = detector.placed(turn @ detector.rotation, detector.translation @ turn.T)
    first = crossings(detector, helix)
    second = crossings(other, Helix(helix.position @ turn.T, helix.direction @ turn.T, helix.omega))
    assert torch.equal(first.sensor, second.sensor)
    assert torch.allclose(first.uv, second.uv, atol=1e-10)


def test_hardly_bent_sensors_are_crossed_as_flat_ones():
    flat, helix = barrel(), states(pt_min=0.3)
    almost = replace(flat, curvature_radius=torch.full((len(flat),), 1e8).double())
    first, second = crossings(flat, helix), crossings(almost, helix)
    assert torch.equal(first.sensor, second.sensor)
    assert torch.allclose(first.uv, second.uv, atol=1e-6)


def test_simulated_hits_lie_on_the_true_sheets():
    local = DEFORMED(INNER)
    tracks = simulated(INNER, GUN, 20, local, **QUIET)
    sensor, uv = torch.from_numpy(tracks.sensor), torch.from_numpy(tracks.uv)
    place: Tensor = SensorLayer.at(INNER, local)(uv, sensor).detach()
    momentum, start = (torch.from_numpy(tracks.truth[k]) for k in ("momentum", "position"))
    charge = torch.from_numpy(tracks.truth["q"]).double()
    helix = from_momentum(start, momentum, charge, INNER.b_z)
    track = torch.from_numpy(tracks.track_of_hit)
    s = torch.linspace(0.5, 8.0, 2001).double()
    walk = point(Helix(*(field[track, None] for field in helix)), s)
    near = (walk - place[:, None]).norm(dim=-1).amin(-1)
    assert near.max() < 0.003  # half of a step of the walk
    refined = _refined(Helix(*(field[track] for field in helix)), place)
    assert refined.max() < 1e-9


def _refined(helix: Helix, place: Tensor) -> Tensor:
    """Distance of points from helices that pass them."""
    s = (place - helix.position).norm(dim=-1)
    for _ in range(50):
        here, ahead = point(helix, s), point(helix, s + 1e-4)
        tangent = (ahead - here) / 1e-4
        s = s + ((place - here) * tangent).sum(-1)
    return (point(helix, s) - place).norm(dim=-1)


def test_bows_are_seen_by_oblique_tracks_only():
    detector = planes(3)
    local = torch.nn.functional.pad(torch.full((3, 1), 0.01).double(), (6, 2))  # w20 of 100 µm
    straight = Helix(
        torch.tensor([[0.0, 0.0, -1.0]]).double(),
        torch.tensor([[0.0, 0.0, 1.0]]).double(),
        torch.zeros(1).double(),
    )
    oblique = straight._replace(direction=torch.tensor([[0.6, 0.0, 0.8]]).double())
    flat, bowed = detector, misaligned(detector, local)
    assert torch.allclose(crossings(flat, straight).uv, crossings(bowed, straight).uv, atol=1e-14)
    moved = crossings(bowed, oblique).uv - crossings(flat, oblique).uv
    # at x = 0.75 of 3 cm P20 is −0.406, and the normal is −z: the sheet is 41 µm further along the beam
    assert moved[0, 0] == pytest.approx(0.01 * 0.40625 * 0.75, rel=0.01)


def test_a_particle_that_has_turned_back_does_not_cross_discs_any_more():
    detector = barrel_endcap()
    slow = torch.tensor([[0.5, 0.0, 0.08]]).double()  # half a turn of 2.6 m before it comes to 42 cm
    forward = torch.tensor([[0.5, 0.0, 1.5]]).double()
    start, charge = torch.zeros(1, 3).double(), torch.ones(1).double()
    slow_hits, hits = (
        detector.layer[crossings(detector, from_momentum(start, p, charge, detector.b_z)).sensor]
        for p in (slow, forward)
    )
    assert len(slow_hits)
    assert (slow_hits < 6).all()
    assert (hits > 5).sum() >= 4


def test_random_places_of_sheets_and_small_turns_keep_hits_on_their_sensors():
    detector = misaligned(INNER, random_local(len(INNER), 0.05, 5e-3))
    found = crossings(detector, states(pt_min=0.1))
    assert (found.uv.abs() <= detector.half[found.sensor]).all()
