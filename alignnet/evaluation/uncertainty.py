"""What an answer says of its own errors: σ by layer, pulls where the truth is known, the least known motions.

A pull is what is left between answer and truth over its σ, both without rigid motions of the whole: these are
taken out of the difference and of the errors by the same projection, over the aligned sensors. Pulls of width
1 are errors that cover the truth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.geometry.mode_names import ModeNames
from alignnet.geometry.recovery import displacement_metric
from alignnet.geometry.surface import column_names, padded
from alignnet.geometry.weak_modes import rigid_motion_basis
from alignnet.solvers.errors import Errors, Removal
from alignnet.solvers.spectrum import Spectrum
from alignnet.units import MRAD, UM


def error_metrics(detector: Detector, errors: Errors, aligned: Tensor) -> dict[str, Any]:
    """The errors' kind, how well they are known, and the median σ of each layer's aligned sensors.

    Returns:
        `{"kind": "exact" or "draws", "n_draws", "relative": median standard error of σ over σ,
        "layer0": {"du_um", "dv_um", "dw_um", "rot_u_mrad", "rot_v_mrad", "rot_w_mrad"}, …}`, and of surfaces
        "w20_um", ….
    """
    known = aligned[:, None] & (errors.sigma > 0)
    relative = float(errors.relative[known].median()) if known.any() else None
    kind = "draws" if errors.n_draws else "exact"
    rows: dict[str, Any] = {"kind": kind, "n_draws": errors.n_draws, "relative": relative}
    for layer in detector.layers:
        mine = aligned & (detector.layer == layer)
        if mine.any():
            rows[f"layer{layer}"] = _medians(errors.sigma[mine])
    return rows


def _medians(sigma: Tensor) -> dict[str, float]:
    names = column_names(sigma.shape[1])
    units = [("um", UM)] * 3 + [("mrad", MRAD)] * 3 + [("um", UM)] * (len(names) - 6)
    values = sigma.nanmedian(0).values.tolist()
    return {f"{n}_{unit}": v / scale for n, v, (unit, scale) in zip(names, values, units, strict=True)}


def pull_metrics(
    detector: Detector, errors: Errors, after: Tensor, truth: Tensor, aligned: Tensor
) -> dict[str, Any]:
    """R.m.s. of (answer − truth) / σ of each layer and degree of freedom, and of all, rigid motions removed.

    Args:
        errors: of all sensors together.
        after, truth: local sixes (sensors, 6), with amplitudes of surfaces or without.
        aligned: sensors that count (sensors,).

    Returns:
        `{"layer0": {"du": width, …}, …, "all": {…, "all": width}}`; None where nothing was free.
    """
    n = errors.sigma.shape[-1]
    metric = displacement_metric(detector, n) * aligned[:, None, None]
    motions = torch.cat([errors.removal.motions, padded(rigid_motion_basis(detector), n)])
    removal = Removal(motions, metric)
    off = padded(after, n)[:, :n] - padded(truth, n)[:, :n]
    (sigma, relative), left = errors.without(removal), removal(off)
    free = (errors.sigma > 0) & aligned[:, None]
    square = torch.where(free, left / sigma.clamp_min(1e-300), torch.nan).square()
    square = square * (1 - 4 * relative.square())  # the mean of 1 over an estimate of σ² exceeds 1/σ²
    rows = {f"layer{n}": _widths(square[detector.layer == n]) for n in detector.layers}
    return rows | {"all": _widths(square) | {"all": _rms(square)}}


def _widths(square: Tensor) -> dict[str, float | None]:
    return {name: _rms(square[:, k]) for k, name in enumerate(column_names(square.shape[1]))}


def _rms(square: Tensor) -> float | None:
    known = square[square.isfinite()]
    return float(known.mean().sqrt()) if len(known) else None


def spectrum_metrics(detector: Detector, spectrum: Spectrum) -> dict[str, Any]:
    """The least known motions with their names.

    Returns:
        `{"n_null", "gap", "converged", "modes": [{"name", "amplitude_um", "cost", "rigid", "weak",
        "overlaps": {…}}, …]}`; amplitude_um is None for null modes.
    """
    names = ModeNames(detector, spectrum.motion.shape[-1])
    modes = []
    for amplitude, cost, motion in zip(
        spectrum.amplitude.tolist(), spectrum.cost.tolist(), spectrum.motion, strict=True
    ):
        name = names(motion)
        known = amplitude / UM if amplitude < float("inf") else None
        modes.append(
            {"name": str(name), "amplitude_um": known, "cost": cost, "rigid": name.rigid, "weak": name.weak,
             "overlaps": name.overlaps}
        )  # fmt: skip
    return {
        "n_null": spectrum.n_null,
        "gap": spectrum.gap,
        "converged": spectrum.converged,
        "modes": modes,
    }
