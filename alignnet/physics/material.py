"""What matter does to a track: multiple scattering, energy loss, and the covariance of residuals they make.

A scatterer q turns the track by two independent angles of width θ0 (Highland) in the plane across it and
changes its curvature by the fluctuation of the energy loss. At a hit i behind it, with the lever arm
Δs = s_i − s_q > 0,

    δx_i = Δs sinc(ωΔs) · a₁ e1 + Δs · a₂ e2 + ½ Δs² δω · e1

and in the sensor's plane, δ(u, v)_i is δx_i moved along the track into the plane. The covariance of a track's
residuals is V = σ²_IPR + Σ_q θ0_q² (L_q,1 L_q,1ᵀ + L_q,2 L_q,2ᵀ) + …, what General Broken Lines gives
(docs/physics.md, The cost).
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.units import ELECTRON_MASS

RADIATION_LENGTH_SI = 21.82
"""Radiation length of silicon [g/cm²] (PDG): what x/X0 of a sensor is converted with."""

_K_Z_OVER_A_SI = 0.307075e-3 * 14 / 28.0855  # GeV cm²/g
_EXCITATION_SI = 173e-9  # mean excitation energy [GeV]
_PLASMA_SI = 31.05e-9  # plasma energy [GeV]


def highland(p: Tensor, mass: Tensor, x_over_x0: Tensor, log_term: bool = True) -> Tensor:
    """Width θ0 [rad] of the projected scattering angle of a unit charge (PDG, Highland).

        θ0 = 13.6 MeV / (β p) √(x/X0) [1 + 0.038 ln(x/(X0 β²))]

    Args:
        p: momentum [GeV/c].
        mass: [GeV/c²].
        x_over_x0: thickness along the path in radiation lengths; 0 gives 0.
        log_term: False leaves the logarithm out, as ALICE O2's Kalman filter does.
    """
    beta = p / torch.sqrt(p.square() + mass.square())
    x = x_over_x0.clamp_min(1e-12)
    correction = 1 + 0.038 * torch.log(x / beta.square()) if log_term else torch.ones_like(x)
    theta = 0.0136 / (beta * p) * x.sqrt() * correction.clamp_min(0.0)
    return torch.where(x_over_x0 > 0, theta, torch.zeros_like(theta))


def mean_energy_loss(p: Tensor, mass: Tensor, x_over_x0: Tensor) -> Tensor:
    """Mean energy loss [GeV] of a unit charge in silicon of this thickness (Bethe–Bloch, PDG eq. 34.5)."""
    energy = torch.sqrt(p.square() + mass.square())
    beta2 = (p / energy).square().clamp_max(1 - 1e-12)
    gamma = energy / mass
    t_max = maximum_transfer(p, mass)
    density = (torch.log(_PLASMA_SI / _EXCITATION_SI * (p / mass)) - 0.5).clamp_min(0.0)
    bracket = 0.5 * torch.log(2 * ELECTRON_MASS * beta2 * gamma.square() * t_max / _EXCITATION_SI**2)
    return _K_Z_OVER_A_SI / beta2 * RADIATION_LENGTH_SI * x_over_x0 * (bracket - beta2 - density)


def maximum_transfer(p: Tensor, mass: Tensor) -> Tensor:
    """Largest energy [GeV] that a particle can give to one electron."""
    gamma = torch.sqrt(p.square() + mass.square()) / mass
    ratio = ELECTRON_MASS / mass
    return 2 * ELECTRON_MASS * (p / mass).square() / (1 + 2 * gamma * ratio + ratio.square())


def energy_loss_width(p: Tensor, mass: Tensor, x_over_x0: Tensor) -> Tensor:
    """R.m.s. [GeV] of the core of the energy loss in thin silicon: 4 ξ FWHM of Landau's law over 2.355.

    ξ = K/2 Z/A x/β². A thin layer has a long tail that no Gaussian describes; this is the width of its core.
    """
    beta2 = p.square() / (p.square() + mass.square())
    xi = 0.5 * _K_Z_OVER_A_SI * RADIATION_LENGTH_SI * x_over_x0 / beta2
    return 4.018 * xi / 2.3548


def curvature_width(p: Tensor, mass: Tensor, omega: Tensor, x_over_x0: Tensor) -> Tensor:
    """Width [1/cm] of the change of ω by the fluctuation of the energy loss: |ω| σ_E E / p²."""
    energy = torch.sqrt(p.square() + mass.square())
    return omega.abs() * energy_loss_width(p, mass, x_over_x0) * energy / p.square()


def in_plane(vector: Tensor, tangent: Tensor, u: Tensor, v: Tensor, normal: Tensor) -> Tensor:
    """(u, v) of a displacement after it is moved along the track into the plane; (..., 3) → (..., 2)."""
    slip = (vector * normal).sum(-1, keepdim=True) / (tangent * normal).sum(-1, keepdim=True)
    moved = vector - tangent * slip
    return torch.stack([(moved * u).sum(-1), (moved * v).sum(-1)], -1)


def residual_variance(
    axes: tuple[Tensor, Tensor],
    s: Tensor,
    scatterer_s: Tensor,
    omega: Tensor,
    angle: Tensor,
    curvature: Tensor,
) -> Tensor:
    """The diagonal of `residual_covariance`, (tracks, 2·hits) [cm²], without the rest of it."""
    lever = (s[:, :, None] - scatterer_s[:, None, :]).clamp_min(0.0)
    across = lever * _sinc_of_turn(omega, lever)
    along_e1, along_e2 = (across * angle[:, None]).square(), (lever * angle[:, None]).square()
    if bool((curvature > 0).any()):
        along_e1 = along_e1 + (0.5 * lever.square() * curvature[:, None]).square()
    parts = [
        axes[0].square() * along_e1.sum(-1, keepdim=True),
        axes[1].square() * along_e2.sum(-1, keepdim=True),
    ]
    return (parts[0] + parts[1]).flatten(1)


def residual_covariance(
    axes: tuple[Tensor, Tensor],
    s: Tensor,
    scatterer_s: Tensor,
    omega: Tensor,
    angle: Tensor,
    curvature: Tensor,
) -> Tensor:
    """Covariance of a track's residuals by its scatterers, rows (u₁, v₁, u₂, v₂, …), [cm²].

    Args:
        axes: what a unit displacement along e1 and along e2 is in each hit's plane, each (tracks, hits, 2).
        s: path lengths of the hits (tracks, hits) [cm].
        scatterer_s: path lengths of the scatterers (tracks, scatterers) [cm].
        omega: turning per path (tracks,) [1/cm].
        angle: θ0 of each scatterer (tracks, scatterers), 0 where there is none.
        curvature: width of its change of ω (tracks, scatterers) [1/cm].

    Returns:
        (tracks, 2·hits, 2·hits); a scatterer acts on hits further along the path only.
    """
    lever = (s[:, :, None] - scatterer_s[:, None, :]).clamp_min(0.0)
    across = lever * _sinc_of_turn(omega, lever)
    e1, e2 = (axis.transpose(1, 2)[..., None] for axis in axes)
    kinks = [e1 * (across * angle[:, None])[:, None], e2 * (lever * angle[:, None])[:, None]]
    if bool((curvature > 0).any()):
        kinks.append(e1 * (0.5 * lever.square() * curvature[:, None])[:, None])
    levers = torch.cat(kinks, -1).transpose(1, 2).flatten(1, 2)
    return levers @ levers.transpose(-1, -2)


def _sinc_of_turn(omega: Tensor, lever: Tensor) -> Tensor:
    turn = omega[:, None, None] * lever
    return torch.where(turn.abs() < 1e-8, torch.ones_like(turn), turn.sin() / turn)
