"""Where particles come from: the distributions that the arguments promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from alignnet.data.sources import Beam, Cosmics, ParticleGun, Particles
from alignnet.data.streams import Streams
from alignnet.errors import ConfigError
from alignnet.units import PION_MASS

N = 20_000


def transverse(particles: Particles) -> np.ndarray:
    return particles.momentum[:, :2].norm(dim=-1).numpy()


def gun(**changes) -> Particles:
    return ParticleGun(n_tracks_per_event=4, **changes).particles(N // 4, Streams(5, 0))


def chance(sample: np.ndarray, cdf) -> float:
    """How likely a sample at least this far from the distribution is (Kolmogorov and Smirnov)."""
    return float(stats.kstest(sample, cdf).pvalue)


def test_log_uniform_momenta_are_flat_in_the_logarithm():
    pt = transverse(gun(pt_min=0.2, pt_max=5.0))
    assert chance(np.log(pt), stats.uniform(math.log(0.2), math.log(25.0)).cdf) > 1e-3


def test_power_law_momenta_fall_with_that_power():
    pt = transverse(gun(spectrum="power", power=4.0, pt_min=0.5, pt_max=50.0))
    assert chance(pt, lambda x: (0.5**-3 - x**-3.0) / (0.5**-3 - 50.0**-3)) > 1e-3


def test_thermal_momenta_follow_boltzmann():
    # ∫ p_T exp(−m_T/T) dp_T = −T (m_T + T) exp(−m_T/T)
    pt, t = transverse(gun(spectrum="thermal", temperature=0.2, pt_min=0.05, pt_max=10.0)), 0.2

    def integral(x: np.ndarray) -> np.ndarray:
        mt = np.hypot(x, PION_MASS)
        return -(mt + t) * np.exp(-mt / t)

    low, high = integral(np.array(0.05)), integral(np.array(10.0))
    assert chance(pt, lambda x: (integral(x) - low) / (high - low)) > 1e-3


def test_the_gun_is_flat_in_pseudorapidity_and_azimuth():
    p = gun(eta_max=1.2).momentum.numpy()
    assert chance(np.arcsinh(p[:, 2] / np.hypot(p[:, 0], p[:, 1])), stats.uniform(-1.2, 2.4).cdf) > 1e-3
    assert chance(np.arctan2(p[:, 1], p[:, 0]), stats.uniform(-math.pi, 2 * math.pi).cdf) > 1e-3


def test_both_charges_are_equally_frequent_and_one_can_be_asked_for():
    assert abs(float(gun().charge.mean())) < 4 / math.sqrt(N)
    assert (gun(charges=[-1]).charge == -1).all()


def test_a_single_momentum_can_be_asked_for():
    np.testing.assert_allclose(transverse(gun(pt_min=1.5, pt_max=1.5)), 1.5)


def test_tracks_of_an_event_share_their_vertex_and_what_is_known_of_it():
    particles = gun()
    for column in (particles.position, particles.vertex, particles.vertex_cov):
        per_event = column.view(N // 4, 4, -1)
        assert torch.equal(per_event, per_event[:, :1].expand_as(per_event))


def test_vertices_are_spread_and_smeared_by_their_widths():
    particles = gun(
        vertex_mean=(0.1, -0.2, 1.0), vertex_sigma=(0.01, 0.02, 4.0), vertex_resolution=(1e-3, 2e-3, 3e-3)
    )
    true, known = particles.position[::4], particles.vertex[::4]
    spread = (true - torch.tensor([0.1, -0.2, 1.0])) / torch.tensor([0.01, 0.02, 4.0])
    error = (known - true) / torch.tensor([1e-3, 2e-3, 3e-3])
    for pull in (spread, error):
        assert pull.mean(0).abs().max() < 0.06
        assert (pull.std(0) - 1).abs().max() < 0.04
    assert np.abs(np.corrcoef(spread.T, error.T)[:3, 3:]).max() < 0.06  # smeared whatever the vertex is
    diagonal = particles.vertex_cov[0, [0, 2, 5]].sqrt()
    torch.testing.assert_close(diagonal, torch.tensor([1e-3, 2e-3, 3e-3], dtype=torch.float64))
    assert not particles.vertex_cov[:, [1, 3, 4]].any()


def test_without_a_resolution_nothing_is_known_of_the_vertex():
    particles = gun(vertex_resolution=None)
    assert particles.vertex is None
    assert particles.vertex_cov is None


@pytest.mark.parametrize("source", [ParticleGun(), Beam(), Cosmics()], ids=lambda s: type(s).__name__)
def test_the_first_events_are_the_same_however_many_follow(source):
    few, many = (source.particles(n, Streams(5, 3)) for n in (10, 25))
    for short, long in zip(few, many, strict=True):
        assert short is long is None or torch.equal(short, long[: len(short)])


def test_another_seed_chunk_or_purpose_gives_other_numbers():
    draws = [
        Streams(5, 0).normal(4, 2, 1), Streams(6, 0).normal(4, 2, 1), Streams(5, 1).normal(4, 2, 1),
        Streams(5, 0).normal(4, 2, 2), Streams(5, 0).normal(4, 2, 1, 0), Streams(5, 0).uniform(4, 2, 1),
    ]  # fmt: skip
    assert len({float(draw[0, 0]) for draw in draws}) == len(draws)


def test_a_beam_has_its_spot_divergence_and_momentum():
    beam = Beam(
        momentum=4.0,
        momentum_spread=0.01,
        divergence=(1e-3, 3e-3),
        spot=(0.5, 0.2),
        centre=(1.0, 2.0),
        start_z=-30.0,
    )
    particles = beam.particles(N, Streams(5, 0))
    slope = particles.momentum[:, :2] / particles.momentum[:, 2:]
    p = particles.momentum.norm(dim=-1)
    np.testing.assert_allclose(slope.std(0), [1e-3, 3e-3], rtol=0.03)
    np.testing.assert_allclose(particles.position[:, :2].std(0), [0.5, 0.2], rtol=0.03)
    np.testing.assert_allclose(particles.position[:, :2].mean(0), [1.0, 2.0], atol=0.02)
    assert (particles.position[:, 2] == -30.0).all()
    assert float(p.mean()) == pytest.approx(4.0, rel=1e-3)
    assert float(p.std()) == pytest.approx(0.04, rel=0.03)


def test_cosmic_muons_come_from_above_with_the_cosine_squared_law():
    particles = Cosmics(half_x=30.0, half_z=50.0, distance=100.0).particles(N, Streams(5, 0))
    cosine = -particles.momentum[:, 1] / particles.momentum.norm(dim=-1)
    assert (cosine > 0).all()
    # Intensity ∝ cos²θ through a horizontal plane: dN/dcosθ ∝ cos³θ.
    assert chance(cosine.numpy(), lambda x: x**4) > 1e-3
    aim = particles.position + 100.0 * particles.momentum / particles.momentum.norm(dim=-1, keepdim=True)
    assert aim[:, 1].abs().max() < 1e-9
    assert chance(aim[:, 0].numpy(), stats.uniform(-30, 60).cdf) > 1e-3
    assert chance(aim[:, 2].numpy(), stats.uniform(-50, 100).cdf) > 1e-3


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (ParticleGun, {"pt_min": 0.0}, r"pt_min, pt_max is \(0.0, 5.0\)"),
        (ParticleGun, {"pt_min": 6.0}, "pt_min <= pt_max"),
        (ParticleGun, {"pt_max": math.nan}, "pt_min <= pt_max"),
        (ParticleGun, {"spectrum": "flat"}, "'flat', expected one of log_uniform, power, thermal"),
        (ParticleGun, {"n_tracks_per_event": 0}, "n_tracks_per_event is 0"),
        (ParticleGun, {"charges": [2]}, "charges"),
        (ParticleGun, {"charges": []}, "charges"),
        (ParticleGun, {"vertex_sigma": (0.1, 0.1)}, "vertex_sigma .* expected 3 numbers"),
        (ParticleGun, {"vertex_resolution": (0.0, 1.0, 1.0)}, "vertex_resolution"),
        (ParticleGun, {"mass": -1.0}, "mass is -1.0"),
        (Beam, {"momentum": 0.0}, "momentum is 0.0"),
        (Beam, {"divergence": -1e-3}, "divergence"),
        (Beam, {"charge": 0}, "charges"),
        (Cosmics, {"p_max": 1.0}, "p_min <= p_max"),
    ],
)  # fmt: skip
def test_values_that_make_no_particles_are_refused_by_name(source, changes, message):
    with pytest.raises(ConfigError, match=message):
        source(**changes)
