"""What ran, numbers that no other section shows, and the files that lie beside the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignnet.evaluation.report.markup import (
    Column,
    Html,
    element,
    folded,
    html,
    joined,
    link,
    listed,
    pairs,
    table,
)
from alignnet.evaluation.report.numbers import duration, finite, short, size, whole
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.report.track_sections import dca_tables

_SHOWN = {
    "residuals", "chi2_per_ndf", "chi2_per_ndf_before", "chi2_per_ndf_ideal", "n_tracks",
    "n_tracks_rejected", "n_tracks_weightless", "n_rejected", "truth", "truth_rigid_only",
    "truth_layer_rigid", "errors", "pulls", "spectrum", "dca", "n_aligned", "sensors", "seconds",
    "peak_memory_mb", "converged", "convergence", "history", "run", "weak_modes", "volumes", "fit",
    "residual_levels", "surface", "overlaps", "vertex", "decays", "monitor",
}  # fmt: skip
_MOST_ROWS = 100


def what_ran(report: Report) -> Html:
    """Command, detector, data, software, machine and the whole configuration."""
    run = report.run
    facts: list[tuple[str, object]] = [
        (name, html(value)) for name, value in run.get("facts", {}).items() if value
    ]
    seconds, memory = (finite(report.metrics.get(key)) for key in ("seconds", "peak_memory_mb"))
    facts += [("time taken", seconds and duration(seconds)), ("memory, at most", memory and size(memory))]
    software = ", ".join(f"{name} {version}" for name, version in run.get("software", {}).items())
    facts += [("software", software)] if software else []
    config = run.get("config")
    return joined(
        [
            pairs(facts),
            _data(run.get("data") or []),
            folded("Configuration of the run, every key", element("pre", config, tabindex="0"))
            if config
            else "",
        ]
    )


def _data(rows: list[Mapping[str, Any]]) -> Html:
    if not rows:
        return Html("")
    columns = [Column("file", True), Column("size"), Column("events"), Column("tracks"), Column("hits")]
    lines = [
        [row["file"], size(row.get("megabytes")), *(whole(row.get(k)) for k in ("events", "tracks", "hits"))]
        for row in rows
    ]
    return table("Tracks that were read", columns, lines)


def further(report: Report) -> Html:
    """Every number of the metrics that has no section of its own."""
    left = {
        key: value
        for key, value in report.metrics.items()
        if key not in _SHOWN and value not in (None, {}, []) and not any(dca_tables({key: value}))
    }
    return joined(_numbers(key, value) for key, value in left.items())


def _numbers(key: str, value: Any) -> Html:
    rows = list(_flat(value, ""))
    if len(rows) == 1 and not rows[0][0]:
        return pairs([(key, rows[0][1])])
    cut = f"; the first {_MOST_ROWS}, all are in metrics.json" if len(rows) > _MOST_ROWS else ""
    columns = [Column("of", True), Column("number")]
    return folded(f"{key} ({len(rows):,} numbers{cut})", table(key, columns, rows[:_MOST_ROWS]))


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Numbers of nested tables with their paths."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, short(value, 4) if finite(value) is not None else str(value)


def files(report: Report) -> Html:
    """Links to what lies beside the report."""
    if not report.links:
        return Html("")
    return listed(
        Html(link(path) + html(f": {words}" if words else "")) for path, words in report.links.items()
    )
