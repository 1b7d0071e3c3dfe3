"""The least known motions of a detector: lowest eigenpairs of H with priors, in the metric of displacements.

    H v = λ G v,      vᵀ G v = mean square displacement of the sensors' corners and centres [cm²],

every sensor counting alike. A mode of unit r.m.s. displacement has the expected error 1/√λ, the r.m.s.
displacement by which the answer is off along it: modes are the principal components of the answer's errors. A
twist moves the whole detector, a chip that few tracks hit moves alone and counts for little. (Against the
diagonal blocks of H the eigenvalues would be ratios, which say how much worse a motion is known than if its
sensors moved alone, and nothing in micrometres; that ratio is kept beside as the mode's `cost`.)

With volumes as unknowns besides the sensors, the matrices are those of all unknowns, A y = λ B y with
B = Eᵀ G E, E the displacement by the unknowns. What moves nothing and costs nothing drops out of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.solvers.dense_system import dense_system
from alignnet.solvers.levels import Hierarchical, Preconditioner
from alignnet.solvers.lobpcg import lowest_eigenpairs

NULL = {torch.float64: 1e-11, torch.float32: 1e-6}
"""Cost below which a mode changes nothing but rounding errors, by the precision of the stored tracks."""

_SMALLEST = 1e-6  # cm: modes of a larger expected error are right, whatever moves less may be a little off
_GUARDS = 8  # vectors beyond those wanted, which converge first


class Spectrum(NamedTuple):
    """Modes from the least known on."""

    value: Tensor  # λ [1/cm²] (modes,)
    motion: Tensor  # of r.m.s. displacement 1 cm (modes, sensors, dof)
    cost: Tensor  # energy over that of its sensors' moving alone, which is dimensionless (modes,)
    n_null: int  # the first so many cost nothing: neither tracks nor priors know of them
    converged: bool

    @property
    def amplitude(self) -> Tensor:
        """Expected error of each mode, r.m.s. displacement [cm]; infinite for null modes."""
        null = torch.arange(len(self.value), device=self.value.device) < self.n_null
        return torch.where(null, torch.inf, self.value.clamp_min(1e-300).rsqrt())

    def first(self, n: int) -> Spectrum:
        """Its first n modes."""
        parts = self.value[:n], self.motion[:n], self.cost[:n]
        return Spectrum(*parts, min(self.n_null, n), self.converged)

    @property
    def gap(self) -> float:
        """Cost of the first mode that is seen over the largest of those that are not (or rounding, 1e-16)."""
        if self.n_null == len(self.cost):
            return math.nan
        last = float(self.cost[: self.n_null].abs().amax()) if self.n_null else 0.0
        return float(self.cost[self.n_null]) / max(last, 1e-16)


def exact_spectrum(
    system: Hierarchical, metric: Tensor, n_modes: int, precision: torch.dtype = torch.float64
) -> Spectrum:
    """The lowest modes from dense matrices, for up to a few thousand unknowns.

    Args:
        system: H with its volumes and priors.
        metric: G of each sensor (sensors, dof, dof), whose mean over sensors is the mean square displacement.
        n_modes: how many.
        precision: of the stored tracks.
    """
    dense, mean = dense_system(system), _mean(metric, system)
    a = dense.matrix
    b = dense.motion.flatten(1) @ (mean @ dense.motion[..., None]).squeeze(-1).flatten(1).T
    ratio = (a.diagonal() / b.diagonal().clamp_min(1e-300)).where(b.diagonal() > 0, 0.0).max()
    both = a + ratio * b
    scale = both.diagonal().clamp_min(1e-300).rsqrt()
    sizes, vectors = torch.linalg.eigh(both * scale[:, None] * scale)
    keep = sizes > 1e-13 * sizes[-1]
    basis = scale[:, None] * vectors[:, keep] * sizes[keep].rsqrt()
    _, rotation = torch.linalg.eigh(basis.T @ a @ basis)
    y = basis @ rotation[:, :n_modes]
    motion = torch.einsum("um,usd->msd", y, dense.motion)
    return _spectrum(system, metric, motion, ((a @ y) * y).sum(0), precision, True)


def lowest_spectrum(
    system: Hierarchical,
    preconditioner: Preconditioner,
    metric: Tensor,
    n_modes: int,
    guesses: Tensor | None = None,
    precision: torch.dtype = torch.float64,
    max_iterations: int = 300,
    progress: Callable[[int, float], None] | None = None,
) -> Spectrum:
    """The lowest modes by preconditioned iterations on H's products.

    Args:
        system, metric, n_modes, precision: as for `exact_spectrum`.
        preconditioner: the system's.
        guesses: motions to start from besides random ones (guesses, sensors, dof), weak modes for example.
        max_iterations: of the eigensolver, each of about n_modes + 8 products.
        progress: called with the iteration and how far the worst mode is from convergence.
    """
    pencil = _Pencil(system, preconditioner, _mean(metric, system))
    found = lowest_eigenpairs(
        _columns(pencil.energy), _columns(pencil.size), _columns(pencil.precondition), pencil.alone,
        _start(pencil, n_modes + _GUARDS, guesses), n_modes, n_modes + _GUARDS,
        floor=1e-2 * NULL[precision], max_iterations=max_iterations, progress=progress,
    )  # fmt: skip
    motion = torch.stack([pencil.expand(y) for y in found.vectors.T])
    spent = torch.stack([(y * pencil.energy(y)).sum() for y in found.vectors.T])
    return _spectrum(system, metric, motion, spent, precision, found.converged)


class _Pencil:
    """A and B in as few unknowns as will do: the sensors alone where they are free of priors, else all."""

    def __init__(self, system: Hierarchical, preconditioner: Preconditioner, mean: Tensor) -> None:
        free = system.problem.free
        n_own = system.own.numel()
        alone = not system.levels or bool((system.own == free).all())
        self.reduced = alone and system.basis is None and not bool(system.weight[:n_own].any())
        self.reduced = self.reduced and not len(system.penalties)
        self.system, self._inverse, self.mean = system, preconditioner, mean
        self._diagonal = system.diagonal_blocks()
        self.shape = free.shape

    def expand(self, y: Tensor) -> Tensor:
        """The sensors' displacement (sensors, dof)."""
        return y.view(self.shape) * self.system.own if self.reduced else self.system.expand(y)

    def collect(self, force: Tensor) -> Tensor:
        """Transpose of `expand`."""
        return (force * self.system.own).flatten() if self.reduced else self.system.collect(force)

    def energy(self, y: Tensor) -> Tensor:
        """A times a vector."""
        return self.collect(self.system.problem(self.expand(y))) if self.reduced else self.system(y)

    def size(self, y: Tensor) -> Tensor:
        """B times a vector; priors that little make it positive where a displacement has two forms."""
        moved = self.collect((self.mean @ self.expand(y)[..., None]).squeeze(-1))
        return moved if self.reduced else moved + _SMALLEST**2 * self.system.weight * y

    def precondition(self, force: Tensor) -> Tensor:
        """An approximate inverse of A times a vector."""
        if not self.reduced:
            return self._inverse(force)
        moved = self.system.expand(self._inverse(self.system.collect(self.expand(force))))
        return self.collect(moved)

    def alone(self, y: Tensor) -> Tensor:
        """What displacements would cost if sensors moved alone (vectors,)."""
        moved = torch.stack([self.expand(one) for one in y.T])
        return torch.einsum("msi,sij,msj->m", moved, self._diagonal, moved)


