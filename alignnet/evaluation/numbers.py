"""What an evaluation adds up of the tracks that go by (`TrackStream`), a class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignnet.evaluation.dca import DcaSums
from alignnet.evaluation.dca_sample import Approach, sample_of
from alignnet.evaluation.residuals import ResidualSummary
from alignnet.evaluation.stream import Passed
from alignnet.geometry.detector import Detector


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
                vertex=passed.true_vertex, vertex_cov=torch.zeros_like(batch.vertex_cov), has_vertex=batch.outward
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
        return {"dca": tables.pop("pt"), "dca_by": tables}
