"""The alignment problem at a point Θ: residuals linear in the sensors' displacements, tracks projected out.

With whitened residuals r, local derivatives J and P = 1 − J (JᵀJ)⁻¹ Jᵀ, the objective ½ Σ c_t χ²_t (c the
robust weights, 1 without them: the likelihood's weighting, whatever the loss's normalisation over events) has

    gradient g = Σ c_t J_θᵀ P r,      Gauss–Newton matrix H = Σ c_t J_θᵀ P J_θ,

Millepede's reduced matrix, applied to vectors without ever being formed. A sensor that moves by
Φ → Φ + (δW, δb) moves the measured point and the plane by (δu, δv, δw) = δW s̃ + δb at the hit; with the
track's slopes t_u/t_n and t_v/t_n in the sensor's frame, its residual changes by

    δr_u = −δu + (t_u/t_n) δw,   δr_v = −δv + (t_v/t_n) δw

with s̃ at the *predicted* position, where this is exact for rigid motions. So a hit needs four numbers (two
slopes, two coordinates), and ∂Φ/∂Θ is applied once for each sensor; hits on bent sensors, or on ones whose
surfaces have modes, hold their derivatives by Θ (`SensorLayer.hit_response`). Where events' origins are
fitted, they are projected out too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.plane import Plane
from alignnet.loss.chi2 import Fit, HelixChi2
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.physics import helix as hx
from alignnet.physics.trackfit import residuals, solve
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import compiled_linear


class Block(NamedTuple):
    """Linearised tracks; dimensions (tracks), (hits), rows (u₁, v₁, u₂, …)."""

    sensor: Tensor  # (tracks, hits)
    is_hit: Tensor  # (tracks, hits)
    slope: Tensor  # t_u/t_n and t_v/t_n (tracks, hits, 2)
    arm: Tensor  # (s̃₁, s̃₂, 1) of the predicted position (tracks, hits, 3)
    response: Tensor  # change of the rows by Θ of curved sensors (tracks, hits, 2, dof), else (…, 0)
    force: Tensor  # c V⁻¹P r of the rows (tracks, 2·hits)
    noise: Tensor  # the same for residuals of pure noise, a draw whose gradient is N(0, H); (tracks, 2·hits)
    metric: Tensor  # c V⁻¹P of the rows (tracks, 2·hits, 2·hits)
    event: Tensor  # (tracks,)
    towards_origin: Tensor  # how the rows follow the event's origin (tracks, 2·hits, 3), or (tracks, 0, 3)
    origin_inverse: Tensor  # S⁻¹ of each event (events, 3, 3), or (0, 3, 3)

    @property
    def n_hits(self) -> int:
        """Hits of each track."""
        return self.sensor.shape[1]

    def derivative(self, jacobian: Tensor) -> Tensor:
        """Change of each hit's two rows by its own sensor's Θ, (tracks, hits, 2, dof).

        Args:
            jacobian: `SensorLayer.motion` (sensors, 9, dof), or of curved sensors (sensors, dof, dof), times
                what is wanted of it.
        """
        own = jacobian.to(self.arm.dtype).index_select(0, self.sensor.flatten())
        own = own.unflatten(0, self.sensor.shape)
        if self.response.shape[-1]:
            return self.response @ own
        s1, s2 = self.arm[..., 0, None], self.arm[..., 1, None]
        move = [own[..., 2 * k, :] * s1 + own[..., 2 * k + 1, :] * s2 + own[..., 6 + k, :] for k in range(3)]
        return torch.stack([self.slope[..., k, None] * move[2] - move[k] for k in range(2)], 2)

    def own_metric(self) -> Tensor:
        """The 2×2 block of the metric that belongs to each hit (tracks, hits, 2, 2)."""
        n = self.n_hits
        blocks = self.metric.unflatten(2, (n, 2)).unflatten(1, (n, 2))
        return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)

    def take(self, rows: Tensor, n_hits: int) -> Block:
        """Some tracks, with their first `n_hits` hits."""
        n = 2 * n_hits
        return Block(
            self.sensor[rows, :n_hits], self.is_hit[rows, :n_hits],
            self.slope[rows, :n_hits], self.arm[rows, :n_hits], self.response[rows, :n_hits],
            self.force[rows, :n], self.noise[rows, :n], self.metric[rows, :n, :n],
            self.event[rows], self.towards_origin[rows, :n], self.origin_inverse,
        )  # fmt: skip

    def weighted(self, weight: float) -> Block:
        """The same tracks, their χ² counted `weight` times."""
        if weight == 1:
            return self
        return self._replace(
            force=self.force * weight,
            noise=self.noise * weight**0.5,
            metric=self.metric * weight,
            towards_origin=self.towards_origin * weight**0.5,
        )

    def with_origins(self) -> Block:
        """The same tracks as if their events had origins that nothing depends on, beside others that have."""
        if len(self.origin_inverse):
            return self
        n_events = int(self.event.max()) + 1 if len(self.event) else 0
        towards = self.metric.new_zeros(*self.metric.shape[:2], 3)
        return self._replace(towards_origin=towards, origin_inverse=self.metric.new_zeros(n_events, 3, 3))

    def by_length(self) -> list[Block]:
        """The same tracks in blocks without padding, one for each number of hits."""
        count = self.is_hit.sum(-1)
        return [self.take((count == n).nonzero().squeeze(-1), n) for n in count.unique().tolist() if n]


def merged(blocks: list[Block], consume: bool = False) -> list[Block]:
    """Blocks of many batches joined into one block for each number of hits, events numbered through.

    Args:
        blocks: of batches.
        consume: empty the list on the way, so that not all of it is in memory twice.
    """
    shift, inverses = 0, []
    parts: dict[int, list[Block]] = {}
    coupled = any(len(block.origin_inverse) for block in blocks)
    for block in (block.with_origins() if coupled else block for block in blocks):
        for part in block.by_length():
            parts.setdefault(part.n_hits, []).append(part._replace(event=part.event + shift))
        shift += len(block.origin_inverse)
        inverses.append(block.origin_inverse)
    inverse = torch.cat(inverses) if inverses else torch.zeros(0, 3, 3)
    if consume:
        blocks.clear()
    return [
        Block._make([*map(torch.cat, zip(*(b[:-1] for b in parts.pop(n)), strict=True)), inverse])
        for n in sorted(parts)
    ]


@torch.no_grad()
def linearise(
    loss: HelixChi2, sensors: SensorLayer, batch: Batch, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Block:
    """The linearised problem of a batch at the sensors' Θ, from the same fit and weights as the loss.

    Args:
        dtype: of the stored numbers; positions and the fit are float64 whatever it is.
        seed: of the pure-noise residuals.
    """
    planes = sensors.planes(batch.uv, batch.sensor)
    fit = loss.fit(planes, batch)
    return linearise_at(loss, sensors, planes, fit, batch, dtype, seed)


@torch.no_grad()
def linearise_at(
    loss: HelixChi2,
    sensors: SensorLayer,
    planes: Plane,
    fit: Fit,
    batch: Batch,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    weight: Tensor | None = None,
) -> Block:
    """The linearised problem at a given fit; `weight` is that of its tracks, where it is known already."""
    scale = loss.at(planes, fit, batch).weight if weight is None else weight
    if isinstance(loss, DecayChi2):
        return _linearised_pairs(loss, sensors, planes, fit, batch, dtype, seed, scale)
    if compiled_linear.applies(loss, fit, batch):
        epsilon = _standard_normal(
            scale.new_empty(len(scale), compiled_linear.rows_of(fit, batch)), batch, seed
        )
        slope, arm, *rows = compiled_linear.linear(loss, sensors, planes, fit, batch, scale, epsilon)
        response = _response(sensors, planes, slope, arm, batch)
        origins = scale.new_zeros(len(scale), 0, 3), scale.new_zeros(0, 3, 3)
        stored = [t.to(dtype) for t in (slope, arm, response, *rows, *origins)]
        return Block._make([batch.sensor, batch.is_hit, *stored[:6], batch.event, *stored[6:]])
    r, j, a = loss.rows(planes, fit, batch)
    r, j = _used(r, scale), _used(j, scale)
    projected = _used(_projected_rows(fit, j), scale)  # P L⁻¹, (tracks, rows, 2·hits)
    metric = projected.transpose(-1, -2) @ projected * scale[:, None, None]
    epsilon = _standard_normal(r, batch, seed) * scale.sqrt()[:, None]
    force, noise = _forces(projected, r * scale[:, None]), _forces(projected, epsilon)
    towards, inverse = metric.new_zeros(len(r), 0, 3), metric.new_zeros(0, 3, 3)
    if fit.origins is not None and a is not None:
        a = _used(a, scale)
        a = a - j @ solve(j, a)[0]
        towards = projected.transpose(-1, -2) @ a * scale[:, None, None]
        inverse, move = _origin_noise(a, epsilon, scale, fit, batch, seed)
        noise = noise - (towards @ move[..., None]).squeeze(-1)
    slope, arm = (_used(lever, scale) for lever in _levers(sensors, planes, fit, batch))
    response = _used(_response(sensors, planes, slope, arm, batch), scale)
    stored = [t.to(dtype) for t in (slope, arm, response, force, noise, metric)]
    rest = [batch.event, towards.to(dtype), inverse.to(dtype)]
    return Block._make([batch.sensor, batch.is_hit, *stored, *rest])


def _linearised_pairs(
    loss: DecayChi2,
    sensors: SensorLayer,
    planes: Plane,
    fit: Fit,
    batch: Batch,
    dtype: torch.dtype,
    seed: int,
    scale: Tensor,
) -> Block:
    """Each pair as one track that has the hits of both; point and momenta are projected out."""
    rows = loss.pair_rows(planes, fit, batch)
    pairs, weight = rows.pairs, scale[rows.pairs[:, 0]]
    r, j = _used(rows.residual, weight), _used(rows.jacobian, weight)
    n, hits = len(pairs), 2 * batch.sensor.shape[1]
    eye = torch.eye(hits, dtype=r.dtype, device=r.device).expand(batch.n_tracks, -1, -1)
    own = fit.whitening.to(r.dtype)(eye)[pairs]  # (pairs, 2, 2·hits, 2·hits)
    columns = r.new_zeros(n, 2, hits + 2, 2, hits)
    columns[:, 0, :hits, 0], columns[:, 1, :hits, 1] = own[:, 0], own[:, 1]
    columns = torch.cat([columns.view(n, 2 * hits + 4, 2 * hits), r.new_zeros(n, 1, 2 * hits)], 1)
    q, _ = torch.linalg.qr(j / j.square().sum(-2, keepdim=True).sqrt().clamp_min(1e-30))
    projected = _used(columns - q @ (q.transpose(-1, -2) @ columns), weight)
    metric = projected.transpose(-1, -2) @ projected * weight[:, None, None]
    epsilon = _standard_normal(r, batch, seed) * weight.sqrt()[:, None]
    force, noise = _forces(projected, r * weight[:, None]), _forces(projected, epsilon)
    slope, arm = _levers(sensors, planes, fit, batch)
    of_hits = (slope, arm, _response(sensors, planes, slope, arm, batch))
    levers = (_used(lever[pairs].flatten(1, 2), weight) for lever in of_hits)
    stored = [t.to(dtype) for t in (*levers, force, noise, metric)]
    event, none = torch.arange(n, device=pairs.device), (r.new_zeros(n, 0, 3), r.new_zeros(0, 3, 3))
    shared = batch.sensor[pairs].flatten(1), batch.is_hit[pairs].flatten(1)
    return _hits_first(Block._make([*shared, *stored, event, *(t.to(dtype) for t in none)]))


def _hits_first(block: Block) -> Block:
    """The same with the hits of each track before what is padding, as elsewhere."""
    order = (~block.is_hit).long().argsort(dim=-1, stable=True)
    rows = (2 * order[..., None] + torch.arange(2, device=order.device)).flatten(1)
    each = torch.arange(len(order), device=order.device)[:, None]
    metric = block.metric[each[..., None], rows[:, :, None], rows[:, None, :]]
    return block._replace(
        **{name: getattr(block, name)[each, order] for name in ("sensor", "is_hit", "slope", "arm")},
        **{name: getattr(block, name)[each, rows] for name in ("force", "noise")},
        metric=metric,
    )


def _used(values: Tensor, scale: Tensor) -> Tensor:
    """Values of the tracks with weight; those of the others, which may not be finite, are 0."""
    return torch.where(scale.view(-1, *[1] * (values.dim() - 1)) > 0, values, 0.0)


def _projected_rows(fit: Fit, jacobian: Tensor) -> Tensor:
    """P L⁻¹ of the hits' rows (tracks, rows, 2·hits); rows are those of the vertex too."""
    n_rows = jacobian.shape[1] - (2 if fit.vertex_whitening is not None else 0)
    eye = torch.eye(n_rows, dtype=jacobian.dtype, device=jacobian.device).expand(len(jacobian), -1, -1)
    hits = fit.whitening.to(jacobian.dtype)(eye)
    hits = torch.cat([hits, hits.new_zeros(len(hits), jacobian.shape[1] - n_rows, n_rows)], 1)
    scale = jacobian.square().sum(-2, keepdim=True).sqrt().clamp_min(1e-30)
    q, _ = torch.linalg.qr(jacobian / scale)
    return hits - q @ (q.transpose(-1, -2) @ hits)


