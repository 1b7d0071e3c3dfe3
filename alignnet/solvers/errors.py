"""Standard deviations of all degrees of freedom together, every other sensor being as uncertain as it is.

The answer's covariance is C = E A⁻¹ Eᵀ, A the matrix of all unknowns (sensors and volumes, with priors) and
E what they displace. Small systems: from the dense A. Large ones: from K draws y = A⁻¹ξ, ξ ~ N(0, A), of
which each displacement δ = E y is one of the answer's errors.

The mean square of δ over draws is known to √(2/K) of itself. A better estimate conditions on all but one
sensor's own unknowns (Papandreou & Yuille 2010; Sidén et al. 2018, "simple Rao–Blackwellised Monte Carlo"):
given the rest, δ_s is Gaussian with covariance A_ss⁻¹, its own block's inverse, about the mean

    m_s = δ_s − A_ss⁻¹ (A y)_s = δ_s − A_ss⁻¹ ξ_s,      so that   C_ss = A_ss⁻¹ + ⟨m_s m_sᵀ⟩ .

(The rest holds the sensor's volumes: what they move it by is then given, which is why this is right for
displacements in more unknowns than needed.) Only the second term is estimated: σ is known to f/√(2K), f ≤ 1
its share of the variance.

Motions that neither tracks nor priors know of have no error; they are taken out of all displacements, in the
metric of displacements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignnet.solvers.constrained import Constraints, minimised, null_space
from alignnet.solvers.dense_system import dense_system
from alignnet.solvers.levels import Hierarchical, Preconditioner

_FLAT = 1e-12  # eigenvalue of A, its diagonal 1, below which nothing is known of a direction
_LOOSE = 1e-6  # of an unknown that lies in such directions, above which it is not known
_HELD = 1e-6  # of a degree of freedom that is left after motions are taken out, below which nothing is


class Removal:
    """Takes motions out of displacements: the least squares fit of them in a metric.

    Args:
        motions: (motions, sensors, dof), none for doing nothing.
        metric: G of each sensor (sensors, dof, dof).
    """

    def __init__(self, motions: Tensor, metric: Tensor) -> None:
        self.motions = motions
        self._dual = (metric @ motions[..., None]).squeeze(-1)
        gram = torch.einsum("asd,bsd->ab", motions, self._dual)
        self._inverse = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) if len(motions) else gram

    def __call__(self, displacement: Tensor) -> Tensor:
        """Displacements (..., sensors, dof) without the motions."""
        amount = torch.einsum("asd,...sd->...a", self._dual, displacement) @ self._inverse
        return displacement - torch.einsum("...a,asd->...sd", amount, self.motions)

    def own(self) -> Tensor:
        """How a sensor's displacement alone appears in what is left of it (sensors, dof, dof)."""
        n = self.motions.shape[-1]
        eye = torch.eye(n, dtype=self.motions.dtype, device=self.motions.device)
        return eye - torch.einsum("asd,ab,bse->sde", self.motions, self._inverse, self._dual)


@dataclass(frozen=True)
class Errors:
    """Errors of all sensors' degrees of freedom, and how well these are known themselves."""

    sigma: Tensor  # (sensors, dof); 0 where fixed, NaN where nothing determines it
    relative: Tensor  # standard error of sigma over sigma (sensors, dof); 0 for exact ones
    removal: Removal  # of the motions that nothing determines
    columns: Tensor  # f with C = Σ f fᵀ but for the null motions (columns, sensors, dof)
    alone: Tensor  # what of each column a sensor did alone (columns, sensors, dof); 0 for exact ones
    blocks: Tensor  # A_ss⁻¹, which stands in its place (sensors, dof, dof); 0 for exact ones
    n_draws: int  # 0: exact
    volumes: tuple[Tensor, ...] = ()  # σ of the system's levels (volumes, 6); NaN where nothing determines it

    @property
    def draws(self) -> list[Tensor]:
        """The columns as displacements whose mean square is the variance, each (sensors, dof)."""
        return list(self.removal(self.columns) * len(self.columns) ** 0.5)

    def without(self, removal: Removal) -> tuple[Tensor, Tensor]:
        """Errors of displacements from which motions are removed, the null ones among them.

        Returns:
            σ, and its standard error over σ by the number of draws, both (sensors, dof).
        """
        exact, mean = _variances(self.columns, self.alone, self.blocks, removal)
        variance = (exact + mean).clamp_min(0.0)
        share = mean / variance.clamp_min(1e-300) if self.n_draws else 0 * mean
        return variance.sqrt(), share / max(2 * self.n_draws, 1) ** 0.5


def exact_errors(system: Hierarchical, metric: Tensor, constraints: Constraints | None = None) -> Errors:
    """From the dense matrix; for up to a few thousand unknowns.

    Args:
        system: H with its volumes and priors.
        metric: G of each sensor, in which motions that nothing determines are taken out.
        constraints: that the answer fulfils.
    """
    dense = dense_system(system)
    scale = dense.matrix.diagonal().clamp_min(1e-300).rsqrt()
    scaled = dense.matrix * scale[:, None] * scale
    if constraints is None:
        values, vectors = torch.linalg.eigh(scaled)
    else:
        free = null_space(dense.of(constraints), scale)
        values, inner = torch.linalg.eigh(free.T @ scaled @ free)
        vectors = free @ inner
    known = values > _FLAT * values.amax()
    motion = torch.einsum("um,usd->msd", scale[:, None] * vectors, dense.motion)
    size = torch.einsum("msd,sde,mse->m", motion, metric, motion).amax()
    null = _distinct(motion[~known], metric, size)
    columns = motion[known] * values[known].rsqrt()[:, None, None]
    nothing = torch.zeros_like(metric)
    found = _errors(system, Removal(null, metric), columns, torch.zeros_like(columns), nothing, None)
    unknowns = scale[:, None] * vectors[:, known] * values[known].rsqrt()
    loose = vectors[:, ~known].square().sum(1) > _LOOSE
    sigma = torch.full((len(system),), torch.nan).to(scale)
    sigma[dense.acts] = torch.where(loose, torch.nan, unknowns.square().sum(1).sqrt())
    return replace(found, volumes=system.of_levels(sigma))


