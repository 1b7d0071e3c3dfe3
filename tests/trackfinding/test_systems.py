"""Systems have the printed numbers of parameters, see what they should, and learn a batch by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import events
from scipy.optimize import linprog

from alignnet.trackfinding.line_table import line_table
from alignnet.trackfinding.lines import LineToy
from alignnet.trackfinding.objectives.edges import Edges
from alignnet.trackfinding.objectives.hits import Hits
from alignnet.trackfinding.objectives.images import Bins, Counting, Reconstruction
from alignnet.trackfinding.objectives.likelihood import LineLikelihood
from alignnet.trackfinding.objectives.lines import Lines
from alignnet.trackfinding.objectives.votes import PixelVotes
from alignnet.trackfinding.segments import SegmentToy
from alignnet.trackfinding.systems.conv import (
    Convolutions2D,
    Convolutions3D,
    HitAutoencoder2D,
    HitAutoencoder3D,
)
from alignnet.trackfinding.systems.graph import EdgeClassifier
from alignnet.trackfinding.systems.hough import ConvolutionalTransform, DenseTransform
from alignnet.trackfinding.systems.images import BinnedParameters, ImageAutoencoder, TrackCounter
from alignnet.trackfinding.systems.line_attention import LineAttention2D, LineAttention3D
from alignnet.trackfinding.systems.line_cover import LineCover
from alignnet.trackfinding.systems.lines import LineSequence, OneLine
from alignnet.trackfinding.systems.lit_lines import lit_lines
from alignnet.trackfinding.systems.lstm import BidirectionalLSTM, DeepLSTM, LayerLSTM, WedgeLSTM
from alignnet.trackfinding.systems.lstm_layer import OneBiasLSTM, n_parameters
from alignnet.trackfinding.toy2d import Toy2D, Wedge2D
from alignnet.trackfinding.toy3d import Toy3D

PRINTED = {
    "A1": (lambda: LayerLSTM(50, 50), 22_750),
    "A2, A3": (lambda: LayerLSTM(50, 100), 65_450),
    "A4": (lambda: WedgeLSTM(), 155_758),
    "B1": (lambda: Convolutions2D(10), 5_409),
    "B2": (lambda: Convolutions2D(20), 11_249),
    "B3": (lambda: HitAutoencoder2D(), 85_633),
    "C1": (lambda: LayerLSTM(1024, 1024, next_layer=True), 9_442_304),
    "C2, C4": (lambda: DeepLSTM(1024, 1024), 11_541_504),
    "C3": (lambda: BidirectionalLSTM(1024, 256), 3_017_984),
    "C6": (lambda: Convolutions3D(), 16_065),
    "C6'": (lambda: Convolutions3D(5, 64), 446_145),
    "C7": (lambda: HitAutoencoder3D(), 324_488),
    "D1": (lambda: ImageAutoencoder("reconstruction"), 16_417),
    "D2": (lambda: ImageAutoencoder("denoising"), 20_993),
    "D3": (lambda: TrackCounter(), 16_489),
    "D4": (lambda: BinnedParameters(), 377_152),
    "E1": (lambda: OneLine(), 204_214),
    "E2, E3": (lambda: LineSequence(), 9_295_050),
    "errors": (lambda: LineSequence(errors=True), 18_578_253),
    "segments": (lambda: EdgeClassifier(2, 32), 6_689),
    "segments of ACTS": (lambda: EdgeClassifier(3, 32), 6_881),
    "graph, small": (lambda: EdgeClassifier(3, 64), 26_049),
    "graph, big": (lambda: EdgeClassifier(3, 128), 101_249),
    "Hough": (lambda: DenseTransform(4, 3130), 156_762_920),
}


@pytest.mark.parametrize("name", PRINTED)
def test_a_system_has_the_printed_number_of_parameters(name):
    make, printed = PRINTED[name]
    with torch.device("meta"):  # shapes alone: the last one is of 630 MB
        assert n_parameters(make()) == printed


def test_the_second_bias_of_an_lstm_is_zero_and_stays_so():
    lstm = OneBiasLSTM(3, 4)
    lstm(torch.randn(2, 5, 3)).square().sum().backward()
    assert {name for name, value in lstm.named_parameters() if value.grad is None} == {"lstm.bias_hh_l0"}
    assert (lstm.lstm.bias_hh_l0 == 0).all()
    forget = lstm.lstm.bias_ih_l0[4:8]
    assert (forget == 1).all()
    recurrent = lstm.lstm.weight_hh_l0[:4]
    assert torch.allclose(recurrent @ recurrent.T, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize("next_layer", [False, True])
@pytest.mark.parametrize("make", [LayerLSTM, DeepLSTM])
def test_an_lstm_knows_the_layers_so_far_and_with_next_layer_not_the_one_it_answers(make, next_layer):
    system = make(16, 32, next_layer)  # so many units that some of each dense layer are above zero
    image = torch.rand(1, 6, 16, requires_grad=True)
    logits = system(image)
    first = 6 - logits.shape[1]
    for k in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[0, k].sum(), image, retain_graph=True)
        seen = gradient[0].abs().sum(1).nonzero().flatten().tolist()
        assert seen == list(range(k + 1))
        assert (first + k in seen) is (first == 0)


def test_plain_convolutions_do_not_see_the_seeds_from_afar_and_an_autoencoder_does():
    def sees(system, layer):
        image = torch.rand(1, 48, 48, requires_grad=True)
        (gradient,) = torch.autograd.grad(system(image)[0, layer].sum(), image)
        return int(gradient[0].abs().sum(1).nonzero()[0])

    assert sees(Convolutions2D(10), 47) == 47 - 11
    assert sees(Convolutions2D(20), 47) == 47 - 21
    assert sees(HitAutoencoder2D(), 47) < 5


def test_pixels_outside_the_wedge_have_no_chance():
    toy = Wedge2D()
    logits = WedgeLSTM()(events(toy, 3).image)
    assert torch.equal(logits.isneginf(), ~toy.inside.expand_as(logits))


def test_edge_scores_do_not_depend_on_the_order_of_hits_or_on_other_graphs():
    system, batch = EdgeClassifier(), events(SegmentToy(), 3)
    score = system(batch.hits, batch.edges)
    order = torch.randperm(len(batch.hits))
    place = order.argsort()
    assert torch.allclose(system(batch.hits[order], place[batch.edges]), score, atol=1e-5)
    alone = batch.graph == 0
    own = alone[batch.edges[0]]
    assert torch.allclose(system(batch.hits[alone], batch.edges[:, own]), score[own], atol=1e-5)


@pytest.mark.parametrize(
    ("toy", "system"),
    [(Toy2D(noise=0.2), lambda: LineAttention2D()), (Toy3D(), lambda: LineAttention3D())],
)
def test_attention_over_lines_gives_all_its_weight_to_lines_through_the_seeds(toy, system):
    """Before any training the scores are of lines that should be lit: they find tracks already."""
    batch, objective = events(toy, 40), Hits(toy.seeds)
    network = system()
    score = objective.score(objective.answer(network(batch.image), batch), batch)
    assert score["hit"].value() > 0.95
    seeds = torch.arange(toy.seeds)
    assert (network(batch.image)[:, seeds].argmax(-1) == batch.pixel[:, seeds]).all()


def test_attention_over_lines_weighs_the_planes_of_pairs_as_one_by_one():
    toy = Toy3D(10, 8, 2.0, 0.05)
    network = LineAttention3D(10, 8, 3, 0.25)
    batch = events(toy, 3)
    table = line_table(10, 8, 3, 0.25, 9)
    for event in range(3):
        seed = batch.pixel[event : event + 1, :3]
        (rows_x, valid_x), (rows_y, valid_y) = table.candidates(seed // 8), table.candidates(seed % 8)
        x, y = (table.pixel[rows[valid]].long() for rows, valid in ((rows_x, valid_x), (rows_y, valid_y)))
        lit = torch.stack([batch.image[event, k][x[:, k]][:, y[:, k]] for k in range(10)])
        weight = table.weight[rows_x[valid_x]][:, None] * table.weight[rows_y[valid_y]]
        chance = (3 * lit.sum(0)).exp() * weight
        chance = chance / chance.sum()
        expected = torch.zeros(10, 64)
        for k in range(10):
            expected[k].index_add_(0, (x[:, k, None] * 8 + y[:, k]).flatten(), chance.flatten())
        found = network(batch.image)[event] - batch.image[event].flatten(1)  # without what a lit pixel adds
        assert torch.allclose(found.exp() - torch.exp(torch.tensor(-7.0)), expected, atol=1e-4)


def test_all_lit_lines_are_found_and_nothing_else():
    batch = events(LineToy(24, 3, 6, "uniform"), 12)
    found = lit_lines(batch.image)
    layer = torch.arange(24)
    assert (batch.image[found.event[:, None], layer, found.pixel] == 1).all()  # each line is lit
    rows = {tuple(row) for row in torch.cat([found.event[:, None], found.pixel], 1).tolist()}
    assert len(rows) == len(found.event)  # once each
    place = torch.arange(96 * 24).view(1, -1) / 96 + 1 / 300  # any other way to draw lines finds no more
    entry, exit_ = place[:, ::7].reshape(-1, 1, 1), place[:, ::7].reshape(1, -1, 1)
    pixel = (entry + (exit_ - entry) * layer / 24).floor().long().clamp(0, 23).flatten(0, 1)
    for event in range(4):
        lit = pixel[batch.image[event, layer, pixel].bool().all(1)]
        missed = {tuple(row) for row in lit.tolist()} - {row[1:] for row in rows if row[0] == event}
        assert len(missed) <= 0.02 * len(lit.unique(dim=0)) + 1  # ways narrower than a cell
    shown = torch.zeros_like(batch.image).index_put(
        (found.event[:, None], layer, found.pixel), torch.ones(())
    )
    assert float((shown == batch.image).float().mean()) > 0.999  # and tracks are among them


def test_an_image_full_of_noise_does_not_make_the_search_endless():
    found = lit_lines(torch.ones(2, 12, 12), most=500)
    assert torch.bincount(found.event).max() <= 500


def test_the_program_tells_tracks_apart_that_no_layer_shows_side_by_side():
    """Two pairs, one apart in the first layers and one in the last: no layer shows more than three lines."""
    size = 32
    image, layer = torch.zeros(1, size, size), torch.arange(size)
    for entry, exit_ in ((4.2, 4.2), (4.2, 5.4), (20.2, 20.2), (21.4, 20.2)):
        image[0, layer, (entry + (exit_ - entry) * layer / size).floor().long()] = 1
    assert image.sum(2).max() == 3
    network = LineCover(most=6, rounds=400)
    with torch.no_grad():
        cover = network.cover(image, lit_lines(image))
    weights = linprog_cover(image[0])
    assert weights == pytest.approx(4)
    assert float(cover.weight) == pytest.approx(weights, abs=0.02)
    assert float(cover.price) == pytest.approx(weights, abs=0.02)  # both programs end at the same number
    assert float(cover.short) < 0.05
    assert float(cover.dark) == 0


def linprog_cover(image: torch.Tensor) -> float:
    """The linear program by scipy."""
    lines = lit_lines(image[None])
    n, layers = lines.pixel.shape
    through = torch.zeros(image.numel(), n)
    through[
        (torch.arange(layers) * image.shape[1] + lines.pixel).flatten(),
        torch.arange(n).repeat_interleave(layers),
    ] = 1
    through = through[image.flatten() > 0].numpy()
    return float(linprog(np.ones(n), -through, -np.ones(len(through)), bounds=(0, None)).fun)


def test_what_the_program_says_is_between_the_most_lit_layer_and_the_tracks():
    batch = events(LineToy(64, 8, 16, "uniform"), 20)
    with torch.no_grad():
        cover = LineCover(rounds=1000).cover(batch.image, lit_lines(batch.image))
    most_lit, tracks = batch.image.sum(2).amax(1), batch.present.sum(1)
    assert (cover.weight > most_lit - 0.05).all()
    assert (cover.weight < tracks + 0.05).all()
    assert (cover.price < tracks + 1e-4).all()  # of the dual: never more, however few the rounds


def test_no_fewer_tracks_are_counted_than_a_layer_has_lit_pixels():
    batch, network = events(LineToy(64, 8, 16, "uniform"), 30), LineCover()
    assert (network(batch.image).argmax(1) >= batch.image.sum(2).amax(1)).all()


BY_HEART = {
    "LSTM": (LayerLSTM(12, 32), Hits(3), Toy2D(12, 12, 0, 0.1, 3)),
    "next layer": (LayerLSTM(12, 32, True), Hits(3), Toy2D(12, 12, 0, 0.1, 3)),
    "deep LSTM": (DeepLSTM(64, 48), Hits(3), Toy3D(6, 8, 1.0, 0.01)),
    "both ways": (BidirectionalLSTM(64, 32), Hits(3), Toy3D(6, 8, 1.0, 0.01)),
    "wedge": (WedgeLSTM(16, 16, 32), Hits(3), Wedge2D(16, 16, 1, 0.0, 3)),
    "convolutions": (Convolutions2D(4), Hits(3), Toy2D(16, 16, 1, 0.0, 3)),
    "hit autoencoder": (HitAutoencoder2D((8, 16)), Hits(3), Toy2D(16, 16, 1, 0.0, 3)),
    "3D convolutions": (Convolutions3D(3), Hits(3), Toy3D(6, 8, 1.0, 0.01)),
    "3D autoencoder": (HitAutoencoder3D(), Hits(3), Toy3D(4, 32, 1.0, 0.0, 2)),
    "line attention": (LineAttention2D(step=0.25, blocks=5), Hits(5), Toy2D(background=2)),
    "line attention 3D": (LineAttention3D(10, 16, 3, 0.25), Hits(3), Toy3D(10, 16)),
    "reconstruction": (ImageAutoencoder(), Reconstruction(), LineToy(16, 2, 2)),
    "counter": (TrackCounter(4), Counting(4), LineToy(64, 2, 4, "uniform")),
    "line cover": (LineCover(4, 10, 16, 500), Counting(4), LineToy(16, 2, 4, "uniform")),
    "bins": (BinnedParameters(4), Bins(4), LineToy(64, 2, 4, "poisson")),
    "line": (OneLine(12), Lines(1.0), LineToy(12, 1, 1)),
    "sequence": (LineSequence(3, 12, 32, stops=True), Lines(6.0, True), LineToy(12, 2, 3, "poisson")),
    "errors": (LineSequence(2, 12, 32, errors=True), LineLikelihood(6.0, 0), LineToy(12, 2, 2)),
    "segments": (EdgeClassifier(2, 16, 3), Edges(), SegmentToy(2, 4)),
    "votes": (ConvolutionalTransform(4), PixelVotes(), LineToy(16, 2, 2)),
    "dense votes": (DenseTransform(12, 12, 2), PixelVotes(), LineToy(12, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HEART)
def test_a_system_learns_one_batch_by_heart(name):
    system, objective, toy = BY_HEART[name]
    batch = events(toy, 4)
    steps, lr = (300, 3e-3) if name == "segments" else (60, 1e-2)  # of a graph, ten times as quick
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr)
    losses = []
    for _ in range(steps):
        loss = objective.loss(objective.output(system, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < (0.7 * losses[0] if losses[0] > 0 else losses[0] - 1)
    with torch.no_grad():
        output = objective.output(system.eval(), batch)
        score = objective.score(objective.answer(output, batch), batch)
        figures = objective.show(output, batch)
    assert set(objective.merits) <= {*score, "loss"}
    assert figures
