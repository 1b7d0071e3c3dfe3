"""Rules of the verdict on what the alignment is for: DCA, what is left of the misalignment, its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import alike, at, finite, known, short, span, table

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

REMOVED = "rigid motions and weak modes removed"
"""What the table `truth` is without."""

PULLS = (0.9, 1.1)
"""Widths of pulls whose errors are right."""


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
    limits = [max(MEAN_NEAR * w, 1e-12) for w in ideal]
    error = known(at(metrics, "dca", "after", error_of(mean)))
    error = error if len(error) == len(off) else [0.0] * len(off)
    beyond = [abs(o) / limit for o, limit in zip(off, limits, strict=True)]
    surely = [b for b, o, e in zip(beyond, off, error, strict=True) if b > 1 and abs(o) > SIGNIFICANT * e]
    widest = max(wide)
    level = "good" if max(beyond) <= 1 and widest <= WIDTH_NEAR else "plain"
    if any(e > limit for e, limit in zip(error, limits, strict=True)):
        level = "plain"  # what is not known so well is not near
    level = "warning" if surely or widest > WIDTH_FAR else level
    if surely:
        k = beyond.index(max(surely))
        said = f"Mean DCA_{c} is {_measured(metrics, mean, k, 2)} µm off ideal at {_bin(metrics, mean, k)}, "
        said += f"beyond {short(limits[k], 2)} µm ({MEAN_NEAR * 100:g} % of the ideal width)"
    else:
        said = f"Mean DCA_{c} within {short(max(map(abs, off)), 2)} µm of ideal in {_bins(metrics, len(off))}"
        said += _significance(metrics, mean, off, error)
    yield Finding(
        "dca", level,
        f"{said}{_was('up to {} µm', at(metrics, 'dca', 'before', mean))}; "
        f"{_width_said(metrics, ratio, wide)}{_was('up to {} times', at(metrics, 'dca', 'before', ratio))}.",
    )  # fmt: skip


def _significance(metrics: Mapping[str, Any], key: str, off: list[float], error: list[float]) -> str:
    """Whether the differences are chance: the one with the most standard errors where it is not."""
    if not any(error):
        return ""
    pulls = [abs(o) / max(e, 1e-12) for o, e in zip(off, error, strict=True)]
    k = pulls.index(max(pulls))
    if pulls[k] <= SIGNIFICANT:
        return f", known to {short(max(error), 2)} µm or better"
    return f", {_measured(metrics, key, k, 2)} at {_bin(metrics, key, k)}, {short(pulls[k], 2)} σ from it"


def _width_said(metrics: Mapping[str, Any], ratio: str, wide: list[float]) -> str:
    """The largest width over the ideal one, and in which bin where it is too large."""
    k = wide.index(max(wide))
    if wide[k] <= WIDTH_FAR:
        return f"width up to {short(wide[k], 4)} times the ideal"
    said = f"width up to {_measured(metrics, ratio, k, 4)} times the ideal"
    return f"{said} (at {_bin(metrics, ratio, k)}, beyond {WIDTH_FAR:.2f})"


def _dca_against_zero(metrics: Mapping[str, Any], c: str) -> Iterator[Finding]:
    rows = [at(metrics, "dca", "after", key) for key in (f"mean_{c}_um", f"mean_error_{c}_um")]
    mean, error = map(known, rows)
    if not mean or len(mean) != len(error) or min(error) <= 0:
        yield Finding("dca", "warning", f"DCA_{c}: no numbers, for want of tracks in the bins of p_T.")
        return
    pulls = [abs(m) / e for m, e in zip(mean, error, strict=True)]
    sigmas, far = max(pulls), max(map(abs, mean))
    said = f"within {short(far, 2)} µm of 0 in {_bins(metrics, len(mean))}, at most {short(sigmas, 2)} σ"
    if sigmas > SIGNIFICANT:
        k, key = pulls.index(sigmas), f"mean_{c}_um"
        said = f"is {_measured(metrics, key, k, 2)} µm at {_bin(metrics, key, k)}, {short(sigmas, 2)} σ from "
        said += f"0, beyond {SIGNIFICANT:g} σ"
    width = known(at(metrics, "dca", "after", f"width_{c}_um"))
    yield Finding(
        "dca", "good" if sigmas <= SIGNIFICANT else "warning",
        f"Mean DCA_{c} {said}{_was('up to {} µm', at(metrics, 'dca', 'before', f'mean_{c}_um'))}; "
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


def _bins(metrics: Mapping[str, Any], n: int) -> str:
    every = at(metrics, "dca", "after", "pt_low")
    total = len(every) if isinstance(every, list | tuple) else n
    return "every p_T bin" if n == total else f"{n} of {total} p_T bins (too few tracks in the others)"


def _bin(metrics: Mapping[str, Any], key: str, k: int) -> str:
    """The bin of p_T of the k-th number that is known of a column."""
    column = at(metrics, "dca", "after", key)
    row = [i for i, value in enumerate(column) if finite(value) is not None][k]
    ends = [at(metrics, "dca", "after", f"pt_{end}") for end in ("low", "high")]
    low, high = (finite(e[row]) if isinstance(e, list | tuple) and row < len(e) else None for e in ends)
    return "one bin of p_T" if low is None or high is None else f"p_T {short(low, 2)}–{short(high, 2)} GeV/c"


def _measured(metrics: Mapping[str, Any], key: str, k: int, digits: int) -> str:
    """The k-th number that is known of a column, with its error where there is one of each."""
    values, errors = (known(at(metrics, "dca", "after", name)) for name in (key, error_of(key)))
    if len(values) != len(errors):
        return short(values[k], digits)
    return " ± ".join(alike(values[k], errors[k], digits))


def error_of(key: str) -> str:
    """The column of the errors of another: mean_difference_xy_um → mean_difference_error_xy_um."""
    for c in ("_xy", "_z"):
        key = key.replace(c, f"_error{c}")
    return key


def _was(words: str, values: Any) -> str:
    sizes = [abs(value) for value in known(values)]
    return f" (before: {words.format(short(max(sizes), 3))})" if sizes else ""


def _was_span(values: Any) -> str:
    found = known(values)
    return f" (before: {span(found, 3)} µm)" if found else ""
