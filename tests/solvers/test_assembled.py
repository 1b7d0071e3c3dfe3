"""The assembled H is the one that is never formed, and takes tracks in any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import BEAM, GUN, barrel, batch_of, random_local, simulated
from small_problems import BARREL, LINES, TELESCOPE, converged_loss, dense, loss_of, noisy
from torch import Tensor

from alignnet.data.tracks import Tracks
from alignnet.errors import ConvergenceError
from alignnet.geometry.detector import Detector
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import assembled
from alignnet.solvers.assembled import N_DRAWS, AssembledProblem, Collection
from alignnet.solvers.assembly import places, signs
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import level, level_matrix
from alignnet.solvers.linearised import Block, linearise
from alignnet.solvers.pair_blocks import PairBlocks

CASES = {
    "helices": (BARREL, GUN, "given", "local"),
    "lines": (LINES, GUN, "absent", "local"),
    "telescope": (TELESCOPE, BEAM, "absent", "global"),
    "affine": (BARREL, GUN, "absent", "affine"),
}


def blocks_of(
    sensors: SensorLayer, detector: Detector, parts: list[Tracks], vertex: str = "absent"
) -> list[Block]:
    loss = loss_of(detector, "full", vertex)
    return [linearise(loss, sensors, batch_of(part, detector)) for part in parts]


def assembled_of(sensors: SensorLayer, blocks: list[Block]) -> AssembledProblem:
    problem = AssembledProblem(sensors)
    for block in blocks:
        problem.add(block)
    return problem


def thirds(tracks: Tracks) -> list[Tracks]:
    return [tracks.select(tracks.event % 3 == k) for k in range(3)]


def is_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def assert_same(found: Problem, expected: Problem) -> None:
    """Equal products, gradients, blocks and hits."""
    vector = torch.randn(expected.free.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert is_close(found(vector), expected(vector))
    assert is_close(found.gradient(), expected.gradient())
    assert is_close(found.diagonal_blocks(), expected.diagonal_blocks())
    assert torch.equal(found.hits(), expected.hits())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fixed", [False, True], ids=["all free", "some fixed"])
def test_the_assembled_matrix_is_the_one_that_is_never_formed(case, fixed):
    detector, source, vertex, parametrisation = CASES[case]
    sensors = SensorLayer.of(detector, parametrisation)
    sensors.set_local(random_local(len(detector), 1e-3, 1e-4))
    if fixed:
        sensors.free[3], sensors.free[:, 2] = False, False
    blocks = blocks_of(sensors, detector, thirds(noisy(detector, source, 60)), vertex)
    found, expected = assembled_of(sensors, blocks), Problem(sensors, blocks)
    assert_same(found, expected)
    assert is_close(torch.from_numpy(sum(each.dense() for each in found.matrices)), dense(expected))
    assert not found.gradient()[~sensors.free].any()
    assert not found.noise(5)[~sensors.free].any()


def test_problems_of_some_tracks_each_sum_to_that_of_all():
    """Also where one of them is part of several sums."""
    sensors = SensorLayer.of(BARREL)
    blocks = blocks_of(sensors, BARREL, thirds(simulated(BARREL, GUN, 30, seed=6)))
    parts = [assembled_of(sensors, [block]) for block in blocks]
    for chosen in ([0, 1, 2], [0, 2], [1]):
        total = AssembledProblem.sum_of(sensors, [parts[i] for i in chosen])
        expected = assembled_of(sensors, [blocks[i] for i in chosen])
        assert_same(total, expected)
        assert is_close(total.noise(3), sum(parts[i].noise(3) for i in chosen))


def test_the_order_of_tracks_and_batches_changes_nothing_but_rounding():
    tracks, sensors = noisy(n_events=40), SensorLayer.of(BARREL)
    (block,) = blocks_of(sensors, BARREL, [tracks])
    whole = assembled_of(sensors, [block])
    order = torch.randperm(len(block.sensor), generator=torch.Generator().manual_seed(2))
    pieces = [block.take(rows, block.n_hits) for rows in order.split(7)]
    assert_same(assembled_of(sensors, pieces), whole)
    assert is_close(
        assembled_of(sensors, [block, block])(sensors.theta * 0 + 1), whole(sensors.theta * 0 + 2)
    )


def test_two_hits_of_a_track_on_one_sensor():
    sensors = SensorLayer.of(BARREL)
    (block,) = blocks_of(sensors, BARREL, [noisy(n_events=30)])
    sensor = block.sensor.clone()
    sensor[:, 1], sensor[::2, 3] = sensor[:, 0], sensor[::2, 0]
    block = block._replace(sensor=sensor)
    found, expected = assembled_of(sensors, [block]), dense(Problem(sensors, [block]))
    assert is_close(dense(found), expected)
    own = expected.view(24, 6, 24, 6).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    assert is_close(found.diagonal_blocks(), own)


def test_threads_change_nothing_but_the_order_of_sums():
    sensors, before = SensorLayer.of(BARREL), torch.get_num_threads()
    blocks, found = blocks_of(sensors, BARREL, [simulated(BARREL, GUN, 400)]), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(assembled_of(sensors, blocks))
            assert len(found[-1].matrices) == threads
        finally:
            torch.set_num_threads(before)
    assert_same(found[1], found[0])
    assert torch.equal(found[1].gradient(), found[0].gradient())
    assert torch.equal(found[1].noise(3), found[0].noise(3))


def test_tracks_without_weight_and_padding_leave_no_trace():
    sensors = SensorLayer.of(BARREL)
    (block,) = blocks_of(sensors, BARREL, [noisy(n_events=30)])
    metric, force = block.metric.clone(), block.force.clone()
    metric[::3], force[::3] = 0.0, 0.0
    block = block._replace(metric=metric, force=force)
    found = assembled_of(sensors, [block])
    assert_same(found, Problem(sensors, [block]))
    rest = block.take(torch.arange(len(block.sensor))[torch.arange(len(block.sensor)) % 3 > 0], block.n_hits)
    assert torch.equal(found.hits(), assembled_of(sensors, [rest]).hits())


def test_blocks_of_pairs_survive_growth_and_sorting():
    pairs = PairBlocks(50, 2)
    generator = np.random.default_rng(0)
    expected = np.zeros((50, 2, 50, 2))
    for i, j in generator.permutation([(a, b) for a in range(50) for b in range(a, 50)]):
        pairs.make_room(1)
        where = i
        if i != j:
            slots = np.zeros((2, 2), dtype=np.int64)
            places(2, np.array([i, j]), (0, 1), pairs.table, pairs.used, slots)
            where = slots[0, 1]
        block = generator.standard_normal((2, 2))
        pairs.values[where] = block + block.T if i == j else block
        expected[i, :, j] = pairs.values[where]
        expected[j, :, i] = pairs.values[where].T
    assert np.array_equal(pairs.matrix().dense(), expected.reshape(100, 100))


@pytest.mark.parametrize("name", ["half_barrel", "stave"])
def test_matrices_of_levels_are_those_summed_track_by_track(name):
    detector = barrel(radii=(2.5, 4.0, 7.0), staves=6, chips=2)
    sensors = SensorLayer.of(detector)
    sensors.free[:, 4] = False
    blocks = blocks_of(sensors, detector, thirds(simulated(detector, GUN, 60)), "given")
    volumes = level(detector, sensors, name, (1e-3, 1e-4))
    found = level_matrix(assembled_of(sensors, blocks), volumes)
    assert is_close(found, level_matrix(Problem(sensors, blocks), volumes), 1e-9)


def test_noise_has_the_covariance_h():
    sensors = SensorLayer.of(TELESCOPE)
    sensors.free[:] = False
    sensors.free[[1, 2, 4]] = True
    loss, batch = converged_loss(TELESCOPE), batch_of(noisy(TELESCOPE, BEAM, 30), TELESCOPE)
    draws = []
    for seed in range(0, 2 * 30, 2):
        problem = assembled_of(sensors, [linearise(loss, sensors, batch, seed=seed)])
        draws += [problem.noise(k) for k in range(N_DRAWS)]
    free = problem.free.flatten() > 0
    factor = torch.linalg.cholesky(dense(problem)[free][:, free])
    white = torch.linalg.solve_triangular(factor, torch.stack(draws).flatten(1)[:, free].T, upper=False).T
    covariance = white.T @ white / len(white)
    assert (covariance - torch.eye(18)).abs().max() < 0.6  # few independent tracks behind many signs
    assert float(white.square().mean()) == pytest.approx(1, abs=0.1)


def test_draws_are_the_same_for_a_seed_and_others_for_another():
    sensors = SensorLayer.of(BARREL)
    blocks = blocks_of(sensors, BARREL, thirds(noisy(n_events=90)))
    first, second = (assembled_of(sensors, blocks) for _ in range(2))
    draws = torch.stack([first.noise(seed).flatten() for seed in range(N_DRAWS)])
    assert torch.equal(draws[7], second.noise(7).flatten())
    assert torch.equal(first.noise(999), second.noise(999))
    unit = draws / draws.norm(dim=1, keepdim=True)
    alike = unit @ unit.T - torch.eye(N_DRAWS)
    assert alike.abs().mean() < 0.25
    assert not torch.equal(first.noise(999), first.noise(1000))


def test_signs_are_even_and_independent():
    out, table = np.zeros(64), []
    for number in range(4000):
        signs(number, out)
        table.append(out.copy())
    values = np.array(table)
    assert set(np.unique(values)) == {-1.0, 1.0}
    assert np.abs(values.mean(0)).max() < 4.5 / 4000**0.5
    assert np.abs(values.T @ values / 4000 - np.eye(64)).max() < 5 / 4000**0.5


def test_few_tracks_are_stored_and_many_assembled(monkeypatch):
    sensors = SensorLayer.of(BARREL)
    blocks = blocks_of(sensors, BARREL, thirds(noisy(n_events=60)))
    collected = {}
    for many in (1, 100, 10**6):
        monkeypatch.setattr(assembled, "MANY", many)
        collection = Collection()
        for block in blocks:
            collection.add(sensors, block)
        collected[many] = collection.problem(sensors)
        assert not collection.blocks
    assert type(collected[10**6]) is Problem
    for many in (1, 100):
        assert type(collected[many]) is AssembledProblem
        assert_same(collected[many], collected[10**6])


def test_tracks_of_fitted_origins_stay_stored(monkeypatch):
    monkeypatch.setattr(assembled, "MANY", 1)
    sensors, collection = SensorLayer.of(BARREL), Collection()
    (block,) = blocks_of(sensors, BARREL, [noisy()], "fitted")
    collection.add(sensors, block)
    with pytest.raises(ValueError, match="origins"):
        AssembledProblem(sensors).add(block)
    assert type(collection.problem(sensors)) is Problem


def test_numbers_that_are_not_finite_are_refused():
    sensors = SensorLayer.of(BARREL)
    (block,) = blocks_of(sensors, BARREL, [noisy()])
    metric, force = block.metric.clone(), block.force.clone()
    metric[2, 0, 0] = torch.nan
    with pytest.raises(ConvergenceError, match="not finite"):
        assembled_of(sensors, [block._replace(metric=metric)]).diagonal_blocks()
    force[4, 1] = torch.inf
    with pytest.raises(ConvergenceError, match="not finite"):
        assembled_of(sensors, [block._replace(force=force)]).gradient()


def test_without_tracks_there_is_nothing_to_solve():
    problem = AssembledProblem(SensorLayer.of(BARREL))
    one = torch.ones(24, 6, dtype=torch.float64)
    assert float(problem(one).abs().max() + problem.gradient().abs().max() + problem.noise().abs().max()) == 0
