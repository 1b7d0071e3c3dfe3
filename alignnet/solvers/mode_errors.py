"""How well a fit knows chosen collective motions: the errors of their amplitudes, one linear solve each.

An amplitude is a = pᵀδ with a form p (`alignnet.geometry.mode_amplitudes`). With A the matrix of all
unknowns, priors and penalties in it, and E what these displace,

    σ_a² = pᵀ E A⁻¹ Eᵀ p          all else free,
    σ_alone⁻² = mᵀ H m            the sensors moving along the mode m only, by the tracks alone,
    σ_prior² = pᵀ E W⁻¹ Eᵀ p      before there are tracks: W of priors and penalties.

The first is at most the third and, where there are no priors, at least the second. With priors it may be
less: what tracks tell of other motions sharpens what priors tell of this one, which tracks need not feel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.solvers.constrained import constraints_of, minimised
from alignnet.solvers.errors import exact_errors
from alignnet.solvers.levels import Hierarchical, Preconditioner

_NULL = (
    1e-6  # of what a sensor's hits alone would leave open of an amplitude, that motions nothing knows of may
)
_SAME = 1e-6  # by which two forms may differ


class ModeErrors(NamedTuple):
    """Errors of amplitudes [cm] (modes,): infinite where nothing is known, NaN where a solve did not end."""

    names: tuple[str, ...]
    sigma: Tensor  # all else free
    alone: Tensor  # by the tracks, if the sensors moved along the mode only
    prior: Tensor  # without tracks


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
    if dense:
        variance = _exact(system, preconditioner, p, metric)
    else:
        rows = [_solved(system, preconditioner, form, tolerance, max_iterations) for form in p]
        variance = torch.stack(rows) if rows else p.new_zeros(0)
    seen = torch.stack([(one * system.problem(one)).sum() for one in m]) if len(m) else p.new_zeros(0)
    alone = torch.where(seen > 0, seen.clamp_min(1e-300).rsqrt(), torch.inf)
    return ModeErrors(names, variance.clamp_min(0.0).sqrt(), alone, prior_errors(system, p))


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


def _penalised_alone(forms: Tensor, penalties: Tensor) -> Tensor:
    """σ² of amplitudes that a penalty is of, with nothing else known; infinite for others."""
    size = torch.einsum("ksd,ksd->k", penalties, penalties)
    along = torch.einsum("msd,ksd->mk", forms, penalties)
    whole = torch.einsum("msd,msd->m", forms, forms)[:, None]
    same = (along.square() / (whole * size)) > 1 - _SAME
    return torch.where(same, whole / size, torch.inf).amin(1)


def _exact(system: Hierarchical, preconditioner: Preconditioner, forms: Tensor, metric: Tensor) -> Tensor:
    errors = exact_errors(system, metric, constraints_of(preconditioner))
    known = torch.einsum("msd,csd->mc", forms, errors.columns).square().sum(1)
    open_ = torch.einsum("msd,nsd->mn", forms, errors.removal.motions).square().sum(1)
    size = torch.einsum("msd,msd->m", forms, forms).sqrt()
    null = (
        open_.sqrt() > _NULL * size * errors.removal.motions.square().sum((1, 2)).sqrt().amax()
        if len(errors.removal.motions)
        else torch.zeros_like(known, dtype=torch.bool)
    )
    return torch.where(null, torch.inf, known)


def _solved(
    system: Hierarchical, preconditioner: Preconditioner, form: Tensor, tolerance: float, max_iterations: int
) -> Tensor:
    """pᵀ E A⁻¹ Eᵀ p; infinite where tracks and priors leave p open, NaN where iterations did not end.

    What conjugate gradients leave of it is of second order in their tolerance.
    """
    force = system.collect(form)
    solution = minimised(system, force, preconditioner, tolerance, max_iterations)
    variance = (form * system.expand(solution.x)).sum()
    open_ = (form * system.expand(preconditioner.on_all(force) - preconditioner(force))).sum()
    if bool(open_ > _NULL * variance.abs()):
        return torch.full_like(variance, torch.inf)
    return variance if solution.converged else torch.full_like(variance, torch.nan)
