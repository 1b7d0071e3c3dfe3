"""From edges to tracks: chains, ambiguities, the automaton, fits, and figures of merit of what is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from its2_events import DETECTOR, drawn, separated

from alignnet.errors import ConfigError
from alignnet.trackfinding.its2.ambiguities import quality_of, resolved
from alignnet.trackfinding.its2.automaton import Automaton
from alignnet.trackfinding.its2.cells import Cells
from alignnet.trackfinding.its2.events import Particles
from alignnet.trackfinding.its2.finder import Finder
from alignnet.trackfinding.its2.fit import TrackFit
from alignnet.trackfinding.its2.found_tracks import in_file_order
from alignnet.trackfinding.its2.graph import GraphBuilder
from alignnet.trackfinding.its2.hits import NOISE, Hits
from alignnet.trackfinding.its2.overlaps import first_of_each, packed
from alignnet.trackfinding.its2.roads import chain_lengths, roads, without_one
from alignnet.trackfinding.its2.scoring import edge_scores, match, track_scores, values

N, X = NOISE, -1


def cells(*links):
    """Cells of (inner edge, outer edge)."""
    inner, outer = torch.tensor(links).T
    return Cells(inner, outer, torch.zeros(len(links)), torch.zeros(len(links)))


def hits_with(particle, layer):
    """Hits of one event of which only these two columns matter."""
    n = len(particle)
    zero, pair = torch.zeros(n, dtype=torch.int64), torch.zeros(n, 2)
    columns = torch.tensor(layer), zero, pair, pair, torch.zeros(n, 3), torch.tensor(particle)
    return Hits(zero, *columns)


@pytest.fixture(scope="module")
def finder():
    return Finder(GraphBuilder(DETECTOR), Automaton(), TrackFit(DETECTOR))


# Edges 0 … 4:   h0 ─0─ h1 ─1─ h2 ─2─ h3      and a fork   h2 ─3─ h4 ─4─ h5
PAIRS = torch.tensor([[0, 1, 2, 2, 4], [1, 2, 3, 4, 5]])
FORK = cells((0, 1), (1, 2), (1, 3), (3, 4))


def test_lengths_of_chains_are_counted_both_ways():
    inwards, outwards = chain_lengths(FORK, 5, n_layers=7)
    assert inwards.tolist() == [1, 2, 3, 3, 4]
    assert outwards.tolist() == [4, 3, 1, 2, 1]


def test_roads_follow_the_longest_chain():
    assert roads(PAIRS, FORK, 7, min_hits=4).tolist() == [[0, 1, 2, 4, 5, X, X]]


def test_roads_fork_where_two_chains_are_equally_long():
    even = cells((0, 1), (1, 2), (1, 3))
    assert sorted(roads(PAIRS, even, 7, 4).tolist()) == [[0, 1, 2, 3, X, X, X], [0, 1, 2, 4, X, X, X]]
    assert len(roads(PAIRS, even, 7, 5)) == 0


def test_without_one_leaves_each_hit_out_once():
    chains = torch.tensor([[5, 6, 7, 8, 9, X, X], [1, 2, 3, 4, X, X, X]])
    shorter = without_one(chains, min_hits=4)
    assert sorted(map(tuple, shorter[:, :4].tolist())) == list(itertools.combinations(range(5, 10), 4))
    assert bool((shorter[:, 4:] == X).all())


def test_each_hit_goes_to_the_best_track():
    chain = torch.tensor([[0, 1, 2, X], [2, 3, 4, 5], [5, 6, 7, X], [7, 8, X, X], [9, 9, X, X]])
    quality = torch.tensor([3.0, 4.0, 3.5, 2.0, 1.0])
    # The second beats the first and the third; the fourth is free then.
    assert resolved(chain, quality, 10).tolist() == [1, 3, 4]


def test_no_hit_is_used_twice_and_no_free_candidate_is_left():
    rng = torch.Generator().manual_seed(5)
    chain = torch.stack([torch.randperm(60, generator=rng)[:5] for _ in range(80)])
    quality = torch.rand(80, generator=rng)
    taken = resolved(chain, quality, 60)
    used = chain[taken].flatten()
    assert len(used.unique()) == len(used)
    best = set()  # one after the other
    free = set(range(60))
    for row in torch.argsort(quality, descending=True).tolist():
        if set(chain[row].tolist()) <= free:
            free -= set(chain[row].tolist())
            best.add(row)
    assert set(taken.tolist()) == best


def test_more_hits_count_before_a_better_fit():
    ndf = torch.full((3,), 5.0)
    quality = quality_of(torch.tensor([6, 7, 7]), torch.tensor([0.1, 15.0, 5.0]), ndf)
    assert quality.argsort().tolist() == [0, 1, 2]


def test_the_automaton_finds_all_of_separated_tracks(finder):
    events = separated()
    found = finder(events.hits)
    pt = finder.fit.transverse_momentum(found.tracks)
    scores = values(track_scores(events.hits, found.tracks.chain, pt, events.particles, bins=()))
    target = int(events.particles.reconstructable().sum())
    assert target >= 25
    assert scores["efficiency"] == 1.0
    assert scores["efficiency_perfect"] == 1.0
    assert (scores["fakes"], scores["duplicates"]) == (0.0, 0.0)
    assert len(found.tracks.chain) == target
    made = torch.isin(events.hits.particle, events.particles.reconstructable().nonzero())
    assert int(found.tracks.n_hits.sum()) == int(made.sum())  # those where sensors overlap, too


def test_curvatures_of_found_tracks_are_the_particles(few, finder):
    found = finder(few.hits).tracks
    of = match(few.hits, found.chain, few.particles)
    relative = finder.fit.transverse_momentum(found) / few.particles.pt[of.particle] - 1
    assert relative[of.perfect].abs().median() < 0.03


def test_a_missing_hit_is_passed_over(finder):
    events = separated(8)
    gone = (events.hits.layer == 3) & (events.hits.particle % 2 == 0)
    hits = events.hits.take((~gone).nonzero().squeeze(-1))
    chain = finder(hits).tracks.chain
    assert len(chain) == int(events.particles.reconstructable(min_layers=7).sum())
    adjacent = Finder(GraphBuilder(DETECTOR, skip=False), Automaton(), finder.fit)
    assert len(adjacent(hits).tracks.chain) < len(chain)


def test_a_wrong_hit_costs_a_track_one_hit(finder):
    events = separated(12)
    chain = finder(events.hits).tracks.chain[:, :7].clone()
    wrong, layer = chain[1, 4].item(), 4
    chain = chain[:1]
    chain[0, layer] = wrong
    kept = finder.candidates(events.hits, chain)
    assert kept.n_hits.tolist() == [6]
    assert wrong not in kept.chain[0].tolist()


def test_nothing_is_found_in_noise(finder):
    events = drawn(20, noise_per_sensor=0.02)
    noise = events.hits.take((events.hits.particle == NOISE).nonzero().squeeze(-1))
    assert noise.n_hits > 300
    assert len(finder(noise).tracks.chain) == 0


def test_found_tracks_have_the_events_numbers_and_the_hits_as_measured(few, finder):
    found = finder(few.hits).tracks
    tracks = in_file_order(few.hits, found, np.array([17, 40]))
    assert sorted(set(tracks.event.tolist())) == [17, 40]
    assert bool((np.diff(tracks.event) >= 0).all())
    one = {tuple(row) for row in few.hits.uv.tolist()}
    assert {tuple(row) for row in tracks.uv.tolist()} <= one
    assert len(tracks) == len(found.chain)


def test_finders_refuse_what_they_cannot_do():
    with pytest.raises(ConfigError, match="min_hits is 3"):
        Finder(GraphBuilder(DETECTOR), Automaton(), TrackFit(DETECTOR), min_hits=3)
    with pytest.raises(ConfigError, match="vertex is 'given'"):
        GraphBuilder(DETECTOR, vertex="given")
    with pytest.raises(ConfigError, match="systematic is -1"):
        GraphBuilder(DETECTOR, systematic=-1)


def test_first_of_each_and_packed():
    assert first_of_each(torch.tensor([3, 1, 3, 1, 2])).tolist() == [0, 1, 4]
    assert packed(torch.tensor([[X, 4, X, 5], [1, X, X, X]])).tolist() == [[4, 5], [1, X]]


# Two particles with 8 and 4 layers, hits 0 … 7 and 8 … 11, and two hits of noise.
HITS = hits_with([0] * 8 + [1] * 4 + [N, N], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5])
TWO = Particles(
    torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 0.25]), torch.zeros(2), torch.zeros(2),
    torch.tensor([8, 4]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "particle", "matched", "majority", "perfect"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 0, True, True, True),
        ([0, 1, 2, 3, X, X, X, X], 0, True, False, False),  # half of the particle's layers
        ([0, 1, 2, 3, 4, X, X, X], 0, True, True, False),
        ([0, 1, 2, 3, 4, 12, X, X], 0, True, True, False),  # 5 of 6 hits
        ([0, 1, 2, 12, X, X, X, X], 0, False, False, False),  # 3 of 4: not more than 75 %
        ([0, 1, 2, 3, 4, 8, 9, X], 0, False, True, False),  # 5 of 7
        ([0, 1, 8, 9, X, X, X, X], 0, False, False, False),  # half and half
        ([12, 13, X, X, X, X, X, X], N, False, False, False),
        ([8, 9, 10, 11, X, X, X, X], 1, True, True, True),
    ],
)
def test_matching(chain, particle, matched, majority, perfect):
    found = match(HITS, torch.tensor([chain]), TWO)
    if particle is not None:
        assert found.particle.item() == particle
    assert [found.matched.item(), found.majority.item(), found.perfect.item()] == [matched, majority, perfect]


def test_rates_are_counted_over_what_they_say():
    chain = torch.tensor([
        [0, 1, 2, 3, X], [4, 5, 6, 7, X],  # twice the first particle
        [8, 9, 10, 11, X],  # the second, which is too slow and has too few layers
        [12, 13, X, X, X], [0, 1, 8, 9, X],  # fakes
    ])  # fmt: skip
    pt = torch.tensor([1.0, 1.0, 0.25, 0.25, 5.0])
    scores = values(track_scores(HITS, chain, pt, TWO, bins=(0.2, 0.3, 10.0)))
    assert scores["efficiency"] == 1.0
    assert scores["efficiency_perfect"] == 0.0
    assert scores["fakes"] == pytest.approx(1 / 3)  # of the three above 0.3 GeV/c
    assert scores["duplicates"] == pytest.approx(1 / 3)
    assert scores["fakes/0.2-0.3"] == 0.5
    assert np.isnan(scores["efficiency/0.2-0.3"])  # nothing to find there
    assert scores["efficiency/0.3-inf"] == 1.0


def test_edges_that_no_graph_has_are_lost(few):
    graph = GraphBuilder(DETECTOR)(few.hits)
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    all_kept, none = edge_scores(few.hits, graph, every, True), edge_scores(few.hits, graph, ~every, True)
    assert all_kept["edge_efficiency"] == all_kept["graph_efficiency"]
    assert none["edge_efficiency"].value() == 0
    assert none["edge_purity"].entries == 0
