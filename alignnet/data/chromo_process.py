"""Collisions of chromo's models, made in a process of their own, with their decays in flight.

    python -m alignnet.data.chromo_process '{"model": "Pythia6", ...}' answer.npz

Most of the models are Fortran: one of a kind in a process, with a state that no seed resets, and chatty on
standard output. `alignnet.data.generators` starts a process for each request and reads its answer: the
columns of `alignnet.data.events.Events`, whatever the model.

The model decays what does not fly, at the point of the collision; what flies is decayed by Pythia 6
(`alignnet.data.decays`), whichever the model is. Production points that a model gives are not used: Pythia's
are right, Sibyll's are all 0.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from alignnet.data.decays import FLYING, STABLE, Decayer, Record, measured
from alignnet.data.tracks import Array

TRACKED = (11, 13, 211, 321, 2212)
"""What flies through a detector: e, μ, π, K, p, of both charges."""

REFUSED = 2
"""Exit code where a request cannot be fulfilled; the last line on stderr says why."""

_FINAL, _DECAYED = 1, 2  # HEPEVT's status; a beam has 4
_DIFFRACTIVE = 99  # 99xxxxx
_EXCHANGED = (110, 990, 9990)  # reggeon, pomeron, odderon
_DECAYER_ENERGY = 100.0  # [GeV]: Pythia makes no collisions at it


def main(request: str, answer: str) -> int:
    """Make what `request` (JSON) asks for; `REFUSED` and a line on stderr where that cannot be."""
    wanted = json.loads(request)
    try:
        model, decayer = _models(wanted)
    except ConnectionError as error:
        return _refused(
            f"its tables are not installed and cannot be fetched ({error}): "
            "run it once with a network, or take Pythia6 or Sibyll23d, which need none"
        )
    except ValueError as error:
        return _refused(str(error))
    events = (_record(event) for event in model(wanted["n_collisions"]))
    seen = [_seen(decayer(event), wanted["pt_min"], wanted["eta_max"]) for event in events]
    columns: dict[str, Any] = _table(seen)
    np.savez(answer, **columns)
    return 0


def _refused(why: str) -> int:
    print("", " ".join(why.split()), sep="\n", file=sys.stderr)
    return REFUSED


def _models(wanted: dict[str, Any]) -> tuple[Any, Decayer]:
    """The model, with what flies stable, and what decays it: Pythia 6, the model itself or another."""
    from chromo import models
    from chromo.kinematics import CenterOfMass

    seeds = np.random.SeedSequence(wanted["seed"]).generate_state(2).tolist()
    if wanted["model"] not in models.__all__:
        raise ValueError(f"model is {wanted['model']!r}, expected one of {', '.join(sorted(models.__all__))}")
    kinematics = CenterOfMass(wanted["sqrt_s"], wanted["projectile"], wanted["target"])
    if wanted["model"] == "Pythia6":
        model = _pythia6(kinematics, seeds[0], wanted["tune"])
        return model, Decayer(model)
    model = getattr(models, wanted["model"])(kinematics, seed=seeds[0])
    model.final_state_particles = [*STABLE, *FLYING]
    return model, Decayer(_pythia6(CenterOfMass(_DECAYER_ENERGY, "p", "p"), seeds[1], None))


def _pythia6(kinematics: Any, seed: int, tune: int | None) -> Any:
    from chromo.models import Pythia6, _pythia6

    if tune is not None:
        _pythia6.pytune(tune)  # before its initialisation, which reads what a tune sets
    return Pythia6(kinematics, seed=seed)


def _record(event: Any) -> Record:
    """The particles of a collision that anything may come from, at its point."""
    keep = np.isin(event.status, (_FINAL, _DECAYED))
    momentum = np.column_stack([event.px, event.py, event.pz])[keep]
    row = np.where(keep, np.cumsum(keep) - 1, -1)
    first = np.full(len(keep), -1) if event.mothers is None else event.mothers[:, 0]
    above = (first >= 0) & (first < np.arange(len(keep)))
    mother = np.where(above, row[first], -1)[keep]
    final = event.status[keep] == _FINAL
    return Record(event.pid[keep], mother, event.m[keep], momentum, np.zeros_like(momentum), final)


def _seen(record: Record, pt_min: float, eta_max: float) -> Record:
    """Charged particles within the limits, and the particles that they come from."""
    kind, inverse = np.unique(record.pdg, return_inverse=True)
    real = np.array([_is_particle(code) for code in kind.tolist()], dtype=bool)[inverse]
    mother = record.mother
    while (between := (mother >= 0) & ~real[mother]).any():  # partons and strings, between J/ψ and hadrons
        mother = np.where(between, record.mother[mother], mother)
    pt = np.hypot(record.momentum[:, 0], record.momentum[:, 1])
    within = (pt >= pt_min) & (np.abs(record.momentum[:, 2]) <= pt * np.sinh(eta_max))
    keep = record.final & np.isin(np.abs(record.pdg), TRACKED) & within
    added = keep
    while added.any():
        ancestors = np.zeros_like(keep)
        ancestors[mother[added & (mother >= 0)]] = True
        added = ancestors & ~keep
        keep = keep | added
    row = np.where(keep, np.cumsum(keep) - 1, -1)
    mother = np.where(mother >= 0, row[mother], -1)
    return Record(*(column[keep] for column in record._replace(mother=mother)))


def _table(records: list[Record]) -> dict[str, Array]:
    """The columns of `Events`."""
    offset = np.cumsum([0, *(len(record.pdg) for record in records)])
    shifted = [
        record._replace(mother=np.where(record.mother >= 0, record.mother + first, -1))
        for record, first in zip(records, offset[:-1], strict=True)
    ]
    joined = Record(*(np.concatenate(columns) for columns in zip(*shifted, strict=True)))
    kind, inverse = np.unique(joined.pdg, return_inverse=True)
    mass = np.where(joined.final, _mass(kind)[inverse], joined.mass)
    columns = joined._replace(mass=mass)._asdict() | {"offset": offset, "charge": _charge(kind)[inverse]}
    return {name: column for name, column in columns.items() if name != "final"}


def _is_particle(code: int) -> bool:
    """Whether it is a hadron or a lepton, and no parton, string, diffractive state or what these exchange."""
    from particle import PDGID

    one = PDGID(code)
    if code in _EXCHANGED or abs(code) // 100_000 == _DIFFRACTIVE:
        return False
    return bool(one.is_hadron or one.is_lepton)


def _charge(kinds: Array) -> Array:
    from particle import PDGID

    thirds = [PDGID(code).three_charge or 0 for code in kinds.tolist()]
    return np.array(thirds, dtype=np.int64) // 3


def _mass(kinds: Array) -> Array:
    """[GeV/c²] of what is tracked, NaN for others."""
    return np.array([measured(code)[0] if abs(code) in TRACKED else np.nan for code in kinds.tolist()])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
