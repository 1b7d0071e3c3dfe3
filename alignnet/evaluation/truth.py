"""How near an alignment came to the truth, layer by layer, beside what its data could tell at best.

R.m.s. over a layer's aligned sensors of the remaining displacement of their corners and centres along u, v
and w:

* `truth`: rigid motions of the whole and the weak modes removed, which the data hardly see;
* `truth_rigid_only`: only the rigid motions of the whole removed;
* `truth_layer_rigid`: each layer's own rigid motion removed instead: how well its sensors stand to each
  other. Layers of one sensor have no such number.

The statistical limit is the same r.m.s. of draws from the covariance of the answer, H⁻¹ on the same data;
`efficiency = limit / after` is 1 for an answer that took all that its data know. A layer of few sensors has
nearly one common error, so that a single answer differs from the limit by chance: by `limit_spread`, the
standard deviation of the r.m.s. of single draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.evaluation.statistics import number
from alignnet.geometry.detector import Detector
from alignnet.geometry.recovery import Recovery, collective_rates, difference, displacement
from alignnet.geometry.surface import padded
from alignnet.units import UM

COORDINATES = ("u", "v", "w")
_NOTHING_UM = 1e-6  # what is left of a layer of one sensor without its rigid motion


def truth_recovery(
    detector: Detector,
    before_local: Tensor,
    after_local: Tensor,
    truth_local: Tensor,
    selected: Tensor,
    limit_draws: Sequence[Tensor] | None = None,
) -> dict[str, Any]:
    """Remaining displacements before and after an alignment, and their statistical limit.

    Args:
        detector: the nominal places.
        before_local: local six that the alignment started from (sensors, 6).
        after_local: those that it found (sensors, 6).
        truth_local: the true ones (sensors, 6).
        selected: sensors that count, those of status 0 (sensors,).
        limit_draws: draws of the answer's statistical errors, each (sensors, 6); averaged in quadrature.

    Returns:
        `{"truth": {"layer0": {"u": {"before_um", "after_um", "limit_um", "limit_spread_um", "efficiency"},
        …}, …}, "truth_rigid_only": …, "truth_layer_rigid": …}`; without draws the last three numbers are
        None. Layers without selected sensors are left out.

    Raises:
        GeometryError: a table has another shape than (sensors, 6), with amplitudes of surfaces or without.
    """
    tables = {"before": before_local, "after": after_local, "truth": truth_local}
    for name, table in tables.items():
        if table.ndim != 2 or len(table) != len(detector) or table.shape[1] < 6:
            raise GeometryError(
                f"local six `{name}` has shape {tuple(table.shape)}, expected ({len(detector)}, 6)"
            )
    columns = max(table.shape[1] for table in (*tables.values(), *(limit_draws or ())))
    before, after, truth = (padded(table, columns) for table in tables.values())
    moves = {
        "before_um": [difference(before, truth, detector)],
        "after_um": [difference(after, truth, detector)],
        "limit_um": [displacement(detector, padded(draw, columns)) for draw in limit_draws or ()],
    }
    recoveries = _recoveries(detector, selected, columns)
    return {kind: _rows(detector, found, moves) for kind, found in recoveries.items()}


def _recoveries(detector: Detector, selected: Tensor, columns: int) -> dict[str, list[Recovery]]:
    """What is removed, by name; the third kind has a projection for each layer."""
    layers = [selected & (detector.layer == layer) for layer in detector.layers]
    rates = collective_rates(detector, True, columns)
    return {
        "truth": [Recovery(detector, selected, rates=rates)],
        "truth_rigid_only": [Recovery(detector, selected, rates=rates[:6])],
        "truth_layer_rigid": [Recovery(detector, m, rates=rates[:6]) for m in layers if m.sum() > 1],
    }


def _rows(detector: Detector, recoveries: list[Recovery], moves: dict[str, list[Tensor]]) -> dict[str, Any]:
    found = {name: _rms(recoveries, draws) for name, draws in moves.items()}
    rows: dict[str, Any] = {}
    for layer in found["after_um"]:
        rows[f"layer{layer}"] = {}
        for k, coordinate in enumerate(COORDINATES):
            every = {name: rms[layer][:, k] / UM if rms else None for name, rms in found.items()}
            row: dict[str, Any] = {name: _quadratic_mean(rms) for name, rms in every.items()}
            row["limit_spread_um"] = _spread(every["limit_um"])
            known = row["limit_um"] is not None and row["after_um"] > _NOTHING_UM
            row["efficiency"] = number(row["limit_um"] / row["after_um"]) if known else None
            rows[f"layer{layer}"][coordinate] = row
    return rows


def _rms(recoveries: list[Recovery], draws: list[Tensor]) -> dict[int, Tensor]:
    """R.m.s. along u, v, w of each layer and draw (draws, 3) [cm]; empty without draws."""
    found: dict[int, list[Tensor]] = {}
    for draw in draws:
        for recovery in recoveries:
            for layer, rms in recovery.per_layer(draw).items():
                found.setdefault(layer, []).append(torch.tensor(rms, dtype=torch.float64))
    return {layer: torch.stack(rms) for layer, rms in found.items()}


def _quadratic_mean(rms: Tensor | None) -> float | None:
    return None if rms is None else number(rms.square().mean().sqrt())


def _spread(rms: Tensor | None) -> float | None:
    """By how much one alignment's r.m.s. differs from another's with other tracks."""
    return None if rms is None or len(rms) < 2 else number(rms.std())
