"""Architectures compared over the number of background tracks: a table and a figure.

A system is trained once, on events whose mean number of background tracks is one of several, and tested at
each of them; the published comparison, of which only a picture was shown, trained one for each number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignnet.errors import SchemaError

Comparison = dict[str, dict[str, Any]]
"""Of each system "cpu_minutes", "events", "parameters", and "by_background" as of metrics.json."""

MERITS = {"pixel": "best pixel", "hit": "best lit pixel", "track": "all hits of a track"}
KEPT = {"cpu_minutes": "cpu_minutes", "events": "training_events", "parameters": "parameters"}


def comparison(runs: Mapping[str, Path]) -> Comparison:
    """What is compared, from the folders of runs with `test_backgrounds`, by name.

    Raises:
        SchemaError: a run has no such metrics.json.
    """
    return {name: _compared(run / "metrics.json") for name, run in runs.items()}


def comparison_table(systems: Comparison, merit: str) -> str:
    """One figure of merit in Markdown: a line for each system and baseline, a column for each background."""
    backgrounds = list(next(iter(systems.values()))["by_background"])
    head = ["system", "parameters", "events", "CPU min", *backgrounds]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, system in systems.items():
        cost = f"{system['parameters']:,} | {system['events']:,} | {system['cpu_minutes']:.1f}"
        values = [system["by_background"][b]["system"][merit] for b in backgrounds]
        lines.append(f"| {name} | {cost} | {_numbers(values)} |")
    for name, by_background in _baselines(systems).items():
        lines.append(f"| {name} | | | | {_numbers([by_background[b][merit] for b in backgrounds])} |")
    return "\n".join(lines) + "\n"


def comparison_figure(systems: Comparison) -> Figure:
    """Each figure of merit against the mean number of background tracks; baselines dashed."""
    figure = Figure(figsize=(4.2 * len(MERITS), 3.8), layout="constrained")
    axes = figure.subplots(1, len(MERITS), sharex=True)
    for axis, (merit, words) in zip(axes, MERITS.items(), strict=True):
        for name, system in systems.items():
            scores = {b: found["system"] for b, found in system["by_background"].items()}
            _draw(axis, scores, merit, "o-", name)
        for name, scores in _baselines(systems).items():
            _draw(axis, scores, merit, "k--" if name == "road_following" else "k:", name)
        axis.set(xscale="log", xlabel="mean number of background tracks", title=words)
    axes[0].set_ylabel("right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _compared(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if not metrics["by_background"]:
            raise ValueError("by_background is empty")
        kept = {name: metrics[key] for name, key in KEPT.items()}
        return {**kept, "by_background": metrics["by_background"], "command": metrics["run"]["command"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SchemaError(
            f"{path}: {type(error).__name__} {error}; expected what alignnet train task=trackfinding leaves "
            "with test_backgrounds=[1,10,50]"
        ) from error


def _baselines(systems: Comparison) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of each baseline by background, those of the first system's events."""
    by_background = next(iter(systems.values()))["by_background"]
    names = [name for name in next(iter(by_background.values())) if name != "system"]
    return {name: {b: found[name] for b, found in by_background.items()} for name in names}


def _draw(axis: Axes, scores: Mapping[str, Mapping[str, float]], merit: str, line: str, name: str) -> None:
    axis.plot([float(b) for b in scores], [s[merit] for s in scores.values()], line, label=name, markersize=3)


def _numbers(values: list[float]) -> str:
    return " | ".join(f"{value:.4f}" for value in values)
