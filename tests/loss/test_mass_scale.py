"""The mass that decays are found with: exact where the track model is, lower where particles lose energy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import QUIET, barrel, batch_of, simulated

from alignnet.data.decay_source import TwoBodyDecays
from alignnet.errors import ConfigError
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.loss.mass_scale import mass_scale
from alignnet.sensors.sensor import SensorLayer

DETECTOR = barrel(radii=(2.5, 4.0, 7.0, 11.0, 15.0))
K0S = 0.497611
DECAYS = TwoBodyDecays(lifetime=0.3, pt_min=0.7, pt_max=3.0, eta_max=0.6, vertex_sigma=(0.02, 0.02, 1.0))
SENSORS = SensorLayer.of(DETECTOR)


def found(tracks, mass=K0S, width=1e-5):
    loss = DecayChi2(DETECTOR, mass, width, normalisation="total")
    return mass_scale(loss, SENSORS, [batch_of(tracks, DETECTOR)])


def test_exact_tracks_have_the_mass_that_they_were_made_with():
    exact = simulated(DETECTOR, DECAYS, 60, seed=3, **QUIET)
    assert found(exact).mass == pytest.approx(K0S, abs=1e-9)
    assert found(exact, mass=1.0005 * K0S).mass == pytest.approx(K0S, abs=2e-6)  # one step, of a square


def test_its_error_is_what_samples_scatter_by():
    """Means of pure noise, without energy loss, are off by one error each."""
    parts = [found(simulated(DETECTOR, DECAYS, 150, seed=s, energy_loss=False)) for s in range(12)]
    pulls = torch.tensor([(part.mass - K0S) / part.error for part in parts])
    assert 0.4 < pulls.square().mean().sqrt() < 1.7
    assert parts[0].pairs > 100


def decays_in(times, energy_loss):
    """A cost, and the same decays whatever they lose, in matter `times` as thick; hits are exact."""
    thick = replace(DETECTOR, x_over_x0=times * DETECTOR.x_over_x0)
    tracks = simulated(thick, DECAYS, 200, seed=5, scattering=False, smearing=False, energy_loss=energy_loss)
    return DecayChi2(thick, K0S, 1e-5, normalisation="total"), batch_of(tracks, thick)


def test_lost_energy_lowers_it_in_proportion_to_the_matter():
    shift = []
    for times in (0, 2, 4):
        loss, batch = decays_in(times, energy_loss=True)
        shift.append(mass_scale(loss, SENSORS, [batch]).mass - K0S)
    assert abs(shift[0]) < 1e-9
    assert shift[1] < -1e-4
    assert shift[2] == pytest.approx(2 * shift[1], rel=0.2)


def test_decays_of_the_mass_that_is_found_do_not_pull_at_it_any_more():
    loss, batch = decays_in(4, energy_loss=True)
    loss.mass = mass_scale(loss, SENSORS, [batch]).mass
    assert abs(mass_scale(loss, SENSORS, [batch]).mass - loss.mass) < 0.02 * (K0S - loss.mass)


def test_events_without_a_pair_have_no_mass():
    tracks = simulated(DETECTOR, DECAYS, 5, seed=3, **QUIET)
    with pytest.raises(ConfigError, match="no event is a pair"):
        found(tracks.select(torch.arange(len(tracks)).numpy() % 2 == 0))
