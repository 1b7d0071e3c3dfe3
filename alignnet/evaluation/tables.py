"""Tables of an evaluation for the terminal, from the numbers of metrics.json.

They fit in 80 columns, unless their numbers are very large, and are plain text where there is no terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

MISSING = "–"
_WIDEST = 1000
_NAMES = {
    "truth": "rigid motions and weak modes removed",
    "truth_layer_rigid": "each layer's own motion removed",
}
_STYLES = {"before": "red", "after": "bold", "ideal": "dim", "limit": "dim", "expected": "dim"}


def show(metrics: Mapping[str, Any], console: Console | None = None) -> None:
    """Print every table that `metrics` has the numbers for.

    Args:
        metrics: nested as in metrics.json: `truth`, `truth_layer_rigid`, `pulls` with `errors`, `spectrum`,
            `weak_modes`, `volumes`, `residuals`, `dca`.
        console: where to; default: standard output, at least 80 columns wide.
    """
    console = console or terminal()
    for kind in ("truth", "truth_layer_rigid"):
        if metrics.get(kind):
            _print(console, truth_table(metrics[kind], _NAMES[kind]))
    if metrics.get("pulls"):
        _print(console, pull_table(metrics["pulls"], metrics["errors"]))
    if metrics.get("spectrum"):
        console.print(spectrum_table(metrics["spectrum"]))
    if at := metrics.get("weak_modes"):
        _print(console, mode_table(at))
    if metrics.get("volumes"):
        _print(console, volume_level_table(metrics["volumes"]))
    if metrics.get("residuals"):
        _print(console, residual_table(metrics["residuals"]))
    if metrics.get("dca"):
        for coordinate in ("xy", "z"):
            _print(console, dca_table(metrics["dca"], coordinate))


def terminal() -> Console:
    """Standard output; 80 to 100 columns, without colours where it is no terminal."""
    width = Console().width
    return Console(width=min(max(width, 80), 100), highlight=False)


def truth_table(recovery: Mapping[str, Any], removed: str = "") -> Table:
    """Remaining displacements of each layer [µm] along u, v, w: before, after, and the statistical limit."""
    title = "Remaining misalignment, r.m.s. [µm]" + (f", {removed}" if removed else "")
    table = _table(title, "layer")
    kinds = [k for k in ("before", "after", "limit") if _has(recovery, f"{k}_um")]
    for coordinate in "uvw":
        for i, kind in enumerate(kinds):
            _column(table, coordinate if i == 0 else "", kind)
    for name, row in recovery.items():
        values = [row[c].get(f"{kind}_um") for c in "uvw" for kind in kinds]
        table.add_row(name.removeprefix("layer"), *map(_short, values))
    return table


def pull_table(pulls: Mapping[str, Any], errors: Mapping[str, Any]) -> Table:
    """Widths of (answer − truth) / σ of each layer; 1 where the errors cover the truth."""
    how = f"{errors['n_draws']} draws" if errors["n_draws"] else "exact"
    table = _table(f"Pulls of the answer, rigid motions removed (errors: {how})", "layer")
    names = [name for name in pulls["all"] if name != "all"]
    for name in [*names, "all"]:
        _column(table, "", name)
    for layer, row in pulls.items():
        table.add_row(layer.removeprefix("layer"), *(_short(row.get(name)) for name in [*names, "all"]))
    return table


def spectrum_table(spectrum: Mapping[str, Any]) -> Table:
    """The least known motions: expected error [µm], cost, and what they look like."""
    left = "" if spectrum["converged"] else "; the search had not converged"
    title = f"Least known motions ({spectrum['n_null']} not known at all{left})"
    table = _table(title, "mode")
    for name in ("error [µm]", "cost"):
        _column(table, "", name)
    table.add_column("\nlooks like", no_wrap=False)
    for i, mode in enumerate(spectrum["modes"]):
        error = "∞" if mode["amplitude_um"] is None else _short(mode["amplitude_um"])
        table.add_row(str(i), error, f"{abs(mode['cost']):.1e}", mode["name"])
    return table


def mode_table(found: Mapping[str, Any]) -> Table:
    """Each weak mode [µm at the edge]: its errors, what was found, and the verdict."""
    table = _table(f"Weak modes, amplitude at the edge [µm], to be known to {found['aim_um']:g}", "mode")
    known = any("injected_um" in row for row in found["modes"].values())
    for above, name in (("error", "σ"), ("", "alone"), ("prior", "σ")):
        _column(table, above, name)
    for name in ("true", "found", "left") if known else ("found",):
        _column(table, "", name)
    _column(table, "held", "back")
    table.add_column("\nverdict", no_wrap=True)
    for name, row in found["modes"].items():
        open_ = MISSING if row["verdict"] == "unknown" else "∞"
        errors = [_short(row["sigma_um"]) if row["sigma_um"] is not None else open_]
        errors += ["∞" if row[key] is None else _short(row[key]) for key in ("alone_um", "prior_um")]
        keys = ("injected_um", "found_um", "residual_um") if known else ("found_um",)
        held = row.get("held_back")  # not in runs of earlier versions
        back = MISSING if held is None else f"{100 * held:.0f} %"
        table.add_row(name, *errors, *(_short(row[key]) for key in keys), back, row["verdict"])
    return table


def volume_level_table(volumes: Mapping[str, Any]) -> Table:
    """R.m.s. correction of each level's volumes against their parents [µm, mrad], and the median error."""
    table = _table(
        "Corrections of volumes against their parents, r.m.s. and median error [µm, mrad]", "level", "n"
    )
    names = list(next(iter(volumes.values()))["rms"])
    for name in names:
        _column(table, "", name.rpartition("_")[0])
    for level, row in volumes.items():
        table.add_row(level, str(row["n"]), *(_short(row["rms"][name]) for name in names))
        table.add_row("  ±", "", *(_short(row["median_error"][name]) for name in names))
    return table


