"""Sparse factors solve what dense ones solve, on graphs of every kind, singular ones included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignnet.errors import ConvergenceError
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.direct import DirectSystem
from alignnet.solvers.elimination_tree import EliminationTree
from alignnet.solvers.projected import Constraints, SparseRows
from alignnet.solvers.selected_inverse import inverse_blocks
from alignnet.solvers.sparse_cholesky import factorise

TREES = [EliminationTree.of, lambda matrix: EliminationTree.dense(len(matrix))]


def grid(side: int, width: int, seed: int = 0, null: int = 0, far: int = 0) -> BlockMatrix:
    """Σ wᵀw of random rows that each touch a cell of a square lattice, or (the last `far`) any three points.

    Every row is orthogonal to the `null` first of some fixed vectors.
    """
    draw = np.random.default_rng(seed)
    n = side * side
    lattice = np.arange(n).reshape(side, side)
    cells = [
        lattice[i : i + 2, j : j + 2].ravel()
        for i in range(max(side - 1, 1))
        for j in range(max(side - 1, 1))
    ]
    cells += [draw.permutation(n)[:3] for _ in range(far)]
    free = draw.normal(size=(n * width, null))
    full = np.zeros((n * width, n * width))
    for cell in cells:
        own = (cell[:, None] * width + np.arange(width)).ravel()
        rows = draw.normal(size=(2 * len(own), len(own)))
        q = np.linalg.qr(free[own])[0] if null else np.zeros((len(own), 0))
        rows -= rows @ q @ q.T
        full[np.ix_(own, own)] += rows.T @ rows
    scale = 1 / np.sqrt(full.diagonal())
    return of_dense(full * np.outer(scale, scale), width)


def of_dense(full: np.ndarray, width: int) -> BlockMatrix:
    n = len(full) // width
    blocks = full.reshape(n, width, n, width).swapaxes(1, 2)
    row, column = np.nonzero(np.triu(np.abs(blocks).max((2, 3)) > 0))
    return BlockMatrix.of_pairs(row, column, blocks[row, column], n)


SIZES = st.integers(1, 9), st.integers(0, 30), st.integers(0, 99)  # of the lattice, far rows, seed


@given(SIZES[0], st.sampled_from([1, 3, 6]), *SIZES[1:], st.booleans())
def test_solutions_and_inverse_are_the_dense_ones(side, width, far, seed, whole_at_once):
    assert_dense(side, width, far, seed, whole_at_once)


@pytest.mark.slow  # two seconds of compiling each; what depends on the width is a loop's end
@given(SIZES[0], st.sampled_from([2, 4, 5, 7]), *SIZES[1:])
def test_blocks_of_other_widths_are_solved_and_inverted_too(side, width, far, seed):
    assert_dense(side, width, far, seed)


def assert_dense(side: int, width: int, far: int, seed: int, whole_at_once: bool = False) -> None:
    matrix = grid(side, width, seed, far=far if side > 1 else 0)
    tree = EliminationTree.dense(len(matrix)) if whole_at_once else EliminationTree.of(matrix)
    factor = factorise(matrix, tree)
    dense, b = matrix.dense(), np.random.default_rng(seed).normal(size=(len(matrix) * width, 3))
    assert len(factor.propped) == 0
    assert np.allclose(factor.solve(b[:, 0]), np.linalg.solve(dense, b[:, 0]), rtol=1e-7, atol=1e-9)
    assert np.allclose(factor.solve(b), np.linalg.solve(dense, b), rtol=1e-7, atol=1e-9)
    whole = np.linalg.inv(dense).reshape(len(matrix), width, len(matrix), width)
    expected = whole[np.arange(len(matrix)), :, np.arange(len(matrix))]
    assert np.allclose(inverse_blocks(factor), expected, rtol=1e-7)


def test_the_tree_eliminates_every_block_once_and_children_before_parents():
    matrix = grid(20, 2, far=5)
    tree = EliminationTree.of(matrix)
    assert sorted(tree.order.tolist()) == list(range(400))
    assert (tree.parent[:-1] > np.arange(len(tree) - 1)).all()
    assert tree.size(2) < 0.3 * 400**2 * 4
    for s in range(len(tree)):
        rows = tree.rows[tree.offset[s] : tree.offset[s + 1]]
        assert (np.diff(rows) > 0).all()
        assert (rows >= tree.first[s + 1]).all()


def test_single_precision_is_a_good_preconditioner():
    matrix = grid(15, 6)
    factor = factorise(matrix, EliminationTree.of(matrix), "float32")
    b = np.random.default_rng(1).normal(size=len(matrix) * 6)
    assert np.abs(matrix @ factor.solve(b) - b).max() < 1e-3


@pytest.mark.parametrize("tree_of", TREES, ids=["sparse", "dense"])
@pytest.mark.parametrize("null", [1, 2, 4])
def test_as_many_props_as_the_rank_lacks(null, tree_of):
    matrix = grid(12, 3, null=null)
    factor = factorise(matrix, tree_of(matrix))
    assert len(factor.propped) == null
    full = matrix.dense()
    full[factor.propped, factor.propped] += 1
    b = np.random.default_rng(2).normal(size=len(full))
    assert np.allclose(factor.solve(b), np.linalg.solve(full, b), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tree_of", TREES, ids=["sparse", "dense"])
def test_unknowns_that_do_not_exist_are_left_alone(tree_of):
    full = grid(5, 3).dense()
    gone = [4, 17, 18, 19, 20]
    full[gone], full[:, gone] = 0, 0
    matrix = of_dense(full, 3)
    factor = factorise(matrix, tree_of(matrix))
    assert len(factor.propped) == 0
    b = np.random.default_rng(3).normal(size=len(full))
    b[gone] = 0
    kept = np.setdiff1d(np.arange(len(full)), gone)
    x = factor.solve(b)
    assert np.allclose(x[kept], np.linalg.solve(full[np.ix_(kept, kept)], b[kept]))
    assert (x[gone] == 0).all()


def under(matrix: BlockMatrix, c: np.ndarray, s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The inverse under constraints, from the dense Karush–Kuhn–Tucker equations."""
    a, k = matrix.dense() + s.T @ (w[:, None] * s), len(c)
    return np.linalg.inv(np.block([[a, c.T], [c, np.zeros((k, k))]]))[: len(a), : len(a)]


