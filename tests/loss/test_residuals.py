"""Unbiased residuals are those of a refit without the hit, residuals to the path those of a fit of kinks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.datamodule import Events
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.geometry.its2 import its2
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.residuals import LayerSums, path_residual
from alignnet.loss.robust import TrackWeights
from alignnet.physics.trackfit import derivatives, residuals
from alignnet.physics.whitening import Whitening
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.unbiased import unbiased

UM = 1e-4
SMALL = 0.01 * UM  # errors of the hits, so small that a track's fit is linear in them
detector = its2()
sensors = SensorLayer.of(detector)


def simulated(n_events: int, exact: bool) -> Batch:
    """Pions; exact hits and vertices get errors of `SMALL`, others their resolution and scattering."""
    real = {"smearing": not exact, "scattering": not exact, "energy_loss": not exact}
    gun = ParticleGun(pt_min=0.5)
    tracks = Simulation(gun, detector, hit_efficiency=1.0, seed=5, **real).generate(n_events)
    if exact:
        tracks = replace(tracks, vertex=tracks.truth["position"])
    return Events(tracks, detector).__getitems__(range(n_events))


def disturbed(batch: Batch) -> Batch:
    vertex = torch.randn(batch.n_events, 3, dtype=torch.float64)[batch.event]
    return batch._replace(
        uv=batch.uv + SMALL * torch.randn_like(batch.uv), vertex=batch.vertex + SMALL * vertex
    )


exact, real = simulated(12, exact=True), simulated(400, exact=False)


def covariance(loss: HelixChi2, fit: Fit, batch: Batch) -> Tensor:
    """V of the hits' rows at the fit, (tracks, rows, rows), as the noise model has it."""
    planes = sensors.planes(batch.uv, batch.sensor)
    _, s = residuals(fit.helix, planes)
    intrinsic = torch.diag_embed(batch.sigma.square().flatten(1, 2))
    if loss.noise.kind == "none":
        return intrinsic
    full = intrinsic + loss.noise.scattered(fit.helix, planes, s, batch)
    return full if loss.noise.kind == "full" else torch.diag_embed(full.diagonal(dim1=-2, dim2=-1))


@torch.no_grad()
def refitted(loss: HelixChi2, fit: Fit, batch: Batch, left_out: Tensor, hit: int) -> Tensor:
    """Residuals (tracks, 2) of a hit where tracks `left_out` (tracks,) are fitted without it, all else kept.

    With correlated noise the kinks that the other hits show are part of the prediction: V_ij V_jj⁻¹ r_j.
    """
    planes, v = sensors.planes(batch.uv, batch.sensor), covariance(loss, fit, batch)
    others = batch.is_hit.clone()
    others[left_out, hit] = False
    rows = others.repeat_interleave(2, 1)
    weights = Whitening.correlated(v, rows)
    refit = loss.refit(planes, fit._replace(whitening=weights), batch, 4)
    residual = torch.where(batch.is_hit[..., None], residuals(refit.helix, planes)[0], 0.0).flatten(1, 2)
    known = weights.transposed(weights(residual))
    mine = slice(2 * hit, 2 * hit + 2)
    return residual[:, mine] - ((v[:, mine] * rows[:, None]) @ known[..., None]).squeeze(-1)


@pytest.mark.parametrize("vertex", ["absent", "given", "fitted"])
@pytest.mark.parametrize("kind", ["none", "diagonal", "full"])
def test_unbiased_residuals_are_those_of_a_refit_without_the_hit(kind: str, vertex: str) -> None:
    batch = disturbed(exact)
    loss = HelixChi2(detector, NoiseModel(detector, kind), vertex=vertex, iterations=4)
    chi2 = loss(sensors, batch)
    found = unbiased(loss, sensors, chi2).residual
    # Tracks of an event share its fitted origin: there only one of them may lose its hit at a time.
    one = torch.ones_like(batch.outward)
    if vertex == "fitted":
        one = torch.zeros_like(batch.outward)
        one[torch.searchsorted(batch.event, torch.arange(batch.n_events))] = True
    long = one & (batch.is_hit.sum(-1) >= 6)
    for hit in (0, 1, 3, 5):
        expected = refitted(loss, chi2.fit, batch, one, hit)
        torch.testing.assert_close(found[long, hit], expected[long], rtol=1e-3, atol=3e-3 * SMALL)
        assert (chi2.residual[:, hit] - expected)[long].abs().max() > 0.1 * SMALL


