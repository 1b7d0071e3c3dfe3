"""Both passes over a random walk against the whole linear system, solved at once."""

from __future__ import annotations

import pytest
import torch

from alignnet.solvers.walk import Filtered, Passes, Seen, Walk

N, K = 4, 6


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(n, seed, rank=None):
    root = draw(n, rank or n, seed=seed)
    return root @ root.T


def problem(drifts=2, singular=True):
    """Intervals of which some see little, with a jump and drifts."""
    seen = [Seen(positive(N, 10 + k, 2 if singular and k % 2 else N), draw(N, seed=30 + k)) for k in range(K)]
    along = draw(N, drifts, seed=3)
    walk = Walk(
        positive(N, 1), 0.1 * positive(N, 2), positive(drifts, 4) if drifts else draw(0, 0, seed=0), along,
        {2: 50 * positive(N, 5, 1)},
    )  # fmt: skip
    return walk, seen


def dense(walk, seen, shift=None):
    """Matrix and right-hand side of (x_0 … x_{K−1}, b); `shift` is a known jump (between, how far)."""
    m = walk.along.shape[1]
    size = N * len(seen) + m
    a, r = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)

    def rows(k):
        return slice(N * k, N * (k + 1))

    a[rows(0), rows(0)] += torch.linalg.inv(walk.initial)
    for k, one in enumerate(seen):
        a[rows(k), rows(k)] += one.matrix
        r[rows(k)] += one.force
    for k in range(len(seen) - 1):
        d = torch.zeros(N, size, dtype=torch.float64)
        d[:, rows(k + 1)], d[:, rows(k)] = torch.eye(N), -torch.eye(N)
        d[:, N * len(seen) :] = -walk.along
        weight = torch.linalg.inv(walk.between(k))
        a += d.T @ weight @ d
        if shift is not None and shift[0] == k:
            r += d.T @ weight @ shift[1]
    if m:
        a[N * len(seen) :, N * len(seen) :] += torch.linalg.inv(walk.drift)
    return a, r


def least(walk, seen, shift=None):
    """The objective at its minimum, up to what no shift changes."""
    a, r = dense(walk, seen, shift)
    value = -0.5 * r @ torch.linalg.solve(a, r)
    if shift is not None:
        value = value + 0.5 * shift[1] @ torch.linalg.solve(walk.between(shift[0]), shift[1])
    return value


@pytest.mark.parametrize("drifts", [0, 2])
def test_two_passes_solve_the_whole_system(drifts):
    walk, seen = problem(drifts)
    a, r = dense(walk, seen)
    x, inverse = torch.linalg.solve(a, r), torch.linalg.inv(a)
    passes = Passes(walk, seen)
    for k in range(K):
        found = passes.estimate(k)
        part = slice(N * k, N * (k + 1))
        torch.testing.assert_close(found.mean, x[part], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.covariance, inverse[part, part], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(passes.drift.mean, x[N * K :], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(passes.drift.covariance, inverse[N * K :, N * K :], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("between", [0, 2, K - 2])
def test_the_score_of_a_jump_is_how_the_likelihood_changes_with_one(between):
    walk, seen = problem()
    u, information = Passes(walk, seen).score_of_jump(between)
    c = draw(N, seed=8)
    expected = -u @ c + 0.5 * c @ information @ c
    torch.testing.assert_close(least(walk, seen, (between, c)) - least(walk, seen), expected)


def test_the_score_of_a_drift_is_that_of_one_more_column():
    """A drift that is not in the model yet: with all of its prior's width, its estimate is the score's."""
    walk, seen = problem(2)
    asked = Walk(walk.initial, walk.noise, walk.drift * 0, walk.along, walk.jumps)
    u, information = Passes(asked, seen).score_of_drift()
    wide = Walk(walk.initial, walk.noise, 1e6 * torch.eye(2, dtype=torch.float64), walk.along, walk.jumps)
    found = Passes(wide, seen).drift
    torch.testing.assert_close(found.mean, torch.linalg.solve(information, u), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.covariance, torch.linalg.inv(information), rtol=1e-4, atol=1e-6)


def test_unknowns_that_are_held_exactly_stay_where_they_are():
    """A singular P₀ and Q: their sum over unknowns is 0, and so is that of the answer."""
    walk, seen = problem(0)
    one = torch.ones(N, 1, dtype=torch.float64)
    hold = torch.eye(N, dtype=torch.float64) - one @ one.T / N
    held = Walk(hold @ walk.initial @ hold, hold @ walk.noise @ hold, walk.drift, walk.along)
    passes = Passes(held, seen)
    for k in range(K):
        assert abs(float(passes.estimate(k).mean.sum())) < 1e-12
        assert float(passes.estimate(k).mean.norm()) > 1e-3


def test_intervals_that_have_left_are_in_the_start_of_the_next():
    walk, seen = problem()
    whole = Passes(walk, seen)
    cut = 3
    later = Walk(walk.initial, walk.noise, walk.drift, walk.along, {})
    start: Filtered = whole.predicted[cut]
    again = Passes(later, seen[cut:], start)
    for k in range(cut, K):
        torch.testing.assert_close(again.estimate(k - cut).mean, whole.estimate(k).mean)
        torch.testing.assert_close(again.estimate(k - cut).covariance, whole.estimate(k).covariance)
