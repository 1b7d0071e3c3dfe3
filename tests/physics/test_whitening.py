"""χ² = rᵀ V⁻¹ r, with padding rows cut out of V."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignnet.physics.whitening import Whitening


def covariances(tracks: int, rows: int) -> Tensor:
    root = torch.randn(tracks, rows, rows + 2, dtype=torch.float64)
    return root @ root.transpose(-1, -2)


def test_whitened_squares_are_the_chi2_of_the_covariance():
    v, r = covariances(5, 6), torch.randn(5, 6, dtype=torch.float64)
    chi2 = Whitening.correlated(v, torch.ones(5, 6, dtype=torch.bool))(r).square().sum(-1)
    assert torch.allclose(chi2, (r[:, None] @ torch.linalg.inv(v) @ r[..., None]).flatten(), rtol=1e-10)


def test_padding_leaves_the_chi2_of_the_other_rows():
    v, r = covariances(4, 8), torch.randn(4, 8, dtype=torch.float64)
    is_row = torch.tensor([True, True, False, False, True, True, False, False]).expand(4, -1)
    chi2 = Whitening.correlated(v, is_row)(r).square().sum(-1)
    inner = v[:, [0, 1, 4, 5]][:, :, [0, 1, 4, 5]]
    part = r[:, [0, 1, 4, 5]]
    assert torch.allclose(
        chi2, (part[:, None] @ torch.linalg.inv(inner) @ part[..., None]).flatten(), rtol=1e-10
    )


@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_derivatives_are_whitened_column_by_column_like_residuals(kind):
    v, j = covariances(3, 4), torch.randn(3, 4, 5, dtype=torch.float64)
    is_row = torch.tensor([True, True, True, False]).expand(3, -1)
    v = v if kind == "correlated" else v.diagonal(dim1=-2, dim2=-1)
    whitening = getattr(Whitening, kind)(v, is_row)
    columns = torch.stack([whitening(column) for column in j.unbind(-1)], -1)
    assert torch.allclose(whitening(j), columns, atol=1e-14)
    back = torch.stack([whitening.transposed(column) for column in j.unbind(-1)], -1)
    assert torch.allclose(whitening.transposed(j), back, atol=1e-14)


@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_transposed_is_the_transpose(kind):
    v, a, b = covariances(3, 4), *torch.randn(2, 3, 4, dtype=torch.float64)
    v = v if kind == "correlated" else v.diagonal(dim1=-2, dim2=-1)
    whitening = getattr(Whitening, kind)(v, torch.tensor([True, True, True, False]).expand(3, -1))
    assert torch.allclose((whitening(a) * b).sum(-1), (a * whitening.transposed(b)).sum(-1), rtol=1e-12)


def test_a_diagonal_covariance_gives_the_weights_of_independent_rows():
    variance, r = torch.rand(3, 4, dtype=torch.float64) + 0.1, torch.randn(3, 4, dtype=torch.float64)
    is_row = torch.tensor([[True, True, True, True], [True, False, True, True], [True, True, False, False]])
    full = Whitening.correlated(torch.diag_embed(variance), is_row)
    assert torch.allclose(full(r), Whitening.independent(variance, is_row)(r), rtol=1e-14)
    assert torch.equal(full(r)[~is_row], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_a_covariance_that_is_none_leaves_only_its_own_track_without_weight(bad):
    v, r = covariances(3, 4), torch.randn(3, 4, dtype=torch.float64)
    is_row = torch.ones(3, 4, dtype=torch.bool)
    alone = Whitening.correlated(v, is_row)(r)
    v[1, 2, 2] = bad
    whitening = Whitening.correlated(v, is_row)
    assert whitening.usable.tolist() == [True, False, True]
    assert torch.equal(whitening(r)[[0, 2]], alone[[0, 2]])
    assert torch.equal(whitening(r)[1], torch.zeros(4, dtype=torch.float64))
    variance = v.diagonal(dim1=-2, dim2=-1)
    assert Whitening.independent(variance, is_row).usable.tolist() == [True, bad == torch.inf, True]
