"""What an evaluation adds up of the tracks that go by (`TrackStream`), a class each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from alignnet.evaluation.dca import EDGES, DcaSums
from alignnet.evaluation.dca_sample import Approach, sample_of
from alignnet.evaluation.decays import Decay, Decays
from alignnet.evaluation.fit_quality import FitQuality
from alignnet.evaluation.monitor import MonitorResiduals
from alignnet.evaluation.overlaps import Overlaps
from alignnet.evaluation.residuals import ResidualSummary, residual_metrics
from alignnet.evaluation.stream import Passed
from alignnet.evaluation.surface_maps import SurfaceMaps
from alignnet.evaluation.vertex_numbers import VertexNumbers
from alignnet.geometry.detector import Detector

NUMBERS = {
    "dca_by": "DCA against φ, η, charge and the halves of the barrel, beside p_T",
    "levels": "residuals of half-barrels, staves, modules and sensors",
    "fit": "distributions of χ²/ν and of the p-value",
    "surface": "mean residuals over the sensors' surfaces",
    "vertex": "the events' vertices",
    "overlaps": "double differences of residuals where sensors overlap",
    "monitor": "circle-fit residuals as ALICE's quality control has them",
}
"""What `Evaluation.numbers` may hold."""

DEFAULT_NUMBERS = tuple(name for name in NUMBERS if name != "monitor")


class ByGeometry:
    """Sums of one kind, for each geometry.

    Args:
        key: under which metrics.json has their numbers.
        geometries: their names.
        make: sums of nothing yet.
        takes: what they add of a batch in one geometry.
    """

    def __init__(
        self,
        key: str,
        geometries: Sequence[str],
        make: Callable[[], Any],
        takes: Callable[[Passed, str], tuple[Any, ...]],
    ) -> None:
        self.key, self.takes, self.sums = key, takes, {name: make() for name in geometries}

    def add(self, passed: Passed) -> None:
        """Add a batch."""
        for name, sums in self.sums.items():
            sums.add(*self.takes(passed, name))

    def merge(self, other: ByGeometry) -> None:
        """Add what another has seen."""
        for name, sums in self.sums.items():
            sums.merge(other.sums[name])

    def metrics(self) -> dict[str, Any]:
        """By geometry."""
        return {self.key: {name: sums.metrics() for name, sums in self.sums.items()}}


class Residuals:
    """`ResidualSummary` of every geometry."""

    def __init__(self, detector: Detector, geometries: Sequence[str]) -> None:
        self.summaries = {name: ResidualSummary.of(detector) for name in geometries}

    def add(self, passed: Passed) -> None:
        """Add a batch."""
        for name, summary in self.summaries.items():
            summary.add(passed.fitted[name])

    def merge(self, other: Residuals) -> None:
        """Add what another has seen."""
        for name, summary in self.summaries.items():
            summary.merge(other.summaries[name])

    def metrics(self) -> dict[str, Any]:
        """`residuals`, χ² and numbers of tracks."""
        found = self.summaries
        return residual_metrics(found["after"], found["before"], found.get("ideal"))


class Dca:
    """DCA of the tracks that every geometry knows.

    Args:
        approach: takes tracks to vertices.
        geometries: their names.
        edges: bins, as `DcaSums` takes them.
    """

    def __init__(
        self, approach: Approach, geometries: Sequence[str], edges: Mapping[str, Sequence[float]]
    ) -> None:
        self.reference = "ideal" if "ideal" in geometries else list(geometries)[-1]
        self.approach, self.sums = approach, DcaSums(geometries, self.reference, edges)

    def add(self, passed: Passed) -> None:
        """Add a batch."""
        batch = passed.batch
        if self.approach.vertex == "truth":
            assert passed.true_vertex is not None
            batch = batch._replace(
                vertex=passed.true_vertex,
                vertex_cov=torch.zeros_like(batch.vertex_cov),
                has_vertex=batch.outward,
            )
        found = {}
        for name in passed.fitted:
            found[name] = self.approach(passed.free(name), batch)
        sample = sample_of(found, batch, self.reference)
        if len(sample):
            self.sums.add(sample)

    def merge(self, other: Dca) -> None:
        """Add what another has seen."""
        self.sums.merge(other.sums)

    def metrics(self) -> dict[str, Any]:
        """`dca` in bins of p_T, and `dca_by` those of the other variables; nothing without tracks."""
        tables = {by: self.sums.table(by) for by in self.sums.edges}
        if tables["pt"] is None:
            return {"dca": None}
        found: dict[str, Any] = {"dca": tables.pop("pt")}
        return found | ({"dca_by": tables} if tables else {})


def sums_of(
    detector: Detector,
    geometries: Sequence[str],
    dca_vertex: str,
    numbers: Sequence[str],
    decays: Mapping[str, Decay],
) -> dict[str, Any]:
    """Sums of nothing yet for what is wanted.

    Args:
        detector: the nominal places.
        geometries: names of the geometries.
        dca_vertex: "given", "truth" or "leave_one_out".
        numbers: some of `NUMBERS`.
        decays: to be searched for, by name.
    """
    sums: dict[str, Any] = {"residuals": Residuals(detector, geometries)}
    if detector.b_z != 0:
        edges = EDGES if "dca_by" in numbers else {"pt": EDGES["pt"]}
        sums["dca"] = Dca(Approach(detector.b_z, dca_vertex), geometries, edges)
    for name, (make, takes, field) in _kinds(detector, decays).items():
        if (name in numbers or (name == "decays" and decays)) and (detector.b_z != 0 or not field):
            sums[name] = ByGeometry(name, geometries, make, takes)
    return sums


Kind = tuple[Callable[[], Any], Callable[[Passed, str], tuple[Any, ...]], bool]


def _kinds(detector: Detector, decays: Mapping[str, Decay]) -> dict[str, Kind]:
    """What is added up in each geometry on its own, what it takes, and whether it needs a field."""
    b_z = detector.b_z
    return {
        "vertex": (lambda: VertexNumbers(b_z), lambda p, n: (p.used(n), p.batch, p.true_vertex), True),
        "fit": (FitQuality, lambda p, n: (p.fitted[n],), False),
        "surface": (lambda: SurfaceMaps(detector), lambda p, n: (p.fitted[n],), False),
        "overlaps": (lambda: Overlaps(detector), lambda p, n: (p.fitted[n],), False),
        "monitor": (lambda: MonitorResiduals(detector), lambda p, n: (p.points(n), p.batch), True),
        "decays": (lambda: Decays(b_z, decays), lambda p, n: (p.free(n), p.batch), True),
    }
