"""One evaluation of an alignment: every number, table and picture, before, after and, where known, ideal."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignnet.data.atomic import replacing
from alignnet.data.event_table import EventTable
from alignnet.data.root_volumes import LevelAnswer
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.evaluation import plots
from alignnet.evaluation.attention import SensorAnswer, sensor_metrics
from alignnet.evaluation.dca_sample import VERTICES, check_vertex
from alignnet.evaluation.decays import decays_of
from alignnet.evaluation.figures import figures_of, write_pictures
from alignnet.evaluation.levels import level_metrics, write_levels
from alignnet.evaluation.numbers import DEFAULT_NUMBERS, NUMBERS, sums_of
from alignnet.evaluation.residuals import ResidualSummary, residual_summary
from alignnet.evaluation.stream import TrackStream, events_of
from alignnet.evaluation.tables import show
from alignnet.evaluation.truth import truth_recovery
from alignnet.evaluation.uncertainty import error_metrics, pull_metrics, spectrum_metrics
from alignnet.evaluation.volumes import volume_metrics
from alignnet.evaluation.weak_modes import AIM, mode_metrics
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.errors import Errors
from alignnet.solvers.mode_errors import ModeErrors
from alignnet.solvers.spectrum import Spectrum

log = logging.getLogger("alignnet.evaluation")


@dataclass(frozen=True)
class Evaluation:
    """What is compared, and on which tracks.

    Args:
        detector: the nominal places.
        loss: the run's cost.
        tracks: whole events, in memory or read as they go by.
        before, after: local sixes (sensors, 6).
        truth: the true ones of a simulation, or None.
        aligned: sensors that truth recovery counts (sensors,).
        error_draws: draws of the answer's statistical errors, for the limit.
        errors: errors of all sensors together, where they were worked out.
        spectrum: the least known motions, where they were looked for.
        answer: what else is known of each sensor, for those that need attention.
        dca_vertex: "given", "leave_one_out" or "truth".
        max_chi2_per_ndf: leave out tracks beyond it.
        numbers: what to find beside residuals, χ² and DCA, of `alignnet.evaluation.numbers.NUMBERS`.
        decays: to be searched for, with changes of their cuts, of `alignnet.evaluation.decays.DECAYS`.
        modes: how well weak modes are known, where it was worked out.
        mode_aim: to what amplitude [cm] they should be.
        levels: what was found for volumes above the sensors.

    Raises:
        ConfigError: a value cannot be used.
    """

    detector: Detector
    loss: HelixChi2
    tracks: Tracks | EventTable
    before: Tensor
    after: Tensor
    truth: Tensor | None
    aligned: Tensor
    error_draws: Sequence[Tensor] = ()
    errors: Errors | None = None
    spectrum: Spectrum | None = None
    answer: SensorAnswer | None = None
    dca_vertex: str = "given"
    max_chi2_per_ndf: float | None = None
    numbers: Sequence[str] = DEFAULT_NUMBERS
    decays: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    modes: ModeErrors | None = None
    mode_aim: float = AIM
    levels: Sequence[LevelAnswer] = ()

    def __post_init__(self) -> None:
        if self.dca_vertex not in VERTICES:
            raise ConfigError(f"evaluation.dca_vertex is {self.dca_vertex!r}; choose from {list(VERTICES)}")
        decays_of(self.decays)
        if unknown := sorted(set(self.numbers) - set(NUMBERS)):
            raise ConfigError(f"evaluation.numbers has {unknown}; choose from {list(NUMBERS)}")
        if self.max_chi2_per_ndf is not None and not self.max_chi2_per_ndf > 0:
            raise ConfigError(
                f"evaluation.max_chi2_per_ndf is {self.max_chi2_per_ndf}; expected a number > 0, or null"
            )

    @property
    def geometries(self) -> dict[str, Tensor]:
        """Local sixes by name, the truth last where it is known."""
        known = {"before": self.before, "after": self.after}
        return known if self.truth is None else {**known, "ideal": self.truth}

    def run(self, folder: Path, history: Sequence[Mapping[str, float]] = ()) -> dict[str, Any]:
        """Numbers for metrics.json; pictures go to `folder`."""
        check_vertex(self.tracks.truth, self.dca_vertex)
        stream = self.stream()
        sums = stream.run(self.sums)
        summaries = sums["residuals"].summaries
        metrics: dict[str, Any] = {"dca": None}
        for found in sums.values():
            metrics |= found.metrics()
        if "levels" in self.numbers:
            per_sensor = {name: one.sensors for name, one in summaries.items()}
            metrics |= level_metrics(self.detector, per_sensor)
            write_levels(folder, self.detector, per_sensor)
        if self.max_chi2_per_ndf is not None:
            metrics["n_rejected"] = stream.n_rejected
        if self.truth is not None:
            metrics |= truth_recovery(
                self.detector, self.before, self.after, self.truth, self.aligned, self.error_draws
            )
        metrics |= self.uncertainty()
        metrics["n_aligned"] = int(self.aligned.sum())
        if self.answer is not None:
            table = summaries["after"].sensor_table
            metrics["sensors"] = sensor_metrics(self.detector, self.after, table, self.answer)
        self.draw(folder, metrics, summaries, history)
        return metrics

    def stream(self) -> TrackStream:
        """The tracks, once, in all geometries."""
        return TrackStream(
            self.loss,
            self.detector,
            self.tracks,
            self.geometries,
            self.has_dca,
            overlaps="overlaps" in self.numbers,
            max_chi2_per_ndf=self.max_chi2_per_ndf,
        )

    @property
    def has_dca(self) -> bool:
        """Whether tracks are taken to vertices: where there is a field."""
        return self.detector.b_z != 0

    def sums(self) -> dict[str, Any]:
        """What is added up of the tracks, by name."""
        return sums_of(
            self.detector, list(self.geometries), self.dca_vertex, self.numbers, decays_of(self.decays)
        )

    def residuals(self, local: Tensor) -> ResidualSummary:
        """One pass over the tracks with the sensors at `local`."""
        sensors = SensorLayer.at(self.detector, local)
        batches = events_of(self.tracks, self.detector).batches()
        return residual_summary(self.loss, sensors, self.detector, batches)

    def uncertainty(self) -> dict[str, Any]:
        """What is known of the errors."""
        metrics: dict[str, Any] = {}
        if self.errors is not None:
            metrics["errors"] = error_metrics(self.detector, self.errors, self.aligned)
        if self.errors is not None and self.truth is not None:
            metrics["pulls"] = pull_metrics(self.detector, self.errors, self.after, self.truth, self.aligned)
        if self.spectrum is not None:
            metrics["spectrum"] = spectrum_metrics(self.detector, self.spectrum)
        if self.modes is not None:
            metrics["weak_modes"] = mode_metrics(
                self.detector, self.modes, self.before, self.after, self.truth, self.mode_aim
            )
        if self.levels:
            metrics["volumes"] = volume_metrics(self.detector, self.levels)
        return metrics

    def draw(
        self,
        folder: Path,
        metrics: Mapping[str, Any],
        summaries: Mapping[str, ResidualSummary],
        history: Sequence[Mapping[str, float]],
    ) -> None:
        """Write the pictures."""
        figures = {
            "residuals": plots.residuals_per_layer(metrics["residuals"]),
            "residual_histograms": plots.residual_histograms(
                summaries["after"], summaries["before"], summaries.get("ideal")
            ),
        }
        figures |= figures_of(metrics)
        if history:
            figures["convergence"] = plots.convergence(history, metrics.get("chi2_per_ndf_ideal"))
        for layer in self.detector.layers:
            figures[f"corrections_layer{layer}"] = plots.correction_map(self.detector, self.after, layer)
        write_pictures(folder, figures)


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """metrics.json, whole or not at all; numbers that are not finite become null."""
    with replacing(path) as temporary:
        Path(temporary).write_text(json.dumps(_finite(metrics), indent=1, ensure_ascii=False) + "\n")


def report(metrics: Mapping[str, Any], folder: Path) -> None:
    """The tables on the terminal, and where the pictures are."""
    show(metrics)
    before, after, ideal = (metrics.get(f"chi2_per_ndf{which}") for which in ("_before", "", "_ideal"))
    parts = [
        f"{name} {value:.4g}"
        for name, value in (("before", before), ("after", after), ("ideal", ideal))
        if value
    ]
    log.info("χ²/ndf: %s (%s tracks)", ", ".join(parts), f"{metrics['n_tracks']:,}")
    weightless = metrics.get("n_tracks_weightless") or 0
    if unfitted := metrics["n_tracks_rejected"] - weightless:
        log.info("%s tracks cannot be fitted and are left out", f"{unfitted:,}")
    if weightless:
        log.info("%s tracks weigh nothing: the robust weights of the cost cut them", f"{weightless:,}")
    log.info("pictures: %s", folder)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, torch.Tensor):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