def drawn_errors(
    system: Hierarchical,
    preconditioner: Preconditioner,
    removal: Removal,
    draws: Iterable[tuple[Tensor, Tensor]],
    hits: Tensor | None = None,
    unknowns: Sequence[Tensor] = (),
) -> Errors:
    """The Rao–Blackwell estimate from draws.

    Args:
        system, preconditioner: H with its volumes and priors, and the inverse of its blocks.
        removal: of the motions that nothing determines.
        draws: pairs as of `error_draws`.
        hits: of each sensor, where the draws are of one linearisation: they repeat its noise but for signs,
            so that, however many they are, what they say of n hits is known to 1/√(2n) of itself; None if
            they are of one linearisation each.
        unknowns: the same draws of all unknowns, for the errors of volumes.
    """
    pairs = list(draws)
    columns, alone = (torch.stack(part) / len(pairs) ** 0.5 for part in zip(*pairs, strict=True))
    few = torch.zeros_like(system.problem.free) if hits is None else 1 / hits.clamp_min(1)[:, None]
    found = _errors(system, removal, columns, alone, preconditioner.alone(), few + 1 / len(pairs))
    if not unknowns:
        return found
    return replace(found, volumes=system.of_levels(torch.stack(list(unknowns)).square().mean(0).sqrt()))


def error_draws(
    system: Hierarchical,
    preconditioner: Preconditioner,
    seeds: Iterable[int],
    tolerance: float = 1e-3,
    max_iterations: int = 1000,
    unknowns: list[Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws of the answer's errors.

    Args:
        system, preconditioner: H with its volumes and priors, and the inverse of its blocks.
        seeds: one a draw.
        tolerance, max_iterations: of the conjugate gradients; at 1e-3 σ is right to 0.3 % or better.
        unknowns: gets each draw of all unknowns.

    Yields:
        The displacement E A⁻¹ξ, and A_ss⁻¹ ξ_s, what each sensor would do alone (sensors, dof).
    """
    for seed in seeds:
        noise = system.noise(seed)
        solution = minimised(system, noise, preconditioner, tolerance, max_iterations)
        if unknowns is not None:
            unknowns.append(solution.x)
        yield system.expand(solution.x), preconditioner.sensors_alone(noise)


def _errors(
    system: Hierarchical, removal: Removal, columns: Tensor, alone: Tensor, blocks: Tensor, few: Tensor | None
) -> Errors:
    """Errors by exact columns, or by draws that are worth 1 / `few` independent ones each."""
    exact, mean = _variances(columns, alone, blocks, removal)
    extra, known = _not_fitted(system)
    known = known & (removal.own().diagonal(dim1=-2, dim2=-1) > _HELD)
    free = system.problem.free > 0
    variance = (exact + mean + extra).clamp_min(0.0)
    sigma = torch.where(known, variance.sqrt(), torch.nan)
    relative = 0 * mean if few is None else mean / variance.clamp_min(1e-300) * (few / 2).sqrt()
    return Errors(
        torch.where(free, sigma, 0.0), torch.where(free, relative, 0.0), removal,
        columns, alone, blocks, 0 if few is None else len(columns),
    )  # fmt: skip


def _variances(columns: Tensor, alone: Tensor, blocks: Tensor, removal: Removal) -> tuple[Tensor, Tensor]:
    """Of displacements without motions: the sensors' part alone, and the mean of the rest (sensors, dof)."""
    own = removal.own()
    rest = removal(columns) - (own @ alone[..., None]).squeeze(-1)
    return (own @ blocks @ own.mT).diagonal(dim1=-2, dim2=-1), rest.square().sum(0)


def _not_fitted(system: Hierarchical) -> tuple[Tensor, Tensor]:
    """Variance of what has a prior but was not fitted, and which degrees of freedom are known."""
    weight = system.sensor_weight.expand_as(system.own)
    missing = (weight > 0) & (system.own == 0)
    alone = torch.where(missing, 1 / weight.clamp_min(1e-300), 0.0)
    if system.basis is not None:
        alone = (system.basis.square() @ alone[..., None]).squeeze(-1)
    moved = system.own.any(-1, keepdim=True) | (weight > 0).any(-1, keepdim=True)
    seen = (system.problem.hits() > 0)[:, None] | (weight > 0).any(-1, keepdim=True)
    return alone * system.problem.free, (moved & seen).expand_as(system.problem.free)


def _distinct(motions: Tensor, metric: Tensor, size: Tensor) -> Tensor:
    """An orthonormal basis of some motions; what displaces nothing, compared to `size`, is left out."""
    gram = torch.einsum("asd,sde,bse->ab", motions, metric, motions)
    values, vectors = torch.linalg.eigh(gram)
    keep = values > 1e-10 * size
    return torch.einsum("ab,asd->bsd", vectors[:, keep] * values[keep].rsqrt(), motions)
