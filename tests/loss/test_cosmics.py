"""Cosmic rays are one track through both halves, and two hits of a track in one layer are two hits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import COSMICS, GUN, QUIET, barrel, batch_of, simulated, true_helix

from alignnet.geometry import rigid
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.sensors.sensor import SensorLayer


@pytest.mark.parametrize("b_z", [0.5, 0.0])
def test_a_cosmic_ray_is_one_helix_through_both_halves(b_z):
    detector = barrel(b_z=b_z)
    tracks = simulated(detector, COSMICS, 120, seed=4, energy_loss=False)
    batch = batch_of(tracks, detector)
    y = torch.where(batch.is_hit, detector.translation[batch.sensor, 1], 0.0)
    both = (y.amax(-1) > 0) & (y.amin(-1) < 0)
    assert both.sum() > 50
    chi2 = HelixChi2(detector, NoiseModel(detector, energy_loss=False))(SensorLayer.of(detector), batch)
    assert torch.equal(chi2.ndf, 2.0 * batch.is_hit.sum(-1) - (5 if b_z else 4))
    total, ndf = (float(part[both].sum().detach()) for part in (chi2.track, chi2.ndf))
    assert total / ndf == pytest.approx(1, abs=4 * np.sqrt(2 / ndf))
    true = true_helix(tracks, b_z)
    steep = both & (true.direction[:, 1].abs() > 1.5 * true.direction[:, 2].abs())  # these begin above
    assert steep.sum() > 25
    assert (chi2.fit.helix.direction * true.direction).sum(-1)[steep].min() > 0.99
    assert (chi2.fit.helix.omega - true.omega)[steep].abs().median() < 1e-4


@pytest.mark.parametrize("b_z", [0.5, 0.0])
def test_halves_that_are_moved_apart_do_not_fit_one_helix(b_z):
    """50 µm along x between the halves, which tracks of one half each could not tell."""
    detector = barrel(b_z=b_z)
    batch = batch_of(simulated(detector, COSMICS, 60, seed=4, **QUIET), detector)
    shift = torch.zeros(24, 3, dtype=torch.float64)
    shift[:, 0] = 50e-4 * (detector.translation[:, 1] > 0)
    local = (detector.rotation.transpose(-1, -2) @ shift[..., None]).squeeze(-1)
    sensors, loss = SensorLayer.of(detector), HelixChi2(detector, NoiseModel(detector, "none"))
    assert float(loss(sensors, batch).track.sum().detach()) < 1e-6
    sensors.set_local(rigid.join_local(local, torch.zeros_like(local)))
    chi2 = loss(sensors, batch)
    assert float((chi2.track / chi2.ndf).median().detach()) > 1


def test_overlapping_sensors_give_a_track_two_hits_of_a_layer_and_both_count():
    detector = barrel()
    batch = batch_of(simulated(detector, GUN, 60, seed=2, **QUIET), detector)
    layer = torch.where(batch.is_hit, detector.layer[batch.sensor], -1)
    twice = torch.stack([(layer == i).sum(-1) > 1 for i in detector.layers], -1).any(-1)
    assert twice.sum() > 5
    sensors, loss = SensorLayer.of(detector), HelixChi2(detector, NoiseModel(detector, "none"), "absent")
    chi2 = loss(sensors, batch)
    assert torch.equal(chi2.ndf, 2.0 * batch.is_hit.sum(-1) - 5)
    loss.cost(chi2).backward()
    assert chi2.used_hits[twice].sum() == batch.is_hit[twice].sum()
