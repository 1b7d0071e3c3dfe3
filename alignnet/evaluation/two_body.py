"""Pairs of tracks of opposite charge that meet away from their event's vertex: V⁰s and open charm.

The point where two tracks meet is the vertex fit of `impact.vertices` with two tracks in the place of an
event's, linearised anew where the last round led: at its end both are within 1 µm of the plane that they are
linearised in, centimetres from where the search began. χ² there has one degree of freedom.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation.fitted_tracks import FreeTracks
from alignnet.evaluation.impact import Impact, impact, vertices
from alignnet.physics.helix import Helix

_ROUNDS = 6
_FURTHEST = 60.0  # [cm] where the search ends


class Meeting(NamedTuple):
    """Where pairs meet, and their momenta there."""

    place: Tensor  # (pairs, 3) [cm]
    chi2: Tensor  # of the two tracks (pairs,)
    momentum: Tensor  # of the positive and the negative one (pairs, 2, 3) [GeV/c]


def opposite_pairs(charge: Tensor, event: Tensor, usable: Tensor) -> Tensor:
    """Rows of the positive and the negative track of all pairs within events (pairs, 2).

    Args:
        charge: sign (tracks,).
        event: of each track (tracks,).
        usable: which of them count (tracks,).
    """
    sides = []
    for sign in (1, -1):
        rows = (usable & (charge == sign)).nonzero().squeeze(-1)
        sides.append(rows[event[rows].argsort(stable=True)])
    positive, negative = sides
    n_events = int(event.max()) + 1 if len(event) else 0
    count = torch.bincount(event[negative], minlength=n_events)
    first = count.cumsum(0) - count
    partners = count[event[positive]]
    one = positive.repeat_interleave(partners)
    start = (first[event[positive]] - (partners.cumsum(0) - partners)).repeat_interleave(partners)
    return torch.stack([one, negative[start + torch.arange(len(one))]], -1)


def meet(tracks: FreeTracks, pairs: Tensor, start: Tensor, b_z: float) -> Meeting:
    """Fit the common point of each pair.

    Args:
        tracks: fitted to their hits alone.
        pairs: rows (pairs, 2).
        start: where the search begins (pairs, 3) [cm].
        b_z: field [T].
    """
    rows, event = pairs.flatten(), torch.arange(len(pairs)).repeat_interleave(2)
    helix = Helix(*(field[rows] for field in tracks.helix))
    covariance, usable = tracks.covariance[rows], torch.ones(len(rows), dtype=torch.bool)
    place = start
    for _ in range(_ROUNDS):
        found = impact(helix, covariance, place[event], b_z)
        move = vertices(found, usable, event, place).offset
        place = (place + move.nan_to_num()).clamp(-_FURTHEST, _FURTHEST)
    found = impact(helix, covariance, place[event], b_z)
    square = (
        found.distance[:, None] @ torch.linalg.solve(found.covariance, found.distance[..., None])
    ).flatten()
    return Meeting(place, square.unflatten(0, (-1, 2)).sum(-1), _momenta(found).unflatten(0, (-1, 2)))


def _momenta(found: Impact) -> Tensor:
    """(tracks, 3) [GeV/c]."""
    five = found.perigee
    pt = five.q_over_pt.abs().reciprocal()
    return pt[:, None] * torch.stack([five.phi0.cos(), five.phi0.sin(), five.tan_lambda], -1)


def primary_vertices(tracks: FreeTracks, batch: Batch, place: Tensor, b_z: float) -> Impact:
    """Closest approaches of tracks to the vertices of their events, `place` (events, 3)."""
    return impact(tracks.helix, tracks.covariance, place[batch.event], b_z)
