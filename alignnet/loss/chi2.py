"""The cost: χ² of tracks refitted to hits on the sensors as they stand.

    C(Θ) = (1/N_event) Σ_i χ²_i / ν_i,   χ²_i = Σ_tracks (χ²_track + χ²_vertex)    (docs/physics.md, The cost)

Tracks (and events' origins, where fitted) are fitted to the corrected hits with the same weights as the loss.
At that minimum ∂χ²/∂track = 0, so dC/dΘ = ∂C/∂Θ at fixed track parameters (variable projection): the fit
stays outside the graph and the gradient is exact.

The vertex is one more plane: across the track at its closest approach, through the given (or fitted) origin,
with axes e1 (horizontal: DCA_xy) and e2 (DCA_z · cos λ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.loss import compiled_fit
from alignnet.loss.descent import advance, settle
from alignnet.loss.fit_kernel import LEAST_HITS, REACH
from alignnet.loss.fit_part import part_of, put_back
from alignnet.loss.hit_weights import HitWeights
from alignnet.loss.noise import NoiseModel
from alignnet.loss.robust import TrackWeights
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.physics.seed import seed
from alignnet.physics.trackfit import EventOrigins, derivatives, residuals
from alignnet.physics.whitening import Whitening
from alignnet.sensors.parametrisation import Phi, ShapedPhi
from alignnet.sensors.sensor import SensorLayer

VERTEX = ("given", "fitted", "absent")
NORMALISATIONS = ("event", "total")
_ORIGIN_SPREAD = 1e-5  # [cm] how far a track of a fitted origin may miss it
_UNKNOWN_ORIGIN = 10.0  # [cm] width of the prior of an origin that was not measured


class Fit(NamedTuple):
    """Tracks fitted to hits, and the weights they were fitted with; none of it is in the graph."""

    helix: Helix  # (tracks,)
    whitening: Whitening  # of the hits' rows
    vertex_whitening: Whitening | None  # of the two vertex rows
    vertex_axes: Tensor | None  # rows e1, e2 and the track's direction there (tracks, 3, 3)
    origins: EventOrigins | None
    ok: Tensor  # where hits determine the track (tracks,)
    s: Tensor | None = None  # path lengths (tracks, hits) from which the next search starts [cm]
    hit_weight: Tensor | None = None  # robust weights (tracks, hits), which are in the whitening already
    settled: Tensor | None = None  # where χ² has come to its minimum (tracks,)


@dataclass
class Chi2:
    """χ² by parts; sums over hits are done, sums over tracks are not."""

    track: Tensor  # (tracks,)
    vertex: Tensor  # (tracks,)
    origin: Tensor  # prior of the fitted origins (events,); 0 where none
    ndf: Tensor  # degrees of freedom of each track (tracks,)
    origin_ndf: Tensor  # those of the origins, −3 or 0 (events,)
    weight: Tensor  # weight of each track, 0 where it was not usable (tracks,)
    residual: Tensor  # predicted minus measured (tracks, hits, 2) [cm]
    fit: Fit
    batch: Batch

    @property
    def used_hits(self) -> Tensor:
        """Hits of tracks with weight that have kept more than half of their own (tracks, hits)."""
        used = self.batch.is_hit & (self.weight > 0)[:, None]
        return used if self.fit.hit_weight is None else used & (self.fit.hit_weight > 0.5)

    def per_event(self) -> tuple[Tensor, Tensor]:
        """Weighted χ² and ν of each event, (events,) each."""
        chi2 = torch.where(self.weight > 0, self.track + self.vertex, 0.0) * self.weight
        seen = self.ndf.new_zeros(self.batch.n_events).index_add(0, self.batch.event, self.weight) > 0
        ndf = self.origin_ndf.index_add(0, self.batch.event, self.ndf * self.weight)
        return self.origin.index_add(0, self.batch.event, chi2) * seen, ndf * seen

    def sums(self, normalisation: str) -> tuple[Tensor, Tensor]:
        """Numerator (in the graph) and denominator of C over this batch; both add over batches and ranks."""
        chi2, ndf = self.per_event()
        if normalisation == "total":
            return chi2.sum(), ndf.sum()
        usable = ndf > 0
        return (chi2 / torch.where(usable, ndf, 1.0))[usable].sum(), usable.sum().to(ndf)


class HelixChi2(nn.Module):
    """χ² of helices (lines at B = 0) through the hits of a batch.

    Args:
        detector: field and materials.
        noise: the weights; default: full covariance.
        vertex: "given" (a measured point with covariance, for each track), "fitted" (the event's common
            origin is fitted with the tracks, the given vertex its prior where there is one) or "absent".
        weights: robust weights of tracks; default: none.
        normalisation: "event" averages χ²/ν over events (the published cost), "total" is Σχ²/Σν.
        iterations: Gauss–Newton steps of the fit.
        precision: "float64" or "float32" of residuals, derivatives and weights; positions are float64.
        hit_weights: robust weights of single hits; default: none.
    """

    def __init__(
        self,
        detector: Detector,
        noise: NoiseModel | None = None,
        vertex: str = "given",
        weights: TrackWeights | None = None,
        normalisation: str = "event",
        iterations: int = 3,
        precision: str = "float64",
        hit_weights: HitWeights | None = None,
    ) -> None:
        super().__init__()
        if vertex not in VERTEX:
            raise ConfigError(f"loss.vertex is {vertex!r}; choose from {list(VERTEX)}")
        if normalisation not in NORMALISATIONS:
            raise ConfigError(f"loss.normalisation is {normalisation!r}; choose from {list(NORMALISATIONS)}")
        if precision not in ("float64", "float32"):
            raise ConfigError(f"loss.precision is {precision!r}; choose float64 or float32")
        if iterations < 1:
            raise ConfigError(f"loss.iterations is {iterations}; expected at least 1")
        self.noise = NoiseModel(detector) if noise is None else noise
        self.weights = TrackWeights() if weights is None else weights
        self.hit_weights = HitWeights() if hit_weights is None else hit_weights
        self.vertex, self.normalisation, self.iterations = vertex, normalisation, iterations
        self.b_z, self.dtype = detector.b_z, getattr(torch, precision)
        self.n_parameters = 5 if detector.b_z else 4

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in parts with little padding where tracks count one by one, else the batch itself."""
        together = self.weights.per_batch or self.hit_weights.per_batch
        separable = self.normalisation == "total" and self.vertex != "fitted" and not together
        return batch.by_length() if separable and batch.n_tracks else [batch]

    def forward(self, sensors: SensorLayer, batch: Batch, phi: Phi | ShapedPhi | None = None) -> Chi2:
        """χ² of a batch on sensors at Θ, or at the given Φ; differentiable in Φ and Θ."""
        planes = sensors.planes(batch.uv, batch.sensor, phi)
        return self.at(planes, self.fit(planes.detach(), batch), batch)

    def cost(self, chi2: Chi2) -> Tensor:
        """C over this batch alone."""
        total, count = chi2.sums(self.normalisation)
        return total / count.clamp_min(1)

    @torch.no_grad()
    def fit(self, planes: Plane, batch: Batch, start: Helix | None = None) -> Fit:
        """Fit tracks (and origins) to hits on these planes, weights included."""
        fit = self.fit_without_hit_weights(planes, batch, start)
        active = self.hit_weights.kind != "none" and batch.n_tracks
        fit = self.hit_weights.refit(self, planes, fit, batch) if active else fit
        return fit if fit.settled is None else fit._replace(ok=fit.ok & fit.settled)

    @torch.no_grad()
    def fit_without_hit_weights(self, planes: Plane, batch: Batch, start: Helix | None = None) -> Fit:
        """`fit` with weights of 1; tracks are ok even if wrong hits keep them from their minimum."""
        if start is None and compiled_fit.applies(self, batch):
            return self._compiled(planes, batch)
        helix = seed(planes.origin, batch.is_hit, batch.outward, self.b_z) if start is None else start
        origins = self._origins(batch)
        rough = Whitening.independent(
            batch.sigma.square().flatten(1, 2), batch.is_hit.repeat_interleave(2, 1)
        )
        every = torch.ones_like(batch.outward)
        first, _ = advance(self, planes, Fit(helix, rough, None, None, None, every), batch)
        if self.vertex == "given" and start is None:
            first = self._to_vertex(planes, first, batch)
        helix, ok = first.helix, first.ok
        _, s = residuals(helix, planes, first.s)
        whitening = self.noise(helix, planes, s, batch)
        axes = self._vertex_axes(helix, batch)
        fit = Fit(helix, whitening, self._vertex_whitening(axes, batch), axes, origins, ok, s)
        fit = fit._replace(ok=fit.ok & whitening.usable)
        return self.at_minimum(planes, fit, batch)

    def _to_vertex(self, planes: Plane, first: Fit, batch: Batch) -> Fit:
        """A rough fit, with the vertex as a further hit for tracks that miss theirs without it.

        Three hits of one disc leave a track nearly free, wherever it then comes from.
        """
        place = hx.point(first.helix, hx.path_to_axis(first.helix, batch.vertex))
        meets = first.ok & ((place - batch.vertex).norm(dim=-1) <= REACH)
        far = batch.has_vertex & (batch.is_hit.sum(-1) >= LEAST_HITS) & ~meets
        if not far.any():
            return first
        part = part_of(far, planes, first, batch)
        some, points = part.batch, torch.cat([part.planes.origin, part.batch.vertex[:, None]], 1)
        every = torch.ones_like(some.outward)
        is_hit = torch.cat([some.is_hit, every[:, None]], 1)
        helix = seed(points, is_hit, some.outward, self.b_z)
        axes = self._vertex_axes(helix, some)
        fit = Fit(helix, part.fit.whitening, self._vertex_whitening(axes, some), axes, None, every)
        again, _ = advance(self, part.planes, fit, some)
        return put_back(first, part._replace(fit=again))

    def _compiled(self, planes: Plane, batch: Batch) -> Fit:
        """`fit` without tensors: the same numbers to rounding, several times faster."""
        out = compiled_fit.fitted(self, planes, batch)
        whitening, of_vertex = compiled_fit.whitenings_of(out, self)
        axes = None if of_vertex is None else torch.from_numpy(out.axes)
        ok, s, settled = (torch.from_numpy(field) for field in (out.ok, out.s, out.settled))
        return Fit(compiled_fit.helix_of(out), whitening, of_vertex, axes, None, ok, s, settled=settled)

    @torch.no_grad()
    def refit(self, planes: Plane, fit: Fit, batch: Batch, iterations: int) -> Fit:
        """More Gauss–Newton steps with the weights of `fit`, whether they settle or not."""
        for _ in range(iterations):
            fit, _ = advance(self, planes, fit, batch)
        return fit

    @torch.no_grad()
    def at_minimum(self, planes: Plane, fit: Fit, batch: Batch) -> Fit:
        """The minimum of χ² with the weights of `fit`, and which tracks have come to it."""
        return settle(self, planes, fit, batch, self.iterations)

    def at(self, planes: Plane, fit: Fit, batch: Batch) -> Chi2:
        """χ² of fixed tracks against planes, in the planes' graph; undetermined tracks leave it."""
        keep = fit.ok[:, None, None]
        planes = Plane(*(torch.where(keep, field, field.detach()) for field in planes))
        residual, _ = residuals(fit.helix, planes, fit.s)
        residual = torch.where(batch.is_hit[..., None], residual, 0.0)
        whitened = fit.whitening.to(self.dtype)(residual.flatten(1, 2).to(self.dtype))
        track = whitened.square().sum(-1)
        vertex, origin, origin_ndf = (part.to(track) for part in self._vertex_chi2(fit, batch))
        ndf = self._ndf(fit, batch).to(track)
        weight = self.weights(torch.where(fit.ok, track.detach() + vertex, torch.nan), ndf)
        if fit.hit_weight is not None:
            weight = weight * self.hit_weights.weight_of_tracks(fit.hit_weight, batch.is_hit)
        weight = torch.where(fit.ok, weight, 0.0)
        return Chi2(track, vertex, origin, ndf, origin_ndf, weight, residual, fit, batch)

    def _ndf(self, fit: Fit, batch: Batch) -> Tensor:
        """ν of each track (tracks,); a hit counts as much as it weighs, but at least one is left of them."""
        hits = batch.is_hit.to(batch.uv.dtype)
        n_hits = (hits if fit.hit_weight is None else hits * fit.hit_weight).sum(-1)
        ndf = 2 * n_hits - self.n_parameters
        if fit.vertex_whitening is not None:
            ndf = ndf + 2 * self._meets_vertex(batch)
        return ndf if fit.hit_weight is None else ndf.clamp_min(1)

    def rows(self, planes: Plane, fit: Fit, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Whitened residuals (tracks, rows), dr/dδ (tracks, rows, parameters), dr/dv (tracks, rows, 3)."""
        r, j, a, _ = self.rows_and_paths(planes, fit, batch)
        return r, j, a

    def rows_and_paths(
        self, planes: Plane, fit: Fit, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """`rows`, and the path lengths."""
        residual, s = residuals(fit.helix, planes, fit.s)
        hit = batch.is_hit[..., None]
        r = torch.where(hit, residual, 0.0).to(self.dtype).flatten(1, 2)
        fast = Helix(*(field.to(self.dtype) for field in fit.helix))
        slim = planes.to(self.dtype)
        change = derivatives(fast, slim, s.to(self.dtype), self.n_parameters)
        j = torch.where(hit[..., None], change, 0.0).flatten(1, 2)
        whitening = fit.whitening.to(self.dtype)
        r, j = whitening(r), whitening(j)
        if fit.vertex_whitening is None:
            return r, j, None, s
        rv, jv, av = self._vertex_rows(fit, batch)
        a = torch.cat([torch.zeros(*r.shape, 3, dtype=self.dtype, device=r.device), av], 1)
        return torch.cat([r, rv], 1), torch.cat([j, jv], 1), a, s

    def _origins(self, batch: Batch) -> EventOrigins | None:
        """Start and prior of each event's origin: its first vertex, else the beam line, hardly known."""
        if self.vertex != "fitted":
            return None
        eye = torch.eye(3, dtype=batch.vertex.dtype, device=batch.vertex.device)
        covariance = (eye * _UNKNOWN_ORIGIN**2).expand(batch.n_events, 3, 3).clone()
        prior = batch.vertex.new_zeros(batch.n_events, 3)
        rows = batch.has_vertex.nonzero().squeeze(-1).flip(0)
        covariance[batch.event[rows]] = batch.vertex_cov[rows]
        prior[batch.event[rows]] = batch.vertex[rows]
        return EventOrigins(prior.clone(), prior, torch.linalg.inv(covariance), batch.event)

    def _meets_vertex(self, batch: Batch) -> Tensor:
        """Which tracks have two vertex rows (tracks,)."""
        return batch.outward if self.vertex == "fitted" else batch.has_vertex

    def _vertex_axes(self, helix: Helix, batch: Batch) -> Tensor | None:
        """Axes of the vertex rows; they stay as they are while the fit goes on, as the weights do."""
        if self.vertex == "absent":
            return None
        t = hx.tangent(helix, hx.path_to_axis(helix, batch.vertex))
        return torch.stack([*hx.frame(t), t], -2)

    def _vertex_whitening(self, axes: Tensor | None, batch: Batch) -> Whitening | None:
        if axes is None:
            return None
        counts = self._meets_vertex(batch)[:, None].expand(-1, 2)
        if self.vertex == "fitted":
            return self._tie(batch)
        across = axes[:, :2]
        covariance = across @ batch.vertex_cov @ across.transpose(-1, -2)
        if self.noise.kind == "full":
            return Whitening.correlated(covariance, counts)
        return Whitening.independent(covariance.diagonal(dim1=-2, dim2=-1), counts)

    def _tie(self, batch: Batch) -> Whitening:
        """Weights of the rows that tie collision tracks to a fitted origin."""
        counts = batch.outward[:, None].expand(-1, 2)
        return Whitening.independent(torch.full_like(batch.vertex[:, :2], _ORIGIN_SPREAD**2), counts)

    def _vertex_plane(self, fit: Fit, batch: Batch) -> Plane:
        assert fit.vertex_axes is not None
        target = batch.vertex if fit.origins is None else fit.origins.position[batch.event]
        e1, e2, along = fit.vertex_axes[:, None].unbind(-2)
        return Plane(target[:, None], e1, e2, along)

    def _vertex_rows(self, fit: Fit, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        assert fit.vertex_whitening is not None
        plane = self._vertex_plane(fit, batch)
        residual, s = residuals(fit.helix, plane)
        change = derivatives(fit.helix, plane, s, self.n_parameters).squeeze(1)
        slope = plane.slopes(hx.tangent(hx.expand(fit.helix), s))
        towards = slope.transpose(1, 2) * plane.normal - torch.cat([plane.u, plane.v], 1)
        rows = residual.squeeze(1), change, towards
        r, j, a = (fit.vertex_whitening(row).to(self.dtype) for row in rows)
        return r, j, a

    def _vertex_chi2(self, fit: Fit, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """χ² of the vertex rows (tracks,), and of the origins' priors with their ν (events,)."""
        zero = batch.vertex.new_zeros(batch.n_events)
        if fit.vertex_whitening is None:
            return batch.vertex.new_zeros(batch.n_tracks), zero, zero
        residual, _ = residuals(fit.helix, self._vertex_plane(fit, batch))
        vertex = fit.vertex_whitening(residual.squeeze(1)).square().sum(-1)
        if fit.origins is None:
            return vertex, zero, zero
        pull = fit.origins.position - fit.origins.prior
        origin = (pull[:, None] @ fit.origins.weight @ pull[..., None]).flatten()
        measured = zero.index_add(0, batch.event, batch.has_vertex.to(zero)) > 0
        rows = zero.index_add(0, batch.event, 2.0 * (self._meets_vertex(batch) & fit.ok).to(zero))
        return vertex, torch.where(measured, origin, 0.0), torch.where(measured, 0.0, -rows.clamp_max(3.0))
