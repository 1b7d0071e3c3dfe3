"""Toy events follow the laws that they are drawn from, and nothing but the seed decides them."""

from __future__ import annotations

import pytest
import torch
from drawn import events

from alignnet.errors import ConfigError
from alignnet.trackfinding.data import TrackfindingData
from alignnet.trackfinding.lines import LineToy
from alignnet.trackfinding.objectives.images import Bins
from alignnet.trackfinding.segments import SegmentToy
from alignnet.trackfinding.toy2d import Toy2D, Wedge2D, wedge_widths
from alignnet.trackfinding.toy3d import Toy3D

TOYS_2D = [Toy2D(noise=0.2), Toy2D(background=5), Toy2D(background=5, noise=0.05), Toy2D(48, 48, 5, 0.2)]


@pytest.mark.parametrize(
    ("toy", "occupancy"),
    [*zip(TOYS_2D, (0.216, 0.113, 0.157, 0.294), strict=True), (Toy2D(48, 48, 5), 0.118),
     (Toy3D(), 0.0139), (Toy3D(background=10), 0.0206), (Toy3D(background=20), 0.0303),
     (Toy3D(background=50), 0.0574)],
)  # fmt: skip
def test_occupancies_outside_the_seeds_are_those_measured_elsewhere(toy, occupancy):
    """Another program's figures, of 2,000 events; here as many."""
    image = events(toy, 2000).image[:, toy.seeds :]
    per_event = image.flatten(1).mean(1)
    error = float(per_event.std()) / 2000**0.5
    rounding = 0.0005 if occupancy > 0.1 else 0.00005
    assert float(per_event.mean()) == pytest.approx(occupancy, abs=5 * error + rounding)


@pytest.mark.parametrize("toy", [*TOYS_2D, Wedge2D(), Toy3D()], ids=lambda toy: type(toy).__name__)
def test_seed_layers_hold_the_track_alone_and_it_is_lit_everywhere(toy):
    batch = events(toy, 200)
    flat = batch.image.flatten(2)
    assert (flat[:, : toy.seeds].sum(2) == 1).all()
    assert (flat.gather(2, batch.pixel[..., None]) == 1).all()


@pytest.mark.parametrize("toy", [Toy2D(), Toy3D(background=0, noise=0)], ids=["2D", "3D"])
def test_a_track_is_a_straight_line_of_its_parameters(toy):
    batch = events(toy, 500)
    coordinates = len(toy.plane)
    entry, slope = batch.line.split(coordinates, 1)
    layer = torch.arange(toy.layers)
    index = torch.stack(torch.unravel_index(batch.pixel, toy.plane), -1)
    expected = (entry[:, None] + slope[:, None] * layer[:, None]).floor()
    off = index - expected  # the very end of the last plane may round up
    assert (off == 0).float().mean() > 0.9999


def test_slopes_are_of_the_number_of_layers_in_2d_and_of_their_distances_in_3d():
    """A 2D track's exit is one layer beyond the last one; a 3D track's is in the last one."""
    flat, planes = events(Toy2D(), 20_000), events(Toy3D(background=0, noise=0), 20_000)
    far2d = flat.line[:, 0] + 50 * flat.line[:, 1]
    far3d = planes.line[:, :2] + 9 * planes.line[:, 2:]
    for far, width in ((far2d, 50), (far3d, 32)):
        assert 0 <= float(far.min()) < 0.01 * width
        assert 0.99 * width < float(far.max()) <= width + 1e-3
        assert float(far.mean()) == pytest.approx(width / 2, abs=0.01 * width)


def test_background_is_a_fixed_number_in_2d_and_poisson_in_3d():
    flat = events(Toy2D(background=5), 300).image[:, 5:].sum(2)
    assert int(flat.max()) == 6
    lit = events(Toy3D(background=3, noise=0), 4000).image[:, -1].flatten(1).sum(1) - 1
    assert float(lit.mean()) == pytest.approx(3, abs=0.1)  # hardly ever two in one of 1,024 pixels
    assert float(lit.var()) == pytest.approx(3, abs=0.3)


def test_of_several_mean_numbers_of_tracks_each_event_has_one():
    """A mixture of Poisson numbers has the mean of the means, and their variance besides its own."""
    lit = events(Toy3D(background=[1, 9], noise=0), 4000).image[:, -1].flatten(1).sum(1) - 1
    assert float(lit.mean()) == pytest.approx(5, abs=0.3)
    assert float(lit.var()) == pytest.approx(5 + 16, abs=2)


def test_the_wedge_has_the_published_widths_and_nothing_outside():
    widths = wedge_widths(48, 48)
    assert widths[:12] == [2, 4, 4, 6, 6, 8, 10, 10, 12, 12, 14, 16]
    assert (sum(widths), widths[38], widths[39:]) == (1390, 46, [48] * 9)
    toy = Wedge2D()
    image = events(toy, 300).image
    assert (image * ~toy.inside == 0).all()
    entry = events(toy, 2000).line[:, 0]
    assert 23 <= float(entry.min()) < 23.01
    assert 24.99 < float(entry.max()) < 25
    largest = torch.tensor([[48 * (1 - 2**-24), 0.0]])  # 1 − 2⁻²⁴: the largest number below 1 that is drawn
    assert float(toy.signal_ends(largest)[0, 0]) < 25


