"""Exact linear constraints of a Gauss–Newton step: no motion of the whole, of a volume's content, of a mode.

To minimise ½xᵀAx − bᵀx with C x = d, take a point x₀ with C x₀ = d and search A x = b − A x₀ among the x with
C x = 0: by conjugate gradients whose preconditioner ends there,

    P r = M⁻¹ (r − Cᵀ λ),   C P r = 0,   so that   λ = S⁻¹ C M⁻¹ r,   S = C M⁻¹ Cᵀ,

M any positive matrix (Gould, Hribar & Nocedal, SIAM J. Sci. Comput. 23 (2001) 1376). Where M is A, one
iteration does. x₀ = M⁻¹ Cᵀ S⁻¹ d. Residuals lose their part Cᵀ λ, which P does not see and which does not
fall: else its rounding ends the descent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alignnet.errors import ConfigError, ConvergenceError
from alignnet.solvers.levels import Hierarchical, Level, Preconditioner
from alignnet.solvers.pcg import Solution, conjugate_gradients

MOST = 2000
"""Constraints: each is a solution of the whole system, and a row of as many numbers as there are unknowns."""

_EXCLUDED = 1e-12  # of rᵀM⁻¹r, which is rounding
_FLAT = 1e-11  # eigenvalue of S, its diagonal 1, below which a constraint follows from others
_HELD = 1e-6  # of the constraint's size, that may be left of it


class Constraints:
    """Collective motions that displacements must not have: six numbers C x a volume, one a form.

    Args:
        hierarchy: the system of unknowns x.
        whole: the level of the whole detector, whose sensors' displacements have no common motion; or None.
        volumes: levels in whose volumes nothing that is inside (finer volumes and the sensors themselves)
            has a common motion.
        forms: c of displacements with c · δ = 0, each (sensors, dof); None for none.

    Raises:
        ConfigError: there are more than `MOST`.
    """

    def __init__(
        self,
        hierarchy: Hierarchical,
        whole: Level | None,
        volumes: Sequence[Level] = (),
        forms: Tensor | None = None,
    ) -> None:
        self.hierarchy, self.whole, self.volumes = hierarchy, whole, list(volumes)
        none = hierarchy.problem.free.new_zeros(0, *hierarchy.problem.free.shape)
        self.forms = none if forms is None else forms.to(none) * hierarchy.problem.free
        levels = [*([] if whole is None else [whole]), *self.volumes]
        self._sizes = [*(level.n_groups * level.basis.shape[-1] for level in levels), len(self.forms)]
        if len(self) > MOST:
            raise ConfigError(
                f"optimizer.gauge and zero_mean are {len(self):,} constraints, expected up to {MOST:,}; give "
                "levels with fewer volumes, or priors (optimizer.sensor_prior)"
            )

    def __len__(self) -> int:
        return sum(self._sizes)

    def __call__(self, x: Tensor) -> Tensor:
        """C x of packed unknowns (constraints,)."""
        return self.of(self.hierarchy.expand(x), x)

    def of(self, total: Tensor, x: Tensor, moved: Tensor | None = None) -> Tensor:
        """The same of displacements that are known better than by x.

        Args:
            total: from the drawing, which the whole has no motion against (sensors, dof).
            x: packed unknowns, of which volumes take what is inside them.
            moved: from the start, which forms are of (sensors, dof); default: `total`.
        """
        parts = [] if self.whole is None else [self.whole.restrict(total).flatten()]
        parts += [level.restrict(self.hierarchy.inside(x, level.depth)).flatten() for level in self.volumes]
        forms = torch.einsum("ksd,sd->k", self.forms, total if moved is None else moved)
        return torch.cat([*parts, forms])

    def transposed(self, multipliers: Tensor) -> Tensor:
        """Cᵀ λ, packed."""
        parts = list(multipliers.split(self._sizes))
        result = self.hierarchy.collect(torch.einsum("k,ksd->sd", parts.pop(), self.forms))
        if self.whole is not None:
            result = result + self.hierarchy.collect(self.whole.prolong(parts.pop(0).view(1, -1)))
        for level, part in zip(self.volumes, parts, strict=True):
            force = level.prolong(part.view(level.n_groups, -1))
            result = result + self.hierarchy.collect_inside(force, level.depth)
        return result


class ConstrainedPreconditioner(Preconditioner):
    """P for a preconditioner M⁻¹ of the system without constraints.

    Args:
        inner: M⁻¹.
        constraints: C.
    """

    def __init__(self, inner: Preconditioner, constraints: Constraints) -> None:
        self.hierarchy, self.inner, self.constraints = inner.hierarchy, inner, constraints
        like = self.hierarchy.weight
        one = torch.eye(len(constraints), dtype=like.dtype, device=like.device)
        self.reach = torch.stack(
            [inner.on_all(constraints.transposed(row)) for row in one]
        )  # M⁻¹ Cᵀ, a row each
        schur = torch.stack([constraints(row) for row in self.reach])
        self._inverse = _pseudo_inverse((schur + schur.T) / 2)
        self.n_null = inner.n_null - self._n_settled(schur) if inner.n_null else 0

    def __call__(self, vector: Tensor) -> Tensor:
        """P times packed unknowns."""
        found = self.inner.on_all(vector)
        return found - self._at(self.constraints(found))

    def force(self, vector: Tensor) -> Tensor:
        """Packed forces without what constraints take."""
        taken = self._inverse @ self.constraints(self.inner.on_all(vector))
        return vector - self.constraints.transposed(taken)

    def start(self, wanted: Tensor) -> Tensor:
        """A point x₀ with C x₀ = `wanted`.

        Raises:
            ConvergenceError: there is none that the fit could take.
        """
        found = self._at(wanted)
        left = (self.constraints(found) - wanted).abs()
        size = self.reach.square().sum(-1).sqrt() + wanted.abs()
        if not bool((left <= _HELD * size).all()):
            raise ConvergenceError(
                "optimizer.gauge, zero_mean or modes cannot be met: what they ask for would have to be taken "
                "by sensors that are fixed or have too few hits"
            )
        return found

    def alone(self) -> Tensor:
        """Zeros (sensors, dof, dof): with constraints no sensor is free while all else stays in place."""
        return torch.zeros_like(self.inner.alone())

    def sensors_alone(self, vector: Tensor) -> Tensor:
        """Zeros (sensors, dof)."""
        return torch.zeros_like(self.inner.sensors_alone(vector))

    def _n_settled(self, schur: Tensor) -> int:
        """How many of the motions that nothing knows of the constraints settle."""
        forces = [self.constraints.transposed(row) for row in torch.eye(len(self.constraints)).to(self.reach)]
        free = torch.stack(
            [self.constraints(row - self.inner(f)) for row, f in zip(self.reach, forces, strict=True)]
        )
        scale = schur.diagonal().clamp_min(1e-300).rsqrt()
        return int(torch.linalg.matrix_rank(free * scale[:, None] * scale, atol=1e-6, hermitian=True))

    def _at(self, values: Tensor) -> Tensor:
        return (self._inverse @ values) @ self.reach


def minimised(
    system: Hierarchical,
    force: Tensor,
    preconditioner: Preconditioner,
    tolerance: float,
    max_iterations: int,
    enough: float = 0.0,
) -> Solution:
    """`conjugate_gradients` among the x with C x = 0 where the preconditioner has constraints."""
    if not isinstance(preconditioner, ConstrainedPreconditioner):
        return conjugate_gradients(system, force, preconditioner, tolerance, max_iterations, enough)

    def matrix(x: Tensor) -> Tensor:
        return preconditioner.force(system(x))

    start = preconditioner.force(force)
    return conjugate_gradients(matrix, start, preconditioner, tolerance, max_iterations, enough)


def is_excluded(preconditioner: Preconditioner, force: Tensor) -> bool:
    """Whether constraints leave no more than rounding of what a packed force would do."""
    if not isinstance(preconditioner, ConstrainedPreconditioner):
        return False
    left, whole = preconditioner(force), preconditioner.inner.on_all(force)
    return bool((force * left).sum() <= _EXCLUDED * (force * whole).sum())


def constraints_of(preconditioner: Preconditioner) -> Constraints | None:
    """Those that a preconditioner keeps to."""
    return preconditioner.constraints if isinstance(preconditioner, ConstrainedPreconditioner) else None


def null_space(constraints: Callable[[Tensor], Tensor], scale: Tensor) -> Tensor:
    """Orthonormal y (unknowns, rest) with C D y = 0, D the diagonal `scale`; for small systems."""
    rows = torch.stack([constraints(one) for one in torch.diag(scale)], -1)
    _, values, right = torch.linalg.svd(rows)
    return right[int((values > 1e-9 * values.amax()).sum()) :].T


def _pseudo_inverse(schur: Tensor) -> Tensor:
    scale = schur.diagonal().clamp_min(1e-300).rsqrt()
    scale = torch.where(schur.diagonal() > 0, scale, 0.0)
    values, vectors = torch.linalg.eigh(schur * scale[:, None] * scale)
    inverse = torch.where(values > _FLAT, 1 / values.clamp_min(_FLAT), 0.0)
    return (vectors * inverse) @ vectors.T * scale[:, None] * scale
