"""The fit finds the track, its errors and the event's origin, as a dense least-squares solution does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from small_detectors import BEAM, COSMICS, GUN, barrel, batch_of, exact, planes, simulated, true_helix
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks
from alignnet.geometry.plane import Plane
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.physics.trackfit import EventOrigins, derivatives, residuals, solve, step
from alignnet.sensors.sensor import SensorLayer

BARREL, LINES = barrel(), barrel(b_z=0.0)
CASES = {
    "collisions": (BARREL, GUN),
    "straight collisions": (LINES, GUN),
    "cosmics": (BARREL, COSMICS),
    "telescope": (planes(), BEAM),
    "telescope in a field along the beam": (planes(b_z=1.0), BEAM),
}


def planes_of(detector, batch: Batch) -> Plane:
    with torch.no_grad():
        return SensorLayer.of(detector).planes(batch.uv, batch.sensor)


def fitted(detector, batch: Batch, noise: str = "full", vertex: str = "absent", iterations: int = 6) -> Fit:
    loss = HelixChi2(detector, NoiseModel(detector, noise, energy_loss=False), vertex, iterations=iterations)
    return loss.fit(planes_of(detector, batch), batch)


def steep(tracks: Tracks) -> Tracks:
    """Without the tracks that are less steep in y than in z: from hits alone these are taken for a beam's."""
    along = np.abs(tracks.truth["momentum"])
    return tracks if tracks.kind[0] != COSMICS.kind else tracks.select(along[:, 1] > 1.05 * along[:, 2])


def moved_to(helix: Helix, reference: Helix) -> Helix:
    """The same paths from where they cross the planes across the reference states."""
    return hx.move(helix, hx.path_to_plane(helix, reference.position, reference.direction, steps=6))


def miss(found: Helix, truth: Helix) -> Tensor:
    """Distance [cm] and angle between two sets of states, (tracks, 2)."""
    truth = moved_to(truth, found)
    shift, turn = found.position - truth.position, found.direction - truth.direction
    return torch.stack([shift.norm(dim=-1), turn.norm(dim=-1)], -1)


@pytest.mark.parametrize("case", CASES)
def test_without_noise_the_fit_finds_the_particle(case):
    detector, source = CASES[case]
    tracks = steep(exact(detector, source, 40))
    fit = fitted(detector, batch_of(tracks, detector))
    assert fit.ok.all()
    truth = true_helix(tracks, detector.b_z)
    assert miss(fit.helix, truth).max() < 1e-7
    assert (fit.helix.omega - truth.omega).abs().max() < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_autograd_through_the_crossing(case):
    detector, source = CASES[case]
    batch = batch_of(simulated(detector, source, 6), detector)
    where, helix = planes_of(detector, batch), fitted(detector, batch).helix
    n_parameters = 5 if detector.b_z else 4

    def predicted(delta: Tensor) -> Tensor:
        return residuals(hx.updated(helix, delta), where)[0].sum(0)

    zero = torch.zeros(batch.n_tracks, n_parameters, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(predicted, zero).permute(2, 0, 1, 3)
    found = derivatives(helix, where, residuals(helix, where)[1], n_parameters)
    scale = expected.abs().amax((0, 1, 2))
    assert ((found - expected).abs() / scale).max() < 1e-9


def test_residuals_have_right_derivatives_in_the_planes_and_the_track():
    batch = batch_of(simulated(BARREL, GUN, 1), BARREL)
    where, helix = planes_of(BARREL, batch), fitted(BARREL, batch).helix
    leaves = [field.clone().requires_grad_() for field in (*where, *helix)]

    def predicted(*fields: Tensor) -> Tensor:
        return residuals(Helix(*fields[4:]), Plane(*fields[:4]))[0]

    assert torch.autograd.gradcheck(predicted, leaves)


def test_one_step_on_a_linear_problem_is_the_dense_solution():
    r, j = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, 4, dtype=torch.float64)
    delta, _, ok = step(r, j, None, None)
    expected = -torch.linalg.lstsq(j, r[..., None]).solution.squeeze(-1)
    assert ok.all()
    assert torch.allclose(delta, expected, rtol=1e-9, atol=1e-12)


