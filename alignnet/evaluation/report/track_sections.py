"""What tracks say: their distance to the vertex, and their residuals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from alignnet.evaluation import plots
from alignnet.evaluation.dca import TWO
from alignnet.evaluation.fitted_tracks import LEAST_KNOWN
from alignnet.evaluation.report.markup import Column, Html, element, folded, formula, joined, table
from alignnet.evaluation.report.numbers import alike, at, finite, known, short, span, whole
from alignnet.evaluation.report.pictures import Picture, panels
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.report.rules_dca import dca as dca_rule
from alignnet.evaluation.report.rules_dca import error_of
from alignnet.evaluation.style import LINEAR_UM

_VARIABLES = {
    "pt": "p_T [GeV/c]", "phi": "φ [rad]", "eta": "η", "charge": "charge",
    "top": "the sign of y", "side": "the sign of x",
}  # fmt: skip


def dca(report: Report) -> Html:
    """Figures and tables of every table of DCA that there is, in bins of whatever variable."""
    found = list(dca_tables(report.metrics))
    spoken = [finding.text for finding in dca_rule(report.metrics)]
    return joined(_dca(key, by, geometries, spoken) for key, by, geometries in found)


def dca_tables(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Key, variable and geometries of each table of `alignnet.evaluation.dca.dca_table` under keys "dca…"."""
    for key, value in metrics.items():
        if not key.startswith("dca") or not isinstance(value, Mapping):
            continue
        inner = {f"{key}_{name}": sub for name, sub in value.items()}
        for name, geometries in ({key: value} | inner).items():
            if (by := _variable(geometries)) is not None:
                yield name, by, geometries


def _variable(geometries: Any) -> str | None:
    """What the bins of a table of DCA are of; None where it is no such table, or has no number."""
    if not isinstance(geometries, Mapping) or not geometries:
        return None
    columns = list(geometries.values())
    if not all(isinstance(c, Mapping) and "mean_xy_um" in c and "width_z_um" in c for c in columns):
        return None
    by = [key[:-4] for key in columns[0] if key.endswith("_low")]
    return by[0] if by and any(known(c["mean_xy_um"]) for c in columns) else None


def _dca(key: str, by: str, geometries: Mapping[str, Any], spoken: list[str]) -> Html:
    variable = _VARIABLES.get(by, by)
    pictures = [
        Picture(
            f"{key}-{c}", partial(plots.dca_mean_and_width, geometries, [c]),
            spoken[i] if key == "dca" and i < len(spoken) else _said(geometries, c, variable),
        )
        for i, c in enumerate(("xy", "z"))
    ]  # fmt: skip
    names = ", ".join(geometries)
    caption = (
        f"Mean, width and width over that of the reference in bins of {variable}: Gaussian core, {names}. "
        "Bars are standard errors; tracks of one event count together. All tracks are in, also those without "
        "weight in the cost. Means that differ much are on an axis that is linear to "
        f"±{LINEAR_UM:g} µm, and logarithmic beyond."
    )
    tables = (_dca_numbers, _dca_differences)
    numbers = [make(geometries, c, by, variable) for c in ("xy", "z") for make in tables]
    bins = f"in bins of {variable}"
    name = "DCA" if key in ("dca", f"dca_by_{by}") else key
    heading = element("h3", formula(f"{name} {bins}"))
    return joined(
        [heading, panels(pictures, caption), folded(formula(f"Numbers of the DCA {bins}"), *numbers)]
    )


def _said(geometries: Mapping[str, Any], c: str, variable: str) -> str:
    width = f"width_{c}_um"
    parts = [
        f"{name} mean within {short(max(map(abs, means)), 2)} µm, width {span(known(columns[width]), 3)} µm"
        for name, columns in geometries.items()
        if (means := known(columns[f"mean_{c}_um"]))
    ]
    return f"DCA_{c} in bins of {variable}: {'; '.join(parts)}."


def _dca_numbers(geometries: Mapping[str, Any], c: str, by: str, variable: str) -> Html:
    columns = [Column(variable, True), Column("tracks")]
    for quantity in ("mean", "width"):
        columns += [Column(f"{quantity}, {name} [µm]") for name in geometries]
        columns.append(Column("± [µm]"))
    last = list(geometries.values())[-1]
    rows = []
    for i, name in enumerate(_bin_names(last, by)):
        row: list[Any] = [name, whole(last["n"][i])]
        for quantity in ("mean", "width"):
            error = last[f"{quantity}_error_{c}_um"][i]
            said = [alike(g[f"{quantity}_{c}_um"][i], error) for g in geometries.values()]
            row += [*(value for value, _ in said), said[-1][1]]
        rows.append(row)
    return table(f"DCA_{c}, ± of {list(geometries)[-1]}", columns, rows)


