"""Rules of the verdict on the truth: what is left of the misalignment, and whether the errors cover it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import at, finite, known, short, span, table

LIMIT_NEAR, LIMIT_FAR = 1.15, 1.5
"""What is left of the misalignment over its statistical limit: near it, and far from it."""

LIMIT_SPREADS = 2.0, 3.0
"""Standard deviations of the limit that excuse more, for near and for far."""

REMOVED = "rigid motions and weak modes removed"
"""What the table `truth` is without."""

PULLS = (0.9, 1.1)
"""Widths of pulls whose errors are right."""


def limit(metrics: Mapping[str, Any]) -> list[Finding]:
    """How near what is left of the misalignment is to the statistical limit."""
    rows = [
        (f"{name.replace('layer', 'layer ')} along {c}", row)
        for name, layer in table(metrics, "truth").items()
        for c in "uvw"
        if finite(at(layer, c, "after_um")) is not None and (row := table(layer, c))
    ]
    if not rows:
        text = "The truth is not known, so that nothing can be said of how near the answer is to it."
        return [Finding("limit", "plain", text)]
    left = span(known(row["after_um"] for _, row in rows))
    start = f"What is left of the misalignment, {REMOVED}, is {left} µm (r.m.s. of a layer; before: "
    start += f"{span(known(row.get('before_um') for _, row in rows))} µm)"
    bounded = [(name, row) for name, row in rows if (finite(row.get("limit_um")) or 0) > 0]
    if not bounded:
        text = f"{start}; its statistical limit takes a training that knows the truth."
        return [Finding("limit", "plain", text)]
    return [_against_limit(start, bounded)]


def _against_limit(start: str, rows: list[tuple[str, Mapping[str, Any]]]) -> Finding:
    ratio = {name: row["after_um"] / row["limit_um"] for name, row in rows}
    name = max(ratio, key=lambda name: ratio[name])
    near, far = (
        [n for n, row in rows if _beyond(row, factor, spreads)]
        for factor, spreads in zip((LIMIT_NEAR, LIMIT_FAR), LIMIT_SPREADS, strict=True)
    )
    better = [n for n, row in rows if _below(row)]
    level = "warning" if far else "plain" if near or better else "good"
    text = f"{span(ratio.values(), 3)} times the statistical limit"
    where = f", most in {name}" if near else ""
    where += f"; less than it in {len(better)} of {len(rows)}, where it is overestimated" if better else ""
    return Finding("limit", level, f"{start}: {text}{where}.")


def _beyond(row: Mapping[str, Any], factor: float, spreads: float) -> bool:
    bound = row["limit_um"] + spreads * (finite(row.get("limit_spread_um")) or 0.0)
    return bool(row["after_um"] > max(factor * row["limit_um"], bound))


def _below(row: Mapping[str, Any]) -> bool:
    bound = row["limit_um"] - LIMIT_SPREADS[0] * (finite(row.get("limit_spread_um")) or 0.0)
    return bool(row["after_um"] < min(row["limit_um"] / LIMIT_NEAR, bound))


def pulls(metrics: Mapping[str, Any]) -> list[Finding]:
    """Whether the errors cover the truth."""
    width = finite(at(metrics, "pulls", "all", "all"))
    if width is None or width < 0:
        return []
    if PULLS[0] <= width <= PULLS[1]:
        return [Finding("pulls", "good", f"Errors cover the truth: pulls of width {short(width)}.")]
    words = "too small" if width > 1 else "too large"
    return [Finding("pulls", "warning", f"Errors are {words}: pulls of width {short(width)}, not 1.")]
