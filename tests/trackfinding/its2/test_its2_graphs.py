"""Pairs, cells and vertices: against all combinations, and against helices that are known."""

from __future__ import annotations

import pytest
import torch
from its2_events import DETECTOR, drawn

from alignnet.physics.helix import from_momentum, path_to_cylinder, point
from alignnet.trackfinding.its2.cells import cells_of, joints
from alignnet.trackfinding.its2.graph import GraphBuilder, n_true_edges, true_edges
from alignnet.trackfinding.its2.hits import NOISE
from alignnet.trackfinding.its2.pairs import within
from alignnet.trackfinding.its2.tracklets import Errors, Matter, arc, tracklets_of
from alignnet.trackfinding.its2.vertex import medians, vertex_z


def rows(pairs):
    return set(map(tuple, pairs.T.tolist()))


@pytest.mark.parametrize("vertex", ["found", "unknown"])
@pytest.mark.parametrize(("inner", "outer"), [(0, 1), (2, 3), (5, 6), (3, 5)])
def test_windows_find_what_all_pairs_tried_one_by_one_give(few, vertex, inner, outer):
    windows = GraphBuilder(DETECTOR).windows
    hits = few.hits
    z = vertex_z(hits, windows) if vertex == "found" else None
    first, second = ((hits.layer == layer).nonzero().squeeze(-1) for layer in (inner, outer))
    every = torch.cartesian_prod(first, second).T
    every = every[:, hits.event[every[0]] == hits.event[every[1]]]
    expected = rows(windows.chosen(hits, every, z))
    assert len(expected) > 50
    assert rows(windows.pairs(hits, inner, outer, z)) == expected


def test_neighbours_in_azimuth_are_those_of_the_circle(few):
    hits, reach = few.hits, 0.4
    chosen = hits.layer == 1
    difference = hits.phi[chosen, None] - hits.phi[None]
    near = (torch.remainder(difference + torch.pi, 2 * torch.pi) - torch.pi).abs() < reach
    near &= (hits.event[chosen, None] == hits.event) & (hits.layer == 4)
    found = torch.zeros_like(near)
    a, b = within(hits, chosen, 4, reach)
    found[torch.cumsum(chosen, 0)[a] - 1, b] = True
    assert torch.equal(found, near)


@pytest.mark.parametrize("charge", [-1.0, 1.0])
def test_a_helix_from_the_beam_line_is_recovered_from_two_of_its_points(few, charge):
    momentum = torch.tensor([[0.3, -0.2, 0.25], [-0.1, -0.25, -0.3]], dtype=torch.float64)
    start = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, -7.0]], dtype=torch.float64)
    helix = from_momentum(start, momentum, torch.full((2,), charge, dtype=torch.float64), 0.5)
    radii = torch.tensor([2.3, 39.0], dtype=torch.float64)
    places = [point(helix, path_to_cylinder(helix, radius.expand(2))) for radius in radii]
    hits = few.hits.take(torch.arange(4))._replace(position=torch.cat(places))
    found = tracklets_of(hits, torch.tensor([[0, 1], [2, 3]]))
    pt = momentum[:, :2].norm(dim=-1)
    torch.testing.assert_close(found.kappa, helix.omega / (pt / momentum.norm(dim=-1)))
    torch.testing.assert_close(found.tan_lambda, momentum[:, 2] / pt)
    torch.testing.assert_close(found.z0, start[:, 2])


def test_arcs_are_radii_where_nothing_bends():
    radius = torch.tensor([2.0, 40.0], dtype=torch.float64)
    assert torch.equal(arc(torch.zeros(2, dtype=torch.float64), radius), radius)
    kappa = torch.tensor(0.01, dtype=torch.float64)
    torch.testing.assert_close(arc(kappa, radius), 2 / kappa * torch.asin(kappa * radius / 2))


def test_errors_are_as_large_as_tracklets_stray():
    """Pulls of tracklets' curvatures and starts, and of cells, have a width of 1."""
    events = drawn(400, seed=9)
    hits, graph = events.hits, GraphBuilder(DETECTOR)(events.hits)
    true = true_edges(hits, graph.pairs)
    both = true[graph.cells.inner] & true[graph.cells.outer]
    for pull in (graph.cells.pull_kappa[both], graph.cells.pull_dip[both]):
        assert 0.9 < float((pull.quantile(0.84) - pull.quantile(0.16)) / 2) < 1.15
        assert float((pull.abs() > 5).double().mean()) < 0.005


