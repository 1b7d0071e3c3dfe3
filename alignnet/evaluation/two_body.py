"""Pairs of tracks of opposite charge that meet away from their event's vertex: V⁰s and open charm.

The point where two tracks meet is the vertex fit of `impact.vertices` with two tracks in the place of an
event's, linearised anew where the last round led: at its end both are within 1 µm of the plane that they are
linearised in, centimetres from where the search began. χ² there has one degree of freedom.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation.fitted_tracks import FreeTracks
from alignnet.evaluation.impact import Impact, impact, vertices
from alignnet.physics.helix import Helix

_ROUNDS = 6
_FURTHEST = 60.0  # [cm] where the search ends
_PAIRS = 100_000  # that are fitted at a time


class Meeting(NamedTuple):
    """Where pairs meet, and their momenta there."""

    place: Tensor  # (pairs, 3) [cm]
    chi2: Tensor  # of the two tracks (pairs,)
    momentum: Tensor  # of the positive and the negative one (pairs, 2, 3) [GeV/c]


class Candidates(NamedTuple):
    """Pairs that may come from a decay, seen from the vertices of their events; lengths across the beam."""

    pairs: Tensor  # rows of the positive and the negative track (pairs, 2)
    momentum: Tensor  # of both where they meet (pairs, 2, 3) [GeV/c]
    chi2: Tensor  # of the common point (pairs,)
    d0: Tensor  # the smaller distance of the tracks to the vertex (pairs,) [cm]
    flight: Tensor  # distance of the common point to it (pairs,) [cm]
    pointing: Tensor  # cosine between flight and momentum (pairs,)
    pt: Tensor  # of the pair (pairs,) [GeV/c]
    phi: Tensor  # (pairs,) [rad]

    def take(self, rows: Tensor) -> Candidates:
        """Some of them."""
        return Candidates(*(field[rows] for field in self))


def candidates(
    tracks: FreeTracks, batch: Batch, vertex: Tensor, b_z: float, min_d0: float = 0.0
) -> Iterator[Candidates]:
    """All pairs of opposite charge within events, fitted to a common point, some at a time.

    Args:
        tracks: of the batch, fitted to their hits alone.
        batch: their events.
        vertex: of each event (events, 3) [cm].
        b_z: field [T].
        min_d0: least transverse distance of either track to it [cm].
    """
    far = impact(tracks.helix, tracks.covariance, vertex[batch.event], b_z)
    charge, d0 = far.perigee.q_over_pt.sign(), far.distance[:, 0].abs()
    pairs = opposite_pairs(charge, batch.event, tracks.usable & (d0 > min_d0))
    for part in pairs.split(_PAIRS):
        if len(part):
            origin = vertex[batch.event[part[:, 0]]]
            yield _seen_from(origin, meet(tracks, part, origin, b_z), part, d0[part].amin(-1))


def _seen_from(origin: Tensor, found: Meeting, pairs: Tensor, d0: Tensor) -> Candidates:
    flight, total = found.place - origin, found.momentum.sum(1)
    distance, pt = flight[:, :2].norm(dim=-1), total[:, :2].norm(dim=-1)
    pointing = (flight[:, :2] * total[:, :2]).sum(-1) / (distance * pt).clamp_min(1e-12)
    phi = torch.atan2(total[:, 1], total[:, 0])
    return Candidates(pairs, found.momentum, found.chi2, d0, distance, pointing, pt, phi)


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
