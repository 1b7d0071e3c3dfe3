"""Tracks linearised in machine code are those of the batched functions, which are the reference."""

from __future__ import annotations

import pytest
import torch
from small_detectors import batch_of, random_local
from small_problems import NOISE, PLACES, loss_of, noisy

from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import compiled_linear
from alignnet.solvers.linearised import linearise, linearise_at


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("vertex", ["absent", "given"])
def test_compiled_blocks_are_those_of_the_batched_functions(monkeypatch, place, noise, vertex):
    detector, source = PLACES[place]
    sensors = SensorLayer.of(detector)
    sensors.set_local(random_local(len(detector), 5e-3, 1e-3))
    batch = batch_of(noisy(detector, source, 40), detector)
    is_hit = batch.is_hit.clone()
    is_hit[4, 1:], is_hit[6, 1] = False, False  # undetermined; a hit left out of the middle
    batch, loss = batch._replace(is_hit=is_hit), loss_of(detector, noise, vertex)
    with torch.no_grad():
        planes = sensors.planes(batch.uv, batch.sensor)
        fit = loss.fit(planes, batch)
        weight = loss.at(planes, fit, batch).weight * torch.linspace(0, 2, batch.n_tracks).double()
    monkeypatch.setenv(SWITCH, "on")
    assert compiled_linear.applies(loss, fit, batch)
    found = linearise_at(loss, sensors, planes, fit, batch, seed=3, weight=weight)
    monkeypatch.setattr(compiled_linear, "applies", lambda *_: False)
    expected = linearise_at(loss, sensors, planes, fit, batch, seed=3, weight=weight)
    for name, a, b in zip(found._fields, found, expected, strict=True):
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        if a.numel():
            assert (a.double() - b.double()).abs().max() <= 1e-9 * b.double().abs().max(), name
    assert not found.metric[4].any()
    assert not found.metric[0].any()


def test_the_numbers_are_stored_as_asked():
    detector, source = PLACES["barrel"]
    batch, sensors = batch_of(noisy(detector, source, 5), detector), SensorLayer.of(detector)
    block = linearise(loss_of(detector), sensors, batch, torch.float32)
    exact = linearise(loss_of(detector), sensors, batch)
    assert block.metric.dtype == block.towards_origin.dtype == torch.float32
    assert torch.equal(block.metric, exact.metric.float())
