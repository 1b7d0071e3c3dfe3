"""Events with decays: what a field does to them, how they are joined and kept, what of them is simulated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import uproot
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import QUIET

from alignnet.data import root_events
from alignnet.data.collisions import Collisions, StoredEvents
from alignnet.data.events import Events, bent, joined
from alignnet.data.root import read_tracks, write_simulation
from alignnet.data.root_events import read_events, write_events
from alignnet.data.simulate import Simulation
from alignnet.data.streams import Streams
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry.its2 import its2
from alignnet.units import CURVATURE

PION, PROTON, KAON_0, LAMBDA, XI = 0.13957039, 0.93827209, 0.497611, 1.115683, 1.32171
TINY = 1e-12


def two_body(momentum, mass, first, second, direction):
    """Momenta of the two daughters of a particle, in its rest frame back to back along `direction`."""
    energy = np.sqrt(momentum @ momentum + mass**2)
    p = np.sqrt((mass**2 - (first + second) ** 2) * (mass**2 - (first - second) ** 2)) / (2 * mass)
    found = []
    for sign, m in ((1, first), (-1, second)):
        q, e = sign * p * direction, np.hypot(p, m)
        along = q @ momentum
        found.append(q + momentum * (along / (energy + mass) + e) / mass)
    return found


def cascade(seed: int) -> Events:
    """Ξ⁻ → Λ π⁻, Λ → p π⁻, each after a few centimetres, and a K⁰_S → π⁺ π⁻ beside a primary π⁺."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=(3, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    xi, kaon, pion = rng.uniform(-1.5, 1.5, (3, 3)) + np.array([[0.5, 0, 0]] * 3)
    flights = rng.uniform(1.0, 10.0, 3)
    lam, pi_xi = two_body(xi, XI, LAMBDA, PION, axis[0])
    p, pi_lam = two_body(lam, LAMBDA, PROTON, PION, axis[1])
    plus, minus = two_body(kaon, KAON_0, PION, PION, axis[2])
    at_xi = flights[0] * xi / np.linalg.norm(xi)
    at_lam = at_xi + flights[1] * lam / np.linalg.norm(lam)
    at_kaon = flights[2] * kaon / np.linalg.norm(kaon)
    rows = [
        (3312, -1, XI, -1, np.zeros(3), xi), (3122, 0, LAMBDA, 0, at_xi, lam),
        (-211, -1, PION, 0, at_xi, pi_xi),
        (2212, 1, PROTON, 1, at_lam, p), (-211, -1, PION, 1, at_lam, pi_lam),
        (310, 0, KAON_0, -1, np.zeros(3), kaon), (211, 1, PION, 5, at_kaon, plus),
        (-211, -1, PION, 5, at_kaon, minus), (211, 1, PION, -1, np.zeros(3), pion),
    ]  # fmt: skip
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Events(np.array([0, len(rows)]), *columns)


def mass_of(events: Events, rows: list[int]) -> float:
    p, m = events.momentum[rows], events.mass[rows]
    energy = np.sqrt((p**2).sum(1) + m**2).sum()
    return float(np.sqrt(energy**2 - (p.sum(0) ** 2).sum()))


def test_decays_by_hand_have_the_masses_of_their_mothers():
    events = cascade(1)
    assert mass_of(events, [1, 2]) == pytest.approx(XI, abs=TINY)
    assert mass_of(events, [3, 4]) == pytest.approx(LAMBDA, abs=TINY)
    assert mass_of(events, [6, 7]) == pytest.approx(KAON_0, abs=TINY)
    np.testing.assert_array_equal(events.final, [0, 0, 1, 1, 1, 0, 1, 1, 1])


