"""Masses of K⁰_S → π⁺π⁻, Λ → pπ⁻ and D⁰ → K⁻π⁺ against p_T and φ: curvature, seen by physics.

A mass that drifts with p_T or φ, or is wider than it has to be, is what weak modes do that no residual shows.
Pairs of opposite charge are fitted to a common point (`two_body`); plain cuts keep those that fly away from
the event's vertex and point back to it. Histograms of the mass are all that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError
from alignnet.evaluation.fitted_tracks import FreeTracks
from alignnet.evaluation.impact import vertex_fit
from alignnet.evaluation.peak import fit_peak
from alignnet.evaluation.statistics import number
from alignnet.evaluation.two_body import Candidates, candidates
from alignnet.units import KAON_MASS, PION_MASS, PROTON_MASS

MASS_BINS = 120
EDGES: dict[str, Array] = {
    "all": np.array([0.0, np.inf]),
    "pt": np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, np.inf]),
    "phi": np.linspace(-np.pi, np.pi, 13),
}
"""Bins of the pair's p_T [GeV/c] and φ [rad]."""


@dataclass(frozen=True)
class Decay:
    """A decay, and the cuts of its search; lengths in cm.

    Args:
        daughters: masses of the positive and the negative one [GeV/c²].
        mass: of the mother.
        conjugate: search for the antiparticle, with daughters exchanged, as well.
        mother_pdg: code of the mother, and
        pdg: those of the positive and the negative daughter, by which simulated tracks are known.
        half_window: of the mass histogram [GeV/c²].
        width: where the fit of the peak starts [GeV/c²].
        min_d0: least transverse distance of either track to the event's vertex.
        min_flight, max_flight: transverse distance of the pair's point to it.
        min_pointing: least cosine between flight and momentum, across the beam.
        max_chi2: of the common point.
    """

    daughters: tuple[float, float]
    mass: float
    conjugate: bool = False
    mother_pdg: int = 0
    pdg: tuple[int, int] = (0, 0)
    half_window: float = 0.06
    width: float = 0.005
    min_d0: float = 0.05
    min_flight: float = 0.5
    max_flight: float = 30.0
    min_pointing: float = 0.998
    max_chi2: float = 8.0

    @property
    def assignments(self) -> list[tuple[float, float]]:
        """Masses of the positive and the negative track, of the particle and of its antiparticle."""
        positive, negative = self.daughters
        return [self.daughters, (negative, positive)] if self.conjugate else [self.daughters]

    def passed(self, found: Candidates) -> Tensor:
        """Which candidates pass the cuts but that of the mass (pairs,)."""
        keep = (found.d0 > self.min_d0) & (found.flight > self.min_flight) & (found.flight < self.max_flight)
        return keep & (found.pointing > self.min_pointing) & (found.chi2 < self.max_chi2)


DECAYS = {
    "k0s": Decay((PION_MASS, PION_MASS), 0.497611, mother_pdg=310, pdg=(211, -211)),
    "lambda": Decay(
        (PROTON_MASS, PION_MASS), 1.115683, conjugate=True, mother_pdg=3122, pdg=(2212, -211),
        half_window=0.03, width=0.002,
    ),
    "d0": Decay(
        (PION_MASS, KAON_MASS), 1.86484, conjugate=True, mother_pdg=421, pdg=(211, -321),
        half_window=0.15, width=0.015,
        min_d0=0.002, min_flight=0.01, max_flight=1.0, min_pointing=0.95,
    ),
}  # fmt: skip
"""By the name that a configuration uses; masses of the PDG (2024)."""

OF_THE_PARTICLES = ("daughters", "mass", "conjugate", "mother_pdg", "pdg")
"""What of a decay is no cut."""


def decays_of(wanted: Mapping[str, Mapping[str, float]]) -> dict[str, Decay]:
    """The decays to be searched for, with their cuts changed as given.

    Raises:
        ConfigError: there is no such decay, or no such cut.
    """
    cuts = {field.name for field in fields(Decay)} - set(OF_THE_PARTICLES)
    found = {}
    for name, changes in wanted.items():
        if name not in DECAYS:
            raise ConfigError(f"evaluation.decays has {name!r}; choose from {list(DECAYS)}")
        if unknown := sorted(set(changes or {}) - cuts):
            raise ConfigError(f"evaluation.decays.{name} has {unknown}; choose from {sorted(cuts)}")
        numbers: dict[str, Any] = dict(changes or {})
        found[name] = replace(DECAYS[name], **numbers)
    return found