def test_one_step_with_origins_is_the_dense_solution_of_all_tracks_and_origins_together():
    tracks, rows, n, events = 7, 8, 4, 3
    event = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    r, j = torch.randn(tracks, rows, dtype=torch.float64), torch.randn(tracks, rows, n, dtype=torch.float64)
    a = torch.randn(tracks, rows, 3, dtype=torch.float64)
    root = torch.randn(events, 3, 3, dtype=torch.float64)
    prior, position = torch.randn(2, events, 3, dtype=torch.float64)
    origins = EventOrigins(position, prior, root.transpose(-1, -2) @ root, event)
    delta, move, _ = step(r, j, origins, a)
    matrix = torch.zeros(tracks * rows + events * 3, tracks * n + events * 3, dtype=torch.float64)
    for t in range(tracks):
        here = slice(t * rows, (t + 1) * rows)
        matrix[here, t * n : (t + 1) * n] = j[t]
        matrix[here, tracks * n + 3 * event[t] : tracks * n + 3 * event[t] + 3] = a[t]
    pull = (root @ (position - prior)[..., None]).flatten()
    for i in range(events):
        here = slice(tracks * rows + 3 * i, tracks * rows + 3 * i + 3)
        matrix[here, tracks * n + 3 * i : tracks * n + 3 * i + 3] = root[i]
    solution = -torch.linalg.lstsq(matrix, torch.cat([r.flatten(), pull])[:, None]).solution.flatten()
    assert torch.allclose(torch.cat([delta.flatten(), move.flatten()]), solution, rtol=1e-8, atol=1e-10)


def test_badly_scaled_columns_do_not_spoil_the_solution():
    r, j = torch.randn(5, 8, 1, dtype=torch.float64), torch.randn(5, 8, 4, dtype=torch.float64)
    scale = torch.tensor([1e-9, 1.0, 1e9, 1e3], dtype=torch.float64)
    assert torch.allclose(solve(j * scale, r)[0] * scale[:, None], solve(j, r)[0], rtol=1e-9)


def test_a_track_that_its_hits_do_not_determine_is_told_and_leaves_the_others_alone():
    r, j = torch.randn(3, 8, 1, dtype=torch.float64), torch.randn(3, 8, 4, dtype=torch.float64)
    alone, _ = solve(j[[0, 2]], r[[0, 2]])
    j[1, :, 2] = j[1, :, 1]
    together, ok = solve(j, r)
    assert ok.tolist() == [True, False, True]
    assert torch.allclose(together[[0, 2]], alone, rtol=1e-12)
    assert torch.equal(together[1], torch.zeros(4, 1, dtype=torch.float64))


