"""The table of all rows: what was printed, what was reached here, at what cost, and what needs no training.

Results are kept as JSON, a row each, with what `metrics.json` of its run says; the page is made from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignnet.data.atomic import replacing
from alignnet.errors import SchemaError

Row = dict[str, Any]

KEPT = (
    "system",
    "parameters",
    "training_events",
    "cpu_minutes",
    "test_events",
    "test",
    "printed",
    "baselines",
)

SHOWN = (
    "pixel", "hit", "track", "pixel_all_layers", "hit_all_layers", "kept", "noise_left", "count", "bin",
    "mse", "minus_2_ln_l", "pull_intercept_as_trained", "pull_slope_as_trained", "pull_intercept",
    "pull_slope", "covered_68_normal", "covered_95_normal", "covered_68", "covered_95", "accuracy", "purity",
    "efficiency", "assigned",
)  # fmt: skip
"""Figures of merit in the table, in this order, where a row has them."""


def row_of(run: Path) -> tuple[str, Row]:
    """Name and results of a run.

    Raises:
        SchemaError: its metrics.json is missing, or not of a row of track finding.
    """
    path = run / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: metrics[key] for key in KEPT}
        history = [_curve(entry) for entry in metrics["history"]]
        return str(metrics["row"]), {**kept, "history": history, "command": metrics["run"]["command"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SchemaError(
            f"{path}: {type(error).__name__} {error}; expected what alignnet train task=trackfinding leaves"
        ) from error


def collected(store: Path, runs: list[Path]) -> dict[str, Row]:
    """The rows of a store, those of the runs added or replaced; the store is written again."""
    rows: dict[str, Row] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    rows |= dict(row_of(run) for run in runs)
    ordered = dict(sorted(rows.items()))
    with replacing(store) as temporary:
        temporary.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return ordered


LOWER_IS_BETTER, SHOULD_BE_RIGHT = ("loss", "mse", "minus_2_ln_l"), ("pull_", "covered_")
"""Other figures of merit are better where they are higher; pulls and coverage should be right."""


def short_of_print(rows: Mapping[str, Row]) -> list[tuple[str, str]]:
    """Rows that did not reach a printed figure, and which figure that is."""
    short = []
    for name, row in rows.items():
        found = with_roots(row["test"])
        for merit in (m for m in row["printed"] if m in found and not m.startswith(SHOULD_BE_RIGHT)):
            sign = -1 if merit in LOWER_IS_BETTER else 1
            if sign * found[merit] < sign * row["printed"][merit]:
                short.append((name, merit))
    return short


def table(rows: Mapping[str, Row]) -> str:
    """The rows as a table in Markdown."""
    head = (
        "row",
        "system",
        "parameters",
        "events",
        "CPU min",
        "figure",
        "printed",
        "here",
        "without training",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        lines += _lines(name, row)
    return "\n".join(lines) + "\n"


def _lines(name: str, row: Row) -> list[str]:
    found, printed = with_roots(row["test"]), row["printed"]
    baselines = {key: with_roots(values) for key, values in row["baselines"].items()}
    cost = f"{row['parameters']:,} | {row['training_events']:,} | {row['cpu_minutes']:.1f}"
    lines: list[str] = []
    for merit in (m for m in SHOWN if m in found):
        if merit.endswith("_all_layers") and merit not in printed:
            continue
        others = ", ".join(f"{k} {_number(v[merit])}" for k, v in baselines.items() if merit in v)
        first = f"{name} | {row['system']} | {cost}" if not lines else " | | | | "
        was = _number(printed[merit]) if merit in printed else ""
        lines.append(f"| {first} | {merit} | {was} | {_number(found[merit])} | {others} |")
    return lines


def with_roots(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures of merit with the r.m.s. of pulls in the place of their mean squares."""
    return {
        name.replace("pull2", "pull"): value**0.5 if name.startswith("pull2") else value
        for name, value in figures.items()
    }


def _curve(entry: Mapping[str, float]) -> dict[str, float]:
    kept = ("events", "cpu_minutes")
    return {k: round(v, 5) for k, v in entry.items() if k in kept or k.startswith("val/")}


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
