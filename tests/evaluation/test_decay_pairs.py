"""Decays among collisions: those that there are, once each, with their hits, and what their mass tells."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from neutral_kaons import K0S, NeutralKaons
from omegaconf import OmegaConf
from small_detectors import barrel, batch_of

from alignnet.cli.app import CONF, build
from alignnet.data.simulate import Simulation
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.evaluation.decay_pairs import DecayPairs, one_a_track
from alignnet.evaluation.decays import DECAYS
from alignnet.evaluation.pair_tally import PairTally, true_mothers
from alignnet.geometry.misalign import WeakMode
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise

DECAY = replace(DECAYS["k0s"], min_d0=0.01, min_flight=0.3)
DETECTOR = barrel(radii=(2.5, 4.0, 7.0, 11.0, 15.0, 20.0))
NOMINAL = torch.zeros(len(DETECTOR), 6, dtype=torch.float64)
EVENTS = 200


@pytest.fixture(scope="module")
def tracks():
    return Simulation(NeutralKaons(), DETECTOR, seed=8, energy_loss=False).generate(EVENTS)


@pytest.fixture(scope="module")
def searched(tracks):
    """The pairs of all tracks at once, and what counted them."""
    finder = DecayPairs(DETECTOR, NOMINAL, DECAY)
    (pairs,) = finder.found([tracks])
    return pairs, finder.tally


def test_most_decays_are_found_and_little_else(searched):
    found = searched[1].numbers()
    assert found["true"] > 1.7 * EVENTS
    assert found["efficiency"] > 0.85
    assert found["true_purity"] > 0.95
    assert found["purity"] == pytest.approx(found["true_purity"], abs=0.05)
    assert found["peak"]["mean"] == pytest.approx(K0S, abs=5 * found["peak"]["mean_error"])


def test_a_pair_is_an_event_with_the_hits_of_its_tracks(searched, tracks):
    pairs = searched[0]
    assert np.array_equal(pairs.event, np.repeat(np.arange(len(pairs) // 2), 2))
    assert (pairs.truth["q"].reshape(-1, 2) == [1, -1]).all()
    assert pairs.vertex is None
    assert np.allclose(pairs.mass, DECAY.daughters[0])
    momentum = [tuple(p) for p in tracks.truth["momentum"].tolist()]  # which names a track
    rows = np.array([momentum.index(tuple(p)) for p in pairs.truth["momentum"].tolist()])
    assert len(set(rows.tolist())) == len(rows)  # none is in two pairs
    assert (tracks.event[rows].reshape(-1, 2)[:, 0] == tracks.event[rows].reshape(-1, 2)[:, 1]).all()
    again = tracks.select(rows)
    assert all(
        np.array_equal(getattr(pairs, name), getattr(again, name)) for name in ("offset", "uv", "sensor")
    )


def test_chunks_and_units_of_work_make_no_difference(tracks, searched):
    finder = DecayPairs(DETECTOR, NOMINAL, DECAY)
    edges = [0, 30, 31, 180, EVENTS]
    parts = [tracks.select((tracks.event >= a) & (tracks.event < b)) for a, b in itertools.pairwise(edges)]
    found = list(finder.found(parts))
    assert len(found) == len(parts)
    whole = searched[0]
    assert np.array_equal(np.concatenate([part.event for part in found]), whole.event)
    assert np.array_equal(np.concatenate([part.uv for part in found]), whole.uv)
    assert np.array_equal(finder.tally.counts, searched[1].counts)


def test_vertices_that_a_file_lacks_are_those_of_its_tracks(tracks, searched):
    finder = DecayPairs(DETECTOR, NOMINAL, DECAY)
    (pairs,) = finder.found([replace(tracks, vertex=None, vertex_cov=None)])
    assert finder.tally.numbers()["true_purity"] > 0.95
    assert len(pairs) > 0.85 * len(searched[0])


def test_a_wrong_radius_is_felt_where_it_is(tracks):
    """Pairs found with sensors a part in 100 too far in; a step along that mode by their masses alone."""
    mode = WeakMode("radial", 1.0)(DETECTOR)
    amplitude = 0.2  # cm of 22
    finder = DecayPairs(DETECTOR, -amplitude * mode, DECAY)
    (pairs,) = finder.found([tracks])
    sensors = SensorLayer.of(DETECTOR)
    sensors.set_local(-amplitude * mode)
    found = []
    for width in (1e3, 1e-4):  # the mass is not known, and known
        loss = DecayChi2(DETECTOR, K0S, width, normalisation="total")
        problem = Problem(sensors, [linearise(loss, sensors, batch_of(pairs, DETECTOR))])
        found += [float((mode * problem.gradient()).sum()), float((mode * problem(mode)).sum())]
    slope, curvature = found[2] - found[0], found[3] - found[1]  # what the masses add
    step, error = -slope / curvature, curvature**-0.5
    assert error < 0.25 * amplitude
    assert step == pytest.approx(amplitude, abs=4 * error)


def test_of_candidates_that_share_tracks_the_best_remain():
    rng = np.random.default_rng(3)
    pairs, chi2 = rng.integers(0, 40, (150, 2)), rng.integers(0, 50, 150).astype(float)
    pairs[:, 1] += 40
    taken: set[int] = set()
    expected = []
    for row in np.argsort(chi2, kind="stable").tolist():
        if not taken & set(pairs[row].tolist()):
            taken |= set(pairs[row].tolist())
            expected.append(row)
    found = one_a_track(torch.from_numpy(pairs), torch.from_numpy(chi2), 80)
    assert found.tolist() == sorted(expected)
    assert len(one_a_track(torch.empty(0, 2, dtype=torch.int64), torch.empty(0), 5)) == 0


@pytest.mark.parametrize("name", ["k0s", "lambda"])
def test_side_bands_tell_a_sloping_background(name):
    """Also where the lower one ends at the daughters' masses, as that of Λ does."""
    decay = replace(DECAYS[name], half_window=0.02) if name == "lambda" else DECAYS[name]
    tally, rng = PairTally(decay), np.random.default_rng(4)
    low, high = tally.edges[0], tally.edges[-1]
    background = np.concatenate([rng.triangular(low, high, high, 30_000), rng.uniform(low, high, 10_000)])
    mass = np.concatenate([background, rng.normal(decay.mass, decay.half_window / 5, 10_000)])
    none = np.zeros(0)
    nothing = Tracks(none, np.zeros(1, dtype=np.int64), none, none, none)
    tally.add(nothing, np.zeros((len(mass), 2), dtype=np.int64), mass)
    inside = int((np.abs(background - decay.mass) < decay.half_window).sum())
    assert tally.background == pytest.approx(inside, abs=5 * 2 * inside**0.5)
    assert tally.pairs == inside + 10_000
    assert tally.numbers()["purity"] == pytest.approx(1e4 / tally.pairs, abs=0.03)


