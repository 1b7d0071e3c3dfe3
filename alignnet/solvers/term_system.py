"""Terms of the objective (`loss.terms`) linearised at a point Θ, beside the matrix of the tracks.

With residuals r in units of σ and J = ∂r/∂Θ, a term adds JᵀJ to H and Jᵀr to g. Few residuals become rows J,
which a preconditioner takes exactly (`PenalisedPreconditioner`); many are applied without ever forming J, by
two passes of automatic differentiation, preconditioned with the tracks' matrix and priors. A term that is a
number c, a χ², has the matrix ½ ∂²c/∂Θ²: it must be convex.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.loss.terms import Terms, Value
from alignnet.sensors.sensor import SensorLayer

FEW = 300
"""Residuals of all terms up to which their derivatives are kept as rows, one solution of the system each."""

_DIRECTIONS, _ROUNDING = 3, 1e-9

Product = Callable[[Tensor], Tensor]


class TermSystem:
    """The matrix and gradient of the terms at the sensors' Θ.

    Args:
        terms: of the objective.
        sensors: where they stand; what is fixed has no derivatives.

    Raises:
        ConfigError: a term's slope is not finite there, or a term that is a number is not convex.

    Attributes:
        gradient: Jᵀr of all terms (sensors, dof).
        rows: J of those that are kept as rows (rows, sensors, dof).
        chi2: Σ w |r|² of all terms.
    """

    @torch.enable_grad()
    def __init__(self, terms: Terms, sensors: SensorLayer) -> None:
        self._theta = sensors.theta.detach().clone().requires_grad_()
        self._like = self._theta.detach()
        values = terms.at(sensors, self._theta)
        few = sum(one.value.numel() for one in values if one.value.dim()) <= FEW
        kept = [one for one in values if few and one.value.dim()]
        self._many = [one for one in values if not (few and one.value.dim())]
        self.chi2 = sum(float(one.chi2.detach()) for one in values)
        slopes = [_finite(one.name, 0.5 * self._derivative(one.chi2)) for one in values]
        self.gradient = sum(slopes, torch.zeros_like(self._like))
        none = self._like.new_zeros(0, *self._like.shape)
        self.rows = torch.cat([none, *(self._rows(one) for one in kept)])
        self._products: list[Product] = [self._product(one) for one in self._many]
        for one, product in zip(self._many, self._products, strict=True):
            if not one.value.dim():  # squares of residuals are convex
                _check_convex(one.name, product, self._like)

    def __call__(self, vector: Tensor) -> Tensor:
        """The matrix of what is not in `rows` times a displacement (sensors, dof)."""
        total = torch.zeros_like(vector)
        for product in self._products:
            total = total + product(vector.to(self._like)).to(vector)
        return total

    def noise(self, seed: int) -> Tensor:
        """A gradient drawn from N(0, JᵀJ) of residuals that are not in `rows` (sensors, dof)."""
        generator, total = torch.Generator().manual_seed(seed + 7919), torch.zeros_like(self._like)
        for one in self._many:
            if one.value.dim():
                draw = torch.randn(len(one.value), generator=generator, dtype=torch.float64).to(one.value)
                total = total + one.weight**0.5 * self._derivative(one.value, draw)
        return total

    def _derivative(self, value: Tensor, along: Tensor | None = None, graph: bool = False) -> Tensor:
        """∂(along · value)/∂Θ (sensors, dof)."""
        found = torch.autograd.grad(value, self._theta, along, retain_graph=True, create_graph=graph)
        return found[0] if graph else found[0].detach()

    def _rows(self, one: Value) -> Tensor:
        unit = torch.eye(len(one.value)).to(one.value)
        return one.weight**0.5 * torch.stack([self._derivative(one.value, row) for row in unit])

    def _product(self, one: Value) -> Product:
        if not one.value.dim():
            slope = 0.5 * self._derivative(one.chi2, graph=True)
            return lambda vector: _grad_or_zero(slope, self._theta, vector)
        dummy = torch.zeros_like(one.value, requires_grad=True)
        back = self._derivative(one.value, dummy, graph=True)  # Jᵀu, linear in u

        def product(vector: Tensor) -> Tensor:
            moved = _grad_or_zero(back, dummy, vector)  # J v
            return one.weight * self._derivative(one.value, moved)

        return product


def _finite(name: str, slope: Tensor) -> Tensor:
    if not bool(slope.isfinite().all()):
        raise ConfigError(
            f"loss.terms.{name} has a slope that is not finite where the sensors stand, as √|x| has at 0; "
            "write it so that it is smooth there"
        )
    return slope


def _check_convex(name: str, product: Product, like: Tensor) -> None:
    """Whether a matrix bends upwards along some directions, always the same."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(_DIRECTIONS):
        along = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
        bent, size = product(along), along.norm()
        if float((along * bent).sum()) < -_ROUNDING * float(size * bent.norm()):
            raise ConfigError(
                f"loss.terms.{name} bends downwards where the sensors stand, so that there is no minimum; a "
                "χ² must be convex: return residuals over σ, whose squares are"
            )


def _grad_or_zero(of: Tensor, by: Tensor, along: Tensor) -> Tensor:
    """∂(along · of)/∂by, zero where `of` does not depend on it (a number linear in Θ has no curvature)."""
    if not of.requires_grad:
        return torch.zeros_like(by)
    found = torch.autograd.grad(of, by, along, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(by) if found is None else found.detach()
