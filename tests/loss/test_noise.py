"""How far hits stray from a track: as formulas and simulated particles say, and alike in all models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import BEAM, GUN, barrel, batch_of, exact, planes, simulated, true_helix
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.sources import Beam
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector, Scatterers
from alignnet.geometry.plane import Plane
from alignnet.loss.noise import KINDS, NoiseModel
from alignnet.physics.helix import Helix
from alignnet.physics.material import highland
from alignnet.physics.trackfit import residuals
from alignnet.physics.whitening import Whitening
from alignnet.sensors.sensor import SensorLayer

PIPE = Scatterers(*(torch.tensor([value], dtype=torch.float64) for value in (1.5, 40.0, 0.004)))
BARREL = replace(barrel(), scatterers=PIPE)
SIGMA = 5e-4


def met(detector: Detector, tracks: Tracks) -> tuple[Helix, Plane, Tensor, Tensor, Batch]:
    """The particles' unscattered paths, the planes that they hit, and how far the hits are from them."""
    batch = batch_of(tracks, detector)
    with torch.no_grad():
        where = SensorLayer.of(detector).planes(batch.uv, batch.sensor)
    helix = true_helix(tracks, detector.b_z)
    residual, s = residuals(helix, where)
    return helix, where, s, residual, batch


def covariance(detector: Detector, tracks: Tracks, **options: object) -> Tensor:
    """V of the hits (tracks, rows, rows); padding rows are 0."""
    helix, where, s, _, batch = met(detector, tracks)
    model = NoiseModel(detector, **options)
    is_row = batch.is_hit.repeat_interleave(2, 1)
    both = is_row[:, :, None] & is_row[:, None, :]
    variance = (batch.sigma.square() + model.systematic**2).flatten(1, 2)
    return torch.where(both, torch.diag_embed(variance) + model.scattered(helix, where, s, batch), 0.0)


def weights(detector: Detector, tracks: Tracks, **options: object) -> Whitening:
    helix, where, s, _, batch = met(detector, tracks)
    return NoiseModel(detector, **options)(helix, where, s, batch)


def test_the_variances_of_the_full_model_are_those_of_the_diagonal_one():
    tracks = simulated(BARREL, GUN, 20)
    v = covariance(BARREL, tracks)
    diagonal = weights(BARREL, tracks, kind="diagonal").inverse_sigma
    is_row = v.diagonal(dim1=-2, dim2=-1) > 0
    assert torch.allclose(diagonal[is_row].pow(-2), v.diagonal(dim1=-2, dim2=-1)[is_row], rtol=1e-12)
    assert torch.equal(diagonal > 0, is_row)
    factor = weights(BARREL, tracks, kind="full").factor
    one = factor @ v @ factor.transpose(-1, -2)
    assert torch.allclose(one, torch.diag_embed(is_row.double()), atol=1e-9)


def test_without_scattering_the_weight_is_that_of_the_resolution():
    tracks = simulated(BARREL, GUN, 5)
    found = weights(BARREL, tracks, kind="none").inverse_sigma
    assert torch.allclose(found[found > 0], torch.tensor(1 / SIGMA, dtype=torch.float64), rtol=1e-12)


def test_a_systematic_error_adds_in_quadrature():
    tracks = simulated(BARREL, GUN, 5)
    found = weights(BARREL, tracks, kind="none", systematic=12e-4).inverse_sigma
    assert torch.allclose(found[found > 0], torch.tensor(1 / 13e-4, dtype=torch.float64), rtol=1e-12)


def test_in_a_telescope_the_covariance_is_the_sum_over_planes_of_angle_and_lever_arms():
    detector = planes(5, x_over_x0=0.01)
    tracks = exact(detector, Beam(momentum=2.0, divergence=0.0, spot=0.1, start_z=-1.0), 3)
    angle = highland(*(torch.tensor(x, dtype=torch.float64) for x in (2.0, BEAM.mass, 0.01)))
    z = detector.translation[:, 2]
    lever = (z[:, None] - z).clamp_min(0)  # of a plane behind another
    expected = SIGMA**2 * torch.eye(5, dtype=torch.float64) + angle**2 * lever @ lever.T
    v = covariance(detector, tracks)
    for k in range(2):  # along u and along v
        assert torch.allclose(v[:, k::2, k::2], expected.expand(3, 5, 5), rtol=1e-9)
    assert v[:, 0::2, 1::2].abs().max() < 1e-9 * SIGMA**2


