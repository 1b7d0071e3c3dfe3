"""Closest approaches and their covariance, and vertices that leave one track out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.tracks import Tracks
from alignnet.evaluation.dca_sample import event_batches
from alignnet.evaluation.impact import BeamSpot, Impact, impact, state_covariance, vertices
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix, Perigee
from alignnet.sensors.sensor import SensorLayer

B_Z = 0.5
UM = 1e-4


@pytest.fixture(scope="module")
def fitted(detector: Detector, tracks: Tracks) -> tuple[Batch, Fit, Tensor]:
    """80 events fitted without the vertex, with the covariance of their states."""
    batch = next(event_batches(tracks, detector, batch_events=80))
    loss, sensors = HelixChi2(detector, vertex="absent"), SensorLayer.of(detector)
    with torch.no_grad():
        planes = sensors.planes(batch.uv, batch.sensor)
        fit = loss.fit(planes, batch)
        return batch, fit, state_covariance(loss.rows(planes, fit, batch)[1])


def test_distances_follow_the_reference_point_as_stated(fitted: tuple[Batch, Fit, Tensor]) -> None:
    batch, fit, covariance = fitted
    step = torch.tensor([30 * UM, -20 * UM, 50 * UM], dtype=torch.float64)
    here = impact(fit.helix, covariance, batch.vertex, B_Z)
    there = impact(fit.helix, covariance, batch.vertex + step, B_Z)
    torch.testing.assert_close(there.distance, here.distance + here.towards @ step, rtol=0, atol=0.03 * UM)


def test_d0_and_z0_are_those_of_the_perigee(fitted: tuple[Batch, Fit, Tensor]) -> None:
    batch, fit, covariance = fitted
    five = hx.perigee(fit.helix, batch.vertex, B_Z)
    found = impact(fit.helix, covariance, batch.vertex, B_Z)
    assert torch.equal(found.distance, torch.stack([five.d0, five.z0], -1))


def test_the_covariance_is_carried_from_the_state_to_the_vertex(fitted: tuple[Batch, Fit, Tensor]) -> None:
    batch, fit, covariance = fitted
    size = covariance.diagonal(dim1=-2, dim2=-1).sqrt() * 1e-3
    columns = []
    for k in range(5):
        delta = torch.zeros_like(size)
        delta[:, k] = size[:, k]
        ends = [
            impact(hx.updated(fit.helix, side * delta), covariance, batch.vertex, B_Z).distance
            for side in (1, -1)
        ]
        columns.append((ends[0] - ends[1]) / (2 * size[:, k : k + 1]))
    change = torch.stack(columns, -1)
    expected = change @ covariance @ change.transpose(-1, -2)
    found = impact(fit.helix, covariance, batch.vertex, B_Z)
    sigma = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    near = found.distance.norm(dim=-1) < 0.05  # further away, second derivatives matter
    wrong = (found.covariance - expected) / (sigma[:, :, None] * sigma[:, None])
    assert near.double().mean() > 0.95
    assert wrong[near].abs().max() < 0.005


def test_the_covariance_of_a_state_is_the_inverse_of_its_normal_matrix() -> None:
    jacobian = torch.randn(20, 14, 5, dtype=torch.float64) * torch.tensor([1e3, 1e3, 1e4, 1e4, 1e7]).double()
    normal = jacobian.transpose(-1, -2) @ jacobian
    product = state_covariance(jacobian) @ normal
    torch.testing.assert_close(product, torch.eye(5).double().expand(20, 5, 5), rtol=0, atol=1e-6)


def an_event(n: int, seed: int) -> Impact:
    """Tracks of made-up distances and covariances."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    phi, tan = 3 * draw(n), draw(n)
    root = draw(n, 2, 2) * 1e-3 + torch.diag(torch.tensor([3e-3, 5e-3]).double())
    zero = torch.zeros_like(phi)
    towards = torch.stack(
        [
            torch.stack([phi.sin(), -phi.cos(), zero], -1),
            torch.stack([tan * phi.cos(), tan * phi.sin(), zero - 1], -1),
        ],
        1,
    )
    five = Perigee(*(zero for _ in range(5)))
    return Impact(draw(n, 2) * 5e-3, root @ root.transpose(-1, -2), towards, five)