@pytest.mark.parametrize(("null", "held", "surveys"), [(0, 0, 0), (0, 5, 0), (3, 3, 0), (3, 6, 2), (4, 2, 3)])
def test_constraints_and_measurements_hold_what_the_matrix_leaves_free(null, held, surveys):
    matrix, draw = grid(8, 3, null=null), np.random.default_rng(5)
    n = len(matrix) * 3
    c, s, w = draw.normal(size=(held, n)), draw.normal(size=(surveys, n)), draw.random(surveys) + 0.5
    constraints = Constraints([np.arange(n)] * held, list(c), n)
    survey = SparseRows([np.arange(n)] * surveys, list(s), n)
    system = DirectSystem(matrix, EliminationTree.of(matrix), constraints, survey, w)
    expected, b = under(matrix, c, s, w), draw.normal(size=n)
    assert np.allclose(system(b), expected @ b, rtol=1e-6, atol=1e-8)
    blocks = expected.reshape(n // 3, 3, n // 3, 3)[np.arange(n // 3), :, np.arange(n // 3)]
    assert np.allclose(system.covariance(), blocks, rtol=1e-6, atol=1e-9)


def test_what_the_constraints_leave_free_is_counted():
    matrix, n = grid(8, 3, null=4), 192
    c = np.random.default_rng(5).normal(size=(3, n))
    held = Constraints([np.arange(n)] * 3, list(c), n)
    with pytest.raises(ConvergenceError, match="rank defect of 1"):
        DirectSystem(matrix, EliminationTree.of(matrix), held, SparseRows([], [], n), np.zeros(0))
