"""What a report says of volumes above the sensors, and of the weak modes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignnet.evaluation.report.markup import Column, Html, element, folded, joined, table
from alignnet.evaluation.report.numbers import alike, finite, plural, short, whole
from alignnet.evaluation.report.numbers import table as table_of
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.volumes import COLUMNS
from alignnet.evaluation.weak_modes import verdicts

_WORDS = {
    "seen": "known as well as asked for",
    "weak": "known less well than that",
    "invisible": "not told by these tracks",
    "assumed": "told by priors more than by these tracks",
    "held": "held by a constraint",
    "unknown": "the solve did not end",
}


def volumes(report: Report) -> Html:
    """How far the volumes of each level have moved, and the largest corrections."""
    levels = {
        name: row for name, row in table_of(report.metrics, "volumes").items() if isinstance(row, Mapping)
    }
    if not levels:
        return Html("")
    columns = [Column("level", True), Column("volumes"), *map(Column, map(_heading, COLUMNS))]
    rows = []
    for name, row in levels.items():
        rows.append([name, whole(row["n"]), *(short(row["rms"][c]) for c in COLUMNS)])
        rows.append(["± (median)", "", *(short(row["median_error"][c]) for c in COLUMNS)])
    caption = "Corrections of volumes against their parents, in their own frames: r.m.s. and median error"
    return joined([table(caption, columns, rows), *(_largest(name, row) for name, row in levels.items())])


def _largest(level: str, row: Mapping[str, Any]) -> Html:
    columns = [Column("volume", True), Column("hits"), *map(Column, map(_heading, COLUMNS))]
    lines = [
        [
            one["name"],
            whole(one["n_hits"]),
            *(" ± ".join(alike(one[c], one[f"{c}_error"])) for c in COLUMNS),
        ]
        for one in row["largest"]
    ]
    caption = f"Largest corrections of level {level} (errors: {row['error']})"
    return folded(f"{plural(len(lines), 'volume')} of level {level} with the largest corrections",
                  table(caption, columns, lines))  # fmt: skip


def weak_modes(report: Report) -> Html:
    """How well each weak mode is seen, and how much of it was recovered."""
    found = table_of(report.metrics, "weak_modes")
    modes = table_of(found, "modes")
    if not modes:
        return Html("")
    known = any("injected_um" in row for row in modes.values())
    names = ["σ", "σ along it alone", "σ without tracks", "the same along it alone", "found"]
    keys = ["sigma_um", "alone_um", "prior_um", "prior_alone_um", "found_um"]
    if known:
        names += ["injected", "left", "left by priors"]
        keys += ["injected_um", "residual_um", "expected_residual_um"]
    columns = [Column("mode", True), Column("verdict", True), *(Column(f"{name} [µm]") for name in names)]
    columns.append(Column("held back [%]"))
    columns += [Column("recovered [%]")] if known else []
    rows = []
    for name, row in modes.items():
        cells = [_open(row.get(key)) if key in keys[:4] else short(row.get(key)) for key in keys]
        parts = ("held_back", "recovered") if known else ("held_back",)
        rows.append([name, row["verdict"], *cells, *(_percent(row.get(part)) for part in parts)])
    caption = (
        "Amplitudes at the detector's edge: expected errors with all else free, along the mode alone, and "
    )
    caption += (
        "from priors without tracks; what was found from the start on; which part of a mode priors hold "
    )
    caption += "back from the answer"
    caption += "; what they are expected to leave of all injected modes together" if known else ""
    return joined([element("p", _said(modes, found)), table(caption, columns, rows)])


def _percent(part: Any) -> str:
    found = finite(part)
    return short(100 * found if found is not None else None)


def _said(modes: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    parts = [
        f"{word} ({_WORDS[word]}): {', '.join(names)}"
        for word, names in verdicts(dict(modes)).items()
        if word in _WORDS
    ]
    return f"Asked for: {short(found.get('aim_um'))} µm. " + "; ".join(parts) + "."


def _open(value: Any) -> str:
    return "∞" if finite(value) is None else short(value)


def _heading(column: str) -> str:
    name, _, unit = column.rpartition("_")
    return f"{name} [{unit.replace('um', 'µm')}]"
