"""Residuals of sensors and of the volumes that hold them: layers, half-barrels, staves, modules, chips.

Every level comes from the same sums per sensor (`SensorSums`). What is many goes to a table of its own beside
metrics.json; metrics.json has the levels with few volumes, and for each level how far its means scatter.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignnet.data.atomic import replacing
from alignnet.evaluation.hit_sums import KINDS, SensorSums
from alignnet.evaluation.statistics import number
from alignnet.geometry.detector import Detector
from alignnet.units import UM

MIN_HITS = 20
"""Volumes with fewer hits have no mean."""

MOST = 200
"""Levels of more volumes than this have tables of their own, and not their volumes in metrics.json."""

_SIDES = (("left", "right"), ("bottom", "top"))  # of x and of y: below 0, and above


def level_metrics(detector: Detector, sums: Mapping[str, SensorSums]) -> dict[str, Any]:
    """Residuals per level of the hierarchy, for metrics.json.

    Args:
        detector: its names spell the levels.
        sums: by geometry.

    Returns:
        For each level `n_volumes` and, by geometry, `scatter_u_um` and `scatter_v_um`: the r.m.s. of the
        volumes' mean unbiased residuals, weighted by hits, less what their own errors make of it, and
        `scatter_error_u_um`, `scatter_error_v_um`, their standard errors. With up to
        `MOST` volumes also `volumes`: their `name`, their `layer` (None for one of several layers), where
        each layer has two that lie opposite their `side`, and by geometry lists of `n_hits`,
        `<biased|unbiased>_<mean|width>_<u|v>_um`.
    """
    levels = {}
    for level in detector.levels:
        group, names = detector.groups(level)
        row: dict[str, Any] = {"n_volumes": len(names)}
        row |= {name: _scatter(one, group) for name, one in sums.items()}
        if len(names) <= MOST:
            row["volumes"] = {"name": list(names), **_where(detector, group)}
            row["volumes"] |= {n: _columns(one, group) for n, one in sums.items()}
        levels[level] = row
    return {"residual_levels": levels}


def write_levels(folder: Path, detector: Detector, sums: Mapping[str, SensorSums]) -> None:
    """`residuals_<level>.csv` for the sensors, and for each level of more than `MOST` volumes.

    A line a volume: name, layer and, for each geometry, hits, means and widths [µm]; empty where there were
    no hits. Files are whole or not there.

    Args:
        folder: where they go.
        detector: its names spell the levels.
        sums: by geometry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for level in detector.levels:
        group, names = detector.groups(level)
        if len(names) <= MOST and level != "sensor":
            continue
        layer = torch.zeros(len(names), dtype=torch.int64)
        layer[group[group >= 0]] = detector.layer[group >= 0]
        columns: dict[str, list[Any]] = {"name": list(names), "layer": layer.tolist()}
        if level == "sensor":
            columns = {"sensor_id": detector.sensor_id.tolist()} | columns
        for name, one in sums.items():
            columns |= {f"{name}_{key}": values for key, values in _lines(one, group).items()}
        with replacing(folder / f"residuals_{level.lower()}.csv") as temporary:
            _write(temporary, columns)


def _lines(sums: SensorSums, group: Tensor) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"n_hits": sums.of_groups("biased", group)[:, 0, 0].long().tolist()}
    for kind in KINDS:
        mean, width = sums.mean_and_width(kind, group)
        for k, c in enumerate("uv"):
            columns |= {f"{kind}_mean_{c}_um": _text(mean[:, k]), f"{kind}_width_{c}_um": _text(width[:, k])}
    return columns


def _write(path: Path | str, columns: Mapping[str, list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _text(values: Tensor) -> list[str]:
    """Micrometres with three decimals; nothing where there is no number."""
    return [f"{value:.3f}" if value == value else "" for value in (values / UM).tolist()]


def _where(detector: Detector, group: Tensor) -> dict[str, list[Any]]:
    """The layer of each volume and, where each layer has two of them on opposite sides, which these are."""
    inside = group >= 0
    layer, place = detector.layer[inside].double(), detector.translation[inside, :2]
    mean, square, middle, radius = (
        _mean(values, group[inside]) for values in (layer, layer**2, place, place.norm(dim=1))
    )
    one, numbers = (square - mean**2 < 0.01).tolist(), mean.round().long().tolist()
    layers = [number if is_one else None for number, is_one in zip(numbers, one, strict=True)]
    size, axis = middle.abs().max(1)
    if not (all(one) and all(numbers.count(n) == 2 for n in numbers) and bool((size > 0.3 * radius).all())):
        return {"layer": layers}
    signs = (middle.gather(1, axis[:, None]).squeeze(1) > 0).long()
    sides = [_SIDES[k][i] for k, i in zip(axis.tolist(), signs.tolist(), strict=True)]
    distinct = len(set(zip(layers, sides, strict=True))) == len(layers)
    return {"layer": layers} | ({"side": sides} if distinct else {})


def _mean(values: Tensor, group: Tensor) -> Tensor:
    """Mean of each group (groups, …) of values (sensors, …)."""
    total = values.new_zeros(int(group.max()) + 1, *values.shape[1:]).index_add_(0, group, values)
    count = torch.bincount(group).to(values)
    return total / count.view(-1, *[1] * (values.dim() - 1))


def _columns(sums: SensorSums, group: Tensor) -> dict[str, Any]:
    counts = sums.of_groups("biased", group)[:, 0, 0]
    columns: dict[str, Any] = {"n_hits": counts.long().tolist()}
    for kind in KINDS:
        for part, values in zip(("mean", "width"), sums.mean_and_width(kind, group), strict=True):
            values = torch.where(counts[:, None] >= MIN_HITS, values / UM, torch.nan)
            columns |= {
                f"{kind}_{part}_{c}_um": [number(x) for x in values[:, k]] for k, c in enumerate("uv")
            }
    return columns


def _scatter(sums: SensorSums, group: Tensor) -> dict[str, float | None]:
    """How far the volumes' means lie apart beyond their own errors, u and v, with its standard error.

    The variance of the means, weighted by hits, has the standard error √(2 Σ w² m̂⁴) / Σ w with m̂² what is
    expected of a mean's square: the scatter found and the mean's own error; the scatter's is that over 2 s.
    """
    count, first, second = sums.of_groups("unbiased", group).unbind(-1)
    good = count >= MIN_HITS
    mean = first / count.clamp_min(1)
    own = (second / count.clamp_min(1) - mean.square()) / count.clamp_min(1)
    weight = torch.where(good, count, 0.0)
    square = ((mean.square() - own) * weight).sum(0) / weight.sum(0)
    expected = (square.clamp_min(0) + own) * weight
    of_square = (2 * expected.square().sum(0)).sqrt() / weight.sum(0)
    scatter = square.clamp_min(0).sqrt()
    error = of_square / (2 * torch.maximum(scatter, of_square.sqrt() / 2))
    found: dict[str, float | None] = {}
    for k, c in enumerate("uv"):
        found[f"scatter_{c}_um"] = number(scatter[k] / UM)
        found[f"scatter_error_{c}_um"] = number(error[k] / UM)
    return found
