"""Rules of the verdict on what the alignment is for: DCA, what is left of the misalignment, its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import at, count, finite, known, plural, short, span, table

MEAN_NEAR = 0.05
"""Difference of mean DCA from ideal, in widths of the ideal DCA, that is near."""

WIDTH_NEAR, WIDTH_FAR = 1.02, 1.10
"""Width of the DCA over the ideal one: near it, and far from it."""

SIGNIFICANT = 3.0
"""Standard errors by which a mean differs from 0."""

LIMIT_NEAR, LIMIT_FAR = 1.15, 1.5
"""What is left of the misalignment over its statistical limit: near it, and far from it."""

LIMIT_SPREADS = 2.0, 3.0
"""Standard deviations of the limit that excuse more, for near and for far."""

PULLS = (0.9, 1.1)
"""Widths of pulls whose errors are right."""

WEAK_UM = 10.0
"""Expected error of a collective motion, r.m.s. displacement [µm], beyond which it is poorly known."""


def dca(metrics: Mapping[str, Any]) -> list[Finding]:
    """Mean and width of the DCA in bins of p_T, against ideal where it is known, else against 0."""
    if not table(metrics, "dca", "after"):
        return [Finding("dca", "plain", "DCA: no numbers, for want of a field or of a vertex.")]
    judge = _dca_against_ideal if table(metrics, "dca", "ideal") else _dca_against_zero
    return [finding for c in ("xy", "z") for finding in judge(metrics, c)]


def _dca_against_ideal(metrics: Mapping[str, Any], c: str) -> Iterator[Finding]:
    mean, ratio = f"mean_difference_{c}_um", f"width_ratio_{c}"
    off, wide = (known(at(metrics, "dca", "after", key)) for key in (mean, ratio))
    ideal = known(at(metrics, "dca", "ideal", f"width_{c}_um"))
    if not off or not wide or len(ideal) != len(off):
        yield Finding("dca", "warning", f"DCA_{c}: no numbers, for want of tracks in the bins of p_T.")
        return
    furthest, widest = max(map(abs, off)), max(wide)
    near = all(abs(o) <= MEAN_NEAR * w for o, w in zip(off, ideal, strict=True))
    level = "good" if near and widest <= WIDTH_NEAR else "plain" if widest <= WIDTH_FAR else "warning"
    yield Finding(
        "dca", level if near else "warning",
        f"Mean DCA_{c} within {short(furthest, 2)} µm of ideal in {_bins(metrics, len(off))}"
        f"{_was('up to {} µm', at(metrics, 'dca', 'before', mean))}; width up to {short(widest, 4)} times "
        f"the ideal{_was('up to {} times', at(metrics, 'dca', 'before', ratio))}.",
    )  # fmt: skip


def _dca_against_zero(metrics: Mapping[str, Any], c: str) -> Iterator[Finding]:
    rows = [at(metrics, "dca", "after", key) for key in (f"mean_{c}_um", f"mean_error_{c}_um")]
    mean, error = map(known, rows)
    if not mean or len(mean) != len(error) or min(error) <= 0:
        yield Finding("dca", "warning", f"DCA_{c}: no numbers, for want of tracks in the bins of p_T.")
        return
    sigmas = max(abs(m) / e for m, e in zip(mean, error, strict=True))
    level = "good" if sigmas <= SIGNIFICANT else "warning"
    width = known(at(metrics, "dca", "after", f"width_{c}_um"))
    yield Finding(
        "dca", level,
        f"Mean DCA_{c} within {short(max(map(abs, mean)), 2)} µm of 0 in {_bins(metrics, len(mean))}, at "
        f"most {short(sigmas, 2)} σ{_was('up to {} µm', at(metrics, 'dca', 'before', f'mean_{c}_um'))}; "
        f"width {span(width, 3)} µm{_was_span(at(metrics, 'dca', 'before', f'width_{c}_um'))}.",
    )  # fmt: skip


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
    start = f"What is left of the misalignment is {left} µm (r.m.s. of a layer; before: "
    start += f"{span(known(row.get('before_um') for _, row in rows))} µm)"
    bounded = [(name, row) for name, row in rows if (finite(row.get("limit_um")) or 0) > 0]
    if not bounded:
        return [Finding("limit", "plain", f"{start}; the statistical limit was not worked out.")]
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


def modes(metrics: Mapping[str, Any]) -> list[Finding]:
    """Collective motions that the data hardly know."""
    rows = at(metrics, "spectrum", "modes")
    if not isinstance(rows, list | tuple):
        return [Finding("modes", "plain", "Weak modes: the least known motions were not looked for.")]
    inner = [row for row in rows if isinstance(row, Mapping) and (finite(row.get("rigid")) or 0) <= 0.5**0.5]
    null = [row for row in inner if finite(row.get("amplitude_um")) is None]
    poor = [row for row in inner if (finite(row.get("amplitude_um")) or 0) > WEAK_UM]
    found = []
    if at(metrics, "spectrum", "converged") is not True:
        found.append(Finding("modes", "warning", "Weak modes: the search for them had not converged."))
    if null:
        found.append(Finding("modes", "warning", f"Not known at all: {_named(null)}."))
    if poor:
        text = f"{plural(len(poor), 'collective motion')} known to worse than {WEAK_UM:g} µm: "
        found.append(Finding("modes", "warning", f"{text}{_named(poor)}."))
    return found or [_least_known(metrics, inner)]


def _least_known(metrics: Mapping[str, Any], inner: list[Mapping[str, Any]]) -> Finding:
    if not inner:
        n = count(at(metrics, "spectrum", "n_null")) or 0
        text = f"Weak modes: none among the motions looked for ({n} rigid motions are free)."
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


def _bins(metrics: Mapping[str, Any], n: int) -> str:
    every = at(metrics, "dca", "after", "pt_low")
    total = len(every) if isinstance(every, list | tuple) else n
    return "every p_T bin" if n == total else f"{n} of {total} p_T bins (too few tracks in the others)"


def _was(words: str, values: Any) -> str:
    sizes = [abs(value) for value in known(values)]
    return f" (before: {words.format(short(max(sizes), 3))})" if sizes else ""


def _was_span(values: Any) -> str:
    found = known(values)
    return f" (before: {span(found, 3)} µm)" if found else ""
