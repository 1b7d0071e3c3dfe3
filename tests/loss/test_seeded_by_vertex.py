"""Tracks whose hits alone leave them nearly free are fitted from their vertex."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2 as chi2_of
from small_detectors import batch_of, simulated

from alignnet.data.sources import ParticleGun
from alignnet.evaluation.fitted_tracks import TrackFitter
from alignnet.evaluation.places import Places
from alignnet.geometry.tracker import barrel_endcap
from alignnet.loss import compiled_fit
from alignnet.loss.chi2 import HelixChi2
from alignnet.physics.jit import SWITCH
from alignnet.sensors.sensor import SensorLayer

DETECTOR = barrel_endcap(
    radii=[3, 7, 12, 18], half_length=20, modules=5, endcap_z=[26, 32], endcap_radii=[6, 18],
    ladder_width=4.0, overlap=0.1, sensor_length=8.0, x_over_x0=0.01, b_z=2.0,
)  # fmt: skip
GUN = ParticleGun(n_tracks_per_event=8, pt_min=1.0, pt_max=10.0, eta_max=2.0, vertex_sigma=(0.01, 0.01, 5.0))
PLACES = torch.zeros(len(DETECTOR), 6, dtype=torch.float64)


@pytest.fixture(scope="module")
def tracks():
    """Those of 28,000 that have all hits in one disc, where modules overlap."""
    found = simulated(DETECTOR, GUN, 3500, seed=3)
    z = DETECTOR.translation[:, 2].numpy()[found.sensor]
    low, high = (f.reduceat(z, found.offset[:-1]) for f in (np.minimum, np.maximum))
    return found.select(np.flatnonzero((high - low < 2.0) & (np.abs(low) > 22)))


@pytest.mark.parametrize("loops", ["on", "off"])
def test_hits_of_one_disc_and_a_vertex_make_a_track(loops, tracks, monkeypatch):
    monkeypatch.setenv(SWITCH, loops)
    assert len(tracks) > 10
    batch = batch_of(tracks, DETECTOR)
    loss = HelixChi2(DETECTOR, normalisation="total")
    assert compiled_fit.applies(loss, batch) == (loops == "on")
    with torch.no_grad():
        found = loss(SensorLayer.of(DETECTOR), batch)
    assert found.fit.ok.all()
    p_values = chi2_of.sf((found.track + found.vertex).numpy(), found.ndf.numpy())
    assert p_values.min() > 1e-4 / len(tracks)
    fitted = TrackFitter(loss, DETECTOR)(Places(DETECTOR, PLACES), batch)
    assert torch.allclose(fitted.chi2, found.track + found.vertex, rtol=1e-4, atol=1e-6)
