"""Rules of the verdict on the DCA: its mean and width against the ideal ones, or against zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from alignnet.evaluation.dca import TWO
from alignnet.evaluation.report.finding import Finding
from alignnet.evaluation.report.numbers import alike, at, finite, known, plural, short, span, table

MEAN_NEAR = 0.05
"""Difference of mean DCA from ideal, in widths of the ideal DCA, that is near."""

WIDTH_NEAR, WIDTH_FAR = 1.02, 1.10
"""Width of the DCA over the ideal one: near it, and far from it."""

SIGNIFICANT = 3.0
"""Standard errors by which a mean differs from 0."""

_NAMES = {
    "phi": "φ",
    "eta": "η",
    "charge": "charge",
    "top": "half of the barrel",
    "side": "half of the barrel",
}


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


class _Place(NamedTuple):
    """The mean DCA of a bin against what it should be [µm]."""

    by: str
    row: int
    off: float
    error: float
    limit: float

    @property
    def surely_beyond(self) -> bool:
        return abs(self.off) > max(self.limit, SIGNIFICANT * self.error)


def across(metrics: Mapping[str, Any]) -> list[Finding]:
    """Mean of the DCA in bins of φ, η, charge and the halves of the barrel, of all momenta together."""
    found = []
    for c in ("xy", "z"):
        places = [place for by in _NAMES for place in _places(metrics, by, c)]
        if places:
            found.append(_across(metrics, c, places))
    return found


def _across(metrics: Mapping[str, Any], c: str, places: list[_Place]) -> Finding:
    against = "ideal" if any(_is_ideal(metrics, place.by) for place in places) else "0"
    beyond = [place for place in places if place.surely_beyond]
    if not beyond:
        worst = max(places, key=lambda place: abs(place.off))
        known_to = max(place.error / place.limit for place in places)
        text = f"Mean DCA_{c} within {short(abs(worst.off), 2)} µm of {against} in every bin of "
        text += f"{_listed(places)}, most at {_where(metrics, worst)}."
        return Finding("dca_by", "good" if known_to <= 1 and abs(worst.off) <= worst.limit else "plain", text)
    worst = max(beyond, key=lambda place: abs(place.off) / place.limit)
    said = " ± ".join(alike(worst.off, worst.error, 2))
    text = f"Mean DCA_{c} is {said} µm off {against} at {_where(metrics, worst)}, beyond "
    text += f"{short(worst.limit, 2)} µm ({MEAN_NEAR * 100:g} % of the width)"
    others = [place for place in beyond if place is not worst]
    text += f", and so in {plural(len(others), 'other bin')} of {_listed(others)}" if others else ""
    return Finding("dca_by", "warning", f"{text}.")


def _places(metrics: Mapping[str, Any], by: str, c: str) -> Iterator[_Place]:
    ideal = _is_ideal(metrics, by)
    mean = f"mean_difference_{c}_um" if ideal else f"mean_{c}_um"
    after = table(metrics, "dca_by", by, "after")
    width = at(metrics, "dca_by", by, "ideal" if ideal else "after", f"width_{c}_um")
    columns = [c for c in (after.get(mean), after.get(error_of(mean)), width) if isinstance(c, list | tuple)]
    if len(columns) < 3:
        return
    for row, values in enumerate(zip(*columns, strict=False)):
        off, error, wide = map(finite, values)
        if off is not None and error is not None and wide is not None and wide > 0:
            yield _Place(by, row, off, abs(error), MEAN_NEAR * wide)


def _is_ideal(metrics: Mapping[str, Any], by: str) -> bool:
    return bool(table(metrics, "dca_by", by, "ideal"))


def _where(metrics: Mapping[str, Any], place: _Place) -> str:
    if place.by in TWO:
        side = TWO[place.by][place.row % 2]
        return f"charge {side}" if place.by == "charge" else f"the {side} half"
    ends = [at(metrics, "dca_by", place.by, "after", f"{place.by}_{end}") for end in ("low", "high")]
    low, high = (
        finite(e[place.row]) if isinstance(e, list | tuple) and place.row < len(e) else None for e in ends
    )
    if low is None or high is None:
        return f"one bin of {_NAMES[place.by]}"
    return f"{_NAMES[place.by]} {short(low, 2)} to {short(high, 2)}"


def _listed(places: list[_Place]) -> str:
    names = list(dict.fromkeys(_NAMES[place.by] for place in places))
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


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
