"""Jumps and drifts of single volumes, found in a random walk that they break.

The score of a change (`Passes`) says how much likelier the tracks are with it: χ² = uᵀI⁻¹u of a volume's own
motions, its size I⁻¹u with covariance I⁻¹. The hypothesis is that this volume alone has moved. The likeliest
change is taken into the model, with a wide prior of its size, and the search goes on until none is left that
chance does not explain; a change that later ones explain is dropped again. A p-value is multiplied by the
number of places where a change was looked for (intervals · volumes): that one looks like it by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import chi2 as chi2_law
from torch import Tensor

from alignnet.solvers.walk import Filtered, Passes, Seen, Walk

JUMP, DRIFT = "jump", "drift"
_FLAT = 1e-9  # part of the largest eigenvalue of I, below which a direction is not seen
_DRIFTS_FROM = 4  # intervals: in three a drift is hardly told from a jump


@dataclass(frozen=True)
class Place:
    """Where a change may be."""

    volume: int
    after: int | None  # the last interval before a jump; None for a drift

    @property
    def kind(self) -> str:
        """ "jump" or "drift"."""
        return DRIFT if self.after is None else JUMP


@dataclass(frozen=True)
class Change:
    """A change of one volume."""

    place: Place
    size: Tensor  # of a jump; of a drift, by interval (motions,)
    covariance: Tensor  # (motions, motions)
    chi2: float
    ndf: int
    p_value: float  # corrected for all the places looked at


@dataclass(frozen=True)
class Freedom:
    """What volumes may do between tracks.

    Args:
        initial: P₀ of all motions before the first interval (unknowns, unknowns).
        noise: Q between intervals (unknowns, unknowns).
        hold: projector on what the whole may do (unknowns, unknowns): 1, or without its rigid motions.
        width: of a jump, or of a drift in one interval, of a volume's motions (motions,).
        drifts: whether to look for drifts.
    """

    initial: Tensor
    noise: Tensor
    hold: Tensor
    width: Tensor
    drifts: bool = True

    @property
    def n_volumes(self) -> int:
        """How many volumes."""
        return len(self.initial) // len(self.width)

    def of(self, volume: int) -> slice:
        """A volume's motions."""
        return slice(volume * len(self.width), (volume + 1) * len(self.width))

    def walk(self, places: Sequence[Place]) -> Walk:
        """The walk with some changes of unknown size."""
        jumps: dict[int, Tensor] = {}
        for place in places:
            if place.after is not None:
                move = self.hold[:, self.of(place.volume)] * self.width
                jumps[place.after] = jumps.get(place.after, torch.zeros_like(self.noise)) + move @ move.T
        along = self.hold if self.drifts else self.hold[:, :0]
        drift = torch.zeros(along.shape[1], along.shape[1], dtype=along.dtype)
        for place in places:
            if place.after is None:
                own = self.of(place.volume)
                drift[own, own] = torch.diag(self.width.square())
        return Walk(self.initial, self.noise, drift, along, jumps)