@pytest.mark.parametrize("vertex", ["absent", "given", "fitted"])
def test_expected_widths_are_what_simulated_residuals_scatter_by(vertex: str) -> None:
    loss = HelixChi2(detector, vertex=vertex)
    found = unbiased(loss, sensors, loss(sensors, real))
    pull = torch.where(real.is_hit[..., None], found.residual / found.expected, torch.nan)
    for layer in detector.layers:
        own = pull[(detector.layer[real.sensor] == layer) & real.is_hit & pull.isfinite().all(-1)]
        assert len(own) > 3000
        for values in own.unbind(-1):
            assert values.std() == pytest.approx(1, abs=0.05)
            assert values.mean() == pytest.approx(0, abs=0.06)


def test_expected_widths_do_not_follow_the_weights_of_doubtful_tracks() -> None:
    batch = simulated(5, exact=False)
    plain, weighted = HelixChi2(detector), HelixChi2(detector, weights=TrackWeights("cauchy", threshold=0.5))
    chi2 = weighted(sensors, batch)
    assert chi2.weight.min() < 0.3
    one, other = unbiased(plain, sensors, plain(sensors, batch)), unbiased(weighted, sensors, chi2)
    torch.testing.assert_close(other.expected[batch.is_hit], one.expected[batch.is_hit], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        other.residual[batch.is_hit], one.residual[batch.is_hit], rtol=1e-6, atol=1e-12
    )


def test_a_track_that_the_other_hits_do_not_determine_has_no_residual() -> None:
    tracks = Simulation(ParticleGun(pt_min=0.5), detector, seed=1, min_hits=7).generate(3)
    short = tracks.select_hits(detector.layer.numpy()[tracks.sensor] < 3)
    batch = Events(short, detector).__getitems__(range(3))
    loss = HelixChi2(detector, NoiseModel(detector, "none"), vertex="absent")
    found = unbiased(loss, sensors, loss(sensors, batch))
    three = batch.is_hit.sum(-1) == 3
    assert three.any()
    assert found.residual[three].isnan().all()
    assert found.residual[batch.is_hit.sum(-1) > 3][:, :3].isfinite().all()


@torch.no_grad()
def test_residuals_to_the_path_are_those_of_a_fit_of_every_kink() -> None:
    loss = HelixChi2(detector, iterations=4, vertex="absent")
    batch = Events(
        Simulation(ParticleGun(), detector, hit_efficiency=1.0, seed=9).generate(10), detector
    ).__getitems__(range(10))
    chi2 = loss(sensors, batch)
    found = path_residual(loss, chi2).flatten(1, 2)
    planes = sensors.planes(batch.uv, batch.sensor)
    _, s = residuals(chi2.fit.helix, planes)
    scattered = loss.noise.scattered(chi2.fit.helix, planes, s, batch)
    slope = derivatives(chi2.fit.helix, planes, s, 5).flatten(1, 2)
    for track in range(0, batch.n_tracks, 7):
        rows = batch.is_hit[track].repeat_interleave(2)
        sigma = batch.sigma[track].flatten()[rows]
        values, vectors = torch.linalg.eigh(scattered[track][rows][:, rows])
        kinks = vectors * values.clamp_min(0).sqrt()  # unit Gaussian numbers → shifts of the hits
        residual = chi2.residual[track].flatten()[rows]
        # Least squares in the five parameters and every kink: residuals over σ, and the kinks over theirs.
        change = slope[track][rows]
        scale = change.norm(dim=0)
        upper = torch.cat([change / scale, kinks], 1) / sigma[:, None]
        prior = torch.cat([torch.zeros(len(kinks), 5), torch.eye(len(kinks))], 1).double()
        right = torch.cat([-residual / sigma, torch.zeros(len(kinks)).double()])
        answer = torch.linalg.lstsq(torch.cat([upper, prior]), right[:, None], driver="gelsd").solution
        expected = residual + sigma * (upper @ answer).squeeze(-1)
        torch.testing.assert_close(found[track][rows], expected, rtol=0, atol=0.05 * UM)


def test_residuals_to_the_path_are_the_residuals_where_there_are_no_kinks() -> None:
    loss = HelixChi2(detector, NoiseModel(detector, "diagonal"))
    chi2 = loss(sensors, exact)
    assert torch.equal(path_residual(loss, chi2), chi2.residual)


def test_sums_of_parts_add_up_to_the_mean_and_width_of_all() -> None:
    layer = torch.tensor([3, 3, 5])
    sums = LayerSums(layer)
    values, sensor = torch.randn(40, 6, 2, dtype=torch.float64) + 1, torch.randint(0, 3, (40, 6))
    keep = torch.rand(40, 6) > 0.3
    for part in torch.arange(40).split(9):
        sums.add(values[part], sensor[part], keep[part])
    mean, width = sums.mean_and_width()
    for i, number in enumerate((3, 5)):
        own = values[keep & (layer[sensor] == number)]
        torch.testing.assert_close(mean[i], own.mean(0))
        torch.testing.assert_close(width[i], own.std(0, correction=0))