def _forces(projected: Tensor, rows: Tensor) -> Tensor:
    return (projected.transpose(-1, -2) @ rows[..., None]).squeeze(-1)


def _standard_normal(like: Tensor, batch: Batch, seed: int) -> Tensor:
    """Whitened pure noise; the draw depends on the seed and the tracks, not on what ran before."""
    first = int(batch.event_number[batch.event[0]]) if batch.n_tracks else 0
    key = (seed * 1_000_003 + first) * 1009 + batch.sensor.shape[1]
    generator = torch.Generator().manual_seed(key % 2**63)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _origin_noise(
    a: Tensor, epsilon: Tensor, scale: Tensor, fit: Fit, batch: Batch, seed: int
) -> tuple[Tensor, Tensor]:
    """S⁻¹ of each event (events, 3, 3), and how far pure noise moves each track's origin (tracks, 3)."""
    assert fit.origins is not None
    prior = fit.origins.weight.to(a.dtype)
    matrix = prior.index_add(0, batch.event, a.transpose(-1, -2) @ a * scale[:, None, None])
    draw = _standard_normal(fit.origins.position, batch, seed + 1).to(a.dtype)
    pull = (torch.linalg.cholesky(prior) @ draw[..., None]).squeeze(-1)
    pull = pull.index_add(0, batch.event, (a.transpose(-1, -2) @ epsilon[..., None]).squeeze(-1))
    inverse = torch.linalg.inv(matrix)
    return inverse, (inverse @ pull[..., None]).squeeze(-1)[batch.event]


def _levers(sensors: SensorLayer, planes: Plane, fit: Fit, batch: Batch) -> tuple[Tensor, Tensor]:
    residual, s = residuals(fit.helix, planes, fit.s)
    slope = planes.slopes(hx.tangent(hx.expand(fit.helix), s))
    tilde = sensors.normalised(batch.uv + residual, batch.sensor)
    arm = torch.cat([tilde, torch.ones_like(tilde[..., :1])], -1)
    hit = batch.is_hit[..., None]
    return torch.where(hit, slope, 0.0), torch.where(hit, arm, 0.0)


def _response(sensors: SensorLayer, planes: Plane, slope: Tensor, arm: Tensor, batch: Batch) -> Tensor:
    """`SensorLayer.hit_response` of all hits; 0 for padding."""
    if not sensors.is_curved:
        return slope.new_zeros(*slope.shape, 0)
    half, centre = (table[batch.sensor] for table in (sensors.half_length, sensors.centre))
    residual = arm[..., :2] * half + centre - batch.uv
    found = sensors.hit_response(planes, slope, residual, batch.uv, batch.sensor)
    return torch.where(batch.is_hit[..., None, None], found, 0.0)
