"""What the fit says: how it converged, which motions it hardly knows, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from alignnet.evaluation import plots
from alignnet.evaluation.report.markup import Column, Html, folded, joined, table
from alignnet.evaluation.report.numbers import at, finite, plural, short
from alignnet.evaluation.report.numbers import table as table_of
from alignnet.evaluation.report.pictures import Picture, panels
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.report.rules_modes import least_known
from alignnet.geometry.surface import LARGEST_ORDER, mode_names

_MODES = mode_names(LARGEST_ORDER)
_DOF = {"du": "µm", "dv": "µm", "dw": "µm", "rot_u": "mrad", "rot_v": "mrad", "rot_w": "mrad"}
_EPOCHS = {
    "χ²/ndf, training": "train/chi2_per_ndf",
    "χ²/ndf, validation": "val/chi2_per_ndf",
    "step [µm]": "train/step_um",
    "Δχ² an unknown": "solver/expected_chi2_drop_per_unknown",
    "iterations": "solver/iterations",
}


def convergence(report: Report) -> Html:
    """χ²/ndf and step against the epoch."""
    history = _judged(report.metrics.get("history"))
    if not history:
        return Html("")
    first, last = (finite(row.get("train/chi2_per_ndf")) for row in (history[0], history[-1]))
    finding = (
        f"χ²/ndf of training from {short(first, 4)} to {short(last, 4)} in {plural(len(history), 'epoch')}."
    )
    ideal = finite(report.metrics.get("chi2_per_ndf_ideal"))
    pictures = [Picture("chi2", partial(plots.convergence, history, ideal), finding)]
    sizes = [size for row in history if (size := finite(row.get("train/step_um")))]
    if sizes:
        words = f"Step of an epoch from {short(sizes[0])} to {short(sizes[-1])} µm."
        pictures.append(Picture("steps", partial(plots.steps, history), words))
    caption = (
        "χ²/ndf that an epoch began with (training) and ended with (validation), and the r.m.s. change of "
    )
    caption += "the sensors' places in it."
    return joined([panels(pictures, caption), folded("Numbers of the epochs", _epochs(history))])


def _judged(history: Any) -> list[Mapping[str, Any]]:
    """Epochs with a positive χ²/ndf, which a logarithmic axis can show."""
    rows = history if isinstance(history, Sequence) else []
    return [row for row in rows if (finite(at(row, "train/chi2_per_ndf")) or 0.0) > 0.0]


def _epochs(history: list[Mapping[str, Any]]) -> Html:
    keys = {name: key for name, key in _EPOCHS.items() if any(key in row for row in history)}
    rows = [
        [
            f"{row['epoch']:.0f}",
            *(short(row.get(key), 4 if "χ²/ndf" in name else 3) for name, key in keys.items()),
        ]
        for row in history
    ]
    return table("Epochs", [Column("epoch", True), *map(Column, keys)], rows)


def modes(report: Report) -> Html:
    """The least known motions."""
    spectrum = table_of(report.metrics, "spectrum")
    rows = spectrum.get("modes") or []
    if not rows:
        return Html("")
    spoken = " ".join(finding.text for finding in least_known(report.metrics))
    picture = Picture("spectrum", partial(plots.spectrum, spectrum, False), spoken)
    caption = (
        "Expected error of the collective motions that the tracks know least, as r.m.s. displacement of the "
    )
    caption += "sensors, by the numbers of the table; hatched ones are not known at all."
    columns = [Column("mode", True), Column("error [µm]"), Column("cost"), Column("looks like", True)]
    lines = [
        [i, "∞" if finite(row["amplitude_um"]) is None else short(row["amplitude_um"]), short(row["cost"], 2),
         row["name"]]
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return joined([panels([picture], caption), table("Least known motions", columns, lines)])


def errors(report: Report) -> Html:
    """Median σ of each layer, and pulls where the truth is known."""
    return joined([_errors(report.metrics), _pulls(report.metrics)])


def _errors(metrics: Mapping[str, Any]) -> Html:
    found = table_of(metrics, "errors")
    layers = {name: row for name, row in found.items() if name.startswith("layer")}
    if not layers:
        return Html("")
    how = f"from {plural(found.get('n_draws') or 0, 'draw')}" if found.get("n_draws") else "exact"
    known = finite(found.get("relative"))
    how += f", each known to {short(100 * known, 2)} % of itself" if known else ""
    dof = _DOF | {name: "µm" for name in _MODES if any(f"{name}_um" in row for row in layers.values())}
    columns = [Column("layer", True), *(Column(f"{name} [{unit}]") for name, unit in dof.items())]
    rows = [
        [
            name.removeprefix("layer"),
            *(short(row.get(f"{n}_{unit.replace('µ', 'u')}")) for n, unit in dof.items()),
        ]
        for name, row in layers.items()
    ]
    return table(f"Median error of the aligned sensors ({how})", columns, rows)


def _pulls(metrics: Mapping[str, Any]) -> Html:
    found = table_of(metrics, "pulls")
    if not found:
        return Html("")
    names = [*_DOF, *(name for name in _MODES if any(name in row for row in found.values())), "all"]
    columns = [Column("layer", True), *map(Column, names)]
    rows = [
        [name.removeprefix("layer"), *(short(at(row, dof)) for dof in names)] for name, row in found.items()
    ]
    caption = (
        "Pulls: width of (answer − truth) / σ, rigid motions removed; 1 where the errors cover the truth"
    )
    return table(caption, columns, rows)
