"""Each weak mode: how well the data at hand see it, and how much of it was recovered where truth is known.

Amplitudes are at the detector's edge, read off by `alignnet.geometry.mode_amplitudes`. The verdict compares
σ, the expected error of the amplitude with all else free, with what is asked for (the aim, 5 µm) and with
what priors alone would say of it:

    held        an exact constraint fixes it
    assumed     σ_prior,alone < σ_alone ≤ 20 aims: along the mode, priors say more than the tracks;
                or they hold back more than half of it
    invisible   σ or σ_alone > 20 aims, or σ > 0.9 σ_prior: the tracks hardly add to what was known before
    seen        σ and σ_alone ≤ aim, σ ≤ 0.5 σ_prior, and priors hold back at most a tenth
    weak        anything between
    unknown     the linear solve did not end

σ_alone is what the tracks alone tell if the sensors move along the mode only, σ_prior,alone what the priors
do. Where that of the tracks is the larger, a small σ is the work of priors: right if they are, and if not, σ
does not know. (Priors of chips on staves say that staves do not bend: a bowing of all staves costs them more
than it costs the tracks.) What is held back is the part of a mode that the answer lacks however well it is
determined: many priors of single volumes say together that no mode moves them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import mul
from typing import Any

from torch import Tensor

from alignnet.evaluation.statistics import number
from alignnet.geometry.detector import Detector
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.solvers.mode_errors import ModeErrors
from alignnet.units import UM

AIM = 5e-4
"""cm: to what an amplitude should be known."""

INVISIBLE_AIMS, INVISIBLE_PRIOR, SEEN_PRIOR = 20.0, 0.9, 0.5

ASSUMED_PART, SEEN_PART = 0.5, 0.1  # of a mode, which priors hold back

_STILL = 1e-10  # cm and rad: rounding, no motion
_HELD = 1e-7  # of its prior, or of the error along the mode alone, that is left of what a constraint holds
_CLEAR = 2.0  # errors by which an injected amplitude must exceed 0 for its recovered part to be stated


def verdict(
    sigma: float,
    prior: float,
    alone: float,
    prior_alone: float = math.inf,
    held_back: float = 0.0,
    aim: float = AIM,
) -> str:
    """What the tracks say of a mode, in one word.

    Args:
        sigma: expected error of its amplitude [cm], infinite where nothing is known.
        prior: the same without tracks.
        alone: by the tracks, if the sensors moved along the mode only.
        prior_alone: the same by the priors.
        held_back: the part of a mode that priors keep out of the answer.
        aim: to what it should be known.
    """
    if math.isnan(sigma):
        return "unknown"
    if math.isfinite(sigma) and sigma <= _HELD * min(prior, alone):
        return "held"
    worst = max(sigma, alone)
    if worst > INVISIBLE_AIMS * aim or sigma > INVISIBLE_PRIOR * prior:
        return "invisible"
    if prior_alone < alone or held_back > ASSUMED_PART:
        return "assumed"
    known = worst <= aim and sigma <= SEEN_PRIOR * prior
    return "seen" if known and held_back <= SEEN_PART else "weak"


def moved_by(before: Tensor, after: Tensor) -> Tensor:
    """Which sensors an answer has moved, by themselves or with their volumes (sensors,).

    Args:
        before, after: local sixes of start and answer (sensors, 6); numbers of surfaces beyond do not count.
    """
    return ((after[:, :6] - before[:, :6]).abs() > _STILL).any(-1)


def mode_metrics(
    detector: Detector,
    errors: ModeErrors,
    before: Tensor,
    after: Tensor,
    truth: Tensor | None,
    aim: float = AIM,
) -> dict[str, Any]:
    """The weak modes for metrics.json.

    Args:
        detector: the nominal places.
        errors: of the modes' amplitudes.
        before, after: local sixes of start and answer (sensors, 6).
        truth: the true ones of a simulation, or None.
        aim: to what an amplitude should be known [cm].

    Returns:
        `{"aim_um", "modes": {name: {"sigma_um", "alone_um", "prior_um", "prior_alone_um", "held_back",
        "verdict", "found_um"}, …}, "response": rows of what the answer has of each mode for an amplitude 1 of
        each}`, where None is infinite; with a truth also `injected_um`, `residual_um` (injected − found),
        `expected_residual_um` (of the true modes by the response) and `recovered`, the found part of what was
        injected, None where that is not clear of its error.
    """
    amplitudes = ModeAmplitudes(detector, errors.counted)
    start = amplitudes(before)
    found = amplitudes(after) - start
    injected = None if truth is None else amplitudes(truth) - start
    rows: dict[str, Any] = {}
    for i, name in enumerate(errors.names):
        parts = (errors.sigma, errors.alone, errors.prior, errors.prior_alone, errors.held_back)
        sigma, alone, prior, prior_alone, held_back = (float(part[i]) for part in parts)
        rows[name] = {
            "sigma_um": number(sigma / UM),
            "alone_um": number(alone / UM),
            "prior_um": number(prior / UM),
            "prior_alone_um": number(prior_alone / UM),
            "held_back": number(held_back),
            "verdict": verdict(sigma, prior, alone, prior_alone, held_back, aim),
            "found_um": float(found[i]) / UM,
        }
        if injected is not None:
            rows[name] |= _recovered(float(injected[i]), float(found[i]), sigma)
    response = [[number(part) for part in row] for row in errors.response]
    return _with_expected({"aim_um": aim / UM, "modes": rows, "response": response})


def with_truth(
    found: Mapping[str, Any], detector: Detector, moved: Tensor, before: Tensor, truth: Tensor
) -> dict[str, Any]:
    """Weak modes as metrics.json has them, of a run that knew no truth, with what that says of them.

    Args:
        found: of `mode_metrics`.
        detector: the nominal places.
        moved: sensors that count (sensors,), of `moved_by`.
        before: local six of the start (sensors, 6).
        truth: the true ones (sensors, 6).
    """
    amplitudes = ModeAmplitudes(detector, moved)
    injected = dict(zip(amplitudes.names, (amplitudes(truth) - amplitudes(before)).tolist(), strict=True))
    rows = {name: dict(row) for name, row in found["modes"].items()}
    for name in rows.keys() & injected.keys():
        row, sigma = rows[name], rows[name]["sigma_um"]
        error = math.inf if sigma is None else sigma * UM
        row |= _recovered(injected[name], row["found_um"] * UM, error)
    return _with_expected({**found, "modes": rows})


def _with_expected(found: dict[str, Any]) -> dict[str, Any]:
    """What priors are expected to leave of the true modes: (1 − response) · injected."""
    rows, response = found["modes"], found.get("response")
    injected = [row.get("injected_um") for row in rows.values()]
    if not response or None in injected:
        return found
    for here, row, parts in zip(injected, rows.values(), response, strict=True):
        answer = None if None in parts else sum(map(mul, parts, injected))
        row["expected_residual_um"] = None if answer is None else here - answer
    return found


def _recovered(injected: float, found: float, sigma: float) -> dict[str, float | None]:
    clear = math.isfinite(sigma) and abs(injected) > max(_CLEAR * sigma, 0.1 * UM)
    return {
        "injected_um": injected / UM,
        "residual_um": (injected - found) / UM,
        "recovered": found / injected if clear else None,
    }


def verdicts(modes: dict[str, Any]) -> dict[str, list[str]]:
    """The modes of each verdict."""
    words: dict[str, list[str]] = {}
    for name, row in modes.items():
        words.setdefault(str(row.get("verdict")), []).append(name)
    return words