def residual_table(residuals: Mapping[str, Any]) -> Table:
    """Unbiased residuals of each layer [µm]: ± of 0 that holds 68 % of them, the one to expect, and pulls."""
    table = _table("Unbiased residuals, 68 % within ± [µm] of 0", "layer", "hits")
    kinds = {
        "before": "unbiased_before_within_um",
        "after": "unbiased_within_um",
        "expected": "expected_unbiased_within_um",
        "pull": "pull_core_width",
    }
    kinds = {kind: key for kind, key in kinds.items() if _has(residuals, key)}
    for coordinate in "uv":
        for i, kind in enumerate(kinds):
            _column(table, coordinate if i == 0 else "", kind)
    for name, row in residuals.items():
        values = [_short(row[c].get(key)) for c in "uv" for key in kinds.values()]
        table.add_row(name.removeprefix("layer"), _number_of(row["u"]["n_hits"]), *values)
    return table


def dca_table(dca: Mapping[str, Mapping[str, Sequence[Any]]], coordinate: str = "xy") -> Table:
    """Mean and width of the DCA in bins [µm], for each geometry, with the errors of the last one."""
    by = next(key[:-4] for key in next(iter(dca.values())) if key.endswith("_low"))
    label = {"pt": "pT [GeV/c]", "phi": "φ [rad]", "eta": "η"}[by]
    table = _table(
        f"DCA_{coordinate} to the vertex, Gaussian core [µm], ± of {list(dca)[-1]}", label, "tracks"
    )
    for quantity in ("mean", "width"):
        for i, name in enumerate(dca):
            _column(table, quantity if i == 0 else "", name)
        table.add_column("\n±", justify="right", no_wrap=True, style="dim")
    last = list(dca.values())[-1]
    edges = [*last[f"{by}_low"], *last[f"{by}_high"]]
    digits = 1 if all(abs(edge - round(edge, 1)) < 1e-9 for edge in edges) else 2
    for i, tracks in enumerate(last["n"]):
        cells = []
        for quantity in ("mean", "width"):
            cells += [_short(columns[f"{quantity}_{coordinate}_um"][i]) for columns in dca.values()]
            cells.append(_short(last[f"{quantity}_error_{coordinate}_um"][i]))
        low, high = last[f"{by}_low"][i], last[f"{by}_high"][i]
        table.add_row(f"{low:.{digits}f} … {high:.{digits}f}", _number_of(tracks), *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for i, name in enumerate(columns):
        table.add_column(f"\n{name}", justify="left" if i == 0 else "right", no_wrap=True)
    return table


def _column(table: Table, above: str, name: str) -> None:
    table.add_column(f"{above}\n{name}", justify="right", no_wrap=True, style=_STYLES.get(name))


def _has(rows: Mapping[str, Any], key: str) -> bool:
    return any(row["u"].get(key) is not None for row in rows.values())


def _number_of(n: int) -> str:
    """How many; millions in short."""
    return f"{n:,}" if n < 1_000_000 else f"{n / 1e6:,.3g}M"


def _print(console: Console, table: Table) -> None:
    """A table as wide as it must be, even where that is wider than the terminal: no number is cut."""
    needed = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    usual, console.width = console.width, max(needed, console.width)
    console.print(table)
    console.width = usual


def _short(value: float | None) -> str:
    """Three significant digits, and never an exponent."""
    if value is None:
        return MISSING
    size = abs(value)
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero
