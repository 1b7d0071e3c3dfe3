"""Decays in flight of the strange, the charmed, the beautiful and τ, by Pythia 6, whatever made them.

Pythia 6 draws the proper time of a decay from an exponential, the channel from its table of branching
fractions and the momenta from phase space (with the matrix elements that it knows). Lifetimes and masses are
the Particle Data Group's, from the package `particle`. Paths are straight here, as if there was no field;
`alignnet.data.events.bent` turns what comes of charged ones.

Runs in the process of `alignnet.data.chromo_process`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from alignnet.data.tracks import Array

STABLE = (13, -13, 130, 211, -211, 321, -321, 2112, -2112)
"""What does not decay here: muons, charged pions and kaons, K⁰_L and neutrons fly for metres."""

FLYING = tuple(
    sign * code
    for code in (
        15, 310, 3112, 3122, 3222, 3312, 3322, 3334,
        411, 421, 431, 4122, 4132, 4232, 4332,
        511, 521, 531, 541, 5122, 5132, 5232, 5332,
    )
    for sign in ((1,) if code == 310 else (1, -1))
)  # fmt: skip
"""What decays in flight: τ, K⁰_S, hyperons, and the weakly decaying charmed and beautiful hadrons."""

_KNOWN_MASS = (11, 13, 111, 130, 211, 310, 311, 321, 2112, 2212)


class Record(NamedTuple):
    """One collision: a row a particle, below what it comes from. Rows of partons and beams are there too."""

    pdg: Array  # (particles,)
    mother: Array  # (particles,) row, or -1
    mass: Array  # (particles,) [GeV/c²]
    momentum: Array  # (particles, 3) [GeV/c]
    position: Array  # (particles, 3) production point, from the collision [cm]
    final: Array  # (particles,) bool: has not decayed


class Decayer:
    """Lets Pythia 6 decay what flies of any model's collisions.

    Args:
        pythia: chromo's Pythia6, the only one of this process; it may be the model itself.
    """

    def __init__(self, pythia: Any) -> None:
        self._owner, self._pythia = pythia, pythia._lib  # the owner has the random numbers: it must live on
        self._switch = [self._pythia.pycomp(code) - 1 for code in FLYING if code > 0]
        pythia.final_state_particles = [*STABLE, *FLYING]
        self._pythia.pydat3.mdcy[self._switch, 0] = 0
        self._mass = self._measured()

    def __call__(self, record: Record) -> Record:
        """The record with the decays of `FLYING`, and of all that comes of them, at its end.

        What decays keeps its momentum and gets its measured mass, whatever the model's tables have.
        """
        rows = np.flatnonzero(record.final & np.isin(record.pdg, FLYING))
        if len(rows) == 0:
            return record
        jets, n = self._pythia.pyjets, len(rows)
        record.mass[rows] = [self._mass[abs(code)] for code in record.pdg[rows].tolist()]
        energy = np.sqrt((record.momentum[rows] ** 2).sum(1) + record.mass[rows] ** 2)
        jets.n, jets.k[:n], jets.v[:n] = n, 0, 0.0
        jets.k[:n, 0], jets.k[:n, 1] = 1, record.pdg[rows]
        jets.p[:n] = np.column_stack([record.momentum[rows], energy, record.mass[rows]])
        with self._decaying():
            self._pythia.pyexec()
        return self._joined(record, rows)

    def _joined(self, record: Record, rows: Array) -> Record:
        n, end = len(rows), int(self._pythia.pyjets.n)
        k, p, v = (getattr(self._pythia.pyjets, name)[n:end].copy() for name in "kpv")
        # A daughter's mother is among the rows that were handed over, or further down.
        place = np.concatenate([rows, len(record.pdg) + np.arange(end - n)])
        final = record.final.copy()
        final[rows] = False
        made = Record(k[:, 1], place[k[:, 2] - 1], p[:, 4], p[:, :3], v[:, :3] / 10, k[:, 0] <= 10)
        both = zip(record._replace(final=final), made, strict=True)
        return Record(*(np.concatenate(columns) for columns in both))

    @contextmanager
    def _decaying(self) -> Iterator[None]:
        """What flies decays in the block, and is stable outside, while Pythia makes collisions."""
        self._pythia.pydat3.mdcy[self._switch, 0] = 1
        try:
            yield
        finally:
            self._pythia.pydat3.mdcy[self._switch, 0] = 0

    def _measured(self) -> dict[int, float]:
        """Pythia's masses [GeV/c²] and lifetimes cτ [mm] give way to today's; returns the masses."""
        pmas, masses = self._pythia.pydat2.pmas, {}
        for code in (*_KNOWN_MASS, *(code for code in FLYING if code > 0)):
            row, (mass, ctau) = self._pythia.pycomp(code) - 1, measured(code)
            pmas[row, 0] = masses[code] = mass
            if code in FLYING and ctau is not None:
                pmas[row, 3] = ctau
        return masses


def measured(code: int) -> tuple[float, float | None]:
    """Mass [GeV/c²] and cτ [mm] of a particle as in the package `particle` (PDG), cτ where it is known."""
    from particle import Particle

    known = Particle.from_pdgid(code)
    return known.mass / 1000, known.ctau
