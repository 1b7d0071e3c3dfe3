"""In-place products of parts of matrices are numpy's, and touch nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignnet.solvers import blas

DTYPES = (np.float32, np.float64)
sizes = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))


def part(rows: int, columns: int, dtype: type, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix with others around it, and the part."""
    whole = np.random.default_rng(seed).normal(size=(rows + 3, columns + 5)).astype(dtype)
    return whole, whole[2 : 2 + rows, 1 : 1 + columns]


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, rtol=0, atol=2e4 * np.finfo(one.dtype).eps)


@given(sizes, st.sampled_from(DTYPES), st.integers(0, 99))
def test_a_product_is_taken_off_a_part_and_off_nothing_else(size, dtype, seed):
    m, n, k = size
    (whole, c), (_, a), (_, b) = part(m, n, dtype, seed), part(m, k, dtype, 1), part(n, k, dtype, 2)
    expected = whole.copy()
    expected[2 : 2 + m, 1 : 1 + n] -= a @ b.T
    blas.subtract_product(c, a, b)
    assert close(whole, expected)


@given(sizes, st.sampled_from(DTYPES), st.booleans())
def test_a_square_is_taken_off_the_lower_triangle_only(size, dtype, keep):
    n, _, k = size
    (whole, c), (_, a) = part(n, n, dtype, 3), part(n, k, dtype, 4)
    expected, lower = whole.copy(), np.tril_indices(n)
    if k:
        expected[2 : 2 + n, 1 : 1 + n][lower] = (keep * c - a @ a.T)[lower]
    blas.subtract_square(c, a, keep)
    assert close(whole, expected)


@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from(DTYPES))
def test_a_factor_and_what_is_divided_by_it(n, m, dtype):
    spread = np.random.default_rng(5).normal(size=(n, 2 * n))
    matrix = (spread @ spread.T + n * np.eye(n)).astype(dtype)
    whole, a = part(n, n, dtype, 6)
    a[:] = matrix
    above = np.triu_indices(n, 1)
    a[above] = np.nan
    around = whole.sum(where=~np.isnan(whole)) - np.nansum(a)
    assert blas.cholesky(a) == n
    assert np.isnan(a[above]).all()
    assert np.isclose(whole.sum(where=~np.isnan(whole)) - np.nansum(a), around, atol=1e-3)
    lower = np.where(np.isnan(a), 0, a)
    assert np.allclose(lower @ lower.T, matrix, rtol=1e-3 if dtype is np.float32 else 1e-12)
    _, b = part(m, n, dtype, 7)
    expected = np.linalg.solve(lower.astype(float), b.T.astype(float)).T
    blas.divide_by_transpose(b, a)
    assert close(b, expected.astype(dtype))


def test_a_matrix_that_is_not_positive_says_where():
    matrix = np.diag([1.0, 4.0, -1.0, 1.0])
    assert blas.cholesky(matrix) == 2


def test_rows_with_gaps_are_refused():
    with pytest.raises(ValueError, match="rows with gaps"):
        blas.subtract_square(np.eye(4), np.ones((4, 4)).T[:, ::2])