def test_true_decays_have_both_daughters_of_one_mother():
    truth = {
        "mother": np.array([5, 5, 7, 7, 9, 9, 5, 5, -1]),
        "mother_pdg": np.array([3122, 3122, -3122, -3122, 3122, 3122, 310, 310, 0]),
        "pdg": np.array([2212, -211, -2212, 211, 2212, 211, 211, -211, -211]),
    }
    tracks = Tracks(np.array([0] * 6 + [1] * 3), *[np.zeros(0)] * 4, truth=truth)
    assert true_mothers(tracks, DECAYS["lambda"]).tolist() == [0, 0, 1, 1, -1, -1, -1, -1, -1]
    assert true_mothers(tracks, DECAYS["k0s"]).tolist() == [-1] * 6 + [0, 0, -1]


@pytest.mark.parametrize("name", DECAYS)
def test_a_choice_of_conf_is_the_decay_of_the_evaluation(name):
    """But for the window of Λ, outside of which side bands must have room."""
    found = asdict(build(OmegaConf.load(Path(CONF) / "decay" / f"{name}.yaml")))
    window = {"half_window": 0.02} if name == "lambda" else {}
    expected = asdict(replace(DECAYS[name], **window))
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mass": 0.2}, r"decay\.mass is 0\.2; expected more than 0\.27914"),
        ({"half_window": 0.25}, r"decay\.half_window is 0\.25; expected less than 0\.2185"),
        ({"half_window": 0.0}, r"decay\.half_window is 0\.0; expected more than 0"),
        ({"daughters": (0.1, -0.1)}, r"decay\.daughters is \[0\.1, -0\.1\]"),
        ({"min_flight": 40.0}, r"min_flight is 40\.0 and max_flight 30\.0"),
        ({"min_d0": -1.0}, r"decay\.min_d0 is -1"),
        ({"min_pointing": 1.0}, r"decay\.min_pointing is 1"),
        ({"max_chi2": 0.0}, r"decay\.max_chi2 is 0"),
        ({"width": 0.0}, r"decay\.width is 0"),
    ],
)
def test_values_that_cannot_be_used_are_named(change, said):
    with pytest.raises(ConfigError, match=said):
        DecayPairs(DETECTOR, NOMINAL, replace(DECAY, **change))


def test_without_a_field_there_is_no_mass():
    with pytest.raises(ConfigError, match="b_z is 0"):
        DecayPairs(replace(DETECTOR, b_z=0.0), NOMINAL, DECAY)
