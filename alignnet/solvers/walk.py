"""Unknowns that change from one interval of validity to the next: a random walk that tracks see.

In interval k the tracks say ½ xᵀH_k x − h_kᵀx of the unknowns x_k (volumes' motions), and

    x_{k+1} = x_k + c + w_k,    w_k ~ N(0, Q),        x_0 ~ N(0, P₀),

c = D b drifts by b an interval, with b ~ N(0, P_b); a jump whose size is N(0, J²) adds to Q at its place. All
together is a linear system of block-tridiagonal matrix; two passes solve it exactly:

* forward, the mean and covariance of (x_k, b) from intervals 0 … k (a Kalman filter);
* backward, the information (Λ, η) on (x_k, b) from intervals k + 1 … (which may not see some motions).

    estimate of all intervals:  x̂ = a + C (η − Λ a),    C = P (1 + ΛP)⁻¹

Neither inverts P₀, Q or H_k, which may be singular: motions that are held exactly (a gauge), or not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Walk:
    """What is known of the unknowns beside the tracks.

    Args:
        initial: P₀ (unknowns, unknowns).
        noise: Q of one interval to the next (unknowns, unknowns).
        drift: P_b of drifts an interval (drifts, drifts); 0 for those that are only asked for.
        along: what each of them changes, D of c = D b (unknowns, drifts).
        jumps: what adds to Q between the intervals k and k + 1, by k.
    """

    initial: Tensor
    noise: Tensor
    drift: Tensor
    along: Tensor
    jumps: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.initial)

    def between(self, k: int) -> Tensor:
        """Q between the intervals k and k + 1."""
        return self.noise + self.jumps[k] if k in self.jumps else self.noise


@dataclass(frozen=True)
class Seen:
    """What the tracks of an interval say: ½ xᵀHx − hᵀx."""

    matrix: Tensor  # H (unknowns, unknowns)
    force: Tensor  # h (unknowns,)


@dataclass(frozen=True)
class Filtered:
    """(x, b) by the intervals so far."""

    mean: Tensor  # (unknowns + drifts,)
    covariance: Tensor  # (unknowns + drifts, unknowns + drifts)


@dataclass(frozen=True)
class Information:
    """What later intervals say of (x, b): ½ zᵀΛz − ηᵀz."""

    matrix: Tensor  # Λ
    force: Tensor  # η


@dataclass(frozen=True)
class Estimate:
    """The unknowns of one interval, by all of them."""

    mean: Tensor  # (unknowns,)
    covariance: Tensor  # (unknowns, unknowns)


class Passes:
    """Both passes over some intervals.

    Args:
        walk: what is known beside the tracks.
        seen: of each interval.
        start: (x, b) before the first interval; default: N(0, P₀), N(0, P_b).
    """

    def __init__(self, walk: Walk, seen: list[Seen], start: Filtered | None = None) -> None:
        self.walk, self.seen = walk, seen
        self._n = len(walk)
        if start is None:
            covariance = torch.block_diag(walk.initial, walk.drift)
            start = Filtered(covariance.new_zeros(len(covariance)), covariance)
        self.start = start
        self.predicted, self.filtered = self._forward()
        self.later, self.all = self._backward()

    def estimate(self, k: int) -> Estimate:
        """Interval k by all intervals."""
        mean, covariance = _joined(self.filtered[k], self.later[k])
        n = self._n
        return Estimate(mean[:n], covariance[:n, :n])

    @property
    def drift(self) -> Estimate:
        """b by all intervals."""
        n, last = self._n, self.filtered[-1]
        return Estimate(last.mean[n:], last.covariance[n:, n:])

    def score_of_jump(self, k: int) -> tuple[Tensor, Tensor]:
        """What all tracks say of a jump c between k and k + 1: −½ cᵀIc + uᵀc of the log-likelihood.

        Returns:
            u (unknowns,) and I (unknowns, unknowns).
        """
        u, information = _score(self.predicted[k + 1], self._at(k + 1))
        n = self._n
        return u[:n], information[:n, :n]

    def score_of_drift(self) -> tuple[Tensor, Tensor]:
        """The same of a drift by b an interval, on top of what drifts already."""
        u, information = _score(self.start, self.all)
        n = self._n
        return u[n:], information[n:, n:]

    def _at(self, k: int) -> Information:
        """What the intervals k, k + 1 … say of (x_k, b)."""
        return _with(self.later[k], self.seen[k], self._n)

    def _forward(self) -> tuple[list[Filtered], list[Filtered]]:
        predicted: list[Filtered] = []
        filtered: list[Filtered] = []
        here = self.start
        for k, seen in enumerate(self.seen):
            if k:
                here = advanced(filtered[-1], self.walk, k - 1)
            predicted.append(here)
            filtered.append(updated(here, seen))
        return predicted, filtered

    def _backward(self) -> tuple[list[Information], Information]:
        n = self._n
        nothing = torch.zeros_like(self.start.covariance)
        later = [Information(nothing, nothing[0])]
        for k in range(len(self.seen) - 1, 0, -1):
            whole = _with(later[-1], self.seen[k], n)
            later.append(_receded(whole, self.walk, k - 1))
        return later[::-1], _with(later[-1], self.seen[0], n)


def advanced(here: Filtered, walk: Walk, k: int) -> Filtered:
    """(x + D b + w, b) of the interval after k."""
    n = len(walk)
    step = torch.eye(len(here.mean)).to(here.mean)
    step[:n, n:] = walk.along
    covariance = step @ here.covariance @ step.T
    covariance[:n, :n] += walk.between(k)
    return Filtered(step @ here.mean, _symmetric(covariance))


def updated(here: Filtered, seen: Seen) -> Filtered:
    """With the tracks of an interval: P (1 + HP)⁻¹, only the x part of which is seen."""
    n = len(seen.force)
    p = here.covariance[:, :n]  # (2n, n)
    gain = torch.linalg.solve(torch.eye(n).to(p) + seen.matrix @ p[:n], seen.matrix)
    mean = here.mean + p @ (seen.force - gain @ (here.mean[:n] + p[:n] @ seen.force))
    return Filtered(mean, _symmetric(here.covariance - p @ gain @ p.T))


def _receded(whole: Information, walk: Walk, k: int) -> Information:
    """What is said of (x + D b + w, b) after interval k as said of (x, b) in it, w ~ N(0, Q)."""
    n, noise = len(walk), walk.between(k)
    x, c, b = whole.matrix[:n, :n], whole.matrix[:n, n:], whole.matrix[n:, n:]
    h, beta = whole.force[:n], whole.force[n:]
    right = torch.cat([x, c, h[:, None]], 1)
    solved = torch.linalg.solve(torch.eye(n).to(x) + x @ noise, right)  # M = (1 + XQ)⁻¹ times all of them
    x_new, c_new, h_new = solved[:, :n], solved[:, n:-1], solved[:, -1]
    free = torch.cat([torch.cat([x_new, c_new], 1), torch.cat([c_new.T, b - c.T @ noise @ c_new], 1)])
    force = torch.cat([h_new, beta - c.T @ (noise @ h_new)])
    step = torch.eye(len(force)).to(x)
    step[:n, n:] = walk.along
    return Information(_symmetric(step.T @ free @ step), step.T @ force)


def _with(later: Information, seen: Seen, n: int) -> Information:
    matrix, force = later.matrix.clone(), later.force.clone()
    matrix[:n, :n] += seen.matrix
    force[:n] += seen.force
    return Information(matrix, force)


def _joined(here: Filtered, later: Information) -> tuple[Tensor, Tensor]:
    p = here.covariance
    inverse = torch.linalg.solve(torch.eye(len(p)).to(p) + p @ later.matrix, p)
    covariance = _symmetric(inverse)
    return here.mean + covariance @ (later.force - later.matrix @ here.mean), covariance


def _score(before: Filtered, after: Information) -> tuple[Tensor, Tensor]:
    """u and I of a shift of what was predicted."""
    p, lam = before.covariance, after.matrix
    right = torch.cat([lam, (after.force - lam @ before.mean)[:, None]], 1)
    solved = torch.linalg.solve(torch.eye(len(p)).to(p) + lam @ p, right)
    return solved[:, -1], _symmetric(solved[:, :-1])


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
