"""Jumps and drifts that are put into a random walk are found, and none that are not."""

from __future__ import annotations

import pytest
import torch

from alignnet.solvers.changes import DRIFT, JUMP, ChangeSearch, Freedom, Place
from alignnet.solvers.walk import Seen

VOLUMES, MOTIONS, K = 5, 3, 12
N = VOLUMES * MOTIONS
WALK, ERROR = 0.3, 1.0
HOLD = torch.eye(N, dtype=torch.float64)


def freedom(hold=HOLD):
    one = torch.eye(N, dtype=torch.float64)
    return Freedom(
        1e4 * hold @ one @ hold, WALK**2 * hold @ one @ hold, hold, torch.full((MOTIONS,), 100.0).double()
    )


def intervals(seed, move=None):
    """Measurements with errors of 1 in all combinations but some that are seen ten times worse."""
    generator = torch.Generator().manual_seed(seed)
    x, seen = torch.zeros(N, dtype=torch.float64), []
    root = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))[0]
    weight = torch.tensor([0.01] * 4 + [1.0] * (N - 4), dtype=torch.float64)
    matrix = root @ torch.diag(weight) @ root.T
    for k in range(K):
        x = x + WALK * torch.randn(N, generator=generator, dtype=torch.float64)
        truth = x if move is None else x + move(k)
        noise = root @ (weight.sqrt() * torch.randn(N, generator=generator, dtype=torch.float64))
        seen.append(Seen(matrix, matrix @ truth + noise))
    return seen


def jump(volume, after, size):
    def move(k):
        found = torch.zeros(N, dtype=torch.float64)
        found[volume * MOTIONS] = size * (k > after)
        return found

    return move


def drift(volume, size):
    def move(k):
        found = torch.zeros(N, dtype=torch.float64)
        found[volume * MOTIONS + 1] = size * k
        return found

    return move


def test_a_walk_without_changes_has_none():
    found = [change for seed in range(40) for change in ChangeSearch(freedom(), 1e-2)(intervals(seed))]
    assert len(found) <= 3  # 0.4 expected


@pytest.mark.parametrize("after", [0, 5, K - 2])
def test_a_jump_is_found_where_it_is_with_its_size(after):
    (found,) = ChangeSearch(freedom())(intervals(1, jump(3, after, 20.0)))
    assert found.place == Place(3, after)
    assert found.place.kind == JUMP
    pull = (found.size - torch.tensor([20.0, 0, 0]).double()) / found.covariance.diagonal().sqrt()
    assert float(pull.abs().max()) < 4
    assert found.p_value < 1e-6


def test_a_drift_is_told_from_a_jump():
    (found,) = ChangeSearch(freedom())(intervals(2, drift(1, 3.0)))
    assert found.place == Place(1, None)
    assert found.place.kind == DRIFT
    pull = (found.size - torch.tensor([0, 3.0, 0]).double()) / found.covariance.diagonal().sqrt()
    assert float(pull.abs().max()) < 4


def test_two_jumps_and_a_drift_are_three_changes():
    parts = jump(0, 3, 25.0), jump(4, 7, -25.0), drift(2, 4.0)
    found = ChangeSearch(freedom())(intervals(3, lambda k: sum(part(k) for part in parts)))
    assert {change.place for change in found} == {Place(0, 3), Place(4, 7), Place(2, None)}


def test_p_values_of_one_place_are_even():
    """Without a change, χ² of a jump at one place follows its law."""
    search = ChangeSearch(freedom())
    values = []
    for seed in range(300):
        passes = search.passes(intervals(seed), [])
        values.append(search._change(Place(2, 4), *passes.score_of_jump(4), 1).p_value)
    found = torch.tensor(values)
    assert abs(float(found.mean()) - 0.5) < 4 * 12**-0.5 / 300**0.5
    assert abs(float((found < 0.1).double().mean()) - 0.1) < 4 * (0.09 / 300) ** 0.5


def test_what_the_whole_does_is_held_and_a_jump_of_one_volume_still_found():
    """No motion common to all: the constants have none, and the jump's size is that of the volume alone."""
    common = torch.eye(MOTIONS).repeat(VOLUMES, 1).double() / VOLUMES**0.5
    hold = torch.eye(N, dtype=torch.float64) - common @ common.T
    truth = jump(3, 5, 20.0)
    matrix = hold @ torch.eye(N, dtype=torch.float64) @ hold
    generator = torch.Generator().manual_seed(1)
    seen = [
        Seen(matrix, matrix @ truth(k) + hold @ torch.randn(N, generator=generator, dtype=torch.float64))
        for k in range(K)
    ]
    search = ChangeSearch(freedom(hold))
    (found,) = search(seen)
    assert found.place == Place(3, 5)
    pull = (found.size - torch.tensor([20.0, 0, 0]).double()) / found.covariance.diagonal().sqrt()
    assert float(pull.abs().max()) < 4
    estimate = search.passes(seen, [found.place]).estimate(K - 1)
    assert float((common.T @ estimate.mean).abs().max()) < 1e-9


def test_intervals_that_have_left_change_nothing():
    seen = intervals(5, jump(1, 2, 30.0))
    search = ChangeSearch(freedom())
    places = [change.place for change in search(seen)]
    whole = search.passes(seen, places)
    cut = 6
    later = search.passes(seen[cut:], [], whole.predicted[cut])
    torch.testing.assert_close(later.estimate(K - 1 - cut).mean, whole.estimate(K - 1).mean)
