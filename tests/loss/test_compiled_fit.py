"""Fits in machine code are those of the batched functions, which are the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import BEAM, COSMICS, GUN, batch_of, inner_barrel, mixed, random_local, simulated
from small_problems import BARREL, LINES, NOISE, TELESCOPE, loss_of
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.detector import Detector, Scatterers
from alignnet.loss import compiled_fit
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer

LAYERED = replace(
    BARREL,
    scatterers=Scatterers(*(torch.tensor(x).double() for x in ([1.9, 9.0], [40.0, 50.0], [0.003, 0.01]))),
)
PLACES = {"helices": (LAYERED, GUN), "lines": (LINES, GUN), "telescope": (TELESCOPE, BEAM)}


def both(
    monkeypatch: pytest.MonkeyPatch, detector: Detector, loss: HelixChi2, batch: Batch
) -> tuple[Fit, Fit, SensorLayer]:
    """The compiled and the reference fit, on sensors that are off their places."""
    sensors = SensorLayer.of(detector)
    sensors.set_local(random_local(len(detector), 5e-3, 1e-3))
    planes = sensors.planes(batch.uv, batch.sensor).detach()
    monkeypatch.setenv(SWITCH, "on")
    assert compiled_fit.applies(loss, batch)
    found = loss.fit(planes, batch)
    monkeypatch.setattr(compiled_fit, "applies", lambda *_: False)
    return found, loss.fit(planes, batch), sensors


def is_close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(((found - expected).abs() <= tolerance * scale).all())


def assert_same(found: Fit, expected: Fit, batch: Batch) -> None:
    ok, hit = expected.ok, batch.is_hit
    assert torch.equal(found.ok, ok)
    for a, b in zip(found.helix, expected.helix, strict=True):
        assert is_close(a[ok], b[ok])
    assert is_close(found.s[hit & ok[:, None]], expected.s[hit & ok[:, None]])
    assert (found.vertex_whitening is None) == (expected.vertex_whitening is None)
    pairs = [(found.whitening, expected.whitening), (found.vertex_whitening, expected.vertex_whitening)]
    for a, b in pairs:
        for x, y in zip(a or (), b or (), strict=True):
            assert (x is None) == (y is None)
            assert x is None or is_close(x[ok], y[ok])
    if expected.vertex_axes is not None:
        assert is_close(found.vertex_axes[ok], expected.vertex_axes[ok])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("vertex", ["absent", "given"])
def test_compiled_fits_are_those_of_the_batched_functions(monkeypatch, place, noise, vertex):
    detector, source = PLACES[place]
    batch = batch_of(simulated(detector, source, 40), detector)
    loss = loss_of(detector, noise, vertex)
    found, expected, sensors = both(monkeypatch, detector, loss, batch)
    assert expected.ok.all()
    assert_same(found, expected, batch)
    planes = sensors.planes(batch.uv, batch.sensor)
    chi2 = [loss.at(planes, fit, batch) for fit in (found, expected)]
    assert torch.allclose(chi2[0].track, chi2[1].track, rtol=1e-8, atol=1e-9)
    assert torch.allclose(chi2[0].vertex, chi2[1].vertex, rtol=1e-8, atol=1e-9)
    gradients = [torch.autograd.grad(part.track.sum(), sensors.theta, retain_graph=True)[0] for part in chi2]
    assert is_close(*gradients, 1e-8)


@pytest.mark.parametrize("vertex", ["absent", "given"])
def test_cosmics_and_collisions_in_one_batch(monkeypatch, vertex):
    tracks = mixed(simulated(LAYERED, GUN, 20), simulated(LAYERED, COSMICS, 200))
    batch = batch_of(tracks, LAYERED)
    found, expected, _ = both(monkeypatch, LAYERED, loss_of(LAYERED, "full", vertex), batch)
    assert not batch.outward.all()
    assert_same(found, expected, batch)


@pytest.mark.parametrize(
    "options",
    [{"log_term": False}, {"energy_loss": False}, {"systematic": 5e-4}],
    ids=["no logarithm", "no energy loss", "systematic"],
)
def test_options_of_the_noise(monkeypatch, options):
    batch = batch_of(simulated(LAYERED, GUN, 20), LAYERED)
    loss = HelixChi2(LAYERED, NoiseModel(LAYERED, "full", **options))
    found, expected, _ = both(monkeypatch, LAYERED, loss, batch)
    assert_same(found, expected, batch)


def test_momenta_of_the_file_or_of_the_configuration(monkeypatch):
    batch = batch_of(simulated(LINES, GUN, 20), LINES)
    found, expected, _ = both(monkeypatch, LINES, loss_of(LINES), batch)
    assert_same(found, expected, batch)
    monkeypatch.undo()
    unknown = batch._replace(p=torch.full_like(batch.p, torch.nan))
    loss = HelixChi2(LINES, NoiseModel(LINES, "full", momentum=1.5))
    found, expected, _ = both(monkeypatch, LINES, loss, unknown)
    assert_same(found, expected, unknown)


def test_slow_tracks_in_the_inner_barrel_of_its2(monkeypatch):
    detector = inner_barrel()
    source = replace(GUN, pt_min=0.06, pt_max=0.3, eta_max=2.0)
    batch = batch_of(simulated(detector, source, 60), detector)
    found, expected, _ = both(monkeypatch, detector, loss_of(detector, "full", "given"), batch)
    assert expected.ok.sum() > 50
    assert_same(found, expected, batch)


def test_tracks_that_cannot_be_fitted_have_no_weight(monkeypatch):
    batch = batch_of(simulated(LAYERED, GUN, 20), LAYERED)
    uv, is_hit, sensor = batch.uv.clone(), batch.is_hit.clone(), batch.sensor.clone()
    sensor[3], uv[3] = sensor[3, :1], uv[3, :1]  # all hits at one point
    is_hit[5, 2:], is_hit[7] = False, False
    is_hit[9, 1] = False  # a hit left out of the middle
    uv[11, 0, 0] = torch.nan
    batch = batch._replace(uv=uv, is_hit=is_hit, sensor=sensor)
    for vertex in ("absent", "given"):
        loss = loss_of(LAYERED, "full", vertex)
        found, expected, sensors = both(monkeypatch, LAYERED, loss, batch)
        monkeypatch.undo()
        assert not expected.ok[[3, 5, 7, 11]].any()
        assert expected.ok[9]
        assert_same(found, expected, batch)
        chi2 = loss.at(sensors.planes(batch.uv, batch.sensor), found, batch)
        assert torch.equal(chi2.weight > 0, found.ok)


def test_what_is_not_a_track_by_itself_stays_with_the_batched_functions():
    batch = batch_of(simulated(BARREL, GUN, 5), BARREL)
    assert not compiled_fit.applies(loss_of(BARREL, "full", "fitted"), batch)
    assert not compiled_fit.applies(loss_of(BARREL, "full", precision="float32"), batch)
    empty = batch_of(simulated(BARREL, GUN, 5).select(np.array([], dtype=np.int64)), BARREL)
    assert len(loss_of(BARREL).fit(SensorLayer.of(BARREL).planes(empty.uv, empty.sensor), empty).ok) == 0
