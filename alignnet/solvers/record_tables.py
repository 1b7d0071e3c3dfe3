"""What Mille records say, all together: their labels, which of them count, the problem that they leave."""

from __future__ import annotations

from dataclasses import dataclass

from alignnet.data.tracks import Array
from alignnet.solvers.block_matrix import BlockMatrix


@dataclass(frozen=True)
class Labels:
    """The shared parameters of Mille files.

    Args:
        label: ascending, int64 (parameters,).
        measurements, records: how many have it (parameters,).
        largest: most measurements, track parameters, and globals of a measurement, in a record.
        width: labels that usually belong together, a sensor's.
        n_records: in all files.
    """

    label: Array
    measurements: Array
    records: Array
    largest: tuple[int, int, int]
    width: int
    n_records: int


@dataclass(frozen=True)
class Cuts:
    """Which records count, and how much.

    Args:
        passes: local fits of a record: 1, or more with outlying measurements weighted down.
        most_lost: records that lose more of their weight are left out.
        limit: largest χ² by degrees of freedom, its last for all beyond; empty for none.
        scale: multiplies 1/σ² of measurements with and without shared parameters.
    """

    passes: int = 1
    most_lost: float = 1.0
    limit: tuple[float, ...] = ()
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Reduced:
    """½ xᵀHx − gᵀx + ½ χ² of the changes x of the free parameters.

    Args:
        matrix: H.
        gradient: g, (unknowns,).
        chi2, ndf: of the records that count, with the parameters where they are.
        counts: records that count, have undetermined track parameters, a χ² beyond the limit, lost too much
            weight.
    """

    matrix: BlockMatrix
    gradient: Array
    chi2: float
    ndf: float
    counts: tuple[int, int, int, int]