class Decays:
    """Mass histograms of decays in one geometry.

    Args:
        b_z: field [T].
        wanted: by name.
    """

    def __init__(self, b_z: float, wanted: Mapping[str, Decay]) -> None:
        self.b_z, self.wanted = b_z, dict(wanted)
        rows = sum(len(edges) - 1 for edges in EDGES.values())
        self.counts = {name: np.zeros((rows, MASS_BINS)) for name in wanted}

    def add(self, tracks: FreeTracks, batch: Batch) -> None:
        """Add the events of a batch."""
        place, _ = vertex_fit(tracks.helix, tracks.covariance, tracks.usable, batch, self.b_z)
        least = min((decay.min_d0 for decay in self.wanted.values()), default=0.0)
        for found in candidates(tracks, batch, place, self.b_z, least):
            self._add(found)

    def _add(self, found: Candidates) -> None:
        for name, decay in self.wanted.items():
            kept = found.take(decay.passed(found))
            for daughters in decay.assignments:
                mass = invariant_mass(kept.momentum, daughters)
                self._count(self.counts[name], decay, mass, kept.pt, kept.phi)

    @staticmethod
    def _count(counts: Array, decay: Decay, mass: Tensor, pt: Tensor, phi: Tensor) -> None:
        place = (mass.numpy() - decay.mass + decay.half_window) / (2 * decay.half_window) * MASS_BINS
        inside = (place >= 0) & (place < MASS_BINS)
        column = place[inside].astype(np.int64)
        first = 0
        for values, edges in zip((pt, pt, phi), EDGES.values(), strict=True):
            row = np.digitize(values.numpy()[inside], edges) - 1
            good = (row >= 0) & (row < len(edges) - 1)
            np.add.at(counts, (first + row[good], column[good]), 1.0)
            first += len(edges) - 1

    def merge(self, other: Decays) -> None:
        """Add what another has seen."""
        for name, counts in self.counts.items():
            counts += other.counts[name]

    def metrics(self) -> dict[str, Any]:
        """By decay: the histogram of the mass, and the peak in bins of p_T and φ."""
        return {name: self._of(name, decay) for name, decay in self.wanted.items()}

    def _of(self, name: str, decay: Decay) -> dict[str, Any]:
        counts = self.counts[name]
        edges = np.linspace(decay.mass - decay.half_window, decay.mass + decay.half_window, MASS_BINS + 1)
        found: dict[str, Any] = {"mass_low": float(edges[0]), "mass_high": float(edges[-1])}
        found["counts"] = counts[0].astype(int).tolist()
        first = 0
        for by, bounds in EDGES.items():
            rows = counts[first : first + len(bounds) - 1]
            columns = _peaks(rows, edges, decay)
            if by != "all":
                ends = {f"{by}_low": bounds[:-1], f"{by}_high": bounds[1:]}
                columns |= {key: [number(x) for x in values] for key, values in ends.items()}
            found[by] = columns
            first += len(bounds) - 1
        return found


def invariant_mass(momentum: Tensor, masses: tuple[float, float]) -> Tensor:
    """Mass (pairs,) of two particles with momenta (pairs, 2, 3) and these masses [GeV]."""
    mass = momentum.new_tensor(masses)
    energy = (momentum.square().sum(-1) + mass.square()).sqrt().sum(-1)
    return (energy.square() - momentum.sum(1).square().sum(-1)).clamp_min(0).sqrt()


def _peaks(rows: Array, edges: Array, decay: Decay) -> dict[str, list[float | None]]:
    """Yield, mean and width [MeV/c²] with errors of each histogram."""
    names = ("yield", "mean_mev", "mean_error_mev", "width_mev", "width_error_mev")
    columns: dict[str, list[float | None]] = {"n": [float(row.sum()) for row in rows]}
    peaks = [fit_peak(row, edges, decay.mass, decay.width) for row in rows]
    for k, name in enumerate(names):
        scale = 1.0 if k == 0 else 1e3
        columns[name] = [None if peak is None else number(scale * peak[k]) for peak in peaks]
    return columns
