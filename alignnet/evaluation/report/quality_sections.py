"""What else tracks say: how well they fit, where residuals lie, what overlaps, vertices and masses show."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from alignnet.evaluation import physics_plots, quality_plots
from alignnet.evaluation.report.markup import Column, Html, element, folded, formula, joined, table
from alignnet.evaluation.report.numbers import alike, at, known, plural, short, span, whole
from alignnet.evaluation.report.numbers import table as table_of
from alignnet.evaluation.report.pictures import Picture, panels
from alignnet.evaluation.report.report import Report

_DECAYS = {"k0s": "K⁰_S → π⁺π⁻", "lambda": "Λ → pπ⁻", "d0": "D⁰ → K⁻π⁺"}


def fit(report: Report) -> Html:
    """χ²/ndf and p-values of the tracks."""
    found = table_of(report.metrics, "fit")
    if not any(known(one.get("chi2_per_ndf_edges")) for one in found.values()):
        return Html("")
    far = {name: short(one.get("p_value_ks_distance"), 2) for name, one in found.items()}
    finding = "Distance of the p-values' distribution to a flat one: " + _each(far)
    picture = Picture("fit", partial(quality_plots.fit_quality, found), finding)
    caption = (
        "χ²/ndf and p-values of the tracks that have weight in the cost. Where errors of hits and scattering "
        "are right and sensors in their places, p-values are flat; KS is the Kolmogorov–Smirnov distance to "
        "that."
    )
    columns = [Column("geometry", True), Column("tracks"), Column("KS distance"), Column("p < 1 % [%]")]
    rows = [
        [name, whole(one["n_tracks"]), far[name], short(_percent(one.get("p_value_below_1_percent")))]
        for name, one in found.items()
    ]
    return joined([panels([picture], caption), table("p-values of the tracks", columns, rows)])


def places(report: Report) -> Html:
    """Residuals of half-barrels and staves, over the sensors' surfaces, and where sensors overlap."""
    return joined([part(report.metrics) for part in (_volumes, _surface, _overlaps)])


def _volumes(metrics: Mapping[str, Any]) -> Html:
    levels = table_of(metrics, "residual_levels")
    scatters = [at(of, "after", f"scatter_{c}_um") for of in levels.values() for c in "uv"]
    if not known(scatters):
        return Html("")
    pictures = [
        Picture(
            f"volumes-{level.lower()}", partial(quality_plots.volume_residuals, levels, level),
            f"Mean unbiased residuals of {plural(of['n_volumes'], name)}, scatter along u "
            f"{_scatter(of, 'u')}, along v {_scatter(of, 'v')}.", f"{name.capitalize()}s",
        )
        for level, name in quality_plots.LEVELS.items()
        for of in [table_of(levels, level)] if "volumes" in of
    ]  # fmt: skip
    columns = [Column("level", True), Column("volumes"), Column("geometry", True)]
    columns += [Column(f"scatter, {c} [µm]") for c in "uv"]
    rows = [
        [
            quality_plots.LEVELS.get(level, level),
            whole(of["n_volumes"]),
            name,
            *(" ± ".join(alike(one[f"scatter_{c}_um"], one.get(f"scatter_error_{c}_um"), 2)) for c in "uv"),
        ]
        for level, of in levels.items()
        for name, one in of.items()
        if isinstance(one, Mapping) and "scatter_u_um" in one
    ]
    caption = (
        "Mean unbiased residual of every volume. Scatter is the standard deviation of the volumes' means "
        "less what the number of hits explains."
    )
    numbers = folded("Numbers of the levels", table("Scatter of mean residuals", columns, rows))
    return joined([panels(pictures, caption, "panels wide"), numbers])


def _scatter(of: Mapping[str, Any], c: str) -> str:
    return _each(
        {
            name: f"{short(one[f'scatter_{c}_um'], 2)} µm"
            for name, one in of.items()
            if isinstance(one, Mapping) and f"scatter_{c}_um" in one
        }
    )


def _surface(metrics: Mapping[str, Any]) -> Html:
    pictures = [
        picture
        for name in table_of(metrics, "surface")
        if (picture := _surface_of(metrics, name)) is not None
    ]
    caption = (
        "Mean unbiased residuals over the surface of a sensor, all sensors of a layer on one another: bows, "
        "pixels and clocks show here. Colours of each map span what 99 % of its cells have, given above it."
    )
    return panels(pictures, caption, "panels wide") if pictures else Html("")


def _surface_of(metrics: Mapping[str, Any], geometry: str) -> Picture | None:
    """The maps of one geometry; None where there are no numbers."""
    found = table_of(metrics, "surface", geometry)
    layers = {name: one for name, one in found.items() if any(known(row) for row in one["mean_u_um"])}
    if not layers:
        return None
    sizes = [
        abs(x) for one in layers.values() for c in "uv" for row in one[f"mean_{c}_um"] for x in known(row)
    ]
    finding = f"Mean residuals over the sensors' surfaces, {geometry}: all within {short(max(sizes), 2)} µm."
    key = "surface" if geometry == "after" else f"surface-{geometry}"
    return Picture(key, partial(quality_plots.surface_map, {geometry: layers}, geometry), finding, geometry)


def _overlaps(metrics: Mapping[str, Any]) -> Html:
    found = table_of(metrics, "overlaps")
    known_widths = {
        name: known(at(one, layer, "u", "core_width_um") for layer in one if layer != "staves")
        for name, one in found.items()
    }
    if not any(known_widths.values()):
        return Html("")
    widths = {name: f"{span(of)} µm" for name, of in known_widths.items()}
    finding = f"Width of the double differences along u, by layer: {_each(widths)}"
    picture = Picture("overlaps", partial(quality_plots.overlaps, found), finding)
    caption = (
        "Difference of the residuals of two hits of one track in overlapping sensors of a layer: almost free "
        "of scattering, and a test of the circumference that nothing else tests as well."
    )
    return panels([picture], caption, "panels wide")


