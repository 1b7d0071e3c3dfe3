"""A batch's tracks in one geometry: fitted as the cost does, and to their hits alone; χ² and residuals.

Where the cost's noise is the full model, both are one fit. Compiled loops (`track_kernel`) and tensors give
the same numbers; tensors take what loops do not know: origins fitted with their tracks, weights of hits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation import track_kernel as tk
from alignnet.evaluation.impact import state_covariance
from alignnet.evaluation.overlap_pairs import no_pairs, pair_residuals
from alignnet.evaluation.places import Places
from alignnet.geometry.detector import Detector
from alignnet.loss import compiled_fit
from alignnet.loss import fit_layout as fl
from alignnet.loss.chi2 import Chi2, HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.loss.residuals import path_residual
from alignnet.physics.helix import Helix
from alignnet.physics.jit import pays
from alignnet.solvers.linearised import linearise_at
from alignnet.solvers.unbiased import unbiased_of, without_origins

LEAST_KNOWN = 200.0
"""Resolutions of a hit beyond which the track without it says nothing of where its sensor is."""


@dataclass
class FreeTracks:
    """Tracks fitted to their hits alone, with the full noise model."""

    helix: Helix  # (tracks,)
    covariance: Tensor  # of its local numbers (tracks, parameters, parameters)
    chi2: Tensor  # (tracks,)
    ndf: Tensor  # degrees of freedom, at least 1 (tracks,)
    usable: Tensor  # collision tracks that their hits determine (tracks,)


@dataclass
class FittedTracks:
    """Tracks of a batch as the cost fits them; pairs are those of `overlap_pairs`."""

    batch: Batch
    chi2: Tensor  # of each track, its vertex included; NaN where there is no fit (tracks,)
    ndf: Tensor  # (tracks,)
    weight: Tensor  # 0 where the track is not used (tracks,)
    used_hits: Tensor  # (tracks, hits)
    biased: Tensor  # residuals (tracks, hits, 2) [cm]
    unbiased: Tensor  # NaN where the track is known to no `LEAST_KNOWN` without it (tracks, hits, 2) [cm]
    expected: Tensor  # width of these (tracks, hits, 2) [cm]
    sums: tuple[float, float, float]  # Σ χ², the vertex' part of it, and Σ ν, with the tracks' weights
    pairs: tk.Pairs
    pair: Tensor  # residuals of both hits of each pair, left out together (pairs, 2, 2) [cm]
    pair_covariance: Tensor  # (pairs, 4, 4) [cm²]
    free: FreeTracks | None


class TrackFitter:
    """Fits the tracks of batches in any geometry.

    Args:
        loss: the cost.
        detector: the nominal places.
        free: fit the tracks to their hits alone too.
    """

    def __init__(self, loss: HelixChi2, detector: Detector, free: bool = True) -> None:
        self.loss, self.detector, self.free = loss, detector, free
        like = loss.noise
        noise = NoiseModel(detector, "full", like.log_term, like.energy_loss, like.momentum, like.systematic)
        self.alone = HelixChi2(detector, noise, vertex="absent", iterations=loss.iterations)

    @torch.no_grad()
    def __call__(
        self,
        places: Places,
        batch: Batch,
        max_chi2_per_ndf: float | None = None,
        pairs: tk.Pairs | None = None,
    ) -> FittedTracks:
        """Fit a batch.

        Args:
            places: of the sensors.
            batch: the tracks.
            max_chi2_per_ndf: tracks beyond it get no weight.
            pairs: hits to be left out together; default: none.
        """
        loss = self.loss
        pairs = no_pairs(batch) if pairs is None else pairs
        if self._is_compiled(loss, batch):
            found = self._found(loss, places, batch, pairs)
            free = self._free_of(found, batch) if self.free and self._is_shared else None
            fitted = self._fitted_of(found, batch, pairs, free, max_chi2_per_ndf)
        else:
            fitted = self._by_tensors(places, batch, pairs, max_chi2_per_ndf)
        if self.free and fitted.free is None:
            fitted.free = self.fit_free(places, batch)
        return fitted

    @torch.no_grad()
    def fit_free(self, places: Places, batch: Batch) -> FreeTracks:
        """Fit a batch to its hits alone."""
        if self._is_compiled(self.alone, batch):
            return self._free_of(self._found(self.alone, places, batch, no_pairs(batch)), batch)
        planes = places.planes(batch)
        fit = self.alone.fit(planes, batch)
        chi2 = self.alone.at(planes, fit, batch)
        covariance = state_covariance(self.alone.rows(planes, fit, batch)[1])
        return FreeTracks(
            fit.helix, covariance, chi2.track, chi2.ndf.clamp_min(1),
            fit.ok & batch.outward & chi2.track.isfinite(),
        )  # fmt: skip

    @property
    def _is_shared(self) -> bool:
        return self.loss.noise.kind == "full"

    def _is_compiled(self, loss: HelixChi2, batch: Batch) -> bool:
        plain = compiled_fit.is_plain(loss, batch) and loss.hit_weights.kind == "none"
        return plain and pays(tk.find_tracks, batch.n_tracks)

    def _found(self, loss: HelixChi2, places: Places, batch: Batch, pairs: tk.Pairs) -> tk.Found:
        tracks, hits = batch.is_hit.shape
        n, n_pairs = loss.n_parameters, len(pairs.hits)
        measured = compiled_fit.measured_of(loss, places.planes(batch), batch)
        room = fl.Fitted(
            state=np.empty((0, 7)), factor=np.empty((0, 0, 0)), inverse_sigma=np.empty((0, 0)),
            vertex_factor=np.zeros((tracks, 2, 2)), vertex_inverse=np.zeros((tracks, 2)),
            axes=np.zeros((tracks, 3, 3)), ok=np.empty(0, dtype=np.bool_), s=np.empty((0, 0)),
            settled=np.empty(0, dtype=np.bool_),
        )  # fmt: skip
        biased, unbiased, expected = (np.empty((tracks, hits, 2)) for _ in range(3))
        ok, free_ok = (np.empty(tracks, dtype=np.bool_) for _ in range(2))
        chi2, vertex, free_chi2 = (np.empty(tracks) for _ in range(3))
        out = tk.Found(
            ok, chi2, vertex, biased, unbiased, expected, np.empty((n_pairs, 4)), np.empty((n_pairs, 4, 4)),
            free_ok, free_chi2, np.empty((tracks, 7)), np.empty((tracks, n, n)),
        )  # fmt: skip
        tk.find_tracks(measured, compiled_fit.model_of(loss), room, pairs, out, 0, tracks)
        return out

    def _free_of(self, found: tk.Found, batch: Batch) -> FreeTracks:
        state, ok = torch.from_numpy(found.state), torch.from_numpy(found.free_ok)
        ndf = (2 * batch.is_hit.sum(-1) - self.loss.n_parameters).clamp_min(1).to(state)
        return FreeTracks(
            Helix(state[:, :3], state[:, 3:6], state[:, 6]), torch.from_numpy(found.covariance),
            torch.from_numpy(found.free_chi2), ndf, ok & batch.outward,
        )  # fmt: skip

    def _fitted_of(
        self, found: tk.Found, batch: Batch, pairs: tk.Pairs, free: FreeTracks | None, limit: float | None
    ) -> FittedTracks:
        ok, vertex = torch.from_numpy(found.ok), torch.from_numpy(found.vertex)
        total = torch.where(ok, torch.from_numpy(found.chi2) + vertex, torch.nan)
        ndf = (2 * batch.is_hit.sum(-1) - self.loss.n_parameters).to(total)
        if self.loss.vertex == "given":
            ndf = ndf + 2 * batch.has_vertex
        weight = torch.where(ok, self.loss.weights(total, ndf), 0.0)
        if limit is not None:
            weight = torch.where(total <= limit * ndf, weight, 0.0)
        used = weight > 0
        all_, of_vertex = ((torch.where(used, part, 0.0) * weight).sum() for part in (total, vertex))
        sums = float(all_), float(of_vertex), float((ndf * weight).sum())
        return FittedTracks(
            batch, total, ndf, weight, batch.is_hit & used[:, None],
            torch.from_numpy(found.biased),
            *told(torch.from_numpy(found.unbiased), torch.from_numpy(found.expected), batch), sums, pairs,
            torch.from_numpy(found.pair).unflatten(1, (2, 2)),
            torch.from_numpy(found.pair_covariance), free,
        )  # fmt: skip

    def _by_tensors(self, places: Places, batch: Batch, pairs: tk.Pairs, limit: float | None) -> FittedTracks:
        loss, planes = self.loss, places.planes(batch)
        chi2 = accepted(loss.at(planes, loss.fit(planes, batch), batch), limit)
        block = without_origins(linearise_at(loss, places.sensors, planes, chi2.fit, batch))
        left = unbiased_of(loss, block, chi2)
        pair, covariance = pair_residuals(block, pairs, chi2.weight)
        sums = _sums(chi2)
        total = torch.where(chi2.fit.ok, chi2.track + chi2.vertex, torch.nan)
        return FittedTracks(
            batch, total, chi2.ndf, chi2.weight, chi2.used_hits, path_residual(loss, chi2),
            *told(left.residual, left.expected, batch), sums, pairs, pair, covariance, None,
        )  # fmt: skip


def told(residual: Tensor, expected: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Unbiased residuals and their expected widths (tracks, hits, 2); NaN beyond `LEAST_KNOWN`, both of them.

    Where a track hardly has a curvature or a dip without the hit, it misses it by centimetres or metres; few
    such hits would make all of an r.m.s. and of a mean.
    """
    known = (expected <= LEAST_KNOWN * batch.sigma).all(-1, keepdim=True)
    return torch.where(known, residual, torch.nan), torch.where(known, expected, torch.nan)


def accepted(chi2: Chi2, max_chi2_per_ndf: float | None) -> Chi2:
    """The same χ² with no weight for tracks beyond `max_chi2_per_ndf`."""
    if max_chi2_per_ndf is None:
        return chi2
    small = (chi2.track + chi2.vertex) <= max_chi2_per_ndf * chi2.ndf
    return replace(chi2, weight=torch.where(small, chi2.weight, 0.0))


def _sums(chi2: Chi2) -> tuple[float, float, float]:
    total, ndf = chi2.per_event()
    vertex = (torch.where(chi2.weight > 0, chi2.vertex, 0.0) * chi2.weight).sum() + chi2.origin.sum()
    return float(total.sum()), float(vertex), float(ndf.sum())
