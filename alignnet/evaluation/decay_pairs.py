"""Pairs of tracks from decays among the tracks of collisions, as a data set of decays has them.

Candidates are those of `decays`: pairs of opposite charge with a common point away from the event's vertex,
to which their momentum points back. A track stays in the candidate whose common point has the least χ². Kept
are those whose mass is within ± w of m₀ (`half_window`), each as an event of its own; as many again between w
and 2 w on either side, the side bands, say how many of them are background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch, collate
from alignnet.data.event_table import Events
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import ConfigError
from alignnet.evaluation.decays import Decay, invariant_mass
from alignnet.evaluation.fitted_tracks import FreeTracks, TrackFitter
from alignnet.evaluation.impact import vertex_fit
from alignnet.evaluation.pair_tally import PairTally
from alignnet.evaluation.places import Places
from alignnet.evaluation.two_body import candidates
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2

BATCH_EVENTS = 1000


class Chosen(NamedTuple):
    """Candidates of which no two share a track."""

    pairs: Tensor  # rows of the positive and the negative track (pairs, 2)
    mass: Tensor  # invariant (pairs,) [GeV/c²]
    daughters: Tensor  # the masses that it was worked out with (pairs, 2) [GeV/c²]


class DecayPairs:
    """Finds the pairs of a decay; `tally` has counted those that went by.

    Args:
        detector: the nominal places, with a field.
        local: where the sensors are believed to be, local six (sensors, 6).
        decay: the masses, the window and the cuts.

    Raises:
        ConfigError: there is no field, or a value of the decay cannot be used.
    """

    def __init__(self, detector: Detector, local: Tensor, decay: Decay) -> None:
        if not detector.b_z:
            raise ConfigError("a decay's mass needs momenta, and those a field: the detector's b_z is 0")
        _check(decay)
        self.detector, self.decay = detector, decay
        self.places = Places(detector, local)
        self.fitter = TrackFitter(HelixChi2(detector, vertex="absent"), detector)
        self.tally = PairTally(decay)

    def found(self, parts: Iterable[Tracks]) -> Iterator[Tracks]:
        """The pairs among the tracks of each part, whole events of a file, in their order.

        The positive track comes first, `event` numbers the pairs, `mass` is each daughter's, and there is no
        vertex: the tracks do not come from it.

        Raises:
            ConfigError: at the end, if there was none.
        """
        n = n_tracks = 0
        for part in parts:
            events, rows, masses = Events(part, self.detector), [], []
            for first in range(0, len(events), BATCH_EVENTS):
                of = events.tracks_of(np.arange(first, min(first + BATCH_EVENTS, len(events))))
                chosen = self._within(self.chosen(part.select(of), events))
                rows.append(of[chosen.pairs.numpy()])
                masses.append(chosen.daughters.numpy())
            yield _set_of(part, np.concatenate(rows), np.concatenate(masses), n)
            n, n_tracks = n + sum(map(len, rows)), n_tracks + len(part)
        if n == 0:
            window = f"{self.decay.mass:.4g} ± {self.decay.half_window:.4g} GeV/c²"
            raise ConfigError(
                f"no pair of tracks within {window} is left of {n_tracks:,} tracks; loosen the cuts "
                "(decay.min_d0, …), or say where the sensors are (alignment)"
            )

    @torch.no_grad()
    def chosen(self, tracks: Tracks, events: Events) -> Chosen:
        """The candidates of whole events with a mass within ± 2 w, one a track."""
        batch = collate(tracks, self.detector, events.cylinders)
        free = self.fitter.fit_free(self.places, batch)
        vertex, decay = self._vertices(free, batch), self.decay
        parts = [Chosen(torch.empty(0, 2, dtype=torch.int64), torch.empty(0), torch.empty(0, 2))]
        chi2 = [torch.empty(0)]
        for found in candidates(free, batch, vertex, self.detector.b_z, decay.min_d0):
            kept = found.take(decay.passed(found))
            mass, daughters = _nearest(kept.momentum, decay)
            near = (mass - decay.mass).abs() < 2 * decay.half_window
            parts.append(Chosen(kept.pairs[near], mass[near], daughters[near]))
            chi2.append(kept.chi2[near])
        every = Chosen(*map(torch.cat, zip(*parts, strict=True)))
        best = one_a_track(every.pairs, torch.cat(chi2), batch.n_tracks)
        chosen = Chosen(*(field[best] for field in every))
        self.tally.add(tracks, chosen.pairs.numpy(), chosen.mass.numpy())
        return chosen

    def _within(self, chosen: Chosen) -> Chosen:
        inside = (chosen.mass - self.decay.mass).abs() < self.decay.half_window
        return Chosen(*(field[inside] for field in chosen))

    def _vertices(self, free: FreeTracks, batch: Batch) -> Tensor:
        """The file's vertices (events, 3) [cm], and where it has none those that the tracks have."""
        place, _ = vertex_fit(free.helix, free.covariance, free.usable, batch, self.detector.b_z)
        rows = batch.has_vertex.nonzero().squeeze(-1)
        place[batch.event[rows]] = batch.vertex[rows]
        return place