def test_slanted_tracks_see_more_matter_and_are_moved_further():
    detector = planes(3, x_over_x0=0.01)
    slope = 0.75  # cos = 0.8
    straight, slanted = (
        exact(detector, Beam(momentum=2.0, divergence=0.0, spot=0.1, start_z=-1.0), 1) for _ in range(2)
    )
    slanted.truth["momentum"][:] = 2.0 * np.array([0.6, 0.0, 0.8])
    slanted.uv[:, 0] += slope * (detector.translation[slanted.sensor, 2].numpy() + 1.0)
    gain = covariance(detector, slanted, log_term=False) - covariance(detector, straight, log_term=False)
    lever = float(detector.translation[1, 2] - detector.translation[0, 2])
    theta2 = (
        float(highland(*(torch.tensor(x, dtype=torch.float64) for x in (2.0, BEAM.mass, 0.01)), False)) ** 2
    )
    # Matter grows by 1/cos, the square of the lever arm by 1/cos², and along the slope by 1/cos² once more.
    assert float(gain[0, 3, 3]) == pytest.approx(theta2 * lever**2 * (0.8**-3 - 1), rel=1e-9)
    assert float(gain[0, 2, 2]) == pytest.approx(theta2 * lever**2 * (0.8**-5 - 1), rel=1e-9)


def test_scattering_falls_with_the_square_of_the_momentum():
    tracks = exact(planes(), Beam(momentum=20.0, divergence=0.0, spot=0.1, start_z=-1.0), 1)
    faster = replace(tracks, p=2 * tracks.p)
    resolution = covariance(planes(x_over_x0=0.0), tracks)
    one, other = (covariance(planes(), some) - resolution for some in (tracks, faster))
    assert torch.allclose(one, 4 * other, rtol=1e-4)


@pytest.mark.parametrize("b_z", [0.5, 0.0])
@pytest.mark.parametrize("efficiency", [1.0, 0.7])
def test_hits_of_simulated_particles_stray_as_the_full_model_says(b_z, efficiency):
    detector = replace(BARREL, b_z=b_z)
    tracks = simulated(detector, GUN, 150, energy_loss=False, hit_efficiency=efficiency, seed=4)
    helix, where, s, residual, batch = met(detector, tracks)
    white = NoiseModel(detector, energy_loss=False)(helix, where, s, batch)(residual.flatten(1, 2))
    rows = white.unflatten(1, (-1, 2))[batch.is_hit].flatten()
    assert len(rows) > 2500
    assert abs(float(rows.square().mean()) - 1) < 4 * (2 / len(rows)) ** 0.5
    assert abs(float((white[:, :-2] * white[:, 2:]).sum() / len(rows))) < 4 / len(rows) ** 0.5
    # The test can tell a model without the pipe, and one without correlations.
    bare = replace(detector, scatterers=Scatterers.none())
    blind = NoiseModel(bare, energy_loss=False)(helix, where, s, batch_of(tracks, bare))
    diagonal = NoiseModel(detector, "diagonal", energy_loss=False)(helix, where, s, batch)
    assert float(blind(residual.flatten(1, 2)).square().sum() / len(rows)) > 1.2
    other = diagonal(residual.flatten(1, 2))
    assert float((other[:, :-2] * other[:, 2:]).sum() / len(rows)) > 0.2


