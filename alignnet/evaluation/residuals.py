"""Residuals of tracks in one pass: biased and unbiased, per layer and sensor, and what widths to expect.

* A *biased* residual (predicted minus measured) is of a hit that the path was fitted to, kinks included
  (`alignnet.loss.residuals.path_residual`): narrow, as paths are free to follow the hits.
* An *unbiased* one is against the track fitted without the hit (`alignnet.solvers.unbiased`). Its expected
  width follows from the weights alone, so that measured over expected, the width of the *pulls*, is 1 for a
  detector that is where the fit believes it is.

Widths are standard deviations. Core widths are half the central 68.27 % interval, which wrong matches do not
widen. Unbiased residuals of slow tracks scatter by far more than others: what lies *within*, the ± of zero
that holds 68.27 % of the hits, is what a layer is judged by, against the same of Gaussians with the expected
widths. Hits are those of tracks with weight in the cost; unbiased residuals are of those hits without which
the track is still known (`fitted_tracks.LEAST_KNOWN`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation.fitted_tracks import FittedTracks, TrackFitter
from alignnet.evaluation.hit_sums import SensorSums, add_hits, add_hits_pays
from alignnet.evaluation.places import Places
from alignnet.evaluation.statistics import Histogram, number
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.residuals import LayerSums
from alignnet.sensors.sensor import SensorLayer
from alignnet.units import UM

_FINE, _LARGEST = 2e-4, 2.0  # [cm] bins of residuals: about 0.1 µm wide at 0, none beyond 2 cm
_TOTALS = ("chi2", "vertex", "ndf", "used", "fitted", "tracks")


class Spread:
    """Moments and a histogram of two columns, per group."""

    def __init__(self, group: Tensor, scale: float, largest: float) -> None:
        self.sums, self.histogram = LayerSums(group), Histogram(len(group.unique()), scale, largest)

    def add(self, values: Tensor, sensor: Tensor, keep: Tensor) -> None:
        """Add (tracks, hits, 2) of sensors (tracks, hits) where `keep` (tracks, hits) and finite."""
        if add_hits_pays(values):
            add_hits(values, sensor, keep, self.sums, self.histogram)
            return
        keep = keep & values.isfinite().all(-1)
        self.sums.add(values, sensor, keep)
        self.histogram.add(values[keep], self.sums.index[sensor[keep].cpu()])

    def merge(self, other: Spread) -> None:
        """Add what another has seen of other hits."""
        self.sums.sums += other.sums.sums
        self.histogram.counts += other.histogram.counts

    @property
    def count(self) -> Tensor:
        """Number of hits (groups,)."""
        return self.sums.sums[:, 0, 0]

    @property
    def mean(self) -> Tensor:
        """(groups, 2)."""
        return self.sums.mean_and_width()[0]

    @property
    def width(self) -> Tensor:
        """Standard deviation (groups, 2)."""
        return self.sums.mean_and_width()[1]

    @property
    def core_width(self) -> Tensor:
        """Half the central 68.27 % interval (groups, 2)."""
        return self.histogram.core_width()

    @property
    def within(self) -> Tensor:
        """68.27 % of the hits lie within ± this of 0 (groups, 2)."""
        return self.histogram.within()


@dataclass
class ResidualSummary:
    """Residuals [cm] and χ² of the tracks of a pass; groups of `Spread` are the `layers`."""

    layers: list[int]
    biased: Spread
    unbiased: Spread
    pull: Spread  # unbiased residuals over their expected widths
    expected: Spread  # of the expected widths of unbiased residuals
    sensors: SensorSums  # per sensor
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TOTALS, 0.0))

    @classmethod
    def of(cls, detector: Detector) -> ResidualSummary:
        """Of no tracks yet."""
        layer = detector.layer
        return cls(
            layers=detector.layers,
            biased=Spread(layer, _FINE, _LARGEST),
            unbiased=Spread(layer, _FINE, _LARGEST),
            pull=Spread(layer, 0.5, 1e4),
            expected=Spread(layer, _FINE, _LARGEST),
            sensors=SensorSums(len(detector)),
        )

    @property
    def expected_width(self) -> Tensor:
        """R.m.s. of the expected widths of unbiased residuals (layers, 2)."""
        count, _, square = self.expected.sums.sums.unbind(-1)
        return (square / count).sqrt()

    @property
    def expected_within(self) -> Tensor:
        """± of zero that should hold 68.27 % of the unbiased residuals (layers, 2)."""
        return self.expected.histogram.within_of_widths()

    @property
    def sensor_table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hits (sensors,), mean and standard deviation of biased residuals (sensors, 2); NaN without hits."""
        return self.sensors.count, *self.sensors.mean_and_width("biased")

    @property
    def chi2_per_ndf(self) -> float:
        """Σ χ² / Σ ν, with the tracks' weights, vertex part included; NaN without tracks."""
        return self._per_ndf("chi2")

    @property
    def chi2_vertex_per_ndf(self) -> float:
        """The vertex' part of it."""
        return self._per_ndf("vertex")

    @property
    def n_tracks(self) -> int:
        """Tracks that were used."""
        return round(self.totals["used"])

    @property
    def n_rejected(self) -> int:
        """Tracks that are not used: those that cannot be fitted, and those that weigh nothing."""
        return round(self.totals["tracks"] - self.totals["used"])

    @property
    def n_weightless(self) -> int:
        """Tracks with a fit that the robust weights cut, or with too large a χ²/ν."""
        return round(self.totals["fitted"] - self.totals["used"])

    def add(self, tracks: FittedTracks) -> None:
        """Add a batch's tracks."""
        sensor, keep = tracks.batch.sensor, tracks.used_hits
        self.biased.add(tracks.biased, sensor, keep)
        self.unbiased.add(tracks.unbiased, sensor, keep)
        self.pull.add(tracks.unbiased / tracks.expected, sensor, keep)
        self.expected.add(tracks.expected, sensor, keep)
        self.sensors.add(tracks.biased, tracks.unbiased, sensor, keep)
        used, fitted = tracks.weight > 0, tracks.chi2.isfinite()
        values = (*tracks.sums, int(used.sum()), int((used | fitted).sum()), len(used))
        for name, value in zip(_TOTALS, values, strict=True):
            self.totals[name] += value

    def merge(self, other: ResidualSummary) -> None:
        """Add what another has seen of other tracks."""
        for name in ("biased", "unbiased", "pull", "expected", "sensors"):
            getattr(self, name).merge(getattr(other, name))
        for name in _TOTALS:
            self.totals[name] += other.totals[name]

    def _per_ndf(self, name: str) -> float:
        return self.totals[name] / self.totals["ndf"] if self.totals["ndf"] else float("nan")


