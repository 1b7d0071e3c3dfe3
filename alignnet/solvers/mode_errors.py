"""How well a fit knows chosen collective motions: the errors of their amplitudes, one linear solve each.

An amplitude is a = pᵀδ with a form p (`alignnet.geometry.mode_amplitudes`). With A the matrix of all
unknowns, priors and penalties in it, and E what these displace,

    σ_a² = pᵀ E A⁻¹ Eᵀ p          all else free,
    σ_alone⁻² = mᵀ H m            the sensors moving along the mode m only, by the tracks alone,
    σ_prior² = pᵀ E W⁻¹ Eᵀ p      before there are tracks: W of priors and penalties,
    σ_prior,alone⁻² = min xᵀ W x  of the unknowns x that move the sensors along the mode only, E x = m,
    response = pᵀ E A⁻¹ Eᵀ H m        what the answer has of an amplitude where this mode is, or another,
    held back = 1 − response          of the mode itself: the part of it that the answer lacks.

The first is at most the third and, where there are no priors, at least the second. With priors it may be
less: what tracks tell of other motions sharpens what priors tell of this one, which tracks need not feel.
The last two are biases: priors of single volumes are against a mode which moves all of them together, and
sensors that only follow their volumes are in the way of one that moves these otherwise. Eᵀ H m is the
gradient of tracks without noise in sensors that the mode has moved.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.errors import ConvergenceError
from alignnet.solvers.constrained import constraints_of, is_excluded, minimised
from alignnet.solvers.errors import exact_errors
from alignnet.solvers.levels import Hierarchical, Preconditioner
from alignnet.solvers.pcg import BlockJacobi, conjugate_gradients

_NULL = (
    1e-6  # of what a sensor's hits alone would leave open of an amplitude, that motions nothing knows of may
)
_SAME = 1e-6  # by which two forms may differ


class ModeErrors(NamedTuple):
    """Errors of amplitudes [cm] (modes,): infinite where nothing is known, NaN where a solve did not end."""

    names: tuple[str, ...]
    sigma: Tensor  # all else free
    alone: Tensor  # by the tracks, if the sensors moved along the mode only
    prior: Tensor  # without tracks, all else free
    prior_alone: Tensor  # by the priors, if the sensors moved along the mode only
    response: Tensor  # of the answer's amplitudes to those that are there (modes, modes)
    counted: Tensor | None = None  # sensors that the amplitudes are of (sensors,); None: all

    @property
    def held_back(self) -> Tensor:
        """The part of an amplitude that priors, and what cannot move, keep out of the answer (modes,)."""
        return 1 - self.response.diagonal()


def mode_errors(
    system: Hierarchical,
    preconditioner: Preconditioner,
    names: tuple[str, ...],
    forms: Tensor,
    motions: Tensor,
    metric: Tensor,
    dense: bool,
    tolerance: float = 1e-2,
    max_iterations: int = 200,
) -> ModeErrors:
    """The errors of some modes' amplitudes.

    Args:
        system: H with its volumes and priors.
        preconditioner: the system's.
        names: of the modes.
        forms: of their amplitudes (modes, sensors, dof).
        motions: of unit amplitude (modes, sensors, dof).
        metric: G of each sensor (sensors, dof, dof).
        dense: take the system as a dense matrix.
        tolerance, max_iterations: of conjugate gradients, else.
    """
    free = system.problem.free
    p, m = forms.to(free) * free, motions.to(free) * free
    none, blocks = torch.zeros_like(p), system.prior_blocks()
    tracks = torch.stack([system.problem(motion) for motion in m]) if len(m) else none
    forces = (
        torch.stack([_with_terms(system, *each) for each in zip(tracks, m, strict=True)]) if len(m) else none
    )
    if dense:
        variance, response = _exact(system, preconditioner, p, forces, metric)
    else:
        rows = [_solved(system, preconditioner, form, forces, tolerance, max_iterations) for form in p]
        found = torch.stack(rows) if rows else p.new_zeros(0, 1)
        variance, response = found[:, 0], found[:, 1:]
    seen = (m * tracks).sum((1, 2))
    energy = (
        torch.stack([_least_energy(system, motion, blocks) for motion in m]) if len(m) else p.new_zeros(0)
    )
    return ModeErrors(
        names,
        variance.clamp_min(0.0).sqrt(),
        _error(seen),
        prior_errors(system, p),
        _error(energy),
        response,
    )


def _with_terms(system: Hierarchical, force: Tensor, motion: Tensor) -> Tensor:
    """H m of the tracks, and that of terms."""
    rows = system.penalties[system.n_held :]  # of terms
    force = force + torch.einsum("k,ksd->sd", torch.einsum("ksd,sd->k", rows, motion), rows)
    return force if system.terms is None else force + system.terms(motion) * system.problem.free


def _error(known: Tensor) -> Tensor:
    """1/√ of what is known, infinite where nothing is."""
    return torch.where(known > 0, known.clamp_min(1e-300).rsqrt(), torch.inf)


def prior_errors(system: Hierarchical, forms: Tensor) -> Tensor:
    """What priors and penalties alone say of amplitudes [cm] (modes,); infinite where nothing."""
    rows = [system.collect(form) for form in forms]
    if not rows:
        return forms.new_zeros(0)
    f = torch.stack(rows)
    touched = f.abs() > 1e-12 * f.abs().amax(1, keepdim=True)
    loose = (touched & (system.weight == 0)).any(1)
    inverse = torch.where(system.weight > 0, 1 / system.weight.clamp_min(1e-300), 0.0)
    variance = (f.square() * inverse).sum(1)
    if len(system.penalties):
        held = torch.stack([system.collect(form) for form in system.penalties])
        cross, own = (f * inverse) @ held.T, (held * inverse) @ held.T
        reduced = variance - (cross * torch.linalg.solve(torch.eye(len(own)).to(own) + own, cross.T).T).sum(1)
        variance = torch.where(loose, _penalised_alone(forms, system.penalties), reduced)
        loose = loose & variance.isinf()
    return torch.where(loose, torch.inf, variance.clamp_min(0.0).sqrt())


def _least_energy(system: Hierarchical, motion: Tensor, blocks: Tensor) -> Tensor:
    """The least xᵀWx with E x = m, the volumes taking of m what is cheapest for them.

    min over x_l of (m − Σ Z_l x_l)ᵀ W_s (m − Σ Z_l x_l) + Σ x_lᵀ W_l x_l, plus the penalties' (c · m)²;
    `blocks` are W_s.
    """
    levels, penalty = system.levels, system.penalty(motion)
    pull = (blocks @ motion[..., None]).squeeze(-1)
    if not levels or not bool(pull.any()):
        return (motion * (pull + penalty)).sum()

    def collected(force: Tensor) -> Tensor:
        return torch.cat([level.restrict(force).flatten() for level in levels])

    def parts(x: Tensor) -> list[Tensor]:
        sizes = [6 * level.n_groups for level in levels]
        return [part.view(-1, 6) for part in x.split(sizes)]

    def carried(x: Tensor) -> Tensor:
        moved = sum((level.prolong(part) for level, part in zip(levels, parts(x), strict=True)), 0 * motion)
        return (blocks @ moved[..., None]).squeeze(-1)

    def matrix(x: Tensor) -> Tensor:
        split = zip(levels, parts(x), strict=True)
        return collected(carried(x)) + torch.cat([(part * level.weight).flatten() for level, part in split])

    inverses = []
    for level in levels:
        own = level.basis.mT @ blocks @ level.basis
        total = own.new_zeros(level.n_groups, 6, 6).index_add_(0, level.group, own)
        inverses.append(BlockJacobi(total + torch.diag(level.weight)))

    def inverse(x: Tensor) -> Tensor:
        return torch.cat([one(part).flatten() for one, part in zip(inverses, parts(x), strict=True)])

    moved = carried(conjugate_gradients(matrix, collected(pull), inverse, 1e-7, 500).x)
    return (motion * (pull - moved + penalty)).sum()


def _penalised_alone(forms: Tensor, penalties: Tensor) -> Tensor:
    """σ² of amplitudes that a penalty is of, with nothing else known; infinite for others."""
    size = torch.einsum("ksd,ksd->k", penalties, penalties)
    along = torch.einsum("msd,ksd->mk", forms, penalties)
    whole = torch.einsum("msd,msd->m", forms, forms)[:, None]
    same = (along.square() / (whole * size)) > 1 - _SAME
    return torch.where(same, whole / size, torch.inf).amin(1)


def _exact(
    system: Hierarchical, preconditioner: Preconditioner, forms: Tensor, force: Tensor, metric: Tensor
) -> tuple[Tensor, Tensor]:
    """pᵀ E A⁻¹ Eᵀ p (modes,), infinite where nothing is known, and pᵀ E A⁻¹ Eᵀ H m (modes, modes)."""
    errors = exact_errors(system, metric, constraints_of(preconditioner))
    along = torch.einsum("msd,csd->mc", forms, errors.columns)
    known, response = along.square().sum(1), along @ torch.einsum("msd,csd->cm", force, errors.columns)
    open_ = torch.einsum("msd,nsd->mn", forms, errors.removal.motions).square().sum(1)
    size = torch.einsum("msd,msd->m", forms, forms).sqrt()
    null = (
        open_.sqrt() > _NULL * size * errors.removal.motions.square().sum((1, 2)).sqrt().amax()
        if len(errors.removal.motions)
        else torch.zeros_like(known, dtype=torch.bool)
    )
    return torch.where(null, torch.inf, known), response


def _solved(
    system: Hierarchical,
    preconditioner: Preconditioner,
    form: Tensor,
    seen: Tensor,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """pᵀ E A⁻¹ Eᵀ p, infinite where tracks and priors leave p open, and pᵀ E A⁻¹ Eᵀ H m for every m; NaN
    without an end.

    What conjugate gradients leave of it is of second order in their tolerance.
    """
    force = system.collect(form)
    if is_excluded(preconditioner, force):
        return force.new_zeros(1 + len(seen))
    try:
        solution = minimised(system, force, preconditioner, tolerance, max_iterations)
    except ConvergenceError:  # motions that nothing knows of, which a sensor of few hits has
        return force.new_full((1 + len(seen),), torch.nan)
    moved = system.expand(solution.x)
    variance, response = (form * moved).sum(), torch.einsum("msd,sd->m", seen, moved)
    open_ = (form * system.expand(preconditioner.on_all(force) - preconditioner(force))).sum()
    if bool(open_ > _NULL * variance.abs()):
        variance = torch.full_like(variance, torch.inf)
    found = torch.cat([variance[None], response])
    return found if solution.converged else torch.full_like(found, torch.nan)
