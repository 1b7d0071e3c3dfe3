"""Rules of the verdict on collective motions: weak modes by name, and the least known motions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import alike, at, count, finite, plural, short, table
from alignnet.evaluation.weak_modes import verdicts

WEAK_UM = 10.0
"""Expected error of a collective motion, r.m.s. displacement [µm], beyond which it is poorly known."""

LEFT_ERRORS = 3.0
"""Expected errors beyond which what is left of an injected mode is no chance."""

_NOT_SEEN = {
    "assumed": ("warning", "told by priors more than by the tracks"),
    "invisible": ("warning", "not told by the tracks"),
    "unknown": ("warning", "not worked out: the solve did not end"),
    "weak": ("plain", "known less well than asked for"),
}


def modes(metrics: Mapping[str, Any]) -> list[Finding]:
    """Weak modes by name and the least known motions, whichever were looked at."""
    found = [*weak_modes(metrics), *(least_known(metrics) if at(metrics, "spectrum") else ())]
    return found or [Finding("modes", "plain", "Weak modes: they were not looked at.")]


def weak_modes(metrics: Mapping[str, Any]) -> list[Finding]:
    """What the table of weak modes says; nothing without it."""
    rows = {n: row for n, row in table(metrics, "weak_modes", "modes").items() if isinstance(row, Mapping)}
    if not rows:
        return []
    aim = finite(at(metrics, "weak_modes", "aim_um"))
    asked = "as asked for" if aim is None else f"to {short(aim, 2)} µm or better at the edge"
    words = verdicts(dict(rows))
    said = [
        (level, f"{len(words[word])} {meaning} ({', '.join(words[word])})")
        for word, (level, meaning) in _NOT_SEEN.items()
        if word in words
    ]
    known = sum(len(words.get(word, ())) for word in ("seen", "held"))
    if not said:
        level = "good" if known == len(rows) else "plain"
        found = Finding("modes", level, f"Weak modes: {known} of {len(rows)} known {asked}, or held.")
    else:
        level = "warning" if any(level == "warning" for level, _ in said) else "plain"
        text = f"Weak modes: {known} of {len(rows)} known {asked}; {'; '.join(text for _, text in said)}."
        found = Finding("modes", level, text)
    return [found, *_left(rows, aim)]


def _left(rows: Mapping[str, Mapping[str, Any]], aim: float | None) -> list[Finding]:
    """Which modes the answer lacks, where the truth is known."""
    parts = []
    for name, row in rows.items():
        left, injected, sigma = (finite(row.get(f"{key}_um")) for key in ("residual", "injected", "sigma"))
        if left is None or injected is None or abs(left) <= max(LEFT_ERRORS * (sigma or 0.0), aim or 0.0):
            continue
        error = " ± ".join(alike(left, sigma)) if sigma else f"{short(left)} ± ∞"
        parts.append(f"{name} {error} of {short(injected)} µm{_expected(row)}")
    if not parts:
        return []
    return [Finding("modes", "warning", f"Of true weak modes there is left: {'; '.join(parts)}.")]


def _expected(row: Mapping[str, Any]) -> str:
    expected = finite(row.get("expected_residual_um"))
    return "" if expected is None else f" (priors: {short(expected)})"


def least_known(metrics: Mapping[str, Any]) -> list[Finding]:
    """Collective motions that the data hardly know."""
    rows = at(metrics, "spectrum", "modes")
    if not isinstance(rows, list | tuple):
        return [Finding("modes", "plain", "The least known motions were not looked for.")]
    inner = [row for row in rows if isinstance(row, Mapping) and (finite(row.get("rigid")) or 0) <= 0.5**0.5]
    null = [row for row in inner if finite(row.get("amplitude_um")) is None]
    poor = [row for row in inner if (finite(row.get("amplitude_um")) or 0) > WEAK_UM]
    found = []
    if at(metrics, "spectrum", "converged") is not True:
        found.append(Finding("modes", "warning", "The search for the least known motions had not converged."))
    if null:
        found.append(Finding("modes", "warning", f"Not known at all: {_named(null)}."))
    if poor:
        text = f"{plural(len(poor), 'collective motion')} known to worse than {WEAK_UM:g} µm: "
        found.append(Finding("modes", "warning", f"{text}{_named(poor)}."))
    return found or [_least_known(metrics, inner)]


def _least_known(metrics: Mapping[str, Any], inner: list[Mapping[str, Any]]) -> Finding:
    if not inner:
        n = count(at(metrics, "spectrum", "n_null")) or 0
        text = f"The least known motions: no weak mode among those looked for ({n} rigid motions are free)."
        return Finding("modes", "plain", text)
    worst = max(inner, key=lambda row: row["amplitude_um"])
    text = (
        f"The least known motion besides rigid ones is known to {short(worst['amplitude_um'])} µm; it looks "
    )
    text += f"like: {worst.get('name')}."
    return Finding("modes", "good", text)


def _named(rows: list[Mapping[str, Any]], most: int = 3) -> str:
    parts = []
    for row in rows[:most]:
        size = finite(row.get("amplitude_um"))
        parts.append(str(row.get("name")) + (f" ({short(size)} µm)" if size is not None else ""))
    return "; ".join(parts) + (" …" if len(rows) > most else "")
