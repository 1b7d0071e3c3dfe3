"""What an evaluation adds up of the tracks that go by (`TrackStream`), a class each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import torch

from alignnet.evaluation.dca import EDGES, DcaSums
from alignnet.evaluation.dca_sample import Approach, sample_of
from alignnet.evaluation.fit_quality import FitQuality
from alignnet.evaluation.fitted_tracks import FittedTracks
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
}
"""What `Evaluation.numbers` may hold."""

DEFAULT_NUMBERS = tuple(NUMBERS)


class TrackSums(Protocol):
    """What is kept of tracks in one geometry."""

    def add(self, tracks: FittedTracks) -> None:
        """Add the tracks of a batch."""
        ...

    def merge(self, other: Self) -> None:
        """Add what another has seen of other tracks."""
        ...

    def metrics(self) -> dict[str, Any]:
        """Numbers for metrics.json."""
        ...


class ByGeometry:
    """Sums of one kind, for each geometry.

    Args:
        key: under which metrics.json has their numbers.
        geometries: their names.
        make: sums of nothing yet.
    """

    def __init__(self, key: str, geometries: Sequence[str], make: Callable[[], TrackSums]) -> None:
        self.key, self.sums = key, {name: make() for name in geometries}

    def add(self, passed: Passed) -> None:
        """Add a batch."""
        for name, sums in self.sums.items():
            sums.add(passed.fitted[name])

    def merge(self, other: ByGeometry) -> None:
        """Add what another has seen."""
        for name, sums in self.sums.items():
            sums.merge(other.sums[name])

    def metrics(self) -> dict[str, Any]:
        """By geometry."""
        return {self.key: {name: sums.metrics() for name, sums in self.sums.items()}}


class Vertices:
    """Vertices fitted from the tracks of events, in each geometry.

    Args:
        b_z: field [T].
        geometries: their names.
    """

    def __init__(self, b_z: float, geometries: Sequence[str]) -> None:
        self.sums = {name: VertexNumbers(b_z) for name in geometries}

    def add(self, passed: Passed) -> None:
        """Add a batch."""
        for name, sums in self.sums.items():
            free = passed.fitted[name].free
            assert free is not None
            sums.add(free, passed.batch, passed.true_vertex)

    def merge(self, other: Vertices) -> None:
        """Add what another has seen."""
        for name, sums in self.sums.items():
            sums.merge(other.sums[name])

    def metrics(self) -> dict[str, Any]:
        """By geometry."""
        return {"vertex": {name: sums.metrics() for name, sums in self.sums.items()}}


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
        for name, fitted in passed.fitted.items():
            assert fitted.free is not None
            found[name] = self.approach(fitted.free, batch)
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
    detector: Detector, geometries: Sequence[str], dca_vertex: str, numbers: Sequence[str]
) -> dict[str, Any]:
    """Sums of nothing yet for what is wanted.

    Args:
        detector: the nominal places.
        geometries: names of the geometries.
        dca_vertex: "given", "truth" or "leave_one_out".
        numbers: some of `NUMBERS`.
    """
    sums: dict[str, Any] = {"residuals": Residuals(detector, geometries)}
    if detector.b_z != 0:
        edges = EDGES if "dca_by" in numbers else {"pt": EDGES["pt"]}
        sums["dca"] = Dca(Approach(detector.b_z, dca_vertex), geometries, edges)
        if "vertex" in numbers:
            sums["vertex"] = Vertices(detector.b_z, geometries)
    if "fit" in numbers:
        sums["fit"] = ByGeometry("fit", geometries, FitQuality)
    if "surface" in numbers:
        sums["surface"] = ByGeometry("surface", geometries, lambda: SurfaceMaps(detector))
    if "overlaps" in numbers:
        sums["overlaps"] = ByGeometry("overlaps", geometries, lambda: Overlaps(detector))
    return sums
