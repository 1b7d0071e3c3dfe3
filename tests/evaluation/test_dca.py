"""DCA to the vertex: pulls of an ideal detector, known displacements, and comparisons on the same tracks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam, ParticleGun
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.evaluation.dca import EDGES, MIN_TRACKS, DcaSample, dca_table
from alignnet.evaluation.dca_sample import VERTICES, dca_sample, event_batches
from alignnet.evaluation.impact import BeamSpot
from alignnet.evaluation.statistics import gaussian_core
from alignnet.geometry.detector import Detector
from alignnet.geometry.telescope import telescope
from alignnet.geometry.weak_modes import rigid_motion_basis
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel

UM = 1e-4


@pytest.fixture(scope="module")
def samples(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor, layer_moved: Tensor
) -> dict[str, DcaSample]:
    """The same tracks with each reference vertex: as they are, with layer 0 moved, with everything moved."""
    shift = 10 * UM * rigid_motion_basis(detector)[0]
    geometries = {"before": layer_moved, "shifted": shift, "ideal": nominal}
    found = {}
    for vertex in VERTICES:
        sample = dca_sample(loss, detector, geometries, event_batches(tracks, detector, vertex, 100), vertex)
        assert sample is not None
        found[vertex] = sample
    return found


@pytest.mark.parametrize("vertex", VERTICES)
def test_dca_of_an_ideal_detector_scatters_as_expected(samples: dict[str, DcaSample], vertex: str) -> None:
    sample = samples[vertex]
    for k in range(2):
        core = gaussian_core(sample.dca["ideal"][:, k] / sample.sigma["ideal"][:, k])
        assert core.width == pytest.approx(1, abs=0.05)
        assert core.mean == pytest.approx(0, abs=0.1)


def test_the_vertex_that_is_known_best_gives_the_narrowest_dca(samples: dict[str, DcaSample]) -> None:
    widths = {v: gaussian_core(s.dca["ideal"][s.pt > 1][:, 0]).width for v, s in samples.items()}
    assert widths["truth"] < widths["leave_one_out"] < widths["given"]
    resolution = 15 * UM  # by which the simulation smears the given vertex
    assert widths["given"] ** 2 - widths["truth"] ** 2 == pytest.approx(resolution**2, rel=0.2)


def test_a_layer_out_of_place_shows_up_in_the_mean(samples: dict[str, DcaSample]) -> None:
    table = dca_table(samples["given"])
    assert table is not None
    moved, ideal = table["before"], table["ideal"]
    for i, n in enumerate(moved["n"]):
        if n < 100:
            continue
        # The slope is measured over the next 0.8 cm and leads back over 2.3 cm: at most four times the shift.
        assert 50 < moved["mean_difference_z_um"][i] < 200
        assert moved["mean_difference_error_z_um"][i] < 0.8 * ideal["mean_error_z_um"][i]
        assert abs(moved["mean_difference_xy_um"][i]) < 2


def test_a_shift_of_everything_along_x_moves_dca_by_minus_dx_sin_phi(samples: dict[str, DcaSample]) -> None:
    for vertex in ("given", "truth"):
        sample = samples[vertex]
        change = (sample.dca["shifted"] - sample.dca["ideal"]) / UM
        np.testing.assert_allclose(change[:, 0], -10 * np.sin(sample.phi), atol=0.05)
        np.testing.assert_allclose(change[:, 1], -10 * np.sinh(sample.eta) * np.cos(sample.phi), atol=0.1)
        assert abs(change[:, 0].mean()) < 0.5


def test_a_vertex_of_the_tracks_themselves_does_not_see_such_a_shift(samples: dict[str, DcaSample]) -> None:
    sample = samples["leave_one_out"]
    np.testing.assert_allclose(sample.dca["shifted"], sample.dca["ideal"], atol=0.05 * UM)


def test_the_true_vertex_is_the_collision_and_not_where_a_decay_happened(
    detector: Detector, tracks: Tracks
) -> None:
    few = tracks.select(tracks.event < 5)
    collision = few.truth["position"].copy()
    late = {**few.truth, "vertex": collision, "position": collision + 1.0}
    batch = next(event_batches(replace(few, truth=late), detector, "truth"))
    np.testing.assert_array_equal(batch.vertex.numpy(), collision)


@pytest.mark.parametrize("vertex", VERTICES)
def test_identical_geometries_differ_by_exactly_nothing(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor, vertex: str
) -> None:
    few, geometries = tracks.select(tracks.event < 20), {"after": nominal, "ideal": nominal}
    sample = dca_sample(loss, detector, geometries, event_batches(few, detector, vertex), vertex)
    table = dca_table(sample, "eta", [-1, 1])
    assert table is not None
    assert table["after"]["n"][0] > 100
    for c in ("xy", "z"):
        for name, value in (("mean_difference_{}_um", 0), ("width_ratio_{}", 1), ("width_ratio_error_{}", 0)):
            assert table["after"][name.format(c)] == [value]
        assert table["after"][f"mean_{c}_um"] == table["ideal"][f"mean_{c}_um"]


def test_the_dca_of_a_track_moves_by_itself_and_not_through_its_vertex(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor
) -> None:
    few = tracks.select(tracks.event < 20)
    uv = few.uv.copy()
    uv[few.offset[5] : few.offset[6], 1] += 80 * UM  # all hits of one track, along its sensors' v
    changed = replace(few, uv=uv)

    def dca(of: Tracks, vertex: str) -> np.ndarray:
        batches = event_batches(of, detector)
        sample = dca_sample(loss, detector, {"ideal": nominal}, batches, vertex, max_vertex_sigma=1.0)
        assert sample is not None
        assert len(sample) == len(few)
        return sample.dca["ideal"]

    fixed = dca(changed, "given") - dca(few, "given")
    left_out = dca(changed, "leave_one_out") - dca(few, "leave_one_out")
    assert np.abs(fixed[5]).max() > 50 * UM
    np.testing.assert_allclose(left_out[5], fixed[5], atol=0.1 * UM)
    others = few.event == few.event[5]
    others[5] = False
    assert np.abs(left_out[others]).max() > 1 * UM
    assert np.abs(left_out[few.event != few.event[5]]).max() == 0


def test_a_beam_spot_serves_events_of_a_single_track(
    detector: Detector, loss: HelixChi2, nominal: Tensor
) -> None:
    gun = ParticleGun(n_tracks_per_event=1, pt_min=1.0, vertex_sigma=(5 * UM, 5 * UM, 5.0))
    alone = Simulation(gun, detector, seed=2).generate(200)
    width = torch.tensor([5 * UM, 5 * UM, 5.0], dtype=torch.float64)
    spot = BeamSpot(torch.zeros(3, dtype=torch.float64), torch.diag(width.square()))
    batches = list(event_batches(alone, detector))
    assert dca_sample(loss, detector, {"ideal": nominal}, batches, "leave_one_out") is None
    sample = dca_sample(
        loss, detector, {"ideal": nominal}, batches, "leave_one_out", beam_spot=spot, max_vertex_sigma=10.0
    )
    assert sample is not None
    pull = sample.dca["ideal"][:, 0] / sample.sigma["ideal"][:, 0]
    assert gaussian_core(pull).width == pytest.approx(1, abs=0.2)


def test_momentum_direction_and_charge_are_those_of_the_particles(
    samples: dict[str, DcaSample], tracks: Tracks
) -> None:
    sample, momentum = samples["truth"], tracks.truth["momentum"]
    assert len(sample) == len(tracks)
    assert np.median(np.abs(sample.pt / np.hypot(*momentum[:, :2].T) - 1)) < 0.05
    np.testing.assert_allclose(np.cos(sample.phi - np.arctan2(momentum[:, 1], momentum[:, 0])), 1, atol=0.01)
    assert (sample.charge == tracks.truth["q"]).mean() > 0.999
    assert np.array_equal(sample.event, tracks.event)


def test_the_noise_of_the_cost_does_not_matter(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor
) -> None:
    few = tracks.select(np.arange(80))
    other = HelixChi2(detector, NoiseModel(detector, "none"), vertex="fitted", precision="float32")
    one, two = (
        dca_sample(cost, detector, {"ideal": nominal}, event_batches(few, detector)) for cost in (loss, other)
    )
    assert one is not None
    assert two is not None
    assert np.array_equal(one.dca["ideal"], two.dca["ideal"])


def test_batches_make_no_difference(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor
) -> None:
    few, geometries = tracks.select(np.arange(240)), {"ideal": nominal}
    one, many = (
        dca_sample(loss, detector, geometries, event_batches(few, detector, batch_events=n), "leave_one_out")
        for n in (1000, 7)
    )
    assert one is not None
    assert many is not None
    np.testing.assert_allclose(many.dca["ideal"], one.dca["ideal"], atol=1e-7)


def test_wrong_matches_can_be_left_out_for_all_geometries_at_once(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor, layer_moved: Tensor
) -> None:
    few = tracks.select(np.arange(160))
    uv = few.uv.copy()
    uv[few.offset[:20]] += 0.2  # the first hit of 20 tracks belongs to something else
    geometries = {"before": layer_moved, "ideal": nominal}
    batches = list(event_batches(replace(few, uv=uv), detector))
    every = dca_sample(loss, detector, geometries, batches)
    good = dca_sample(loss, detector, geometries, batches, max_chi2_per_ndf=5.0)
    assert every is not None
    assert good is not None
    assert (len(every), len(good)) == (160, 140)
    assert len(good.dca["before"]) == 140


def test_bins_hold_every_track_once_and_say_nothing_of_a_few(samples: dict[str, DcaSample]) -> None:
    sample = samples["given"]
    for by, edges in (("pt", [0.0, 0.4, 1.0, 100.0]), ("phi", EDGES["phi"]), ("eta", [-2.0, 0.0, 2.0])):
        table = dca_table(sample, by, edges)
        assert table is not None
        assert sum(table["ideal"]["n"]) == len(sample)
        assert table["ideal"][f"{by}_low"][1:] == table["ideal"][f"{by}_high"][:-1]
    thin = dca_table(sample.select(np.arange(MIN_TRACKS + 5)), "pt", [0.0, 1e-3, 1e3])
    assert thin is not None
    assert thin["ideal"]["n"] == [0, MIN_TRACKS + 5]
    assert thin["ideal"]["width_xy_um"][0] is None
    assert thin["ideal"]["width_xy_um"][1] > 0


def test_there_is_no_dca_without_a_field_or_a_vertex(
    detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor
) -> None:
    planes = telescope([0.0, 2.0, 4.0, 6.0], 1.0, 1.0)
    beam = Simulation(Beam(), planes, seed=1).generate(10)
    straight = HelixChi2(planes, NoiseModel(planes, "none"))
    start = torch.zeros(4, 6, dtype=torch.float64)
    assert dca_sample(straight, planes, {"after": start}, event_batches(beam, planes)) is None
    blind = replace(tracks.select(np.arange(40)), vertex=None, vertex_cov=None)
    batches = list(event_batches(blind, detector))
    assert dca_sample(loss, detector, {"after": nominal}, batches) is None
    assert dca_sample(loss, detector, {"after": nominal}, batches, "leave_one_out") is not None
    assert dca_table(None) is None


def test_choices_that_do_not_exist_are_named(
    samples: dict[str, DcaSample], detector: Detector, tracks: Tracks, loss: HelixChi2, nominal: Tensor
) -> None:
    with pytest.raises(ConfigError, match="'middle'; choose from"):
        dca_sample(loss, detector, {"after": nominal}, [], "middle")
    with pytest.raises(ConfigError, match="'best' is not one of"):
        dca_sample(loss, detector, {"after": nominal}, [], reference="best")
    with pytest.raises(ConfigError, match="no truth_position"):
        next(event_batches(replace(tracks, truth={}), detector, "truth"))
    with pytest.raises(ConfigError, match="'mass'; choose from"):
        dca_table(samples["given"], "mass")
    with pytest.raises(ConfigError, match="ascending edges"):
        dca_table(samples["given"], "pt", [1.0, 0.5])