def _dca_differences(geometries: Mapping[str, Any], c: str, by: str, variable: str) -> Html:
    """Against the reference, on the same tracks: differences of the means, ratios of the widths."""
    reference = plots.reference_of(geometries, c)
    others = {name: g for name, g in geometries.items() if name != reference}
    if not others:
        return Html("")
    quantities = {f"mean_difference_{c}_um": "mean [µm]", f"width_ratio_{c}": "width ratio"}
    columns = [Column(variable, True)]
    columns += [Column(f"{said}, {name}") for said in quantities.values() for name in others]
    rows = [
        [name, *(_with_error(g, key, i) for key in quantities for g in others.values())]
        for i, name in enumerate(_bin_names(next(iter(others.values())), by))
    ]
    return table(f"DCA_{c} against {reference}, on the same tracks", columns, rows)


def _bin_names(columns: Mapping[str, Any], by: str) -> list[str]:
    ends = zip(columns[f"{by}_low"], columns[f"{by}_high"], strict=True)
    return list(TWO[by]) if by in TWO else [f"{low:.3g} … {high:.3g}" for low, high in ends]


def _with_error(columns: Mapping[str, Any], key: str, i: int) -> str:
    value, error = columns[key][i], columns[error_of(key)][i]
    return short(None) if finite(value) is None else " ± ".join(alike(value, error))


def residuals(report: Report) -> Html:
    """Unbiased residuals of each layer."""
    layers = at(report.metrics, "residuals")
    if not layers or not any(finite(at(row, "u", "unbiased_within_um")) for row in layers.values()):
        return Html("")
    pictures = [
        Picture(
            f"residuals-{c}", partial(plots.residuals_per_layer, layers, [c]), _residual_finding(layers, c)
        )
        for c in "uv"
    ]
    caption = (
        "Residuals against the track fitted without the hit, along u and v of the sensors, by layer: mean, "
        "and the ± of zero that holds 68 % of them. Marks of what is expected follow from resolution and "
        "scattering alone. Hits are those of tracks with weight in the cost; left out are those that the "
        f"track is known for without them to more than {LEAST_KNOWN:g} times their resolution."
    )
    return joined(
        [
            panels(pictures, caption),
            folded("Numbers of the residuals", *(_residual_numbers(layers, c) for c in "uv")),
        ]
    )


def _residual_finding(layers: Mapping[str, Any], c: str) -> str:
    after, before, pull = (
        known(at(row, c, key) for row in layers.values())
        for key in ("unbiased_within_um", "unbiased_before_within_um", "pull_core_width")
    )
    was = f" (before: {span(before)} µm)" if before else ""
    means = known(at(row, c, "unbiased_mean_um") for row in layers.values())
    return (
        f"Unbiased residuals along {c}: means within {short(max(map(abs, means)), 2)} µm of 0, 68 % "
        f"within {span(after)} µm{was}, pulls of width {span(pull, 3)}, over {len(layers)} layers."
    )


def _residual_numbers(layers: Mapping[str, Any], c: str) -> Html:
    wanted = {
        "mean, before [µm]": "unbiased_before_mean_um", "mean, after [µm]": "unbiased_mean_um",
        "68 % within ±, before [µm]": "unbiased_before_within_um",
        "68 % within ±, after [µm]": "unbiased_within_um",
        "expected [µm]": "expected_unbiased_within_um", "r.m.s. [µm]": "unbiased_width_um",
        "expected r.m.s. [µm]": "expected_unbiased_width_um",
        "pull": "pull_width", "pull, core": "pull_core_width",
    }  # fmt: skip
    columns = [Column("layer", True), Column("hits"), *map(Column, wanted)]
    rows = [
        [
            name.removeprefix("layer"),
            whole(at(row, c, "n_hits")),
            *(short(at(row, c, k)) for k in wanted.values()),
        ]
        for name, row in layers.items()
    ]
    return table(f"Unbiased residuals along {c}", columns, rows)