def vertices(report: Report) -> Html:
    """Where vertices of tracks lie, and how far from the truth."""
    found = table_of(report.metrics, "vertex")
    if not known(at(one, c, "mean_um") for one in found.values() for c in "xyz"):
        return Html("")
    wanted = {
        "mean [µm]": "mean_um", "±": "mean_error_um", "spread [µm]": "spread_um",
        "resolution expected [µm]": "expected_resolution_um",
        "to truth: mean [µm]": "to_truth_mean_um", "core [µm]": "to_truth_core_width_um",
        "pull": "to_truth_pull_width", "to given: mean [µm]": "to_given_mean_um",
        "width [µm]": "to_given_width_um",
    }  # fmt: skip
    shown = {
        words: key for words, key in wanted.items()
        if known(at(one, c, key) for one in found.values() for c in "xyz")
    }  # fmt: skip
    columns = [Column("", True), Column("geometry", True), Column("events"), *map(Column, shown)]
    rows = [
        [c, name, whole(one["n_events"]), *_vertex_cells(table_of(one, c), list(shown.values()))]
        for c in "xyz"
        for name, one in found.items()
    ]
    return table("Vertices fitted to the tracks of an event that have weight in the cost", columns, rows)


def _vertex_cells(row: Mapping[str, Any], keys: list[str]) -> list[str]:
    """Numbers in words, the mean and its error with as many decimals."""
    cells = {key: short(row.get(key)) for key in keys}
    pair = ("mean_um", "mean_error_um")
    mean = dict(zip(pair, alike(row.get("mean_um"), row.get("mean_error_um")), strict=True))
    return [mean.get(key, cell) for key, cell in cells.items()]


def decays(report: Report) -> Html:
    """Masses of decays in flight."""
    found = table_of(report.metrics, "decays")
    if not found:
        return _not_asked_for(report)
    names: Mapping[str, Any] = next(iter(found.values()), {})
    if not names:
        return Html("")
    lost = [name for name in names if not physics_plots.has_peak(found, name)]
    if len(lost) == len(names):
        return _no_peak(found, lost)
    pictures = [
        Picture(
            f"mass-{name}", partial(physics_plots.mass, found, name),
            f"{title}, mean mass: "
            + _each({g: f"{short(_peak(one[name], 'mean'), 6)} MeV/c²" for g, one in found.items()}), title,
        )
        for name in names if physics_plots.has_peak(found, name)
        for title in [_DECAYS.get(name, name)]
    ]  # fmt: skip
    columns = [Column("decay", True), Column("geometry", True)]
    columns += [Column(words) for words in ("mean [MeV/c²]", "±", "width [MeV/c²]", "±")]
    rows = [
        [
            formula(_DECAYS.get(name, name)),
            geometry,
            *alike(_peak(one[name], "mean"), _peak(one[name], "mean_error"), 5),
            *alike(_peak(one[name], "width"), _peak(one[name], "width_error")),
        ]
        for name in names
        for geometry, one in found.items()
    ]
    caption = (
        "Invariant mass of pairs of tracks that meet away from the vertex, and mean and width of the peak "
        "against p_T and φ. Curvatures that are wrong in one place show as a mean that depends on φ."
    )
    missing = _no_peak(found, lost) if lost else ""
    return joined([panels(pictures, caption, "panels wide"), table("Peaks", columns, rows), missing])


def _not_asked_for(report: Report) -> Html:
    """How to ask for masses; nothing where there cannot be any."""
    if not report.detector.b_z or not at(report.metrics, "residuals"):
        return Html("")
    return element(
        "p",
        "No decays were looked for. Ask for them with ",
        element("code", "alignnet evaluate run=RUN 'evaluation.decays={k0s: {}, lambda: {}}'"),
        f"; there are {', '.join(_DECAYS)}.",
    )


def _no_peak(found: Mapping[str, Any], names: list[str]) -> Html:
    """How many pairs there were, and what may have taken the decays away."""
    pairs = {
        f"{_DECAYS.get(name, name)} {geometry}": whole(sum(one[name]["counts"]))
        for geometry, one in found.items()
        for name in names
    }
    return element(
        "p",
        formula(
            f"No peak was found among the pairs of tracks in the range of masses: {_each(pairs)}. Few "
            "tracks, a selection of those that point to their vertex (selection.max_dca) and "
            "evaluation.max_chi2_per_ndf leave out the daughters of decays in flight."
        ),
    )


def _peak(decay: Mapping[str, Any], key: str) -> Any:
    found = at(decay, "all", f"{key}_mev")
    return found[0] if found else None


def monitor(report: Report) -> Html:
    """ALICE's residuals of circle fits, by chip."""
    found = table_of(report.metrics, "monitor")
    layers = at(found, "after") or {}
    sizes = [abs(x) for of in layers.values() for c in ("xy", "z") for x in known(of.get(f"mean_{c}_um"))]
    if not sizes:
        return Html("")
    finding = f"Means after the alignment: all {len(sizes):,} within {short(max(sizes), 2)} µm."
    picture = Picture("monitor", partial(physics_plots.monitor, found), finding)
    caption = "Mean residuals to circles through all hits of a track, as ALICE's quality control shows them."
    return panels([picture], caption, "panels wide")


def _each(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _percent(value: Any) -> float | None:
    return None if value is None else 100 * float(value)
