"""Rules of the verdict on the fit: convergence, χ², tracks that were left out, sensors that were aligned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import at, count, finite, plural, short, table

CHI2_NEAR, CHI2_FAR = 0.01, 0.10
"""χ²/ndf above that of the true places, as a fraction: near it, and far from it."""

_FAULTS = ("residuals", "correction", "prior", "error")

CHI2_PLAUSIBLE = (0.7, 1.5)
"""χ²/ndf beyond which the errors that hits are given do not describe the residuals."""

MANY_REJECTED = 0.01
"""Fraction of the tracks that may be left out without a warning."""


def convergence(metrics: Mapping[str, Any]) -> list[Finding]:
    """Converged or not, and why."""
    status, reasons = at(metrics, "convergence", "converged"), _reasons(metrics)
    epochs = count(at(metrics, "convergence", "epochs"))
    after = "" if epochs is None else f" after {plural(epochs, 'epoch')}"
    if at(metrics, "converged") is False or status is False:
        text = f"Not converged{after}{reasons}. The answer has not settled: go on with more epochs."
        return [Finding("convergence", "bad", text)]
    if status is True:
        return [Finding("convergence", "good", f"Converged{after}{reasons}.")]
    if at(metrics, "convergence") is None:
        text = "Whether the training converged is not known: its metrics.json does not say."
        return [Finding("convergence", "warning", text)]
    return [Finding("convergence", "warning", f"Convergence was not judged{after}{reasons}.")]


def chi2(metrics: Mapping[str, Any]) -> list[Finding]:
    """χ²/ndf before, after and at the true places."""
    before, after, ideal = (
        finite(at(metrics, f"chi2_per_ndf{which}")) for which in ("_before", "", "_ideal")
    )
    if after is None or after < 0:
        return [Finding("chi2", "bad", "χ²/ndf after the alignment is not a number.")]
    if before is None:
        text = f"χ²/ndf is {short(after, 4)} after the alignment; before is not known."
        return [Finding("chi2", "warning", text)]
    numbers = f"{short(before, 4)} before, {short(after, 4)} after"
    if after > before:
        return [Finding("chi2", "bad", f"χ²/ndf is worse than before the alignment: {numbers}.")]
    if after == before:
        return [Finding("chi2", "warning", f"χ²/ndf has not changed: {numbers}.")]
    if ideal is not None and ideal > 0:
        return [_against_ideal(numbers, after, ideal)]
    return [_against_one(numbers, after)]


def _against_ideal(numbers: str, after: float, ideal: float) -> Finding:
    excess = after / ideal - 1
    level = "good" if excess <= CHI2_NEAR else "plain" if excess <= CHI2_FAR else "warning"
    where = f"{short(100 * abs(excess), 2)} % {'above' if excess >= 0 else 'below'} that"
    return Finding("chi2", level, f"χ²/ndf: {numbers}, {short(ideal, 4)} at the true places; {where}.")


def _against_one(numbers: str, after: float) -> Finding:
    low, high = CHI2_PLAUSIBLE
    if low <= after <= high:
        return Finding("chi2", "good", f"χ²/ndf: {numbers}. The true places are not known.")
    far = "above" if after > high else "below"
    text = f"far {far} 1: resolutions or material do not describe these residuals, or hits are wrong"
    return Finding("chi2", "warning", f"χ²/ndf: {numbers}; {text}.")


def tracks(metrics: Mapping[str, Any]) -> list[Finding]:
    """Tracks used, and tracks left out."""
    used = count(at(metrics, "n_tracks"))
    if used is None:
        return [Finding("tracks", "bad", "The number of evaluated tracks is not known.")]
    if used == 0:
        return [Finding("tracks", "bad", "No track was evaluated.")]
    reasons = _left_out(metrics)
    lost = sum(reasons.values())
    if not lost:
        return [Finding("tracks", "plain", f"{plural(used, 'track')} evaluated, none left out.")]
    fraction = lost / (used + lost)
    said = ", ".join(f"{number:,} {words}" for words, number in reasons.items() if number)
    part = f"{short(100 * fraction, 2)} % left out: {said}"
    text = f"{used:,} of {plural(used + lost, 'track')} evaluated, {part}."
    level = "warning" if fraction > MANY_REJECTED else "plain"
    return [Finding("tracks", level, text)]


def _left_out(metrics: Mapping[str, Any]) -> dict[str, int]:
    """How many tracks are not evaluated, by why."""
    not_used, weightless, beyond = (
        count(at(metrics, key)) or 0 for key in ("n_tracks_rejected", "n_tracks_weightless", "n_rejected")
    )
    return {
        "that cannot be fitted": max(not_used - weightless, 0),
        "that weigh nothing (robust weights)": min(weightless, not_used),
        "beyond evaluation.max_chi2_per_ndf": beyond,
    }


def sensors(metrics: Mapping[str, Any]) -> list[Finding]:
    """How many sensors were aligned, and what became of the others."""
    aligned = count(at(metrics, "n_aligned"))
    if aligned is None:
        return [Finding("sensors", "warning", "How many sensors were aligned is not known.")]
    every = count(at(metrics, "sensors", "n"))
    of_all = f"{aligned:,} of {plural(every, 'sensor')}" if every else plural(aligned, "sensor")
    if not aligned:
        nobody = "No sensor was aligned: all are fixed, or have too few hits."
        return [Finding("sensors", "bad", nobody)]
    others = [
        f"{number:,} {words}"
        for key, words in (
            ("too_few_hits", "held by their volumes for want of hits"),
            ("fixed", "fixed"),
            ("without_hits", "without any hit of the training tracks"),
        )
        if (number := count(at(metrics, "sensors", key)))
    ]
    return [Finding("sensors", "plain", f"{of_all} aligned{'; ' if others else ''}{', '.join(others)}.")]


def attention(metrics: Mapping[str, Any]) -> list[Finding]:
    """Sensors that someone should look at."""
    number = count(at(metrics, "sensors", "attention", "n"))
    if number is None:
        return []
    if not number:
        text = "No sensor stands out by its residuals, its correction or its error."
        return [Finding("attention", "good", text)]
    reasons = table(metrics, "sensors", "attention", "by_reason")
    named = [f"{why} {n:,}" for why in _FAULTS if (n := count(reasons.get(why)))]
    listed = f" (by {', '.join(named)})" if named else ""
    need = "need" if number > 1 else "needs"
    text = f"{plural(number, 'sensor')} {need} attention{listed}."
    return [Finding("attention", "warning", text)]


def _reasons(metrics: Mapping[str, Any]) -> str:
    found = at(metrics, "convergence", "reasons")
    listed = [str(reason) for reason in found] if isinstance(found, list | tuple) else []
    return f": {'; '.join(listed)}" if listed else ""
