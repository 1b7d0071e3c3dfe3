"""Baselines reach what another program measured with the same methods, on events of the same law."""

from __future__ import annotations

import pytest
import torch
from drawn import events, scored

from alignnet.trackfinding.baselines.hough import HoughBins, HoughLines
from alignnet.trackfinding.baselines.images import copied, most_lit_layer, no_bins, nothing_lit
from alignnet.trackfinding.baselines.least_squares import TruePixels
from alignnet.trackfinding.baselines.scan import LineScan
from alignnet.trackfinding.baselines.seeded import StraightLine
from alignnet.trackfinding.baselines.straightest import Straightest
from alignnet.trackfinding.line_table import code_of, line_table
from alignnet.trackfinding.lines import LineToy
from alignnet.trackfinding.objectives.edges import Edges
from alignnet.trackfinding.objectives.hits import Hits
from alignnet.trackfinding.objectives.images import Bins, Counting, Reconstruction
from alignnet.trackfinding.objectives.lines import Lines
from alignnet.trackfinding.segments import SegmentToy
from alignnet.trackfinding.toy2d import Toy2D
from alignnet.trackfinding.toy3d import Toy3D

# toy, seeds: extrapolated pixel; followed pixel, hit, hit with seeds (trackfinding.md, 2,000 events)
FOLLOWED = [
    (Toy2D(noise=0.2), 0.252, 0.882, 0.975, 0.977),
    (Toy2D(background=5), 0.238, 0.863, 0.948, 0.953),
    (Toy2D(48, 48, 5), 0.241, 0.869, 0.958, 0.963),
    (Toy2D(48, 48, 5, 0.2), 0.252, 0.823, 0.918, 0.927),
    (Toy3D(), 0.165, 0.596, 0.989, 0.992),
    (Toy3D(background=10), 0.170, 0.585, 0.978, None),
    (Toy3D(background=20), 0.170, 0.573, 0.956, None),
]


@pytest.mark.parametrize(("toy", "extrapolated", "pixel", "hit", "hit_all"), FOLLOWED)
def test_seeds_extrapolated_and_roads_followed_are_as_measured_elsewhere(
    toy, extrapolated, pixel, hit, hit_all
):
    objective = Hits(toy.seeds)
    found = scored(toy, StraightLine(toy.seeds), objective, 1500)
    assert found["pixel"] == pytest.approx(pixel, abs=0.015)
    assert found["hit"] == pytest.approx(hit, abs=0.012)
    if hit_all is not None:
        assert found["hit_all_layers"] == pytest.approx(hit_all, abs=0.012)
    alone = scored(toy, StraightLine(toy.seeds, follow=False), objective, 1500)
    assert alone["pixel"] == pytest.approx(extrapolated, abs=0.02)
    assert alone["pixel"] < found["pixel"]


@pytest.mark.parametrize(
    ("toy", "pixel", "hit"),
    [(Toy2D(noise=0.2), 0.922, 0.971), (Toy2D(background=5), 0.894, 0.958), (Toy2D(48, 48, 5), 0.912, 0.973)],
)
def test_line_scans_are_as_measured_elsewhere(toy, pixel, hit):
    """There with 400 events; an event's pixel accuracy spreads by 0.15."""
    found = scored(toy, LineScan(toy.layers, toy.width, toy.seeds, 0.25), Hits(toy.seeds), 1000)
    assert found["pixel"] == pytest.approx(pixel, abs=0.02)
    assert found["hit"] == pytest.approx(hit, abs=0.012)


def test_a_finer_scan_is_better():
    toy = Toy2D(noise=0.2)
    coarse, fine = (scored(toy, LineScan(step=step), Hits(5), 500)["pixel"] for step in (0.25, 0.1))
    assert fine > coarse + 0.03


@pytest.mark.parametrize("toy", [Toy2D(), Toy3D(background=0, noise=0)], ids=["2D", "3D"])
def test_without_other_hits_every_hit_is_found(toy):
    found = scored(toy, StraightLine(toy.seeds), Hits(toy.seeds), 500)
    assert found["hit"] == found["track"] == 1


def test_the_table_has_all_lines_through_seeds_and_weighs_them_by_their_chance():
    table = line_table(10, 8, 3, 0.05, 10)
    assert float(table.weight.sum()) == pytest.approx(1, abs=1e-5)
    batch = events(Toy2D(10, 8, seeds=3), 20_000)
    rows, valid = table.candidates(batch.pixel[:, :3])
    pixel = table.pixel[rows].long()
    assert (pixel[..., :3] == batch.pixel[:, None, :3])[valid].all()
    own = (pixel == batch.pixel[:, None]).all(-1) & valid
    assert own.any(1).float().mean() > 0.99  # the rest are lines between those of the grid
    expected = torch.zeros(len(table.weight)).index_add_(0, rows[own], torch.ones(int(own.sum())))
    large = table.weight > 2e-3
    ratio = expected[large] / (table.weight[large] * 20_000)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)
    assert (code_of(table.pixel[:, :3], 8).diff() >= 0).all()


def test_the_most_lit_layer_counts_as_measured_elsewhere():
    found = scored(LineToy(64, 8, 16, "uniform"), most_lit_layer, Counting(), 4000)
    assert found["count"] == pytest.approx(0.995, abs=0.004)
    assert found["within_one"] > 0.999


def test_trivial_images_score_as_measured_elsewhere():
    toy = LineToy(64, 8, 8, noise=0.02)
    assert scored(toy, copied, Reconstruction(), 1000)["pixel"] == pytest.approx(0.9824, abs=0.0005)
    assert scored(toy, nothing_lit, Reconstruction(), 1000)["pixel"] == pytest.approx(0.8827, abs=0.001)
    bins = scored(LineToy(64, 8, 16, "poisson"), lambda batch: no_bins(batch, 16), Bins(), 2000)
    assert bins["bin"] == pytest.approx(0.9698, abs=0.001)


def test_least_squares_is_as_good_as_measured_elsewhere():
    found = scored(LineToy(50, 1, 1), TruePixels(), Lines(), 20_000)
    assert found["mse"] == pytest.approx(0.0056, rel=0.08)
    assert found["mse_intercept"] ** 0.5 == pytest.approx(0.0795, rel=0.05)
    assert found["mse_slope"] ** 0.5 == pytest.approx(0.0695, rel=0.05)


def test_hough_finds_a_line_in_noise_as_well_as_if_its_pixels_were_known():
    toy = LineToy(50, 1, 1, noise=0.3)
    found = scored(toy, HoughLines(50, 1, 1.0), Lines(1.0), 250)
    assert found["mse"] < 0.02  # no information gives 104


def test_hough_finds_one_line_after_another():
    toy = LineToy(50, 2, 4, "poisson")
    found = scored(toy, HoughLines(50, 4, step=1.0), Lines(), 250)
    assert found["count"] > 0.95
    assert found["mse"] < 10  # a few whose number is wrong; no information gives 156


def test_hough_fills_the_bins_of_tracks():
    found = scored(LineToy(64, 8, 16, "poisson"), HoughBins(), Bins(), 250)
    assert found["bin"] > 0.985
    assert found["efficiency"] > 0.7
    assert found["purity"] > 0.85


def test_straight_edges_are_chosen_and_bent_ones_are_not():
    toy = SegmentToy(4, 10, 0.0)
    batch = events(toy, 100)
    score = Edges().score(Straightest(1e-4)(batch), batch)
    assert score["efficiency"].value() == 1
    assert score["purity"].value() > 0.99