def one_a_track(pairs: Tensor, chi2: Tensor, n_tracks: int) -> Tensor:
    """Rows of the pairs that are left when each, the best first, takes its tracks from all others.

    Args:
        pairs: tracks (pairs, 2).
        chi2: the less the better; of equals the first (pairs,).
        n_tracks: how many tracks there are.
    """
    rank = chi2.argsort(stable=True).argsort()
    kept, left = (torch.full_like(rank, value, dtype=torch.bool) for value in (False, True))
    while left.any():  # in each round all those that are the best of both their tracks
        best = torch.full((n_tracks,), len(pairs))
        best.scatter_reduce_(0, pairs[left].flatten(), rank[left].repeat_interleave(2), "amin")
        won = left & (best[pairs] == rank[:, None]).all(-1)
        taken = torch.zeros(n_tracks, dtype=torch.bool).index_fill(0, pairs[won].flatten(), True)
        kept, left = kept | won, left & ~taken[pairs].any(-1)
    return kept.nonzero().squeeze(-1)


def _nearest(momentum: Tensor, decay: Decay) -> tuple[Tensor, Tensor]:
    """Invariant mass as the particle or as the antiparticle, whichever is nearer, and the daughters'."""
    masses = torch.stack([invariant_mass(momentum, one) for one in decay.assignments], -1)
    nearer = (masses - decay.mass).abs().argmin(-1, keepdim=True)
    return masses.gather(-1, nearer).squeeze(-1), momentum.new_tensor(decay.assignments)[nearer.squeeze(-1)]


def _set_of(tracks: Tracks, rows: Array, masses: Array, first: int) -> Tracks:
    """Tracks (pairs, 2) as events that are numbered from `first` on."""
    event = np.repeat(np.arange(first, first + len(rows), dtype=np.int64), 2)
    return replace(
        tracks.select(rows.flatten()), event=event, mass=masses.flatten(), vertex=None, vertex_cov=None
    )


def _check(decay: Decay) -> None:
    least = sum(decay.daughters)
    for good, said in (
        (
            min(decay.daughters) > 0,
            f"daughters is {list(decay.daughters)}; expected two masses > 0 in GeV/c²",
        ),
        (decay.mass > least, f"mass is {decay.mass}; expected more than {least:g}, that of the daughters"),
        (decay.half_window > 0, f"half_window is {decay.half_window}; expected more than 0 GeV/c²"),
        (
            decay.mass - decay.half_window > least,
            f"half_window is {decay.half_window}; expected less than {decay.mass - least:.4g}: below are no "
            f"pairs of these daughters, and no side band",
        ),
        (decay.width > 0, f"width is {decay.width}; expected more than 0 GeV/c²"),
        (decay.min_d0 >= 0, f"min_d0 is {decay.min_d0}; expected 0 cm or more"),
        (
            0 <= decay.min_flight < decay.max_flight,
            f"min_flight is {decay.min_flight} and max_flight {decay.max_flight}; expected 0 <= min_flight < "
            "max_flight in cm",
        ),
        (-1 <= decay.min_pointing < 1, f"min_pointing is {decay.min_pointing}; expected a cosine below 1"),
        (decay.max_chi2 > 0, f"max_chi2 is {decay.max_chi2}; expected more than 0"),
    ):
        if not good:
            raise ConfigError(f"decay.{said}")