@torch.no_grad()
def residual_summary(
    loss: HelixChi2,
    sensors: SensorLayer,
    detector: Detector,
    batches: Iterable[Batch],
    max_chi2_per_ndf: float | None = None,
) -> ResidualSummary:
    """Residuals of all tracks of some batches, of which one is in memory at a time.

    Args:
        loss: fits the tracks and gives weights and widths.
        sensors: where the sensors are.
        detector: their layers.
        batches: events.
        max_chi2_per_ndf: leave out tracks with a larger χ²/ν (wrong matches).
    """
    summary, places = ResidualSummary.of(detector), Places(detector, sensors.local())
    fitter = TrackFitter(loss, detector, free=False)
    for batch in batches:
        if batch.n_tracks:
            summary.add(fitter(places, batch, max_chi2_per_ndf))
    return summary


def residual_metrics(
    after: ResidualSummary, before: ResidualSummary | None = None, ideal: ResidualSummary | None = None
) -> dict[str, Any]:
    """Numbers for metrics.json: `residuals.layer<N>.<u|v>`, `chi2_per_ndf…`, `n_tracks`; widths in µm.

    Args:
        after: with the sensors where the alignment puts them.
        before: where it started from.
        ideal: where they really are, in a simulation.
    """
    residuals = {
        f"layer{layer}": {name: _row(after, before, i, k) for k, name in enumerate("uv")}
        for i, layer in enumerate(after.layers)
    }
    return {
        "residuals": residuals,
        "chi2_per_ndf": number(after.chi2_per_ndf),
        "chi2_vertex_per_ndf": number(after.chi2_vertex_per_ndf),
        "chi2_per_ndf_before": None if before is None else number(before.chi2_per_ndf),
        "chi2_per_ndf_ideal": None if ideal is None else number(ideal.chi2_per_ndf),
        "n_tracks": after.n_tracks,
        "n_tracks_rejected": after.n_rejected,
        "n_tracks_weightless": after.n_weightless,
    }


def _row(after: ResidualSummary, before: ResidualSummary | None, i: int, k: int) -> dict[str, Any]:
    row: dict[str, Any] = {"n_hits": round(float(after.biased.count[i]))}
    row["n_hits_unbiased"] = round(float(after.unbiased.count[i]))
    row |= _widths("", after.biased, i, k) | _widths("unbiased_", after.unbiased, i, k)
    row["unbiased_within_um"] = number(after.unbiased.within[i, k] / UM)
    row["expected_unbiased_width_um"] = number(after.expected_width[i, k] / UM)
    row["expected_unbiased_within_um"] = number(after.expected_within[i, k] / UM)
    row["pull_width"] = number(after.pull.width[i, k])
    row["pull_core_width"] = number(after.pull.core_width[i, k])
    if before is not None:
        row["unbiased_before_within_um"] = number(before.unbiased.within[i, k] / UM)
        row |= _widths("before_", before.biased, i, k) | _widths("unbiased_before_", before.unbiased, i, k)
    return row


def _widths(prefix: str, spread: Spread, i: int, k: int) -> dict[str, float | None]:
    columns = {"mean": spread.mean, "width": spread.width, "core_width": spread.core_width}
    return {f"{prefix}{name}_um": number(values[i, k] / UM) for name, values in columns.items()}
