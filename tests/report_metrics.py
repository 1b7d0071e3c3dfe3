"""Metrics of an alignment that is as good as they get, to be spoilt by tests of its report."""

from __future__ import annotations

from typing import Any


def good_metrics() -> dict[str, Any]:
    """Converged, at the statistical limit, nothing left out."""
    row = {"before_um": 20.0, "after_um": 1.0, "limit_um": 1.0, "limit_spread_um": 0.05, "efficiency": 1.0}
    reasons = ["expected Δχ² 0.002 an unknown"]
    return {
        "converged": True,
        "convergence": {"converged": True, "reasons": reasons, "epochs": 2},
        "history": [
            {"epoch": float(i), "train/chi2_per_ndf": chi2, "val/chi2_per_ndf": 1.0, "train/step_um": step}
            for i, (chi2, step) in enumerate([(3.5, 30.0), (1.0, 0.5)])
        ],
        "chi2_per_ndf_before": 3.5,
        "chi2_per_ndf": 1.003,
        "chi2_per_ndf_ideal": 1.0,
        "n_tracks": 20_000,
        "n_tracks_rejected": 0,
        "n_aligned": 24,
        "sensors": sensors(),
        "dca": {"before": dca(5.0, 1.5), "after": dca(0.1, 1.004), "ideal": dca(0.0, 1.0)},
        "dca_by": {
            by: {"before": dca(5.0, 1.5, by), "after": dca(0.1, 1.004, by), "ideal": dca(0.0, 1.0, by)}
            for by in ("phi", "charge", "top")
        },
        "truth": {f"layer{n}": {c: dict(row) for c in "uvw"} for n in range(4)},
        "errors": {"kind": "exact", "n_draws": 0, "relative": 0.0},
        "pulls": {"all": {"all": 1.01}},
        "spectrum": {"n_null": 6, "gap": 10.0, "converged": True, "modes": [mode("twist 0.83", 2.0)]},
    }


def dca(mean: float, ratio: float, by: str = "pt") -> dict[str, list[float]]:
    """A table in two bins of p_T, or of something else."""
    table: dict[str, list[float]] = {f"{by}_low": [0.2, 1.0], f"{by}_high": [1.0, 5.0], "n": [9000, 11000]}
    for c in ("xy", "z"):
        columns = {"mean": mean, "mean_error": 0.4, "width": 50 * ratio, "width_error": 0.3}
        columns |= {"mean_difference": mean, "mean_difference_error": 0.05}
        table |= {f"{name}_{c}_um": [value, -value / 2 or 0.0] for name, value in columns.items()}
        table |= {f"mean_difference_error_{c}_um": [0.05, 0.05]}
        table |= {f"width_{c}_um": [50 * ratio, 20 * ratio], f"mean_error_{c}_um": [0.4, 0.2]}
        table |= {f"width_ratio_{c}": [ratio, ratio], f"width_ratio_error_{c}": [0.002, 0.002]}
        table[f"pull_{c}"] = [ratio, ratio]
    return table


def mode(name: str, amplitude: float | None, rigid: float = 0.1) -> dict[str, Any]:
    """One of the least known motions."""
    return {"name": name, "amplitude_um": amplitude, "cost": 1.0, "rigid": rigid, "weak": 0.8, "overlaps": {}}


def sensors(**faults: int) -> dict[str, Any]:
    """24 aligned sensors, some of them at fault."""
    counts = {"n": 24, "aligned": 24, "fixed": 0, "too_few_hits": 0, "without_hits": 0}
    by_reason = {"residuals": 0, "correction": 0, "prior": 0, "error": 0, "few hits": 0} | faults
    return {**counts, "attention": {"n": sum(faults.values()), "by_reason": by_reason, "worst": []}}