def test_a_layer_without_a_hit_scatters_all_the_same():
    detector = barrel(radii=(2.5, 4.0, 7.0, 11.0), staves=12)
    tracks = exact(detector, GUN, 20)
    tracks = tracks.select(np.bincount(tracks.track_of_hit) == 4)
    layer = detector.layer.numpy()[tracks.sensor]
    four = np.array([len(set(part)) == 4 for part in np.split(layer, tracks.offset[1:-1])])
    tracks = tracks.select(four)
    assert len(tracks) > 10
    without = tracks.select_hits(detector.layer.numpy()[tracks.sensor] != 1)
    rows = torch.tensor([0, 1, 4, 5, 6, 7])
    whole = covariance(detector, tracks)[:, rows][:, :, rows]
    part = covariance(detector, without)
    last = part[:, 4:, 4:].diagonal(dim1=-2, dim2=-1) / whole[:, 4:, 4:].diagonal(dim1=-2, dim2=-1)
    assert (last - 1).abs().max() < 0.15  # a cylinder stands for the staves
    assert torch.allclose(part[:, 2:4, 2:4], whole[:, 2:4, 2:4], rtol=0.15, atol=1e-9)


def test_cosmics_and_beams_do_not_meet_the_beam_pipe():
    tracks = exact(BARREL, GUN, 3)
    beam = replace(tracks, kind=np.full(len(tracks), 2, dtype=np.int8))
    bare = replace(BARREL, scatterers=Scatterers.none())
    assert torch.allclose(covariance(BARREL, beam), covariance(bare, beam), rtol=1e-12)
    assert (covariance(BARREL, tracks) - covariance(bare, tracks)).diagonal(dim1=1, dim2=2).max() > SIGMA**2


def test_the_momentum_is_the_files_or_else_the_fits_or_else_the_configured_one():
    tracks = exact(BARREL, GUN, 5)
    unknown = replace(tracks, p=None)
    assert torch.allclose(covariance(BARREL, unknown), covariance(BARREL, tracks), rtol=1e-9)
    telescope = planes()
    beam = exact(telescope, BEAM, 5)
    nameless = replace(beam, p=None)
    configured = covariance(telescope, nameless, momentum=BEAM.momentum)
    assert torch.allclose(configured, covariance(telescope, beam), rtol=1e-9)
    assert torch.allclose(covariance(telescope, beam, momentum=9.0), covariance(telescope, beam), rtol=1e-12)


def test_without_field_and_momentum_the_error_says_what_to_set():
    detector = planes()
    tracks = replace(exact(detector, BEAM, 2), p=None)
    with pytest.raises(ConfigError, match=r"no momentum.*loss\.noise\.momentum.*loss\.noise\.kind=none"):
        weights(detector, tracks)
    assert weights(detector, tracks, kind="none").usable.all()
    assert weights(planes(x_over_x0=0.0), tracks).usable.all()


def test_energy_loss_straggling_widens_the_bending_plane():
    tracks = exact(BARREL, GUN, 10)
    gain = covariance(BARREL, tracks) - covariance(BARREL, tracks, energy_loss=False)
    variance = gain.diagonal(dim1=-2, dim2=-1)
    assert variance.min() > -1e-16
    assert variance[:, 0::2].max() > 10 * variance[:, 1::2].max()
    line = exact(barrel(b_z=0.0), GUN, 5)
    flat = barrel(b_z=0.0)
    assert torch.equal(covariance(flat, line), covariance(flat, line, energy_loss=False))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_track_do_not_depend_on_the_tracks_beside_it(kind):
    tracks = simulated(BARREL, GUN, 6)
    shortest = tracks.hits_per_track.argmin()
    together, alone = (
        weights(BARREL, tracks, kind=kind),
        weights(BARREL, tracks.select([shortest]), kind=kind),
    )
    n = 2 * int(tracks.hits_per_track[shortest])
    for one, other in zip(together, alone, strict=True):
        if one is not None:
            inner = one[shortest, :n] if one.dim() == 2 else one[shortest, :n, :n]
            assert torch.allclose(inner, other[0], rtol=1e-10)
            assert one[shortest, n:].abs().sum() == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kind": "most"}, r"loss\.noise\.kind is 'most'; choose from \['none', 'diagonal', 'full'\]"),
        ({"momentum": 0.0}, r"loss\.noise\.momentum is 0\.0; expected a momentum > 0"),
        ({"momentum": float("nan")}, r"loss\.noise\.momentum is nan"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        NoiseModel(BARREL, **option)