def test_without_a_field_nothing_is_bent():
    events, still = cascade(2), bent(cascade(2), 0.0)
    np.testing.assert_allclose(still.position, events.position, atol=1e-14)
    np.testing.assert_allclose(still.momentum, events.momentum, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_a_charged_mother_decays_on_its_circle_and_a_neutral_one_on_its_line(seed):
    b_z = 0.5
    events, found = cascade(seed), bent(cascade(seed), b_z)
    xi = events.momentum[0]
    radius = np.hypot(*xi[:2]) / (CURVATURE * b_z)
    # A negative charge turns counter-clockwise in a field along +z: the centre is to the left.
    centre = radius * np.array([-xi[1], xi[0]]) / np.hypot(*xi[:2])
    assert np.linalg.norm(found.position[1, :2] - centre) == pytest.approx(radius, rel=1e-12)
    arc = radius * np.arctan2(*_turn(-centre, found.position[1, :2] - centre))
    flight = np.linalg.norm(events.position[1])
    assert np.hypot(arc, found.position[1, 2]) == pytest.approx(flight, rel=1e-10)
    # The Λ flies on in the direction that it has now, as far as before; the K⁰_S as if there was no field.
    line = found.position[3] - found.position[1]
    was = np.linalg.norm(events.position[3] - events.position[1])
    np.testing.assert_allclose(line, was * found.momentum[1] / np.linalg.norm(found.momentum[1]), atol=1e-10)
    np.testing.assert_allclose(found.position[5:], events.position[5:], atol=TINY)
    np.testing.assert_allclose(found.momentum[5:], events.momentum[5:], atol=TINY)


def _turn(start, end):
    """Sine and cosine of the angle from one to the other."""
    return start[0] * end[1] - start[1] * end[0], start @ end


@given(seed=st.integers(0, 1000), b_z=st.floats(-2.0, 2.0))
def test_a_field_changes_neither_masses_nor_angles_between_a_mother_and_its_daughters(seed, b_z):
    events, found = cascade(seed), bent(cascade(seed), b_z)
    np.testing.assert_allclose(
        np.linalg.norm(found.momentum, axis=1), np.linalg.norm(events.momentum, axis=1), rtol=1e-12
    )
    for rows, mass in (([1, 2], XI), ([3, 4], LAMBDA), ([6, 7], KAON_0)):
        assert mass_of(found, rows) == pytest.approx(mass, abs=1e-10)
    # Σ of the daughters' momenta is the mother's where it decays: along the tangent of its path.
    omega = CURVATURE * b_z / np.linalg.norm(events.momentum[0])
    angle = omega * np.linalg.norm(events.position[1])
    c, s = np.cos(angle), np.sin(angle)
    tangent = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ events.momentum[0]
    np.testing.assert_allclose(found.momentum[[1, 2]].sum(0), tangent, atol=1e-10)


def test_events_are_joined_overlaid_and_cut_with_their_mothers():
    parts = [cascade(seed) for seed in range(5)]
    events = joined(parts)
    np.testing.assert_array_equal(events.mother_in_event, np.concatenate([p.mother for p in parts]))
    double = events.overlaid(2)
    assert (double.n_events, len(double.pdg)) == (2, 36)
    np.testing.assert_array_equal(double.event, np.repeat([0, 1], 18))
    np.testing.assert_array_equal(
        double.pdg[double.mother[double.mother >= 0]], [3312, 3312, 3122, 3122, 310, 310] * 4
    )
    np.testing.assert_array_equal(events.first(2).momentum, events.momentum[:18])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.root"
    write_events(path, joined([cascade(seed) for seed in range(200)]), {"generator": "tests", "seed": 0})
    return path


def test_a_file_gives_the_events_back(stored):
    expected = joined([cascade(seed) for seed in range(200)])
    for found, column in zip(read_events(stored), expected, strict=True):
        np.testing.assert_array_equal(found, column)
    some = read_events(stored, 50, 60)
    np.testing.assert_array_equal(some.mother_in_event, expected.mother_in_event[450:540])
    np.testing.assert_array_equal(some.momentum, expected.momentum[450:540])


BROKEN = {
    "mother": (lambda e: e._replace(mother=np.where(e.pdg == 310, 7, e.mother)), "further up"),
    "mass": (lambda e: e._replace(mass=np.where(e.pdg == 310, -1.0, e.mass)), "a mass >= 0"),
    "x, y, z": (lambda e: e._replace(position=np.where(e.position == 0, np.nan, e.position)), "finite"),
    "px, py, pz": (lambda e: e._replace(momentum=0 * e.momentum), "not 0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_events_that_cannot_be_are_refused_on_the_way_out_and_on_the_way_in(name, tmp_path, monkeypatch):
    change, expected = BROKEN[name]
    message = rf"tree events, branch {name}, entry 0, particle \d.*{expected}"
    with pytest.raises(SchemaError, match=message):
        write_events(tmp_path / "broken.root", change(cascade(0)), {})
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as unchecked:
        unchecked.setattr(root_events, "_check", lambda *arguments: None)
        write_events(tmp_path / "broken.root", change(cascade(0)), {})
    with pytest.raises(SchemaError, match=message):
        read_events(tmp_path / "broken.root")


def test_a_file_without_events_or_with_lists_of_unequal_length_is_refused(tmp_path, stored):
    with pytest.raises(SchemaError, match="no events came"):
        write_events(tmp_path / "none.root", cascade(0).first(0), {})
    assert list(tmp_path.iterdir()) == []
    with uproot.open(stored) as file, uproot.recreate(tmp_path / "odd.root") as odd:
        columns = file["events"].arrays()
        columns["px"] = columns["px"][:, :3]
        names = [name for name in columns.fields if name != "n_particles"]
        odd["events"] = {name: columns[name] for name in names}
    with pytest.raises(SchemaError, match="branch px, entry 0: found 3, expected as many particles as pdg"):
        read_events(tmp_path / "odd.root")


@pytest.fixture(scope="module")
def barrel():
    return its2()


@pytest.fixture(scope="module")
def tracks(barrel, stored):
    source = StoredEvents(path=str(stored), chunk_events=80, pt_min=0.1, eta_max=2.0)
    return Simulation(source, barrel, min_hits=1, seed=3, **QUIET).generate(200)


def test_what_has_decayed_leaves_no_hits_and_the_rest_starts_where_it_was_produced(tracks, barrel):
    assert set(tracks.truth["pdg"].tolist()) == {211, -211, 2212}
    radius = np.hypot(*tracks.truth["position"][:, :2].T)
    outwards = (tracks.truth["position"] * tracks.truth["momentum"])[:, :2].sum(1) > 0
    inner = np.hypot(*barrel.translation.numpy()[tracks.sensor, :2].T) < radius[tracks.track_of_hit] - 1.0
    late = outwards & (radius > 6)
    assert late.sum() > 50
    assert not inner[late[tracks.track_of_hit]].any()
    first = barrel.layer.numpy()[tracks.sensor[tracks.offset[:-1]]]
    assert (first[late] >= 3).all()
    assert (first[(radius < 1.5)] == 0).mean() > 0.9


def test_tracks_know_their_collision_and_their_mother(tracks):
    truth = tracks.truth
    primary = truth["mother"] == -1
    np.testing.assert_array_equal(truth["mother_pdg"] == 0, primary)
    np.testing.assert_allclose(truth["position"][primary], truth["vertex"][primary], atol=TINY)
    flown = np.linalg.norm(truth["position"] - truth["vertex"], axis=1)
    assert flown[~primary].min() > 0.9
    smeared = (tracks.vertex - truth["vertex"]) / (15e-4, 15e-4, 20e-4)
    assert np.abs(smeared).max() < 5
    assert set(truth["mother_pdg"].tolist()) == {0, 310, 3122, 3312}


def test_pairs_of_one_mother_have_its_mass(tracks):
    pairs = {}
    for row in np.flatnonzero(tracks.truth["mother_pdg"] == 310).tolist():
        pairs.setdefault((tracks.event[row], tracks.truth["mother"][row]), []).append(row)
    whole = [rows for rows in pairs.values() if len(rows) == 2]
    assert len(whole) > 50
    for rows in whole:
        p, m = tracks.truth["momentum"][rows], tracks.mass[rows]
        energy = np.sqrt((p**2).sum(1) + m**2).sum()
        assert np.sqrt(energy**2 - (p.sum(0) ** 2).sum()) == pytest.approx(KAON_0, abs=1e-9)


def test_each_particle_scatters_with_its_own_mass(barrel, stored):
    # At equal momentum a proton is slower, scatters more and loses more: it is that of a gun of protons.
    source = StoredEvents(path=str(stored), chunk_events=200)
    particles = source.particles(200, Streams(1, 0), 0, 0.5)
    assert (particles.mass[particles.pdg == 2212] == PROTON).all()
    matter = Simulation(source, barrel, hit_efficiency=1.0, smearing=False, seed=1)
    as_pions = particles._replace(mass=torch.full_like(particles.mass, PION))
    streams = Streams(1, 0)
    own, pions = (matter.transport(p, streams) for p in (particles, as_pions))
    proton = (particles.pdg == 2212).nonzero().squeeze(-1)

    def hits(found, rows):
        return found.uv[torch.isin(found.track, rows)]

    others = (particles.pdg != 2212).nonzero().squeeze(-1)
    assert torch.equal(hits(own, others), hits(pions, others))
    assert not torch.equal(hits(own, proton), hits(pions, proton))


def test_the_file_of_tracks_keeps_the_history(tracks, barrel, tmp_path):
    long = tracks.select(tracks.hits_per_track >= 3)
    write_simulation(tmp_path / "a.root", barrel, long, None, {"generator": "tests", "seed": 3})
    again = read_tracks(tmp_path / "a.root", barrel)
    for name in ("vertex", "mother", "mother_pdg", "position"):
        np.testing.assert_array_equal(again.truth[name], long.truth[name])


def test_chunks_of_stored_events_go_through_the_file(barrel, stored):
    source = StoredEvents(path=str(stored), chunk_events=70)
    events = np.unique(Simulation(source, barrel, seed=3, **QUIET).generate(200).event)
    assert events.max() > 150
    momentum = read_events(stored, 70, 140)
    second = source.particles(70, Streams(3, 1), 70, 0.0)
    rows = np.flatnonzero(source.selected(momentum))
    np.testing.assert_array_equal(second.momentum.numpy(), momentum.momentum[rows])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, "path is '', expected a file of events"),
        ({"pt_min": 0.0}, "pt_min is 0.0"),
        ({"chunk_events": 0}, "chunk_events is 0"),
        ({"vertex_sigma": (0.1,)}, "vertex_sigma"),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        StoredEvents(**{"path": "a.root"} | changes)


def test_more_events_than_the_file_has_are_refused(stored, barrel):
    with pytest.raises(ConfigError, match=r"has 200 events, 201 are asked for: lower n_events"):
        Simulation(StoredEvents(path=str(stored)), barrel).generate(201)


def test_without_chromo_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package chromo.*pip install 'alignnet\[generators\]'"):
        Collisions()
