"""When a track fit has settled, and which of its Gauss–Newton steps are halved.

At a state with residuals r, whitened, the step δ = −(JᵀJ)⁻¹Jᵀr promises that χ² = r·r drops by −r·Jδ, which
is true where r is linear. Where it bends, χ² has the second derivative JᵀJ + Σ r r″: a track of few hits far
from their sensors' true places may have twice JᵀJ or more along its weakest direction, and then full steps
overshoot to and fro between two points, for ever. So a step counts only if χ² drops by `ENOUGH` of what the
part of it that was taken promised, and is halved otherwise, from where it began (Armijo, Pacific J. Math. 16
(1966) 1). A fit has settled once a step promises no more than `SETTLED` · (1 + χ²); that step counts unseen.

The same formulas serve tensors and, compiled, one track at a time.
"""

from __future__ import annotations

from typing import Any

from alignnet.physics.jit import compiled

SETTLED = 1e-6
"""Of 1 + χ²: steps that promise less are a thousandth of an error, or move residuals by a thousandth."""

ENOUGH = 0.25
STEPS = 60
"""Damped steps, halved ones included, that a fit may take until it has settled."""


def has_settled(promise: Any, chi2: Any) -> Any:
    """Whether a step from χ² that promises such a drop may be the last."""
    return promise <= SETTLED * (1.0 + chi2)


def falls_enough(now: Any, chi2: Any, promise: Any, fraction: Any) -> Any:
    """Whether χ² is as low `now` as this fraction of a step from `chi2` must make it; not where it is NaN."""
    return now <= chi2 - ENOUGH * fraction * promise


settled_of_one, enough_of_one = compiled(has_settled), compiled(falls_enough)