def least_squares(tracks: Impact, rows: list[int], beam_spot: BeamSpot | None = None) -> Tensor:
    """The vertex by stacking whitened equations, one after another."""
    left, right = [], []
    for i in rows:
        root = torch.linalg.inv(torch.linalg.cholesky(tracks.covariance[i]))
        left.append(root @ tracks.towards[i])
        right.append(-root @ tracks.distance[i])
    if beam_spot is not None:
        root = torch.linalg.inv(torch.linalg.cholesky(beam_spot.covariance))
        left.append(root)
        right.append(root @ beam_spot.position)
    return torch.linalg.lstsq(torch.cat(left), torch.cat(right)[:, None]).solution.squeeze(-1)


SPOT = BeamSpot(
    torch.tensor([1e-3, -2e-3, 3e-3]).double(), torch.diag(torch.tensor([1e-4, 2e-4, 25.0]).double())
)


@pytest.mark.parametrize("beam_spot", [None, SPOT], ids=["free", "beam spot"])
def test_vertices_are_least_squares_with_and_without_each_track(beam_spot: BeamSpot | None) -> None:
    tracks, event = an_event(9, 1), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    usable = torch.ones(9, dtype=torch.bool)
    usable[6] = False
    origin = torch.zeros(2, 3, dtype=torch.float64)
    members = ([0, 1, 2, 3], [4, 5, 7, 8])
    every = vertices(tracks, usable, event, origin, beam_spot)
    for number, rows in enumerate(members):
        expected = least_squares(tracks, rows, beam_spot)
        torch.testing.assert_close(every.offset[number], expected, rtol=1e-8, atol=0)
    without = vertices(tracks, usable, event, origin, beam_spot, leave_one_out=True)
    for i in range(9):
        others = [row for row in members[int(event[i])] if row != i]
        expected = least_squares(tracks, others, beam_spot)
        torch.testing.assert_close(without.offset[i], expected, rtol=1e-8, atol=0)


def test_a_track_does_not_move_the_vertex_that_it_is_left_out_of() -> None:
    tracks, event = an_event(5, 2), torch.zeros(5, dtype=torch.int64)
    usable, origin = torch.ones(5, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.float64)
    moved = tracks.distance.clone()
    moved[3] += 1.0
    one, other = (
        vertices(tracks._replace(distance=distance), usable, event, origin, leave_one_out=True).offset
        for distance in (tracks.distance, moved)
    )
    torch.testing.assert_close(other[3], one[3], rtol=0, atol=1e-13)
    assert (other - one).norm(dim=-1)[[0, 1, 2, 4]].min() > 1e-2


def test_two_other_tracks_or_a_beam_spot_are_needed() -> None:
    tracks, event = an_event(5, 3), torch.tensor([0, 0, 0, 1, 1])
    usable, origin = torch.ones(5, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.float64)
    found = vertices(tracks, usable, event, origin, leave_one_out=True)
    assert found.known.tolist() == [True, True, True, False, False]
    assert vertices(tracks, usable, event, origin, SPOT, leave_one_out=True).known.all()
    usable[0] = False
    tracks.distance[0] = torch.nan
    found = vertices(tracks, usable, event, origin, leave_one_out=True)
    assert found.known.tolist() == [True, False, False, False, False]
    assert found.offset.isfinite().all()


def test_a_straight_line_through_the_reference_passes_it_at_no_distance() -> None:
    direction = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    line = Helix(torch.tensor([[3.0, 0.0, 4.0]]).double(), direction, torch.zeros(1).double())
    found = impact(line, torch.eye(5).double()[None], torch.zeros(1, 3).double(), 0.0)
    assert found.distance.abs().max() < 1e-14