def test_cells_are_all_pairs_of_pairs_with_a_common_hit(few):
    windows = GraphBuilder(DETECTOR, vertex="unknown").windows
    pairs = torch.cat([windows.pairs(few.hits, k, k + 1, None) for k in (0, 1)], 1)
    inner, outer = joints(pairs, few.hits.n_hits)
    common = pairs[1][:, None] == pairs[0][None]
    assert set(zip(inner.tolist(), outer.tolist(), strict=True)) == set(map(tuple, common.nonzero().tolist()))


def test_the_vertex_is_found(few):
    truth = torch.from_numpy(few.tracks.truth["position"][[0, -1], 2])
    windows = GraphBuilder(DETECTOR).windows
    assert (vertex_z(few.hits, windows) - truth).abs().max() < 0.01


def test_an_event_far_off_is_searched_without_a_vertex(few):
    """Its few tracklets do not say where it is, and pairs from everywhere are taken."""
    hits = few.hits
    inner = (hits.layer <= 2) & (hits.event == 0)
    left = hits.take((~inner).nonzero().squeeze(-1))
    windows = GraphBuilder(DETECTOR).windows
    z = vertex_z(left, windows)
    assert z.isnan().tolist() == [True, False]
    pairs = windows.pairs(left, 3, 4, z)
    first = left.event[pairs[0]] == 0
    unlimited = windows.pairs(left, 3, 4, None)
    assert rows(pairs[:, first]) == rows(unlimited[:, left.event[unlimited[0]] == 0])
    assert len(pairs[0, ~first]) < len(unlimited[0, left.event[unlimited[0]] == 1])


def test_medians_of_groups():
    group = torch.tensor([2, 0, 2, 0, 2, 0, 0])
    value = torch.tensor([9.0, 1.0, 7.0, 4.0, 8.0, 3.0, 2.0], dtype=torch.float64)
    empty = torch.full((3,), -1.0, dtype=torch.float64)
    assert medians(group, value, empty).tolist() == [2.5, -1.0, 8.0]


@pytest.mark.parametrize("vertex", ["found", "unknown"])
def test_cuts_lose_less_than_one_true_pair_in_a_hundred(few, vertex):
    graph = GraphBuilder(DETECTOR, vertex=vertex)(few.hits)
    true = int(true_edges(few.hits, graph.pairs).sum())
    assert true >= 0.99 * n_true_edges(few.hits, skip=True)


def test_true_pairs_join_successive_hits_and_reach_across_a_layer_only_if_it_is_missing(few):
    hits = few.hits
    every = torch.cartesian_prod(torch.arange(hits.n_hits), torch.arange(hits.n_hits)).T
    step = hits.layer[every[1]] - hits.layer[every[0]]
    every = every[:, (step == 1) | (step == 2)]
    true = rows(every[:, true_edges(hits, every)])
    layers = {}
    for row, (particle, layer) in enumerate(zip(hits.particle.tolist(), hits.layer.tolist(), strict=True)):
        if particle != NOISE:
            layers.setdefault(particle, {}).setdefault(layer, []).append(row)
    expected = set()
    for seen in layers.values():
        for layer, here in seen.items():
            for target in (layer + 1, layer + 2) if layer + 1 not in seen else (layer + 1,):
                expected |= {(a, b) for a in here for b in seen.get(target, ())}
    assert true == expected
    assert len(expected) == n_true_edges(hits, skip=True)


def test_matter_grows_outwards():
    matter = Matter.of(DETECTOR)
    assert torch.all(matter.reach.diff() > 0)
    assert matter.radius[0].item() == pytest.approx(2.34, abs=0.02)
    curved = torch.tensor([0.0075, 0.0001], dtype=torch.float64)
    slow, fast = Errors(matter, 0.5).scattering(curved, torch.zeros_like(curved))
    assert slow > 1000 * fast


def test_no_cell_joins_what_is_far_apart(few):
    builder = GraphBuilder(DETECTOR, vertex="unknown")
    windows = builder.windows
    pairs = torch.cat([windows.pairs(few.hits, k, k + 1, None) for k in range(6)], 1)
    found = tracklets_of(few.hits, pairs)
    wide = cells_of(few.hits, pairs, found, windows.errors, 1e9)
    narrow = cells_of(few.hits, pairs, found, windows.errors, 3.0)
    assert len(narrow.inner) == len(wide.within(3.0).inner) < len(wide.inner)
