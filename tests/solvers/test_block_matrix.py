"""Symmetric block matrices multiply and scale as their dense forms do."""

from __future__ import annotations

import numpy as np
import pytest

from alignnet.physics.jit import SWITCH
from alignnet.solvers.block_matrix import BlockMatrix


@pytest.fixture(autouse=True, params=["on", "off"])
def _kernels(request, monkeypatch):
    """Each of these is so in compiled loops and without."""
    monkeypatch.setenv(SWITCH, request.param)


def random_matrix(rows: int, width: int, part: float = 0.3, seed: int = 0) -> BlockMatrix:
    """Blocks in random order; one row has none of its own."""
    draw = np.random.default_rng(seed)
    row, column = np.nonzero(np.triu(draw.random((rows, rows)) < part))
    keep = draw.permutation(np.flatnonzero((row != 2) | (column != 2)))
    row, column = row[keep], column[keep]
    values = draw.normal(size=(len(row), width, width))
    values[row == column] += values[row == column].swapaxes(1, 2)
    return BlockMatrix.of_pairs(row, column, values, rows)


@pytest.mark.parametrize("width", [1, 2, 6, 7])
def test_a_product_is_that_of_the_dense_matrix(width):
    matrix = random_matrix(12, width)
    dense = matrix.dense()
    assert (dense == dense.T).all()
    x = np.random.default_rng(1).normal(size=(12 * width, 4))
    assert np.allclose(matrix @ x, dense @ x)
    assert np.allclose(matrix @ x[:, 0], dense @ x[:, 0])


@pytest.mark.parametrize("width", [1, 3, 6])
def test_scaling_multiplies_from_both_sides(width):
    matrix = random_matrix(9, width)
    factor = np.random.default_rng(2).normal(size=(9, width, width))
    full = np.zeros((9 * width, 9 * width))
    for i in range(9):
        full[i * width : (i + 1) * width, i * width : (i + 1) * width] = factor[i]
    expected = full.T @ matrix.dense() @ full
    assert np.allclose(matrix.scaled(factor).dense(), expected)


def test_every_row_has_its_diagonal_block_first():
    matrix = random_matrix(12, 2)
    assert (matrix.column[matrix.start[:-1]] == np.arange(12)).all()
    assert np.array_equal(matrix.diagonal_blocks[2], np.zeros((2, 2)))
    dense = matrix.dense().reshape(12, 2, 12, 2)
    assert np.array_equal(matrix.diagonal_blocks, dense[np.arange(12), :, np.arange(12), :])
