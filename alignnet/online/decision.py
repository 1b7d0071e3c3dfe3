"""Whether new constants are worth publishing, and what has moved since those that are out.

Constants that were published for x with covariance C, and those of now, x' with C': volumes that stood still
would have d = x' − x of N(0, C + C') at most, so that dᵀ(C + C')⁻¹d says whether something has moved since;
and, with the information I = (C + C')⁻¹, how far a volume has moved, if it was this one alone, by its score;
then another one beside it, and so on while that is significant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2 as chi2_law

from alignnet.errors import ConfigError
from alignnet.online.history import Located
from alignnet.solvers.changes import Change, Freedom, Place, change_of
from alignnet.solvers.walk import Estimate

_FLAT = 1e-10


@dataclass(frozen=True)
class Decision:
    """What is to be done with new constants."""

    reasons: tuple[str, ...]  # why they are significant; none: they are not
    moved: tuple[Change, ...] = ()  # volumes since the constants that are out, the most certain first
    p_value: float = 1.0  # that nothing has moved since
    error_ratio: float = 1.0  # errors of those that are out (before the first: without tracks) over these

    @property
    def significant(self) -> bool:
        """Whether to publish."""
        return bool(self.reasons)


@dataclass(frozen=True)
class Criterion:
    """When constants are significant.

    Args:
        significance: p-value below which something has moved: all together, or one volume, corrected for
            how many there are.
        improved: factor by which errors have become smaller; before the first constants, than what was
            known without tracks.
        always: publish after each file.

    Raises:
        ConfigError: a value cannot be used.
    """

    significance: float = 1e-3
    improved: float = 2.0
    always: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.significance < 1 or not self.improved > 1:
            raise ConfigError(
                f"watch.significance is {self.significance} and watch.improved {self.improved}; expected a "
                "probability between 0 and 1, and a factor above 1"
            )

    def __call__(
        self,
        now: Estimate,
        published: Estimate | None,
        freedom: Freedom,
        changes: Sequence[Located],
        known: Sequence[Place],
    ) -> Decision:
        """The decision.

        Args:
            now: the newest constants.
            published: those that are out; None before the first.
            freedom: what volumes may do.
            changes: in all intervals.
            known: those that were known when constants were published.
        """
        if published is None:
            ratio = _error_ratio(now, freedom.initial)
            told = ("first",) if self.always or ratio >= self.improved else ()
            return Decision(told, error_ratio=ratio)
        new = [one for one in changes if one.place not in known]
        p_value, moved = self._moved(now, published, freedom)
        ratio = _error_ratio(now, published.covariance)
        checks = {
            "change": bool(new),
            "moved": p_value < self.significance or bool(moved),
            "improved": ratio >= self.improved,
            "always": self.always,
        }
        return Decision(tuple(name for name, true in checks.items() if true), tuple(moved), p_value, ratio)

    def _moved(self, now: Estimate, published: Estimate, freedom: Freedom) -> tuple[float, list[Change]]:
        information, ndf = _inverse(now.covariance + published.covariance)
        u = information @ (now.mean - published.mean)
        chi2 = float((now.mean - published.mean) @ u)
        moved: list[Change] = []
        while len(moved) < freedom.n_volumes:
            best = _likeliest(u, information, freedom)
            if best.p_value >= self.significance:
                break
            moved.append(best)
            u, information = _freed(u, information, freedom.hold[:, freedom.of(best.place.volume)])
        return float(chi2_law.sf(chi2, ndf)) if ndf else 1.0, moved


def _likeliest(u: torch.Tensor, information: torch.Tensor, freedom: Freedom) -> Change:
    """The volume that has moved most certainly, if it was one alone."""
    found = []
    for volume in range(freedom.n_volumes):
        move = freedom.hold[:, freedom.of(volume)]
        score = move.T @ u, move.T @ information @ move
        found.append(change_of(Place(volume, -1), *score, freedom.n_volumes))
    return max(found, key=lambda change: change.chi2)


def _freed(
    u: torch.Tensor, information: torch.Tensor, move: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is left to say of the others where a volume may be anywhere."""
    towards = information @ move
    inner = torch.linalg.pinv(move.T @ towards, rtol=1e-9, hermitian=True)
    return u - towards @ (inner @ (move.T @ u)), information - towards @ inner @ towards.T


def _inverse(covariance: torch.Tensor) -> tuple[torch.Tensor, int]:
    scale = covariance.diagonal().clamp_min(1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(covariance * scale[:, None] * scale)
    keep = values > _FLAT * values.amax()
    root = scale[:, None] * vectors[:, keep] / values[keep].sqrt()
    return root @ root.T, int(keep.sum())


def _error_ratio(now: Estimate, before_that: torch.Tensor) -> float:
    """Errors of another covariance over those of now, the median."""
    before, after = (c.diagonal().clamp_min(0).sqrt().numpy() for c in (before_that, now.covariance))
    good = after > 0
    return float(np.median(before[good] / after[good])) if good.any() else 1.0
