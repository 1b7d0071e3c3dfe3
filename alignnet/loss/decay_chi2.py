"""χ² of two-body decays: both tracks from one fitted point, with the mass that is known.

    χ²_pair = χ²_track 1 + χ²_track 2 + ((m(p₁, p₂) − m₀) / σ_m)²

in 13 local parameters, two tracks of five and the point, to which either track is tied within 0.1 µm: the six
momenta and the three coordinates of a decay, and what the tie takes. σ_m is the width of the mass itself (and
what it is trusted to); the resolution of m follows from the tracks. All parameters are at the minimum of this
χ², so that the gradient is that at fixed tracks, as for single ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.loss.chi2 import Chi2, Fit, HelixChi2
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix
from alignnet.physics.trackfit import EventOrigins, residuals, solve
from alignnet.physics.two_body import invariant_mass, meeting_point
from alignnet.sensors.parametrisation import Phi, ShapedPhi
from alignnet.sensors.sensor import SensorLayer

_STEPS = 8
_SETTLED = 1e-6  # of 1 + χ², that the last step may still have promised
_UNKNOWN = 1e-6  # weight of the prior of a point that nothing is known of [1/cm²]


class PairRows(NamedTuple):
    """Pairs linearised at a fit, whitened; rows of the first track, of the second, of the mass."""

    pairs: Tensor  # rows of their tracks in the batch (pairs, 2)
    residual: Tensor  # (pairs, rows)
    jacobian: Tensor  # by δ of both tracks and the point (pairs, rows, 13)


class DecayChi2(HelixChi2):
    """χ² of events that are the two tracks of one decay each; other events do not count.

    Args:
        detector: field and materials.
        mass: m₀ [GeV/c²], as it would be found with perfect places.
        width: σ_m [GeV/c²].
        daughters: masses of the positive and the negative track [GeV/c²]; default: those of the file.
        options: of `HelixChi2`, but for the vertex.

    Raises:
        ConfigError: there is no field, or a value cannot be used.
    """

    def __init__(
        self,
        detector: Detector,
        mass: float,
        width: float,
        daughters: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(detector, **{**options, "vertex": "absent"})
        if not detector.b_z:
            raise ConfigError("a decay's mass needs momenta, and those a field: its b_z is 0")
        if not mass > 0 or not width > 0:
            raise ConfigError(f"decay: mass is {mass} and width {width}; expected both > 0 in GeV/c²")
        if daughters is not None and (len(daughters) != 2 or min(daughters) <= 0):
            raise ConfigError(f"decay: daughters are {list(daughters)}; expected two masses > 0 in GeV/c²")
        if self.hit_weights.kind != "none":
            raise ConfigError("decay: loss.hit_weights are of single tracks; set hit_weights.kind=none")
        self.mass, self.width = mass, width
        self._check_lighter(0.0 if daughters is None else sum(daughters))
        self.daughters = None if daughters is None else tuple(daughters)

    def _check_lighter(self, together: float) -> None:
        if together >= self.mass:
            raise ConfigError(
                f"decay.mass is {self.mass:g} GeV/c², its daughters have {together:.4g}, expected less; "
                "give the mass of what decays, or decay.daughters where the file's masses are not theirs"
            )

    def parts(self, batch: Batch) -> list[Batch]:
        """The pairs of the batch; that a track has lost its partner is no failure of its fit."""
        return [batch.take(pairs_of(batch).flatten())]

    def forward(self, sensors: SensorLayer, batch: Batch, phi: Phi | ShapedPhi | None = None) -> Chi2:
        """χ² of the pairs of a batch on sensors at Θ, or at the given Φ; differentiable in Φ and Θ."""
        return super().forward(sensors, self.parts(batch)[0], phi)

    @torch.no_grad()
    def fit(self, planes: Plane, batch: Batch, start: Helix | None = None) -> Fit:
        """Fit the pairs to hits on these planes, their common point and mass included."""
        alone = self.fit_without_hit_weights(planes, batch, start)
        pairs = pairs_of(batch)
        position = batch.vertex.new_zeros(batch.n_events, 3)
        helix = self._of_pairs(alone.helix, pairs)
        position[batch.event[pairs[:, 0]]] = meeting_point(helix)
        origins = EventOrigins(
            position, position, _UNKNOWN * torch.eye(3).to(position).expand(batch.n_events, 3, 3), batch.event
        )
        inside = position[batch.event, :2].norm(dim=-1, keepdim=True)
        crossed = batch.crossed.clone()
        crossed[:, : len(self.noise.radius)] &= (
            self.noise.radius > inside
        )  # matter before the decay is not met
        seen = batch._replace(crossed=crossed)
        _, s = residuals(alone.helix, planes, alone.s)
        whitening = self.noise(alone.helix, planes, s, seen)
        usable = torch.zeros_like(alone.ok).index_fill(0, pairs.flatten(), True)
        usable &= alone.ok & whitening.usable & (alone.settled if alone.settled is not None else alone.ok)
        fit = Fit(alone.helix, whitening, None, None, origins, usable, s)
        return self._settled(planes, self._tied(fit, batch), batch)

    def at(self, planes: Plane, fit: Fit, batch: Batch) -> Chi2:
        """χ² of fixed pairs against planes, in the planes' graph; robust weights are those of whole pairs."""
        found = super().at(planes, fit, batch)
        chi2, ndf = found.origin.clone(), found.origin_ndf.clone()
        chi2 = chi2.index_add(0, batch.event, (found.track.detach() + found.vertex).nan_to_num())
        ndf = ndf.index_add(0, batch.event, found.ndf)
        ok = _both(fit.ok, batch)
        weight = self.weights(torch.where(ok, chi2[batch.event], torch.nan), ndf[batch.event].clamp_min(1))
        weight = torch.where(ok, weight, 0.0)
        of_event = torch.zeros_like(found.origin).scatter(0, batch.event, weight)
        return replace(
            found, weight=weight, origin=found.origin * of_event, origin_ndf=found.origin_ndf * of_event
        )

    def pair_rows(self, planes: Plane, fit: Fit, batch: Batch) -> PairRows:
        """The pairs' residuals and derivatives."""
        assert fit.origins is not None
        pairs = pairs_of(batch)
        r, j, a = self.rows(planes, fit, batch)
        assert a is not None
        n, rows = len(pairs), r.shape[1]
        jacobian = r.new_zeros(n, 2, rows, 13)
        jacobian[:, 0, :, :5], jacobian[:, 1, :, 5:10] = j[pairs[:, 0]], j[pairs[:, 1]]
        jacobian[..., 10:] = a[pairs]
        pull, slope = self.mass_row(fit, batch, pairs)
        residual = torch.cat([r[pairs].flatten(1), pull[:, None].to(r)], 1)
        return PairRows(pairs, residual, torch.cat([jacobian.flatten(1, 2), slope[:, None].to(r)], 1))

    def mass_row(self, fit: Fit, batch: Batch, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """(m − m₀)/σ_m of pairs (pairs,), and its derivatives by δ₁, δ₂ and the point (pairs, 13)."""
        assert fit.origins is not None
        with torch.enable_grad():
            delta = fit.helix.position.new_zeros(len(pairs), 2, 5, requires_grad=True)
            place = fit.origins.position[batch.event[pairs[:, 0]]].clone().requires_grad_()
            helix = hx.updated(self._of_pairs(fit.helix, pairs), delta)
            mass = invariant_mass(helix, self._masses(fit.helix, batch, pairs), place, self.b_z)
            pull = (mass - self.mass) / self.width
            slopes = torch.autograd.grad(pull.sum(), [delta, place])
        return pull.detach(), torch.cat([slopes[0].flatten(1), slopes[1]], 1)

    def _masses(self, helix: Helix, batch: Batch, pairs: Tensor) -> Tensor:
        """(pairs, 2).

        Raises:
            ConfigError: the daughters are as heavy as what is said to decay.
        """
        if self.daughters is None:
            masses = batch.mass[pairs]
            self._check_lighter(float(masses.sum(1).amin()) if len(masses) else 0.0)
            return masses
        positive = (helix.omega[pairs] * self.b_z) < 0
        return torch.where(positive, self.daughters[0], self.daughters[1]).to(helix.position)

    @staticmethod
    def _of_pairs(helix: Helix, pairs: Tensor) -> Helix:
        return Helix(*(field[pairs] for field in helix))

    def _tied(self, fit: Fit, batch: Batch) -> Fit:
        """The fit with the rows that tie tracks to their points."""
        assert fit.origins is not None
        s = hx.path_to_axis(fit.helix, fit.origins.position[batch.event])
        t = hx.tangent(fit.helix, s)
        return fit._replace(vertex_axes=torch.stack([*hx.frame(t), t], -2), vertex_whitening=self._tie(batch))

    def _settled(self, planes: Plane, fit: Fit, batch: Batch) -> Fit:
        """Gauss–Newton steps of all 13 parameters, and which pairs have come to the minimum."""
        for _ in range(_STEPS):
            rows = self.pair_rows(planes, fit, batch)
            delta, ok = solve(rows.jacobian, rows.residual[..., None])
            delta = -delta.squeeze(-1)
            ok = ok & delta.isfinite().all(-1)
            delta = torch.where(ok[:, None], delta, 0.0)
            promise = -(rows.residual * (rows.jacobian @ delta[..., None]).squeeze(-1)).sum(-1)
            fit = self._moved(fit, batch, rows.pairs, delta)
        good = ok & (promise <= _SETTLED * (1 + rows.residual.square().sum(-1)))
        settled = torch.zeros_like(fit.ok)
        settled[rows.pairs.flatten()] = good.repeat_interleave(2)
        fit = fit._replace(ok=fit.ok & settled)
        return fit._replace(ok=_both(fit.ok, batch), settled=settled)

    def _moved(self, fit: Fit, batch: Batch, pairs: Tensor, delta: Tensor) -> Fit:
        assert fit.origins is not None
        change = delta.new_zeros(batch.n_tracks, 5)
        change[pairs] = delta[:, :10].unflatten(1, (2, 5))
        position = fit.origins.position.clone()
        position[batch.event[pairs[:, 0]]] += delta[:, 10:]
        return fit._replace(
            helix=hx.updated(fit.helix, change), origins=fit.origins._replace(position=position)
        )

    def _ndf(self, fit: Fit, batch: Batch) -> Tensor:
        return 2.0 * batch.is_hit.to(batch.uv.dtype).sum(-1) - 3  # five parameters, two rows of the tie

    def _vertex_chi2(self, fit: Fit, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """χ² of the ties (tracks,), of the masses, and their ν less the point's three (events,)."""
        assert fit.vertex_whitening is not None
        zero, pairs = batch.vertex.new_zeros(batch.n_events), pairs_of(batch)
        residual, _ = residuals(fit.helix, self._vertex_plane(fit, batch))
        tie = fit.vertex_whitening(residual.squeeze(1)).square().sum(-1)
        event = batch.event[pairs[:, 0]]
        pull, _ = self.mass_row(fit, batch, pairs)
        good = fit.ok[pairs].all(-1)
        mass = zero.index_copy(0, event, torch.where(good, pull.square(), 0.0))
        return tie, mass, zero.index_fill(0, event, -2.0)


def pairs_of(batch: Batch) -> Tensor:
    """Rows of both tracks of each event that has just two, which start at the beam line (pairs, 2)."""
    count = torch.bincount(batch.event, minlength=batch.n_events)
    order = batch.event.argsort(stable=True)
    first = count.cumsum(0) - count
    two = (count == 2).nonzero().squeeze(-1)
    pairs = order[first[two][:, None] + torch.arange(2, device=order.device)]
    return pairs[batch.outward[pairs].all(-1)]


def _both(ok: Tensor, batch: Batch) -> Tensor:
    """Where a track's partner is good, too (tracks,)."""
    count = torch.zeros(batch.n_events, dtype=torch.int64, device=ok.device).index_add_(
        0, batch.event, ok.long()
    )
    return ok & (count[batch.event] == 2)
