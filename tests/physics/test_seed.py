"""The first guess of a track without noise is the track."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.physics.seed import seed

N, HITS = 200, 7
COLLISION, BEAM, COSMIC = "collision", "beam", "cosmic"


def paths(kind: str, b_z: float) -> tuple[Helix, Tensor]:
    """Tracks, and points on them in the order in which they are flown through (tracks, hits, 3)."""
    draw = torch.rand(N, 6, dtype=torch.float64)
    angle, spread = 2 * torch.pi * draw[:, 0], 2 * draw[:, 1:3] - 1
    if kind == COLLISION:
        start = 0.1 * torch.nn.functional.pad(spread, (0, 1))
        direction = torch.stack([angle.cos(), angle.sin(), 2 * spread[:, 0]], -1)
    elif kind == BEAM:
        start = torch.cat([spread, torch.full((N, 1), -5.0, dtype=torch.float64)], -1)
        direction = torch.nn.functional.pad(0.2 * spread, (0, 1), value=1.0)
    else:
        start = torch.stack([30 * spread[:, 0], torch.full_like(angle, 40.0), 30 * spread[:, 1]], -1)
        direction = torch.stack([0.3 * angle.cos(), -torch.ones_like(angle), 0.3 * angle.sin()], -1)
    pt = 0.3 + 3 * draw[:, 3] if kind == COLLISION else 2 + 10 * draw[:, 3]
    charge = torch.where(draw[:, 4] > 0.5, 1.0, -1.0)
    momentum = pt[:, None] * direction / direction[:, :2].norm(dim=-1, keepdim=True).clamp_min(1.0)
    helix = hx.from_momentum(start, momentum, charge, b_z)
    length = 40.0 if kind == COLLISION else 80.0 if kind == COSMIC else 20.0
    s = length * (torch.arange(HITS) + 0.2 + 0.6 * torch.rand(N, HITS, dtype=torch.float64)) / HITS
    return helix, hx.point(hx.expand(helix), s)


def distance(helix: Helix, points: Tensor) -> Tensor:
    """Distance of points from tracks (tracks, hits) [cm], in planes across the line of the whole track."""
    states = hx.expand(helix)
    normal = (points[:, -1:] - points[:, :1]).expand_as(points)
    s = hx.path_to_plane(states, points, normal / normal.norm(dim=-1, keepdim=True), steps=6)
    return (hx.point(states, s) - points).norm(dim=-1)


def outward(kind: str) -> Tensor:
    return torch.full((N,), kind == COLLISION)


@pytest.mark.parametrize("b_z", [0.5, 0.0, -0.2, 1e-9])
@pytest.mark.parametrize("kind", [COLLISION, BEAM, COSMIC])
def test_without_noise_the_seed_is_the_track_from_its_first_hit_on(kind, b_z):
    helix, points = paths(kind, b_z)
    found = seed(points, torch.ones(N, HITS, dtype=torch.bool), outward(kind), b_z)
    assert distance(found, points).max() < 1e-8
    assert torch.equal(found.position, points[:, 0])
    assert torch.allclose(found.omega, helix.omega, rtol=1e-6, atol=1e-12)
    s = hx.path_to_plane(helix, points[:, 0], found.direction, steps=6)
    assert (found.direction - hx.tangent(helix, s)).norm(dim=-1).max() < 1e-7


@pytest.mark.parametrize("kind", [COLLISION, BEAM, COSMIC])
def test_the_seed_does_not_depend_on_the_order_of_hits(kind):
    _, points = paths(kind, 0.5)
    everything = torch.ones(N, HITS, dtype=torch.bool)
    one = seed(points, everything, outward(kind), 0.5)
    other = seed(points[:, torch.randperm(HITS)], everything, outward(kind), 0.5)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(one, other, strict=True))


def test_padding_is_not_looked_at():
    _, points = paths(COLLISION, 0.5)
    is_hit = torch.ones(N, HITS, dtype=torch.bool)
    is_hit[:, 4:] = False
    alone = seed(points[:, :4], is_hit[:, :4], outward(COLLISION), 0.5)
    points[:, 4:] = 1e3
    padded = seed(points, is_hit, outward(COLLISION), 0.5)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(alone, padded, strict=True))


def test_a_turn_about_the_field_turns_the_seed():
    _, points = paths(COLLISION, 0.5)
    everything = torch.ones(N, HITS, dtype=torch.bool)
    angle = torch.tensor(0.7, dtype=torch.float64)
    one = seed(points, everything, outward(COLLISION), 0.5)
    other = seed(hx.turned(points, angle), everything, outward(COLLISION), 0.5)
    assert torch.allclose(other.direction, hx.turned(one.direction, angle), rtol=0, atol=1e-12)
    assert torch.allclose(other.omega, one.omega, rtol=1e-9, atol=1e-14)


def test_the_straight_line_is_the_limit_of_a_weak_field():
    _, points = paths(COSMIC, 0.0)
    everything = torch.ones(N, HITS, dtype=torch.bool)
    line, helix = (seed(points, everything, outward(COSMIC), b_z) for b_z in (0.0, 1e-30))
    assert torch.allclose(line.direction, helix.direction, rtol=0, atol=1e-10)
    assert helix.omega.abs().max() < 1e-12
    assert line.omega.abs().max() == 0


def test_a_track_along_the_field_has_a_seed():
    points = torch.tensor([[[0.3, 0.1, float(z)] for z in range(4)]], dtype=torch.float64)
    found = seed(points, torch.ones(1, 4, dtype=torch.bool), torch.tensor([False]), 0.5)
    assert found.direction[0].tolist() == [0.0, 0.0, 1.0]
    assert float(found.omega[0]) == 0


@pytest.mark.parametrize(("slope", "first"), [(0.5, 0), (3.0, 1)], ids=["beam", "cosmic"])
def test_a_track_that_is_steep_in_y_starts_above_and_another_upstream(slope, first):
    points = torch.tensor(
        [[[0.0, 0.0, 0.0], [0.1, 0.5 * slope, 0.5], [0.2, slope, 1.0]]], dtype=torch.float64
    )
    found = seed(points, torch.ones(1, 3, dtype=torch.bool), torch.tensor([False]), 0.0)
    assert torch.equal(found.position[0], points[0, 2 * first])
