"""Gauss–Newton steps of a batch of track fits until every fit has settled (`physics.damping`).

Tracks that go through one fitted origin take their steps together, so that it is their sum of χ², with the
prior of the origin, that has to fall.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.plane import Plane
from alignnet.loss.fit_part import part_of, put_back
from alignnet.physics import helix as hx
from alignnet.physics.damping import STEPS, falls_enough, has_settled
from alignnet.physics.helix import Helix
from alignnet.physics.trackfit import EventOrigins, step

if TYPE_CHECKING:
    from alignnet.loss.chi2 import Fit, HelixChi2


class Walk(NamedTuple):
    """A step: where it began, and what it promised."""

    helix: Helix  # (tracks,)
    s: Tensor | None  # (tracks, hits)
    position: Tensor | None  # of the origins (events, 3)
    delta: Tensor  # (tracks, parameters)
    move: Tensor | None  # of the origins (events, 3)
    ok: Tensor  # whether hits determine it (tracks,)
    chi2: Tensor  # (tracks,)
    promise: Tensor  # (tracks,)
    fraction: Tensor  # of the step that was taken (tracks,)
    settled: Tensor  # (tracks,)


def settle(loss: HelixChi2, planes: Plane, fit: Fit, batch: Batch, iterations: int) -> Fit:
    """So many steps with the weights of `fit`, or damped ones for tracks that do not settle with these.

    What comes out says which tracks have settled, with the ones or the others.
    """
    found = fit
    for _ in range(iterations):
        found, walk = advance(loss, planes, found, batch)
    found = found._replace(settled=walk.settled)
    left = fit.ok & ~(found.ok & walk.settled)
    if not left.any():
        return found
    part = part_of(left, planes, fit, batch)
    return put_back(found, part._replace(fit=_descend(loss, *part[1:])))


def _descend(loss: HelixChi2, planes: Plane, fit: Fit, batch: Batch) -> Fit:
    """Damped steps until all have settled, who do not move any more."""
    fit, walk = advance(loss, planes, fit, batch)
    for _ in range(STEPS - 1):
        if (walk.settled | ~fit.ok).all():
            break
        fit, walk = advance(loss, planes, fit, batch, walk)
    return fit._replace(settled=walk.settled)


def advance(
    loss: HelixChi2,
    planes: Plane,
    fit: Fit,
    batch: Batch,
    walk: Walk | None = None,
) -> tuple[Fit, Walk]:
    """One step of each track; half of the one before where that left χ² too high, none once it has settled.

    Args:
        walk: the step that led to `fit`; without it, all tracks take a full step.

    Returns:
        The fit after the step, its path lengths before; and the step.
    """
    new, moving = _gauss_newton(loss, planes, fit, batch), None
    if walk is not None:
        now = _together(new.chi2, new.position, fit, walk.ok)
        before = _together(walk.chi2, walk.position, fit, walk.ok)
        promise, moving = _promised(walk, fit), ~walk.settled
        back = moving & ~falls_enough(now, before, promise, walk.fraction)
        new = _chosen(back, walk._replace(fraction=walk.fraction / 2), new, fit.origins)
    taken = new.delta * new.fraction[:, None]
    helix, origins = hx.updated(new.helix, taken.to(new.helix.omega.dtype)), fit.origins
    if origins is not None and new.position is not None and new.move is not None:
        part = _of_events(new.fraction, origins, 1.0)[:, None]
        position = new.position + (new.move * part).to(new.position.dtype)
        if moving is not None:
            position = torch.where(_of_events(moving, origins, False)[:, None], position, origins.position)
        origins = origins._replace(position=position)
    if moving is not None:
        helix = Helix(*(_where(moving, a, b) for a, b in zip(helix, fit.helix, strict=True)))
        s = None if new.s is None or fit.s is None else _where(moving, new.s, fit.s)
        new = new._replace(settled=new.settled | ~moving, ok=new.ok | ~moving, s=s)
    return fit._replace(helix=helix, origins=origins, ok=fit.ok & new.ok, s=new.s), new


def _gauss_newton(loss: HelixChi2, planes: Plane, fit: Fit, batch: Batch) -> Walk:
    """The full step."""
    r, j, a, s = loss.rows_and_paths(planes, fit, batch)
    delta, move, ok = step(r, j, fit.origins, a if fit.origins is not None else None)
    ok = ok & delta.isfinite().all(-1)
    delta = torch.where(ok[:, None], delta, 0.0)
    change = (j @ delta[..., None]).squeeze(-1)
    if fit.origins is not None and a is not None and move is not None:
        change = change + (a @ move[fit.origins.event][..., None].to(a)).squeeze(-1)
    position = None if fit.origins is None else fit.origins.position
    chi2, promise = r.double().square().sum(-1), -(r.double() * change.double()).sum(-1)
    walk = Walk(fit.helix, s, position, delta, move, ok, chi2, promise, torch.ones_like(chi2), ok)
    settled = has_settled(_promised(walk, fit), _together(chi2, position, fit, ok))
    return walk._replace(settled=settled)


def _together(chi2: Tensor, position: Tensor | None, fit: Fit, ok: Tensor) -> Tensor:
    """χ² of a track, or that of its event with the origin there, for each track (tracks,)."""
    if fit.origins is None or position is None:
        return chi2
    pull = position - fit.origins.prior
    prior = (pull[:, None] @ fit.origins.weight @ pull[..., None]).flatten()
    return _summed(chi2, prior, fit.origins, ok)


def _promised(walk: Walk, fit: Fit) -> Tensor:
    """By how much that is to fall with the full step (tracks,)."""
    if fit.origins is None or walk.position is None or walk.move is None:
        return walk.promise
    force = (fit.origins.weight @ (walk.position - fit.origins.prior)[..., None]).squeeze(-1)
    return _summed(walk.promise, -(force * walk.move).sum(-1), fit.origins, walk.ok)


def _summed(of_tracks: Tensor, of_origins: Tensor, origins: EventOrigins, ok: Tensor) -> Tensor:
    used = torch.where(ok, of_tracks, 0.0).to(of_origins)
    return of_origins.index_add(0, origins.event, used)[origins.event]


def _chosen(back: Tensor, old: Walk, new: Walk, origins: EventOrigins | None) -> Walk:
    """The steps of `old` where tracks go back, else those of `new`."""
    events = None if origins is None else _of_events(back, origins, False)
    chosen = {}
    for name, field in new._asdict().items():
        before = getattr(old, name)
        if field is None or before is None:
            chosen[name] = field
        elif isinstance(field, Helix):
            chosen[name] = Helix(*(_where(back, a, b) for a, b in zip(before, field, strict=True)))
        else:
            of_event = events is not None and name in ("position", "move")
            chosen[name] = _where(events if of_event and events is not None else back, before, field)
    return Walk(**chosen)


def _of_events(of_tracks: Tensor, origins: EventOrigins, without: float) -> Tensor:
    """What all tracks of an event have in common (events,); `without` where it has none."""
    whole = torch.full((len(origins.position),), without, dtype=of_tracks.dtype, device=of_tracks.device)
    return whole.scatter(0, origins.event, of_tracks)


def _where(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (b.ndim - 1)), a, b)