@pytest.mark.parametrize("bad", [0.0, torch.nan])
def test_a_track_that_its_hits_do_not_determine_does_not_pull_the_origin_of_its_event(bad):
    event = torch.tensor([0, 0, 0])
    r, j = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8, 4, dtype=torch.float64)
    a, zero = torch.randn(3, 8, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    origins = EventOrigins(zero, zero, torch.eye(3, dtype=torch.float64)[None], event)
    delta, move, _ = step(r[:2], j[:2], origins._replace(event=event[:2]), a[:2])
    j[2] = bad
    with_bad, move_with_bad, ok = step(r, j, origins, a)
    assert ok.tolist() == [True, True, False]
    assert torch.allclose(move_with_bad, move, rtol=1e-12)
    assert torch.allclose(with_bad[:2], delta, rtol=1e-12)


def permuted(batch: Batch) -> Batch:
    """The same tracks with each one's hits in another order, padding among them."""
    order = torch.argsort(torch.rand(batch.sensor.shape), dim=1)
    pair = order[..., None].expand(-1, -1, 2)
    return batch._replace(
        sensor=batch.sensor.gather(1, order), is_hit=batch.is_hit.gather(1, order),
        uv=batch.uv.gather(1, pair), sigma=batch.sigma.gather(1, pair),
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_hits_does_not_matter(case):
    detector, source = CASES[case]
    batch = batch_of(simulated(detector, source, 30), detector)
    one, other = fitted(detector, batch).helix, fitted(detector, permuted(batch)).helix
    assert miss(other, one).max() < 1e-8
    assert (one.omega - other.omega).abs().max() < 1e-10


def test_two_hits_of_overlapping_sensors_in_one_layer_are_two_measurements():
    tracks = exact(BARREL, GUN, 60)
    batch = batch_of(tracks, BARREL)
    layer = torch.where(batch.is_hit, BARREL.layer[batch.sensor], -1)
    doubled = ((layer[:, :, None] == layer[:, None, :]) & (layer >= 0)[:, :, None]).sum(
        (1, 2)
    ) > batch.is_hit.sum(1)
    assert int(doubled.sum()) > 20
    fit = fitted(BARREL, batch)
    assert miss(fit.helix, true_helix(tracks, BARREL.b_z))[doubled].max() < 1e-7


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_layer_may_be_missing(lost):
    tracks = exact(BARREL, GUN, 30)
    tracks = tracks.select_hits((BARREL.layer.numpy() != lost)[tracks.sensor])
    tracks = tracks.select(tracks.hits_per_track >= 3)
    assert len(tracks) > 60
    fit = fitted(BARREL, batch_of(tracks, BARREL))
    assert fit.ok.all()
    assert miss(fit.helix, true_helix(tracks, BARREL.b_z)).max() < 1e-7


@pytest.mark.parametrize("case", ["collisions", "straight collisions", "telescope"])
def test_three_hits_are_enough(case):
    detector, source = CASES[case]
    tracks = exact(detector, source, 40)
    first_three = (np.arange(tracks.n_hits) - tracks.offset[tracks.track_of_hit]) < 3
    layers = np.array(
        [len(set(detector.layer.numpy()[t])) for t in np.split(tracks.sensor, tracks.offset[1:-1])]
    )
    tracks = tracks.select_hits(first_three).select((layers == tracks.hits_per_track) & (layers >= 3))
    fit = fitted(detector, batch_of(tracks, detector))
    assert fit.ok.all()
    assert miss(fit.helix, true_helix(tracks, detector.b_z)).max() < 1e-7


def pulls(detector, tracks: Tracks, vertex: str = "absent") -> Tensor:
    """True minus fitted local parameters, whitened by the fit's covariance (JᵀJ)⁻¹ (tracks, parameters)."""
    batch = batch_of(tracks, detector)
    where = planes_of(detector, batch)
    loss = HelixChi2(detector, NoiseModel(detector, energy_loss=False), vertex, iterations=6)
    fit = loss.fit(where, batch)
    assert fit.ok.all()
    truth = moved_to(true_helix(tracks, detector.b_z), fit.helix)
    across = hx.frame(fit.helix.direction)
    shift = truth.position - fit.helix.position
    slope = truth.direction / (truth.direction * fit.helix.direction).sum(-1, keepdim=True)
    delta = [(x * e).sum(-1) for x in (shift, slope) for e in across]
    if detector.b_z:
        delta.append(truth.omega - fit.helix.omega)
    _, jacobian, _ = loss.rows(where, fit, batch)
    return (torch.linalg.qr(jacobian).R @ torch.stack(delta, -1)[..., None]).squeeze(-1)


@pytest.mark.parametrize("vertex", ["absent", "given"])
@pytest.mark.parametrize("case", CASES)
def test_errors_of_the_fit_are_as_large_as_its_covariance_says(case, vertex):
    detector, source = CASES[case]
    n = 500 if source is not GUN else 125
    tracks = simulated(detector, source, n, energy_loss=False, hit_efficiency=1.0, seed=5)
    found = pulls(detector, steep(tracks), vertex)
    n_tracks = len(found)
    covariance = found.T @ found / n_tracks
    # Four standard deviations of a sample's variances and correlations.
    assert n_tracks > 300
    assert (covariance.diagonal() - 1).abs().max() < 4 * (2 / n_tracks) ** 0.5
    assert (covariance - covariance.diagonal().diag()).abs().max() < 4 / n_tracks**0.5
    assert found.mean(0).abs().max() < 4 / n_tracks**0.5


def through_one_point(unknown: Tensor, b_z: float) -> Helix:
    """Tracks that start at one point: (x, y, z), then azimuth, tan λ and ω for each track."""
    azimuth, tan_lambda, omega = unknown[3:].view(-1, 3).unbind(-1)
    direction = torch.stack([azimuth.cos(), azimuth.sin(), tan_lambda], -1)
    position = unknown[:3].expand(len(azimuth), 3)
    return Helix(position, direction / direction.norm(dim=-1, keepdim=True), omega * b_z)


@pytest.mark.parametrize("given", [True, False], ids=["a measured vertex as prior", "no vertex"])
def test_the_fitted_origin_is_that_of_the_joint_fit_of_all_tracks_through_one_point(given):
    source = replace(GUN, vertex_resolution=(15e-4, 15e-4, 20e-4) if given else None)
    tracks = simulated(BARREL, source, 1, seed=4)
    batch = batch_of(tracks, BARREL)
    where = planes_of(BARREL, batch)
    fit = fitted(BARREL, batch, vertex="fitted", iterations=8)
    assert batch.n_tracks >= 3
    prior, weight = fit.origins.prior[0], fit.origins.weight[0]
    root = torch.linalg.cholesky(weight).T

    def rows(unknown: Tensor) -> Tensor:
        residual, _ = residuals(through_one_point(unknown, 1.0), where)
        hits = fit.whitening(torch.where(batch.is_hit[..., None], residual, 0.0).flatten(1, 2))
        return torch.cat([hits.flatten(), root @ (unknown[:3] - prior)])

    truth = true_helix(tracks, BARREL.b_z)
    azimuth = torch.atan2(truth.direction[:, 1], truth.direction[:, 0])
    tan_lambda = truth.direction[:, 2] / truth.direction[:, :2].norm(dim=-1)
    start = torch.cat([truth.position[0], torch.stack([azimuth, tan_lambda, truth.omega], -1).flatten()])
    solution = least_squares(
        lambda x: rows(torch.from_numpy(x)).numpy(),
        start.numpy(),
        jac=lambda x: torch.autograd.functional.jacobian(rows, torch.from_numpy(x)).numpy(),
        x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14,
    )  # fmt: skip
    # The fit lets each track miss the origin by 0.1 µm; the joint fit does not.
    error = np.sqrt(np.diag(np.linalg.inv(solution.jac.T @ solution.jac))[:3])
    assert (np.abs(fit.origins.position[0].numpy() - solution.x[:3]) / error).max() < 1e-3
    assert error.max() < 40e-4


def test_the_fitted_origin_has_the_errors_of_the_joint_fit():
    source = ParticleGun(n_tracks_per_event=4, pt_min=0.5, pt_max=3.0, eta_max=0.5, vertex_resolution=None)
    tracks = simulated(BARREL, source, 300, energy_loss=False, seed=6)
    batch = batch_of(tracks, BARREL)
    where = planes_of(BARREL, batch)
    loss = HelixChi2(BARREL, NoiseModel(BARREL, energy_loss=False), "fitted", iterations=6)
    fit = loss.fit(where, batch)
    _, j, a = loss.rows(where, fit, batch)
    q = torch.linalg.qr(j).Q
    a = a - q @ (q.transpose(-1, -2) @ a)
    inverse = fit.origins.weight.index_add(0, batch.event, a.transpose(-1, -2) @ a)
    first = torch.from_numpy(np.unique(tracks.event, return_index=True)[1])
    truth = torch.from_numpy(tracks.truth["position"])[first]
    miss = fit.origins.position - truth
    pull2 = (miss[:, None] @ inverse @ miss[..., None]).flatten()
    known = torch.bincount(batch.event) >= 2
    assert int(known.sum()) > 200
    assert abs(float(pull2[known].mean()) - 3) < 4 * (6 / int(known.sum())) ** 0.5
