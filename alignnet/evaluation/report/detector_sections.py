"""What sensors say: how near they came to the truth, how far they were moved, and which need attention."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from alignnet.evaluation import map_panels, plots
from alignnet.evaluation.attention import BEYOND, FAR, SIGNIFICANT, UNCERTAIN
from alignnet.evaluation.report.markup import Column, Html, element, folded, joined, listed, table
from alignnet.evaluation.report.numbers import at, known, plural, short, span, whole
from alignnet.evaluation.report.numbers import table as table_of
from alignnet.evaluation.report.pictures import Picture, panels
from alignnet.evaluation.report.report import Report
from alignnet.units import UM

_KINDS = {
    "truth": "rigid motions of the whole and weak modes removed",
    "truth_rigid_only": "rigid motions of the whole removed",
    "truth_layer_rigid": "each layer's own rigid motion removed",
}


def truth(report: Report) -> Html:
    """What is left of the misalignment, beside the statistical limit."""
    layers = table_of(report.metrics, "truth")
    if not known(at(row, c, "after_um") for row in layers.values() for c in "uvw"):
        return Html("")
    pictures = [
        Picture(f"truth-{c}", partial(plots.truth_recovery, layers, "", [c]), _truth_finding(layers, c))
        for c in "uvw"
    ]
    caption = (
        f"R.m.s. of what is left of the misalignment of each layer's aligned sensors, {_KINDS['truth']}. The "
        "statistical limit is what the same tracks can tell at best; its bar is by how much one answer "
        "differs from it by chance."
    )
    numbers = [
        _truth_numbers(found, words)
        for kind, words in _KINDS.items()
        if (found := table_of(report.metrics, kind))
    ]
    return joined([panels(pictures, caption), folded("Numbers of the recovery", *numbers)])


def _truth_finding(layers: Mapping[str, Any], c: str) -> str:
    before, after, limit = (
        known(at(row, c, f"{which}_um") for row in layers.values()) for which in ("before", "after", "limit")
    )
    bound = f", statistical limit {span(limit)} µm" if limit else ""
    return f"Remaining misalignment along {c}: {span(after)} µm, before {span(before)} µm{bound}."


def _truth_numbers(layers: Mapping[str, Any], words: str) -> Html:
    keys = {"before": "before_um", "after": "after_um", "limit": "limit_um", "± by chance": "limit_spread_um"}
    columns = [Column("layer", True)] + [Column(f"{c}, {name}") for c in "uvw" for name in keys]
    rows = [
        [name.removeprefix("layer"), *(short(at(row, c, key)) for c in "uvw" for key in keys.values())]
        for name, row in layers.items()
    ]
    return table(f"Remaining misalignment, r.m.s. [µm], {words}", columns, rows)


def corrections(report: Report) -> Html:
    """A map of every layer and coordinate, all of the same colours."""
    detector, local = report.detector, report.local
    scale = map_panels.correction_scale(local)
    bar = Picture(
        "scale",
        partial(map_panels.scale_bar, scale),
        f"Colours from −{scale:g} to {scale:g} µm",
        "Correction [µm]",
    )
    pictures = [_map(report, layer, c, scale) for layer in detector.layers for c in map_panels.COORDINATES]
    linear, largest = map_panels.linear_width(scale), float(local[:, :3].abs().max()) / UM
    intro = (
        f"{plural(len(detector), 'sensor')}, each drawn where it sits, coloured by its correction in µm. All "
        f"maps have the same colours: even up to ±{linear:g} µm, logarithmic from there to ±{scale:g} µm; "
        f"the largest correction is {short(largest)} µm. Sensors that are mounted the other way round count "
        "towards the same side as the others."
    )
    caption = "Barrel layers are unrolled to z and φ; planes are seen along the beam."
    return joined([element("p", intro), bar.html(), panels(pictures, caption, "panels maps")])


def _map(report: Report, layer: int, c: str, scale: float) -> Picture:
    rms = map_panels.layer_rms(report.detector, report.local, layer, c)
    title = f"{map_panels.panel_title(report.detector, layer, c)}: r.m.s. {short(rms, 2)} µm"
    draw = partial(map_panels.layer_panel, report.detector, report.local, layer, c, scale)
    return Picture(f"map-{layer}-{c}", draw, f"Map of the corrections, {title}", title)


def sensors(report: Report) -> Html:
    """The sensors of each layer by what became of them, and the worst of all."""
    counts = table_of(report.metrics, "sensors")
    if not counts:
        return Html("")
    return joined([_worst(table_of(counts, "attention")), _status(counts)])


def _worst(attention: Mapping[str, Any]) -> Html:
    rows = attention.get("worst") or []
    bounds = (
        f"Listed are sensors whose mean residual is more than {SIGNIFICANT:g} σ from 0, whose correction is "
        f"more than {FAR:g} robust standard deviations of its layer off, which moved by more than {BEYOND:g} "
        f"widths of their prior (optimizer.sensor_prior) against their volumes, or whose error is more than "
        f"{UNCERTAIN:g} times its layer's median; and those with too few hits, where they are not many."
    )
    if not rows:
        return joined([element("p", "None."), element("p", bounds)])
    columns = [Column("sensor", True), Column("layer"), Column("hits"), Column("why", True)]
    lines = [
        [f"{row['sensor_id']}: {row['name']}", row["layer"], whole(row["n_hits"]), listed(row["reasons"])]
        for row in rows
    ]
    found = attention.get("n") or 0
    caption = f"The worst {len(rows)}" + (f" of {found:,}" if found > len(rows) else "")
    return joined([element("p", bounds), table(caption, columns, lines)])


def _status(counts: Mapping[str, Any]) -> Html:
    keys = {
        "sensors": "n", "aligned": "aligned", "fixed": "fixed", "held by their volumes": "too_few_hits",
        "without hits": "without_hits",
    }  # fmt: skip
    layers = {name.removeprefix("layer"): row for name, row in counts.items() if name.startswith("layer")}
    rows = [
        [name, *(whole(at(row, key)) for key in keys.values())]
        for name, row in {**layers, "all": counts}.items()
    ]
    return table("What became of the sensors", [Column("layer", True), *map(Column, keys)], rows)