def test_lines_come_by_rising_intercept_and_the_absent_ones_last():
    batch = events(LineToy(50, 3, 6, "poisson"), 500)
    assert (batch.present.long().diff(dim=1) <= 0).all()
    both = batch.present[:, 1:]
    assert (batch.lines[:, :, 0].diff(dim=1)[both] >= 0).all()
    assert (batch.lines[~batch.present] == 0).all()


@pytest.mark.parametrize(("first", "column"), [(0, True), (1, False)])
def test_pixel_zero_is_drawn_or_not(first, column):
    image = events(LineToy(50, 3, 3, first_pixel=first), 300).image
    assert bool(image[:, :, 0].any()) is column


def test_lines_are_as_spread_as_measured_elsewhere():
    lines = events(LineToy(50, 1, 1), 20_000).lines[:, 0] * torch.tensor([1.0, 25.0])
    assert lines.std(0).tolist() == pytest.approx([14.4, 10.2], abs=0.1)
    assert float(lines.var(0).mean()) == pytest.approx(155.7, abs=2)


def test_numbers_of_tracks_follow_their_law():
    n = {law: events(LineToy(64, 8, 16, law), 8000).present.sum(1) for law in ("fixed", "uniform", "poisson")}
    assert (n["fixed"] == 8).all()
    counts = n["uniform"].bincount(minlength=17)
    assert counts.tolist() == pytest.approx([8000 / 17] * 17, abs=5 * (8000 / 17) ** 0.5)
    assert float(n["poisson"].float().mean()) == pytest.approx(7.99, abs=0.15)
    assert int(n["poisson"].max()) == 16


def test_images_of_eight_tracks_are_as_dark_as_measured_elsewhere():
    image = events(LineToy(64, 8, 8), 1000).image
    assert float(image.sum((1, 2)).mean()) == pytest.approx(480, abs=2)
    noisy = events(LineToy(64, 8, 8, noise=0.02), 1000)
    extra = (noisy.image - noisy.clean).sum((1, 2)).mean()
    assert float(extra) == pytest.approx(0.02 * (4096 - 480), abs=2)


def test_bins_are_as_full_as_measured_elsewhere():
    batch = events(LineToy(64, 8, 16, "poisson"), 4000)
    occupied = Bins().target(batch).sum((1, 2))
    assert float(occupied.mean()) == pytest.approx(7.74, abs=0.15)
    assert 1 - float(occupied.sum() / batch.present.sum()) == pytest.approx(0.030, abs=0.003)


def test_a_graph_has_all_pairs_of_adjacent_layers_and_the_tracks_among_them():
    toy = SegmentToy(4, 10, 0.0)
    batch = events(toy, 50)
    assert batch.edges.shape == (2, 50 * 144)
    assert float(batch.truth.sum()) == 50 * 36
    inner, outer = batch.hits[batch.edges]
    assert torch.allclose(outer[:, 0] - inner[:, 0], torch.tensor(1 / 9))
    assert (batch.graph[batch.edges[0]] == batch.graph[batch.edges[1]]).all()
    # true edges of an event have four slopes, nine times each
    slope = (outer[:, 1] - inner[:, 1])[batch.truth > 0].view(50, 36).sort(1).values.view(50, 4, 9)
    assert (slope.amax(2) - slope.amin(2) < 1e-5).all()


def test_a_batch_depends_on_seed_part_epoch_and_number_alone():
    def batch(seed: int, part: str, epoch: int, index: int) -> torch.Tensor:
        data = TrackfindingData(Toy2D(noise=0.2), batch_size=4, events=20, seed=seed)
        data.begin_epoch(epoch)
        return data.batches[part][index].image

    first = batch(1, "train", 0, 0)
    torch.rand(7)  # what others draw changes nothing
    assert torch.equal(first, batch(1, "train", 0, 0))
    others = [(2, "train", 0, 0), (1, "validation", 0, 0), (1, "train", 1, 0), (1, "train", 0, 1)]
    assert not any(torch.equal(first, batch(*key)) for key in others)
    assert torch.equal(batch(1, "test", 0, 1), batch(1, "test", 5, 1))


def test_epochs_have_as_many_events_as_asked_and_workers_change_none():
    sizes = {"batch_size": 8, "events": 20, "validation": 5, "test": 9}
    data = TrackfindingData(Toy2D(10, 10, seeds=2), **sizes)
    assert [len(b.image) for b in data.train_dataloader()] == [8, 8, 4]
    assert sum(len(b.image) for b in data.test_dataloader()) == 9
    other = TrackfindingData(Toy2D(10, 10, seeds=2), workers=2, **sizes)
    for one, two in zip(data.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(one.image, two.image)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Toy2D(seeds=50), "toy.seeds is 50; expected 0 or more, and fewer than the 50 layers"),
        (lambda: Toy3D(noise=1.5), "toy.noise is 1.5; expected a probability"),
        (lambda: Toy3D(background=[]), "toy.background is empty; expected mean numbers of tracks"),
        (lambda: Toy3D(background=[3, -1]), "toy.background is -1"),
        (lambda: Toy2D(background=-1), "toy.background is -1"),
        (lambda: LineToy(50, 7, 6), "toy.tracks is 7, more than toy.most, 6"),
        (lambda: LineToy(law="any"), "toy.law is 'any'; choose from fixed, uniform, poisson"),
        (lambda: TrackfindingData(Toy2D(), batch_size=0), "data.batch_size is 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_its_key(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
