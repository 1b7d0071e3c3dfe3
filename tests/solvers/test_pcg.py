"""Conjugate gradients against a direct solution, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignnet.errors import ConvergenceError
from alignnet.solvers.pcg import BlockJacobi, conjugate_gradients


def positive(n: int, condition: float = 1e3) -> Tensor:
    """A symmetric positive matrix (n, n) with this condition number."""
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    return q @ torch.diag(torch.logspace(0, -float(np.log10(condition)), n, dtype=torch.float64)) @ q.T


def blocks_of(matrix: Tensor, size: int) -> Tensor:
    return matrix.view(len(matrix) // size, size, -1, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def solve(matrix: Tensor, b: Tensor, preconditioner=None, **options):
    """By conjugate gradients, with vectors (sensors, dof) as an alignment has them."""
    flat = lambda x: (matrix @ x.flatten()).view_as(x)  # noqa: E731
    return conjugate_gradients(flat, b, preconditioner or (lambda x: x), **options)


def test_the_solution_is_numpys():
    matrix, b = positive(60), torch.randn(10, 6, dtype=torch.float64)
    expected = torch.from_numpy(np.linalg.solve(matrix.numpy(), b.flatten().numpy())).view(10, 6)
    for preconditioner in (None, BlockJacobi(blocks_of(matrix, 6))):
        found = solve(matrix, b, preconditioner, tolerance=1e-12, max_iterations=500)
        assert found.converged
        assert torch.allclose(found.x, expected, rtol=1e-7, atol=1e-8)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_it_takes_as_many_iterations_as_there_are_different_eigenvalues(distinct, seed):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64))
    values = torch.linspace(1, 5, distinct, dtype=torch.float64).repeat(24)[:24]
    b = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    found = solve(q @ torch.diag(values) @ q.T, b, tolerance=1e-7)
    assert found.converged
    assert found.iterations <= distinct


def test_blocks_that_are_the_whole_matrix_need_one_iteration():
    blocks = torch.stack([positive(6, 1e6) for _ in range(8)])
    matrix, b = torch.block_diag(*blocks), torch.randn(8, 6, dtype=torch.float64)
    found = solve(matrix, b, BlockJacobi(blocks))
    assert found.iterations == 1
    assert torch.allclose((matrix @ found.x.flatten()).view_as(b), b, rtol=1e-6, atol=1e-6)


def test_blocks_mend_a_bad_scale():
    matrix, b = positive(60, 10.0), torch.randn(10, 6, dtype=torch.float64)
    scale = torch.logspace(-4, 4, 6, dtype=torch.float64).repeat(10)  # cm and rad
    bad = scale[:, None] * matrix * scale
    plain = solve(bad, b, max_iterations=100)
    mended = solve(bad, b, BlockJacobi(blocks_of(bad, 6)), max_iterations=100)
    assert not plain.converged
    assert mended.converged
    assert mended.iterations < 40


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_it_stops_where_it_says(tolerance):
    matrix, b, seen = positive(60), torch.randn(10, 6, dtype=torch.float64), []
    found = solve(matrix, b, tolerance=tolerance, progress=lambda i, residual: seen.append((i, residual)))
    left = b.flatten() - matrix @ found.x.flatten()
    assert found.residual == pytest.approx(float(left.norm() / b.norm()), rel=1e-3)
    assert found.residual <= tolerance
    assert [i for i, _ in seen] == list(range(1, found.iterations + 1))
    assert seen[-1][1] == found.residual
    assert seen[-2][1] > tolerance


def test_too_few_iterations_are_told():
    found = solve(positive(60, 1e6), torch.randn(10, 6, dtype=torch.float64), max_iterations=5)
    assert not found.converged
    assert found.iterations == 5
    assert found.residual > 1e-6


def test_nothing_to_solve_is_solved():
    found = solve(positive(12), torch.zeros(2, 6, dtype=torch.float64))
    assert found.converged
    assert found.iterations == 0
    assert float(found.x.abs().max()) == 0


def test_directions_without_curvature_stay_where_they_are():
    matrix = positive(60)
    flat = torch.linalg.qr(torch.randn(60, 4, dtype=torch.float64)).Q  # as the four motions of a whole barrel
    out = torch.eye(60, dtype=torch.float64) - flat @ flat.T
    matrix, b = out @ matrix @ out, (out @ torch.randn(60, dtype=torch.float64)).view(10, 6)
    found = solve(matrix, b, tolerance=1e-10)
    expected = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ b.flatten()
    assert torch.allclose(found.x.flatten(), expected, rtol=1e-6, atol=1e-6)


def test_a_sensor_that_nothing_was_measured_of_is_left_alone():
    blocks = torch.stack([positive(6), torch.zeros(6, 6, dtype=torch.float64), positive(6)])
    blocks[2, :, 5] = blocks[2, 5, :] = 0
    found = BlockJacobi(blocks)(torch.ones(3, 6, dtype=torch.float64))
    assert found.isfinite().all()
    assert float(found[1].abs().max()) == 0
    assert float(found[2, 5].abs()) < 1e-12
    assert torch.allclose(blocks[0] @ found[0], torch.ones(6, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["matrix", "right side", "preconditioner"])
def test_numbers_that_are_not_finite_are_refused(where, spoilt):
    matrix, b, factor = positive(12), torch.randn(2, 6, dtype=torch.float64), torch.ones(2, 6).double()
    target = {"matrix": matrix, "right side": b, "preconditioner": factor}[where]
    target[1, 3] = spoilt
    with pytest.raises(ConvergenceError, match="conjugate gradients met"):
        solve(matrix, b, lambda x: factor * x)


def test_an_indefinite_matrix_is_refused():
    matrix = positive(12) - 0.2 * torch.eye(12, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=r"curvature -"):
        solve(matrix, torch.randn(2, 6, dtype=torch.float64))


def test_a_negative_preconditioner_is_refused():
    with pytest.raises(ConvergenceError, match=r"norm -.* in iteration 0"):
        solve(positive(12), torch.randn(2, 6, dtype=torch.float64), lambda x: -x)
