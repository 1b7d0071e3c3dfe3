"""Some tracks of a fit, and the same fit with these tracks replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.plane import Plane
from alignnet.physics.helix import Helix
from alignnet.physics.trackfit import EventOrigins
from alignnet.physics.whitening import Whitening

if TYPE_CHECKING:
    from alignnet.loss.chi2 import Fit


class FitPart(NamedTuple):
    """Rows of a batch, with their planes and their fit."""

    rows: Tensor
    planes: Plane
    fit: Fit
    batch: Batch


def part_of(wanted: Tensor, planes: Plane, fit: Fit, batch: Batch) -> FitPart:
    """The tracks of `wanted` (tracks,); where events' origins are fitted, with all of their events."""
    if fit.origins is not None:
        count = torch.zeros(batch.n_events, dtype=torch.int64, device=wanted.device)
        wanted = count.index_add_(0, batch.event, wanted.long())[batch.event] > 0
    rows = wanted.nonzero().squeeze(-1)
    origins = None if fit.origins is None else fit.origins._replace(event=fit.origins.event[rows])
    some = Batch(*(_taken(f, rows) if name != "event_number" else f for name, f in batch._asdict().items()))
    small = fit._replace(
        helix=Helix(*(_taken(field, rows) for field in fit.helix)),
        whitening=_whitening(fit.whitening, rows),
        vertex_whitening=None if fit.vertex_whitening is None else _whitening(fit.vertex_whitening, rows),
        vertex_axes=None if fit.vertex_axes is None else fit.vertex_axes[rows],
        origins=origins,
        ok=fit.ok[rows],
        s=None if fit.s is None else fit.s[rows],
        hit_weight=None if fit.hit_weight is None else fit.hit_weight[rows],
        settled=None if fit.settled is None else fit.settled[rows],
    )
    return FitPart(rows, Plane(*(_taken(field, rows) for field in planes)), small, some)


def put_back(whole: Fit, part: FitPart) -> Fit:
    """`whole` with the tracks of a part as they are there; weights of hits, if any, are in both."""
    new, rows = part.fit, part.rows
    return whole._replace(
        helix=Helix(*(_put(a, b, rows) for a, b in zip(whole.helix, new.helix, strict=True))),
        whitening=Whitening(
            *(_put_if(a, b, rows) for a, b in zip(whole.whitening, new.whitening, strict=True))
        ),
        origins=_origins(whole.origins, part),
        ok=_put(whole.ok, new.ok, rows),
        s=_put_if(whole.s, new.s, rows),
        hit_weight=_put_if(whole.hit_weight, new.hit_weight, rows),
        settled=_put_if(whole.settled, new.settled, rows),
    )


def _origins(old: EventOrigins | None, part: FitPart) -> EventOrigins | None:
    if old is None or part.fit.origins is None:
        return old
    events = part.batch.event.unique()
    return old._replace(position=_put(old.position, part.fit.origins.position[events], events))


def _taken(field: Tensor, rows: Tensor) -> Tensor:
    return field.index_select(0, rows)


def _put(old: Tensor, new: Tensor, rows: Tensor) -> Tensor:
    return old.index_copy(0, rows, new)


def _put_if(old: Tensor | None, new: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if old is None or new is None else _put(old, new, rows)


def _whitening(whitening: Whitening, rows: Tensor) -> Whitening:
    return Whitening(*(None if field is None else _taken(field, rows) for field in whitening))
