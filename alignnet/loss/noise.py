"""How far hits may stray from a track: the covariance of its residuals, and from it their weights.

* `none`: the intrinsic resolution alone.
* `diagonal`: σ² = σ²_IPR + Σ_q σ²_SPP,q, correlations between hits dropped (the published cost).
* `full`: V = σ²_IPR + Σ_q θ0_q² L_q L_qᵀ with its correlations; what General Broken Lines gives.

A scatterer is a hit's own sensor, a passive cylinder, or a barrel layer that the track crossed without a hit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignnet.data.batch import Batch, cylinders_of
from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.physics import helix as hx
from alignnet.physics import material
from alignnet.physics.helix import Helix
from alignnet.physics.whitening import Whitening

KINDS = ("none", "diagonal", "full")
_MOMENTUM_LIMITS = (0.05, 1000.0)  # GeV/c; a fitted momentum is trusted within these


class Scattering(NamedTuple):
    """Scatterers of each track, and where it meets them; fields (tracks, scatterers)."""

    s: Tensor  # path length [cm]
    angle: Tensor  # Highland's θ0 [rad], 0 where there is none
    curvature: Tensor  # width of the change of ω [1/cm]


class NoiseModel(nn.Module):
    """Weights of hits' residuals on a detector.

    Args:
        detector: its materials are used.
        kind: "none", "diagonal" or "full".
        log_term: the logarithm in Highland's formula.
        energy_loss: add the fluctuation of the energy loss.
        momentum: [GeV/c] for tracks without an estimate where there is no field to measure it.
        systematic: extra resolution [cm] of every hit, added in quadrature.
        material_scale: what the detector's radiation lengths are multiplied with.
    """

    x_over_x0: Tensor
    radius: Tensor
    cylinder_x_over_x0: Tensor

    def __init__(
        self,
        detector: Detector,
        kind: str = "full",
        log_term: bool = True,
        energy_loss: bool = True,
        momentum: float | None = None,
        systematic: float = 0.0,
        material_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"loss.noise.kind is {kind!r}; choose from {list(KINDS)}")
        if momentum is not None and not momentum > 0:
            raise ConfigError(f"loss.noise.momentum is {momentum}; expected a momentum > 0 in GeV/c, or null")
        if not systematic >= 0:
            raise ConfigError(f"loss.noise.systematic is {systematic}; expected a length ≥ 0 in cm")
        if not material_scale >= 0:
            raise ConfigError(f"loss.noise.material_scale is {material_scale}; expected a number ≥ 0")
        self.kind, self.log_term, self.energy_loss = kind, log_term, energy_loss
        self.momentum, self.systematic, self.b_z = momentum, systematic, detector.b_z
        cylinders = cylinders_of(detector)
        self.register_buffer("x_over_x0", detector.x_over_x0.to(torch.float64) * material_scale)
        self.register_buffer("radius", cylinders.radius)
        self.register_buffer("cylinder_x_over_x0", cylinders.x_over_x0 * material_scale)

    @property
    def needs_momentum(self) -> bool:
        """Whether the weights depend on the tracks' momenta."""
        return self.kind != "none" and bool((self.x_over_x0 > 0).any() or len(self.radius))

    def variance(self, batch: Batch) -> Tensor:
        """The hits' own part of it, (tracks, hits, 2) [cm²]."""
        return batch.sigma.square() + self.systematic**2

    def forward(
        self,
        helix: Helix,
        planes: Plane,
        s: Tensor,
        batch: Batch,
        weight: Tensor | None = None,
        tau: float = 0.0,
    ) -> Whitening:
        """Weights of the rows (u₁, v₁, u₂, v₂, …) of each track, shape (tracks, 2·hits[, 2·hits]).

        Args:
            weight: of each hit, by which its own variance is divided (tracks, hits); 0 leaves it out.
            tau: added in quadrature to every hit's resolution [cm].
        """
        variance, is_hit = self.variance(batch) + tau**2, batch.is_hit
        if weight is not None:
            is_hit = is_hit & (weight > 0)
            variance = variance / torch.where(is_hit, weight, 1.0)[..., None]
        variance, is_row = variance.flatten(1, 2), is_hit.repeat_interleave(2, dim=1)
        if not self.needs_momentum:
            return Whitening.independent(variance, is_row)
        levers = self._levers(helix, planes, s, batch)
        if self.kind == "diagonal":
            return Whitening.independent(variance + material.residual_variance(*levers), is_row)
        covariance = torch.diag_embed(variance) + material.residual_covariance(*levers)
        return Whitening.correlated(covariance, is_row)

    def scattered(self, helix: Helix, planes: Plane, s: Tensor, batch: Batch) -> Tensor:
        """The scatterers' part of the covariance, (tracks, 2·hits, 2·hits) [cm²]."""
        return material.residual_covariance(*self._levers(helix, planes, s, batch))

    def _levers(
        self, helix: Helix, planes: Plane, s: Tensor, batch: Batch
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `material.residual_covariance` takes."""
        scatterers = self.scatterers(helix, planes, s, batch)
        directions = hx.tangent(hx.expand(helix), s)
        axes = tuple(
            material.in_plane(e, directions, planes.u, planes.v, planes.normal) for e in hx.frame(directions)
        )
        return (axes[0], axes[1]), s, scatterers.s, helix.omega, scatterers.angle, scatterers.curvature

    def scatterers(self, helix: Helix, planes: Plane, s: Tensor, batch: Batch) -> Scattering:
        """Where each track meets material, and what that does to it."""
        x_hit = self._sensor_material(helix, planes, s, batch)
        s_cylinder, x_cylinder = self._cylinder_material(helix, batch)
        p, mass = self.momenta(helix, batch)[:, None], batch.mass[:, None]
        x = torch.cat([x_hit, x_cylinder], -1)
        angle = material.highland(p, mass, x, self.log_term)
        curvature = torch.zeros_like(angle)
        if self.energy_loss and self.b_z:
            curvature = material.curvature_width(p, mass, helix.omega[:, None], x)
        return Scattering(torch.cat([s, s_cylinder], -1), angle, curvature)

    def momenta(self, helix: Helix, batch: Batch) -> Tensor:
        """|p| (tracks,) [GeV/c]: the file's, else the fit's, else the configured one.

        Raises:
            ConfigError: without a field nothing measures it, and neither file nor configuration gives it.
        """
        if self.b_z:
            other = hx.momentum_of(helix, self.b_z).clamp(*_MOMENTUM_LIMITS)
        elif self.momentum is not None:
            other = torch.full_like(batch.p, self.momentum)
        elif batch.p.isnan().any():
            raise ConfigError(
                "tracks have no momentum `p` and there is no field to measure it: "
                "set loss.noise.momentum to a value in GeV/c, or loss.noise.kind=none"
            )
        else:
            other = batch.p
        return torch.where(batch.p.isnan(), other, batch.p)

    def _sensor_material(self, helix: Helix, planes: Plane, s: Tensor, batch: Batch) -> Tensor:
        cosine = (hx.tangent(hx.expand(helix), s) * planes.normal).sum(-1).abs().clamp_min(0.05)
        flat = self.x_over_x0.index_select(0, batch.sensor.flatten()).unflatten(0, batch.sensor.shape)
        return flat / cosine * batch.is_hit

    def _cylinder_material(self, helix: Helix, batch: Batch) -> tuple[Tensor, Tensor]:
        states = hx.expand(helix)
        s = hx.path_to_cylinder(states, self.radius.expand(batch.n_tracks, -1))
        crossed = batch.crossed & s.isfinite()
        s = torch.where(crossed, s, torch.zeros_like(s))
        here, along = hx.point(states, s)[..., :2], hx.tangent(states, s)[..., :2]
        cosine = ((here * along).sum(-1) / self.radius).abs().clamp_min(0.05)
        return s, self.cylinder_x_over_x0 / cosine * crossed
