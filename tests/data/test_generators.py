"""Generated collisions: lifetimes, multiplicities, masses, and the same numbers for the same seed.

All of it needs chromo (`pip install 'alignnet[generators]'`) and is skipped without.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from alignnet.cli.generate import main as generate
from alignnet.data.collisions import Collisions, StoredEvents
from alignnet.data.events import Events, bent
from alignnet.data.generators import Collider
from alignnet.data.root import read_detector, read_tracks
from alignnet.data.simulate import Simulation
from alignnet.errors import ConfigError
from alignnet.geometry.its2 import its2

pytest.importorskip("chromo", reason="collisions need chromo: pip install 'alignnet[generators]'")
from training_runs import configured

C_TAU = {310: 2.6844, 3122: 7.846, 421: 122.9e-4, 411: 309.8e-4, 3312: 4.91, 521: 491e-4}
"""Mean proper lengths [cm] of the Particle Data Group (2024)."""

DECAY = """
import json, sys
import numpy as np
from chromo.kinematics import CenterOfMass
from chromo.models import Pythia6
from alignnet.data.decays import Decayer, Record
codes, n = json.loads(sys.argv[1]), 3000
decayer = Decayer(Pythia6(CenterOfMass(100.0, "p", "p"), seed=5))
found = {}
for code in codes:
    from alignnet.data.decays import measured
    mass, lengths = measured(code)[0], []
    for _ in range(n // 100):
        one, p = np.ones(100), np.random.default_rng(len(lengths)).normal(size=(100, 3))
        z, none = np.zeros((100, 3)), np.full(100, -1)
        made = decayer(Record((code * one).astype(int), none, mass * one, p, z, one > 0))
        kids = np.flatnonzero((made.mother >= 0) & (made.mother < 100))
        mother, first = np.unique(made.mother[kids], return_index=True)
        assert len(mother) == 100
        flown = made.position[kids[first]]
        direction = flown / np.linalg.norm(flown, axis=1, keepdims=True)
        assert np.abs(direction - p / np.linalg.norm(p, axis=1, keepdims=True)).max() < 1e-6
        lengths += (np.linalg.norm(flown, axis=1) * mass / np.linalg.norm(p, axis=1)).tolist()
    found[code] = lengths
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def lengths() -> dict[int, np.ndarray]:
    """Proper lengths [cm] of 3,000 decays of each kind by Pythia 6, in a process of its own."""
    command = [sys.executable, "-c", DECAY, json.dumps(list(C_TAU))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(next(line for line in said.splitlines() if "FOUND" in line).partition("FOUND ")[2])
    return {int(code): np.array(values) for code, values in found.items()}


@pytest.mark.parametrize("code", C_TAU)
def test_proper_lengths_of_decays_are_exponential_with_the_measured_lifetime(lengths, code):
    # The mean is the most likely cτ; its error is cτ/√n.
    values = lengths[code]
    assert values.mean() == pytest.approx(C_TAU[code], rel=4 / np.sqrt(len(values)))
    assert stats.kstest(values, stats.expon(scale=C_TAU[code]).cdf).pvalue > 1e-3


@pytest.fixture(scope="module", params=["Pythia6", "Sibyll23d"])
def events(request) -> Events:
    """1,000 collisions of protons at 13.6 TeV."""
    return Collider(model=request.param).collisions(1000, seed=3)


def proper_lengths(events: Events, code: int) -> np.ndarray:
    rows = np.flatnonzero((events.mother >= 0) & (np.abs(events.pdg[events.mother]) == code))
    mother, first = np.unique(events.mother[rows], return_index=True)
    flown = np.linalg.norm(events.position[rows[first]] - events.position[mother], axis=1)
    return flown * events.mass[mother] / np.linalg.norm(events.momentum[mother], axis=1)


@pytest.mark.parametrize("code", [310, 3122, 421])
def test_lifetimes_in_collisions_do_not_depend_on_the_model(events, code):
    values = proper_lengths(events, code)
    assert len(values) > 50
    assert values.mean() == pytest.approx(C_TAU[code], rel=4 / np.sqrt(len(values)))


def central(events: Events) -> np.ndarray:
    """Charged primaries of |η| < 0.5 as ALICE counts them: of nothing that lives longer than 1 cm/c."""
    weak = np.isin(np.abs(events.pdg), (310, 3112, 3122, 3222, 3312, 3322, 3334))
    late = weak.copy()
    for _ in range(12):
        late |= (events.mother >= 0) & late[events.mother]
    eta = np.arcsinh(events.momentum[:, 2] / np.hypot(*events.momentum[:, :2].T))
    return events.final & ~late & (np.abs(eta) < 0.5)


def test_multiplicity_momenta_and_species_are_those_of_the_lhc(events):
    rows = central(events)
    pt = np.hypot(*events.momentum[rows, :2].T)
    kind = np.abs(events.pdg[rows])
    # Measured at 13 TeV: 5.3 for inelastic collisions; one kaon on about eight pions, one proton on sixteen.
    assert rows.sum() / events.n_events == pytest.approx(5.5, rel=0.15)
    assert pt.mean() == pytest.approx(0.6, abs=0.07)
    assert (kind == 321).sum() / (kind == 211).sum() == pytest.approx(0.105, abs=0.03)
    assert (kind == 2212).sum() / (kind == 211).sum() == pytest.approx(0.055, abs=0.025)


def test_only_what_a_detector_sees_is_final(events):
    assert set(np.abs(events.pdg[events.final]).tolist()) <= {11, 13, 211, 321, 2212}
    assert (events.mother < np.arange(len(events.mother))).all()
    assert np.isfinite(events.mass).all()
    assert not events.position[events.mother == -1].any()
    pt = np.hypot(*events.momentum[events.final, :2].T)
    assert pt.min() >= 0.05


def test_pairs_of_pions_from_a_kaon_have_its_mass_also_in_a_field(events):
    found = bent(events, 0.5)
    pions = np.flatnonzero((np.abs(found.pdg) == 211) & (found.mother >= 0))
    pions = pions[found.pdg[found.mother[pions]] == 310]
    mother, first, count = np.unique(found.mother[pions], return_index=True, return_counts=True)
    first = pions[first[count == 2]]
    second = np.array([np.flatnonzero(found.mother == m)[-1] for m in mother[count == 2]])
    assert len(first) > 100
    p = found.momentum[first] + found.momentum[second]
    energy = sum(np.sqrt((found.momentum[r] ** 2).sum(1) + found.mass[r] ** 2) for r in (first, second))
    np.testing.assert_allclose(np.sqrt(energy**2 - (p**2).sum(1)), 0.497611, atol=1e-7)


def test_charmed_particles_decay_within_millimetres_and_strange_ones_within_decimetres(events):
    made = np.flatnonzero(events.final & (events.mother >= 0))
    mother = np.abs(events.pdg[events.mother[made]])
    flown = np.hypot(*events.position[made, :2].T)
    charmed, strange = np.isin(mother, (411, 421)), np.isin(mother, (310, 3122))
    prompt = np.isin(mother, (113, 213, 221, 223)) & (events.mother[events.mother[made]] == -1)
    assert 20e-4 < np.median(flown[charmed]) < 500e-4
    assert 1.0 < np.median(flown[strange]) < 10.0
    assert flown[prompt].max(initial=0.0) == 0.0


def test_equal_seeds_give_equal_collisions_also_in_one_process_and_others_do_not():
    collider = Collider(model="Sibyll23d")
    first, again, other = (collider.collisions(10, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.isin(other.momentum, first.momentum).any()
    more = collider.collisions(15, 7).first(10)
    assert all(np.array_equal(a, b) for a, b in zip(first, more, strict=True))


def test_stored_events_leave_the_same_tracks_as_newly_generated_ones(tmp_path):
    kept = tmp_path / "events.root"
    small = ("n_events=6", "seed=5", "source.chunk_events=4", "source.model=Sibyll23d")
    generate.__wrapped__(configured("generate", f"output={kept}", *small))
    barrel = its2()
    new, old = (
        Simulation(source, barrel, seed=5).generate(6)
        for source in (
            Collisions(model="Sibyll23d", chunk_events=4),
            StoredEvents(path=str(kept), chunk_events=4),
        )
    )
    np.testing.assert_array_equal(new.uv, old.uv)
    np.testing.assert_array_equal(new.event, old.event)
    for name in new.truth:
        np.testing.assert_array_equal(new.truth[name], old.truth[name])


def test_overlaid_collisions_share_their_vertex_and_have_so_much_more_tracks():
    one, five = (Collisions(model="Sibyll23d", n_collisions=n, chunk_events=50 // n) for n in (1, 5))
    barrel = its2()
    few, many = (Simulation(s, barrel, seed=2).generate(50 // s.n_collisions) for s in (one, five))
    assert len(many) == pytest.approx(len(few), rel=0.05)  # the same 50 collisions at other vertices
    assert len(np.unique(many.truth["vertex"], axis=0)) == 10
    assert len(np.unique(few.truth["vertex"], axis=0)) <= 50


def test_the_command_writes_collisions_of_nuclei_with_their_history(tmp_path):
    from alignnet.cli.simulate import main as simulate

    path = tmp_path / "nuclei.root"
    keys = ("source.model=Sibyll23d", "source.projectile=O16", "source.target=O16", "source.sqrt_s=5360")
    simulate.__wrapped__(configured("simulate", "sample=its2_pp", f"output={path}", "n_events=8", *keys))
    tracks = read_tracks(path, read_detector(path))
    assert len(tracks) > 30
    assert {"vertex", "mother", "mother_pdg"} <= set(tracks.truth)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "Nothing"}, "source: Nothing: model is 'Nothing', expected one of .*Pythia6"),
        ({"sqrt_s": 1.0}, "source: Pythia6: center-of-mass energy 1.0 GeV"),
        ({"projectile": "Pb208", "model": "Sibyll23d"}, "projectile Pb208.* is not allowed"),
        ({"projectile": "xyz"}, "particle with name xyz not recognized"),
    ],
)
def test_what_a_generator_cannot_make_is_said_in_its_words(changes, message):
    with pytest.raises(ConfigError, match=message):
        Collider(**changes).collisions(1, 0)