def _columns(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([product(one) for one in x.T], -1)


def _start(pencil: _Pencil, n: int, guesses: Tensor | None) -> Tensor:
    """Motions of the sensors alone: the guesses, and random ones, smoothed."""
    generator, system = torch.Generator().manual_seed(0), pencil.system
    scale = system.diagonal_blocks().diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    random = torch.randn(n, *pencil.shape, generator=generator, dtype=scale.dtype).to(scale.device)
    motions = [pencil.expand(pencil.precondition(pencil.collect(one))) for one in scale * random]
    motions += [] if guesses is None else list(guesses.to(scale))
    if not bool(system.own.any()):  # only volumes move
        return torch.stack([pencil.precondition(pencil.collect(scale * motion)) for motion in motions], -1)
    own = torch.stack([(motion * system.own).flatten() for motion in motions], -1)
    rest = own.new_zeros(0 if pencil.reduced else len(system) - len(own), own.shape[1])
    return torch.cat([own, rest])


def _mean(metric: Tensor, system: Hierarchical) -> Tensor:
    """G over the number of sensors that can move."""
    movable = int((system.problem.free > 0).any(-1).sum())
    return metric.to(system.weight) / max(movable, 1)


def _spectrum(
    system: Hierarchical,
    metric: Tensor,
    motion: Tensor,
    spent: Tensor,
    precision: torch.dtype,
    converged: bool,
) -> Spectrum:
    size = torch.einsum("msi,sij,msj->m", motion, _mean(metric, system), motion)
    motion, value = motion / size.sqrt()[:, None, None], spent / size
    alone = torch.einsum("msi,sij,msj->m", motion, system.diagonal_blocks(), motion)
    order = value.argsort()
    cost = (value / alone)[order]
    seen = (cost > NULL[precision]).nonzero()
    n_null = int(seen[0]) if len(seen) else len(cost)
    return Spectrum(value[order], motion[order], cost, n_null, converged)
