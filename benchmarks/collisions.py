"""What generated collisions look like: multiplicities, momenta, species, lifetimes and DCA, by model.

    python benchmarks/collisions.py [--models Pythia6 Sibyll23d] [--events 5000]

A table in Markdown (docs/results.md) on standard output; needs chromo (pip install 'alignnet[generators]').
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from alignnet.data.events import Events, bent
from alignnet.data.generators import Collider
from alignnet.data.tracks import Array
from alignnet.physics.helix import from_momentum, perigee

WEAK = (310, 3112, 3122, 3222, 3312, 3322, 3334)
"""What lives longer than 1 cm/c and decays: ALICE counts nothing that comes of it as primary."""

LENGTHS = (
    ("K⁰_S", (310,), 1, "cm"), ("Λ", (3122,), 1, "cm"), ("D⁰", (421,), 1e4, "µm"), ("D⁺", (411,), 1e4, "µm"),
)  # fmt: skip

B_Z = 0.5  # [T]


def secondary(events: Events) -> Array:
    """Whether a particle comes of `WEAK`, however many decays ago, (particles,)."""
    late = np.isin(np.abs(events.pdg), WEAK)
    while True:
        more = late | ((events.mother >= 0) & late[events.mother])
        if (more == late).all():
            return late
        late = more


def proper_length(events: Events, codes: tuple[int, ...]) -> tuple[float, float]:
    """Mean proper length of flight [cm], which is the most likely cτ, and its error."""
    rows = np.flatnonzero((events.mother >= 0) & np.isin(np.abs(events.pdg[events.mother]), codes))
    mother, first = np.unique(events.mother[rows], return_index=True)
    flown = np.linalg.norm(events.position[rows[first]] - events.position[mother], axis=1)
    lengths = flown * events.mass[mother] / np.linalg.norm(events.momentum[mother], axis=1)
    return float(lengths.mean()), float(lengths.mean() / np.sqrt(len(lengths)))


def dca_xy(events: Events) -> Array:
    """|DCA_xy| of each particle's path to the collision in the field [cm], (particles,)."""
    curved = bent(events, B_Z)
    position, momentum = torch.from_numpy(curved.position), torch.from_numpy(curved.momentum)
    helix = from_momentum(position, momentum, torch.from_numpy(curved.charge).double(), B_Z)
    return perigee(helix, torch.zeros_like(position), B_Z).d0.abs().numpy()


def kaon_mass(events: Events) -> tuple[float, float]:
    """Mean and spread of the invariant mass [MeV/c²] of both pions of a K⁰_S."""
    rows = np.flatnonzero((events.mother >= 0) & (np.abs(events.pdg) == 211))
    rows = rows[events.pdg[events.mother[rows]] == 310]
    _, pair, count = np.unique(events.mother[rows], return_inverse=True, return_counts=True)
    energy = np.sqrt((events.momentum[rows] ** 2).sum(1) + events.mass[rows] ** 2)
    four = np.zeros((len(count), 4))
    np.add.at(four, pair, np.column_stack([energy, events.momentum[rows]]))
    four = four[count == 2]
    mass = 1000 * np.sqrt(four[:, 0] ** 2 - (four[:, 1:] ** 2).sum(1))
    return float(mass.mean()), float(mass.std())


def described(model: str, n: int) -> dict[str, str]:
    """Every quantity of `n` collisions by its name, in words."""
    start = time.perf_counter()
    events = Collider(model=model).collisions(n, seed=1)
    seconds = time.perf_counter() - start
    return _central(events) | _flights(events) | {"collisions a second": f"{n / seconds:.0f}"}


def _central(events: Events) -> dict[str, str]:
    """Primaries of |η| < 0.5."""
    pt, eta, kind = _pt(events), _eta(events), np.abs(events.pdg)
    primary, n = events.final & ~secondary(events), events.n_events
    rows = primary & (np.abs(eta) < 0.5)
    some = len(np.unique(events.event[primary & (np.abs(eta) < 1)]))
    spread = np.bincount(events.event[rows], minlength=n).std() / n**0.5
    pions = (kind[rows] == 211).sum()
    return {
        "dN_ch/dη": f"{rows.sum() / n:.2f} ± {spread:.2f}",
        "… with a charged particle in \\|η\\| < 1": f"{rows.sum() / some:.2f}",
        "⟨p_T⟩ [GeV/c]": f"{pt[rows].mean():.3f}",
        "K/π": f"{(kind[rows] == 321).sum() / pions:.3f}",
        "p/π": f"{(kind[rows] == 2212).sum() / pions:.3f}",
    }


def _flights(events: Events) -> dict[str, str]:
    """Decays in flight: lengths, masses, and what they do to the DCA of tracks of |η| < 0.9, p_T > 0.2."""
    found = {}
    for name, codes, scale, unit in LENGTHS:
        mean, error = (scale * value for value in proper_length(events, codes))
        found[f"cτ of {name} [{unit}]"] = (
            f"{mean:.3f} ± {error:.3f}" if scale == 1 else f"{mean:.1f} ± {error:.1f}"
        )
    found["mass of π⁺π⁻ from K⁰_S [MeV/c²]"] = "{:.3f} ± {:.3f}".format(*kaon_mass(bent(events, B_Z)))
    seen, late = events.final & (np.abs(_eta(events)) < 0.9) & (_pt(events) > 0.2), secondary(events)
    found["secondary tracks"] = f"{(seen & late).sum() / seen.sum():.3f}"
    dca = 1e4 * dca_xy(events)
    found["\\|DCA_xy\\| of primaries, 99th percentile [µm]"] = f"{np.percentile(dca[seen & ~late], 99):.0f}"
    mother = np.where(events.mother >= 0, np.abs(events.pdg[events.mother]), 0)
    for name, codes, _, _ in LENGTHS:
        median = np.median(dca[seen & np.isin(mother, codes)])
        found[f"\\|DCA_xy\\| of what comes of {name}, median [µm]"] = f"{median:.0f}"
    return found


def _pt(events: Events) -> Array:
    return np.hypot(*events.momentum[:, :2].T)


def _eta(events: Events) -> Array:
    return np.arcsinh(events.momentum[:, 2] / _pt(events))


def main() -> None:
    """Measure and print a line a quantity."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["Pythia6", "Sibyll23d"])
    parser.add_argument("--events", type=int, default=5000)
    arguments = parser.parse_args()
    models = arguments.models
    tables = [described(model, arguments.events) for model in models]
    print("| |", " | ".join(models), "|")
    print("|---" * (1 + len(models)) + "|")
    for name in tables[0]:
        print("|", name, "|", " | ".join(table[name] for table in tables), "|")


if __name__ == "__main__":
    main()
