"""Conjugate gradients under linear constraints find the minimum of the Karush–Kuhn–Tucker equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignnet.errors import ConvergenceError
from alignnet.solvers.projected import Constraints, SparseRows, solve

N = 30


def problem(seed: int = 0, null: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(N, N - null))
    return root @ root.T, draw.normal(size=N)


def constraints(count: int, seed: int = 0, most: int = 8) -> tuple[Constraints, np.ndarray]:
    """Sparse constraints, and the same as a dense matrix."""
    draw = np.random.default_rng(seed + 100)
    index = [draw.permutation(N)[: draw.integers(2, most)] for _ in range(count)]
    factors = [draw.normal(size=len(row)) for row in index]
    dense = np.zeros((count, N))
    for i in range(count):
        dense[i, index[i]] = factors[i]
    return Constraints(index, factors, N), dense


@given(st.integers(0, 6), st.integers(0, 50))
def test_the_minimum_is_that_of_the_dense_equations(count, seed):
    a, b = problem(seed)
    some, c = constraints(count, seed)
    r = np.random.default_rng(seed).normal(size=count)
    found = solve(a.__matmul__, b, some, r, tolerance=1e-12)
    kkt = np.block([[a, c.T], [c, np.zeros((count, count))]])
    expected = np.linalg.solve(kkt, np.concatenate([b, r]))[:N]
    assert found.converged
    assert np.allclose(found.x, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    assert np.allclose(c @ found.x, r)


def test_several_right_hand_sides_are_solved_as_one_after_the_other():
    a, _ = problem()
    some, _ = constraints(3)
    b = np.random.default_rng(5).normal(size=(N, 4))
    b[:, 2] = 0.0
    together = solve(a.__matmul__, b, some, tolerance=1e-12)
    for k in (0, 1, 3):
        alone = solve(a.__matmul__, b[:, k], some, tolerance=1e-12)
        assert np.allclose(together.x[:, k], alone.x, rtol=1e-7, atol=1e-9 * np.abs(alone.x).max())
    assert (together.x[:, 2] == 0).all()


def test_constraints_that_hold_the_null_space_make_a_singular_problem_solvable():
    a, b = problem(null=2)
    null = np.linalg.svd(a)[2][-2:]
    some = Constraints([np.arange(N), np.arange(N)], list(null), N)
    found = solve(a.__matmul__, b, some, tolerance=1e-11)
    assert found.converged
    assert np.allclose(found.x, np.linalg.pinv(a, rcond=1e-10) @ b, rtol=1e-6)


def test_a_singular_problem_does_not_converge_quietly():
    a, b = problem(null=2)
    assert not solve(a.__matmul__, b, constraints(0)[0], max_iterations=25).converged


def test_an_indefinite_matrix_is_refused():
    with pytest.raises(ConvergenceError, match="curvature -"):
        solve(lambda x: -x, np.ones(N), constraints(0)[0])


def test_sparse_rows_multiply_and_scale_as_dense_ones():
    some, c = constraints(5)
    x = np.random.default_rng(1).normal(size=(N, 3))
    assert np.allclose(some @ x, c @ x)
    assert np.allclose(some @ x[:, 0], c @ x[:, 0])
    assert np.allclose(some.transposed(x[:5]), c.T @ x[:5])
    assert np.allclose(some.gram, c @ c.T)
    factor = np.random.default_rng(2).normal(size=(N // 3, 3, 3))
    full = np.zeros((N, N))
    for i in range(N // 3):
        full[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = factor[i]
    assert np.allclose(SparseRows(*some.scaled(factor), N).dense(), c @ full)


def test_the_projection_is_that_of_the_dense_rows():
    some, c = constraints(5)
    expected = np.eye(N) - np.linalg.pinv(c) @ c
    assert np.allclose(some.project(np.eye(N)), expected)
    assert np.allclose(some.diagonal(), expected.diagonal())
    u = some.orthonormal()
    assert np.allclose(u.T @ u, np.eye(N) - expected)


def test_constraints_that_follow_from_others_are_found():
    index = [np.array([0, 1]), np.array([1, 2]), np.array([0, 1, 2]), np.array([5]), np.array([], dtype=int)]
    factors = [
        np.array([1.0, 1]),
        np.array([1.0, -1]),
        np.array([2.0, 3, -1]),
        np.array([1e-6]),
        np.array([]),
    ]
    assert Constraints(index, factors, N).dependent() == [2, 4]
