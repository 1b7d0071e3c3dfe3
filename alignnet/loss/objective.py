"""What a training minimises: the χ² of its data sets, and of terms that are not made of tracks.

    ½ Σ_k w_k χ²_k(Θ) + ½ Σ_m w_m |r_m(Θ)|²

A weight of 1 is the likelihood's. SGD trains on the same sum over the joint degrees of freedom,

    C = (Σ_k w_k N_k + Σ_m w_m |r_m|²) / Σ_k w_k D_k,       N_k / D_k the cost of set k alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from alignnet.data.batch import Batch
from alignnet.data.joint import JointBatch
from alignnet.errors import ConfigError
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.terms import Terms

FIRST = "tracks"
"""The name of the first set, that of `data.files`."""


class DataSet(NamedTuple):
    """Tracks of one kind: what they cost, and how much they count."""

    name: str
    loss: HelixChi2
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """Data sets and terms.

    Args:
        first: cost of the first set.
        weight: of the first set.
        others: further sets, in the order of their batches in a joint batch.
        terms: what else counts.

    Raises:
        ConfigError: a weight is not > 0, a name is taken, or sets are normalised in different ways.
    """

    first: HelixChi2
    weight: float = 1.0
    others: tuple[DataSet, ...] = ()
    terms: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        for one in self.sets:
            _check(one, self.first)
        if FIRST in (one.name for one in self.others):
            raise ConfigError(f"data.sets: the name {FIRST!r} is that of data.files; choose another")

    @property
    def sets(self) -> tuple[DataSet, ...]:
        """All sets, in the order of a joint batch."""
        return (DataSet(FIRST, self.first, self.weight), *self.others)

    def pairs(self, batch: Batch | JointBatch) -> Iterator[tuple[DataSet, Batch]]:
        """Each set with its part of a batch."""
        batches = (batch,) if isinstance(batch, Batch) else batch
        return zip(self.sets, batches, strict=True)


def _check(one: DataSet, first: HelixChi2) -> None:
    if not one.weight > 0:
        raise ConfigError(f"the weight of data set {one.name!r} is {one.weight}; expected a number > 0")
    if one.loss.normalisation != first.normalisation:
        raise ConfigError(
            f"loss.normalisation of data set {one.name!r} is {one.loss.normalisation!r}, that of the first "
            f"{first.normalisation!r}; their costs cannot be added"
        )
