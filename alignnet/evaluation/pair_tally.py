"""What a search for decays has found: pairs, peak, background from side bands, and the truth if known.

The background below the peak is taken to be straight in the mass: its density at m₀ lies on the line through
those of the two side bands, w to 2 w away. The lower one ends at the least mass that the daughters can have.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alignnet.data.tracks import Array, Tracks
from alignnet.evaluation.decays import MASS_BINS, Decay
from alignnet.evaluation.peak import Peak, fit_peak

_KNOWN = ("mother", "mother_pdg", "pdg")


class PairTally:
    """Counts candidates with masses within ± 2 w of m₀.

    Args:
        decay: what is searched for.
    """

    def __init__(self, decay: Decay) -> None:
        self.decay = decay
        span, least = 2 * decay.half_window, sum(decay.daughters)
        self.edges = np.linspace(max(decay.mass - span, least), decay.mass + span, MASS_BINS + 1)
        self.counts = np.zeros(MASS_BINS)
        self.pairs, self.side = 0, np.zeros(2)
        self.known, self.true, self.true_pairs = False, 0, 0

    def add(self, tracks: Tracks, pairs: Array, mass: Array) -> None:
        """Count candidates.

        Args:
            tracks: whole events.
            pairs: rows of the positive and the negative track (pairs, 2).
            mass: invariant (pairs,) [GeV/c²].
        """
        self.counts += np.histogram(mass, self.edges)[0]
        off, window = mass - self.decay.mass, self.decay.half_window
        inside = np.abs(off) < window
        self.pairs += int(inside.sum())
        self.side += [(off <= -window).sum(), (off >= window).sum()]
        if set(_KNOWN) <= set(tracks.truth):
            mother = true_mothers(tracks, self.decay)
            one, two = mother[pairs[inside]].T
            self.known = True
            self.true += int(mother.max(initial=-1)) + 1
            self.true_pairs += int(((one == two) & (one >= 0)).sum())

    @property
    def background(self) -> float:
        """Pairs within the window that are by chance, as the side bands have it."""
        decay = self.decay
        low, high = decay.mass - self.edges[0] - decay.half_window, decay.half_window  # widths of the bands
        below, above = self.side / (low, high)
        near, far = decay.half_window + low / 2, 1.5 * decay.half_window  # from m₀ to their middles
        return float(2 * decay.half_window * (below * far + above * near) / (near + far))

    @property
    def peak(self) -> Peak | None:
        """Of the candidates' masses, on a straight background [GeV/c²]; None where there is none."""
        return fit_peak(self.counts, self.edges, self.decay.mass, self.decay.width)

    def numbers(self) -> dict[str, Any]:
        """What was found: pairs, background, purity, peak [GeV/c²]; of simulated tracks the truth, too."""
        peak, n = self.peak, max(self.pairs, 1)
        found: dict[str, Any] = {
            "pairs": self.pairs,
            "background": self.background,
            "purity": 1 - self.background / n,
            "peak": None if peak is None else peak._asdict(),
        }
        if self.known:
            efficiency = self.true_pairs / self.true if self.true else None
            found |= {"true": self.true, "true_pairs": self.true_pairs}
            found |= {"true_purity": self.true_pairs / n, "efficiency": efficiency}
        return found


def true_mothers(tracks: Tracks, decay: Decay) -> Array:
    """Number of the decay that each track is a daughter of, or -1 (tracks,).

    Only decays both of whose daughters, as `decay.pdg` has them, are among the tracks are counted.
    """
    mother_pdg, pdg = (tracks.truth[key].astype(np.int64) for key in ("mother_pdg", "pdg"))
    sign = np.sign(mother_pdg) if decay.conjugate else 1
    mine = np.flatnonzero((mother_pdg * sign == decay.mother_pdg) & np.isin(pdg * sign, decay.pdg))
    named = np.stack([tracks.event[mine], tracks.truth["mother"][mine]], -1)
    _, number, count = np.unique(named, axis=0, return_inverse=True, return_counts=True)
    both = count == 2
    found = np.full(len(tracks), -1, dtype=np.int64)
    found[mine] = np.where(both, np.cumsum(both) - 1, -1)[number.reshape(-1)]
    return found