class ChangeSearch:
    """Looks for changes.

    Args:
        freedom: what volumes may do.
        significance: of a change, its corrected p-value at most.
        most: changes that are looked for.
    """

    def __init__(self, freedom: Freedom, significance: float = 1e-3, most: int = 20) -> None:
        self.freedom, self.significance, self.most = freedom, significance, most

    def passes(self, seen: list[Seen], places: Sequence[Place], start: Filtered | None = None) -> Passes:
        """The passes over intervals with some changes in the model.

        Args:
            seen: the intervals.
            places: numbered from the first of these.
            start: what is known before them, where others came before.
        """
        walk = self.freedom.walk(places)
        if start is not None:  # drifts that are new since
            n = len(walk)
            covariance = start.covariance.clone()
            new = torch.where(covariance[n:, n:].diagonal() > 0, 0.0, walk.drift.diagonal())
            covariance[n:, n:] += torch.diag(new)
            start = Filtered(start.mean, covariance)
        return Passes(walk, seen, start)

    def __call__(
        self, seen: list[Seen], known: Sequence[Place] = (), start: Filtered | None = None
    ) -> list[Change]:
        """All changes in some intervals, the likeliest first.

        Args:
            seen: the intervals.
            known: changes found before, which are looked at again; drifts of `start` among them.
            start: as of `passes`.
        """
        places = list(known)
        for _ in range(self.most):
            best = self._best(self.passes(seen, places, start), len(seen), set(places))
            if best is None or best.p_value > self.significance:
                break
            places.append(best.place)
            places = self._kept(seen, places, start)
            if best.place not in places:
                break
        return sorted((self._one(seen, places, p, start) for p in places), key=lambda c: -c.chi2)

    def _kept(self, seen: list[Seen], places: list[Place], start: Filtered | None) -> list[Place]:
        """Those that the others do not explain."""
        for place in list(places):
            if self._one(seen, places, place, start).p_value > self.significance:
                places = [p for p in places if p != place]
        return places

    def _one(self, seen: list[Seen], places: Sequence[Place], place: Place, start: Filtered | None) -> Change:
        """A change, all others being in the model."""
        others = [p for p in places if p != place]
        if start is not None and place.after is None:  # its size is in what is known before
            start = self._without(start, place)
        passes = self.passes(seen, others, start)
        scores = passes.score_of_drift() if place.after is None else passes.score_of_jump(place.after)
        return self._change(place, *scores, self._trials(len(seen)))

    def _without(self, start: Filtered, place: Place) -> Filtered:
        n = len(self.freedom.initial)
        own = self.freedom.of(place.volume)
        rows = torch.arange(n, len(start.mean))[own]
        mean, covariance = start.mean.clone(), start.covariance.clone()
        mean[rows], covariance[rows], covariance[:, rows] = 0.0, 0.0, 0.0
        return Filtered(mean, covariance)

    def _best(self, passes: Passes, n: int, taken: set[Place]) -> Change | None:
        """The likeliest of all changes that are not in the model yet."""
        found, trials = [], self._trials(n)
        for k in range(n - 1):
            scores = passes.score_of_jump(k)
            found += [
                self._change(Place(v, k), *scores, trials)
                for v in range(self.freedom.n_volumes)
                if Place(v, k) not in taken
            ]
        if self._looks_for_drifts(n):
            scores = passes.score_of_drift()
            found += [
                self._change(Place(v, None), *scores, trials)
                for v in range(self.freedom.n_volumes)
                if Place(v, None) not in taken
            ]
        return max(found, key=lambda change: change.chi2, default=None)

    def _trials(self, n: int) -> int:
        return max(self.freedom.n_volumes * (n - 1 + self._looks_for_drifts(n)), 1)

    def _looks_for_drifts(self, n: int) -> bool:
        return self.freedom.drifts and n >= _DRIFTS_FROM

    def _change(self, place: Place, u: Tensor, information: Tensor, trials: int) -> Change:
        move = self.freedom.hold[:, self.freedom.of(place.volume)]
        if place.after is None:  # drifts are held already, by what they change
            move = torch.eye(len(u), dtype=u.dtype)[:, self.freedom.of(place.volume)]
        return change_of(place, move.T @ u, move.T @ information @ move, trials)


def change_of(place: Place, u: Tensor, information: Tensor, trials: int) -> Change:
    """The change that a score says of one volume."""
    scale = information.diagonal().clamp_min(0)
    scale = torch.where(scale > 0, scale.clamp_min(1e-300).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(information * scale[:, None] * scale)
    keep = values > _FLAT * values.amax().clamp_min(1e-300)
    root = (scale[:, None] * vectors[:, keep]) / values[keep].sqrt()
    along = root.T @ u
    chi2, ndf = float(along.square().sum()), int(keep.sum())
    p_value = min(1.0, float(chi2_law.sf(chi2, ndf)) * trials) if ndf else 1.0
    return Change(place, root @ along, root @ root.T, chi2, ndf, p_value)
