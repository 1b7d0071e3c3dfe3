"""One pass over the tracks: order, batches and threads make no difference; moved staves show in overlaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated

from alignnet.data import cache_write
from alignnet.data.cache_layout import STEPS_PER_CM
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root_write import write_simulation
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks
from alignnet.evaluation import fitted_tracks, stream
from alignnet.evaluation.fit_quality import FitQuality
from alignnet.evaluation.fitted_tracks import FittedTracks, TrackFitter
from alignnet.evaluation.overlap_pairs import pairs_of
from alignnet.evaluation.overlaps import Overlaps
from alignnet.evaluation.places import Places
from alignnet.evaluation.summary import Evaluation
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.robust import TrackWeights

UM = 1e-4
SMALL = barrel(radii=(2.5, 4.0, 7.0, 11.0, 15.0))
TRUTH = random_local(len(SMALL), 20e-4, 1e-4, seed=3)
LOSS = HelixChi2(SMALL, normalisation="total")


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return simulated(SMALL, GUN, 100, TRUTH, seed=8)


def evaluation_of(tracks: Tracks, **changes) -> Evaluation:
    every = torch.ones(len(SMALL), dtype=torch.bool)
    made = Evaluation(SMALL, LOSS, tracks, torch.zeros_like(TRUTH), TRUTH / 2, TRUTH, every)
    return replace(made, **changes)


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """Every number of the pass, by its path."""
    sums = evaluation.stream().run(evaluation.sums)
    return {k: v for name, one in sums.items() for k, v in flat(one.metrics(), name)}


def flat(node, prefix=""):
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield prefix, np.nan if node is None else node
    else:
        for key, value in items:
            yield from flat(value, f"{prefix}/{key}")


@pytest.fixture(scope="module")
def numbers(tracks: Tracks) -> dict[str, float]:
    return numbers_of(evaluation_of(tracks))


def test_there_are_numbers_of_everything(numbers):
    known = {key for key, value in numbers.items() if isinstance(value, str) or np.isfinite(value)}
    for start in (
        "dca/dca/after/mean_xy_um",
        "dca/dca_by/top/ideal/width_z_um",
        "vertex/vertex/after/x/mean_um",
        "fit/fit/ideal/p_value_ks_distance",
        "surface/surface/after/layer2/n_hits",
        "overlaps/overlaps/before/layer0/u/mean_um",
        "residuals/residuals/layer1/v/width_um",
    ):
        assert any(key.startswith(start) for key in known), start


def same(one: dict, other: dict) -> bool:
    words = {key: value for key, value in one.items() if isinstance(value, str)}
    assert words == {key: other[key] for key in words}
    return {k: v for k, v in other.items() if k not in words} == pytest.approx(
        {k: v for k, v in one.items() if k not in words}, rel=1e-6, abs=1e-7, nan_ok=True
    )


def test_the_order_of_the_events_makes_no_difference(tracks, numbers):
    order = np.random.default_rng(1).permutation(np.unique(tracks.event))
    rows = np.concatenate([np.flatnonzero(tracks.event == event) for event in order])
    assert same(numbers, numbers_of(evaluation_of(tracks.select(rows))))


@pytest.mark.parametrize(("batch", "threads"), [(7, 1), (13, 2), (40, 3)])
def test_batches_and_threads_make_no_difference(tracks, numbers, monkeypatch, batch, threads):
    monkeypatch.setattr(stream, "BATCH_EVENTS", batch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert same(numbers, numbers_of(evaluation_of(tracks)))


def test_events_read_from_a_cache_of_many_blocks_give_the_same_numbers(tracks, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BATCH_EVENTS", 7)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(cache_write, "BLOCK", 40)
    path = tmp_path / "tracks.root"
    stored = replace(tracks, uv=np.round(tracks.uv * STEPS_PER_CM) / STEPS_PER_CM)
    write_simulation(path, SMALL, stored, None, {"generator": "gun", "seed": 0})
    memory, from_cache = (AlignmentData([str(path)], SMALL, cache=c) for c in (None, str(tmp_path)))
    one, other = (numbers_of(evaluation_of(data.selected("train"))) for data in (memory, from_cache))
    assert len(from_cache.table.blocks) > 10
    assert not same(one, numbers_of(evaluation_of(tracks)))
    assert same(one, other)


def test_the_pass_leaves_torch_as_many_threads_as_it_had(tracks):
    before = torch.get_num_threads()
    numbers_of(evaluation_of(tracks.select(tracks.event < 5)))
    assert torch.get_num_threads() == before


# overlaps


@pytest.fixture(scope="module")
def many(detector: Detector) -> Tracks:
    return Simulation(ParticleGun(pt_min=0.5, eta_max=0.9), detector, seed=5).generate(400)


def overlaps_at(detector: Detector, local: torch.Tensor, tracks: Tracks) -> Overlaps:
    batch = batch_of(tracks, detector)
    fitted = TrackFitter(HelixChi2(detector), detector)(
        Places(detector, local), batch, pairs=pairs_of(batch, detector)
    )
    found = Overlaps(detector)
    found.add(fitted)
    return found


def test_double_differences_of_a_detector_in_its_place_scatter_as_expected(detector, many, nominal):
    found = overlaps_at(detector, nominal, many).metrics()
    for layer in range(7):
        for c in "uv":
            row = found[f"layer{layer}"][c]
            assert row["n"] > 100
            assert row["pull_width"] == pytest.approx(1, abs=0.2)
            assert abs(row["mean_um"]) < 4 * row["mean_error_um"]


def test_a_stave_believed_off_by_some_micrometres_shows_in_its_overlaps_by_as_much(detector, many, nominal):
    """Along +φ, against the neighbour before it and, with the other sign, the one after it."""
    stave, names = detector.groups("stave")
    mine = names.index("ITS/ITSULayer1/ITSUHalfBarrel0/ITSUStave3")
    inside = stave == mine
    moved = nominal.clone()
    along = torch.stack([-detector.translation[:, 1], detector.translation[:, 0]], -1)
    towards = (detector.rotation[:, :2, 0] * along).sum(-1).sign()
    moved[:, 0] = -30 * UM * towards * inside  # believed 30 µm short of where it is
    before, after = (overlaps_at(detector, local, many) for local in (nominal, moved))
    change = {}
    assert np.array_equal(before.pair, after.pair)
    for row in np.flatnonzero(before.moments[:, 0, 0] > 5).tolist():
        a, b = divmod(int(before.pair[row]), len(names))
        means = [one.moments[row, 0, 2] / one.moments[row, 0, 1] / UM for one in (before, after)]
        change[names[a], names[b]] = means[1] - means[0]
    name = names[mine]
    ours = {pair: value for pair, value in change.items() if name in pair}
    assert len(ours) == 2
    for (_, further), value in ours.items():
        assert value == pytest.approx(30 if further == name else -30, abs=3)
    others = [value for pair, value in change.items() if name not in pair and "Layer1" in pair[0]]
    assert np.abs(others).max() < 1


def test_what_moves_both_hits_alike_does_not_show_in_their_difference(detector, many, nominal):
    """A layer turned about the beam line by 50 µm."""
    turned = nominal.clone()
    layer = detector.layer == 2
    along = torch.stack([-detector.translation[:, 1], detector.translation[:, 0]], -1)
    unit = along / along.norm(dim=-1, keepdim=True)
    turned[:, 0] = 50 * UM * (detector.rotation[:, :2, 0] * unit).sum(-1) * layer
    one, other = (overlaps_at(detector, local, many).metrics()["layer2"]["u"] for local in (nominal, turned))
    assert other["mean_um"] == pytest.approx(one["mean_um"], abs=4)


# p-values


def test_p_values_are_those_of_scipy_and_flat_for_the_true_places(detector, many, nominal):
    loss = HelixChi2(detector)
    batch = batch_of(many, detector)
    fitted = TrackFitter(loss, detector, free=False)(Places(detector, nominal), batch)
    found = FitQuality()
    found.add(fitted)
    p_value = scipy.stats.chi2.sf(fitted.chi2.numpy(), fitted.ndf.numpy())
    counts, _ = np.histogram(p_value, bins=50, range=(0, 1))
    np.testing.assert_array_equal(found.metrics()["p_value_counts"], counts)
    exact = scipy.stats.kstest(p_value, "uniform")
    assert found.ks_distance == pytest.approx(exact.statistic, abs=1.5e-3)
    assert exact.pvalue > 1e-3


def test_a_misalignment_heaps_p_values_up_at_zero(detector, many, nominal, layer_moved):
    found = []
    for local in (nominal, layer_moved):
        sums = FitQuality()
        sums.add(
            TrackFitter(HelixChi2(detector), detector, free=False)(
                Places(detector, local), batch_of(many, detector)
            )
        )
        found.append(sums.metrics())
    assert found[0]["p_value_below_1_percent"] < 0.02
    assert found[1]["p_value_below_1_percent"] > 0.1
    assert found[1]["p_value_ks_distance"] > 5 * found[0]["p_value_ks_distance"]


def test_slow_tracks_that_edges_select_hardly_move_the_mean(detector):
    """More of those scattered by Δ outwards have both hits: ⟨Δ⟩ is ⟨Δ²⟩ over the width of the overlap."""
    found, rng, width = Overlaps(detector), np.random.default_rng(3), 1000 * UM
    sigma = np.where(rng.random((4000, 1)) < 0.1, 300 * UM, 10 * UM) * np.ones(2)
    values = 3 * UM + sigma * rng.standard_normal((4000, 2)) - sigma**2 / width
    rows = [int((detector.layer == 2).nonzero()[0]), int((detector.layer == 2).nonzero()[-1])]
    sensors = (torch.full((4000,), row) for row in rows)
    found._add(torch.from_numpy(values), torch.from_numpy(sigma**2), *sensors)
    for c, column in zip("uv", values.T, strict=True):
        row = found.metrics()["layer2"][c]
        assert column.mean() / UM < -3
        assert row["mean_um"] == pytest.approx(3, abs=4 * row["mean_error_um"])
        assert row["mean_error_um"] == pytest.approx(10 / np.sqrt(3600), rel=0.1)


def test_vertices_are_those_of_tracks_with_weight_in_the_cost(tracks):
    """Tracks with a false hit, which the cost cuts, do not move a vertex."""
    uv = tracks.uv.copy()
    wrong = np.flatnonzero(np.arange(len(tracks)) % 4 == 0)
    uv[tracks.offset[wrong]] += 0.2
    found = [
        numbers_of(evaluation_of(replace(tracks, uv=uv), loss=loss, numbers=("vertex",)))
        for loss in (HelixChi2(SMALL), HelixChi2(SMALL, weights=TrackWeights("cut", threshold=5**0.5)))
    ]
    width = [one["vertex/vertex/ideal/x/to_truth_width_um"] for one in found]
    assert width[1] < 0.3 * width[0]


def test_hits_without_which_a_track_is_hardly_known_have_no_unbiased_residual(tracks, monkeypatch):
    def fitted(limit: float) -> FittedTracks:
        monkeypatch.setattr(fitted_tracks, "LEAST_KNOWN", limit)
        return evaluation_of(tracks).stream().passed(0)[0].fitted["ideal"]

    every, some = fitted(1e9), fitted(10.0)
    far = (every.expected > 10 * some.batch.sigma).any(-1) | every.expected.isnan().any(-1)
    assert 0.01 < (far & some.used_hits).sum() / some.used_hits.sum() < 0.5
    for name in ("unbiased", "expected"):
        one, other = getattr(every, name), getattr(some, name)
        assert torch.equal(other.isnan().all(-1) & some.used_hits, far & some.used_hits)
        assert torch.equal(other[~far & some.used_hits], one[~far & some.used_hits])
    assert torch.equal(every.biased[some.used_hits], some.biased[some.used_hits])
