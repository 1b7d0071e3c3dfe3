"""The network: what must not change its scores, its gradients, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from its2_events import DETECTOR, drawn

from alignnet.trackfinding.its2.batches import GraphEvents, TrackGraphs, graphs_of
from alignnet.trackfinding.its2.events import SimulatedEvents
from alignnet.trackfinding.its2.graph import GraphBuilder
from alignnet.trackfinding.its2.hits import in_order
from alignnet.trackfinding.its2.network import Links, TrackletNetwork
from alignnet.trackfinding.its2.objective import TrackEdges
from alignnet.trackfinding.metrics import edge_counts


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return TrackletNetwork(hidden=8, iterations=3).double()


def builder(vertex="found"):
    return GraphBuilder(DETECTOR, vertex=vertex)


def logits(network, batch: TrackGraphs):
    return network(Links.of(batch.graph), batch.edge.double(), batch.cell.double())


def by_place(batch, values, place):
    """Values of edges in an order that depends on where their hits are, as `place` sees it."""
    key = place(batch.hits.position)[batch.graph.pairs]
    order = torch.argsort(key[0] + 1e3 * key[1])
    return values[order]


def transformed(hits, change):
    return in_order(hits._replace(position=change(hits.position)))


def rotated(angle):
    c, s = torch.tensor(angle).double().cos(), torch.tensor(angle).double().sin()
    return lambda p: torch.stack([c * p[:, 0] - s * p[:, 1], s * p[:, 0] + c * p[:, 1], p[:, 2]], -1)


def mirrored(axis):
    return lambda p: p * torch.tensor([-1.0 if k == axis else 1.0 for k in range(3)]).double()


CHANGES = {"rotation": rotated(2.1), **{f"mirror {'xyz'[k]}": mirrored(k) for k in range(3)}}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("vertex", ["found", "unknown"])
def test_scores_do_not_know_how_the_axes_lie(few, network, change, vertex):
    before = graphs_of(few.hits, few.particles, builder(vertex))
    after = graphs_of(transformed(few.hits, change), few.particles, builder(vertex))

    def place(position):  # radius and |z| stay as they are
        return position[:, :2].norm(dim=-1) + 100 * position[:, 2].abs()

    first, second = (by_place(batch, logits(network, batch), place) for batch in (before, after))
    assert first.std() > 1e-3
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


def test_scores_do_not_depend_on_the_order_of_edges_and_cells(few, network):
    batch = graphs_of(few.hits, few.particles, builder())
    n_edges, n_cells = batch.graph.n_edges, len(batch.cell)
    edges, cells = torch.randperm(n_edges), torch.randperm(n_cells)
    row = torch.argsort(edges)
    links = Links.of(batch.graph)
    shuffled = Links(links.pairs[:, edges], row[links.inner[cells]], row[links.outer[cells]])
    other = network(shuffled, batch.edge[edges].double(), batch.cell[cells].double())
    torch.testing.assert_close(other[row], logits(network, batch))


def test_events_together_score_as_each_by_itself(network):
    pair = drawn(30, n_events=2)
    together = graphs_of(pair.hits, pair.particles, builder())
    whole = logits(network, together)
    for event in (0, 1):
        hits = pair.hits.take((pair.hits.event == event).nonzero().squeeze(-1))
        alone = graphs_of(hits._replace(event=torch.zeros_like(hits.event)), pair.particles, builder())
        mine = pair.hits.event[together.graph.pairs[0]] == event
        torch.testing.assert_close(logits(network, alone), whole[mine])


def test_gradients(network):
    links = Links(torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]]), torch.tensor([0, 1]), torch.tensor([2, 3]))
    edge = torch.randn(4, 16, dtype=torch.float64, requires_grad=True)
    cell = torch.randn(2, 14, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e, c: network(links, e, c), (edge, cell))
    network(links, edge, cell).sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_messages_reach_as_far_as_there_are_turns():
    torch.manual_seed(1)
    pairs = torch.stack([torch.arange(6), torch.arange(1, 7)])
    links = Links(pairs, torch.arange(5), torch.arange(1, 6))
    edge, cell = torch.randn(6, 16, requires_grad=True), torch.randn(5, 14)
    TrackletNetwork(hidden=8, iterations=2)(links, edge, cell)[0].backward()
    assert (edge.grad.abs().sum(-1) > 0).tolist() == [True, True, True, False, False, False]


def test_a_graph_without_edges_has_no_scores(network):
    nothing = Links(torch.zeros(2, 0).long(), torch.zeros(0).long(), torch.zeros(0).long())
    assert network(nothing, torch.zeros(0, 16).double(), torch.zeros(0, 14).double()).shape == (0,)


def test_it_has_as_many_parameters_as_documented():
    assert sum(p.numel() for p in TrackletNetwork().parameters()) == 26_589


def test_one_batch_is_learnt_by_heart():
    torch.manual_seed(0)
    graphs = GraphEvents(SimulatedEvents((100,)), [{"vertex": "unknown"}])
    batch = graphs.sample(1, torch.Generator().manual_seed(4))
    assert 0.05 < float(batch.truth.mean()) < 0.98
    network, objective = TrackletNetwork(hidden=16, iterations=2), TrackEdges(tracks=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        loss = objective.loss(objective.output(network, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = edge_counts(objective.output(network, batch).detach().sigmoid(), batch.truth)
    assert found["purity"].value() > 0.99
    assert found["efficiency"].value() > 0.99


def test_the_loss_is_the_mean_over_edges(few):
    batch = graphs_of(few.hits, few.particles, builder())
    output = torch.randn(batch.graph.n_edges)
    expected = F.softplus(torch.where(batch.truth > 0, -output, output)).mean()
    torch.testing.assert_close(TrackEdges(tracks=False).loss(output, batch), expected)
