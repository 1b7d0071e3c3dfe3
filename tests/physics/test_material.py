"""Scattering and energy loss against the Particle Data Group's numbers and against simulated kinks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignnet.physics.helix import Helix, frame, path_to_plane, point, tangent, updated
from alignnet.physics.material import (
    RADIATION_LENGTH_SI,
    curvature_width,
    energy_loss_width,
    highland,
    in_plane,
    maximum_transfer,
    mean_energy_loss,
    residual_covariance,
)
from alignnet.units import ELECTRON_MASS, PION_MASS

MUON_MASS = 0.1056583755


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


PION = tensor(PION_MASS)


# 13.6 MeV / (β p) √x [1 + 0.038 ln(x/β²)], worked out by hand; β² = p²/(p² + m²), pions
@pytest.mark.parametrize(
    ("p", "x_over_x0", "expected"),
    [
        (1.0, 0.01, 1.133888e-3),  # β = 0.990400: 1.373182e-3 × 0.825738
        (0.2, 0.0036, 3.986465e-3),  # β = 0.820058: 4.975260e-3 × 0.801258
        (10.0, 1.0, 1.360142e-3),  # β = 0.999903: nothing in the logarithm
    ],
)
def test_highland_width_equals_the_formula_worked_out_by_hand(p, x_over_x0, expected):
    assert float(highland(tensor(p), PION, tensor(x_over_x0))) == pytest.approx(expected, rel=1e-5)


def test_without_the_logarithm_scattering_adds_up_in_quadrature():
    p, thin, thick = tensor(0.7), tensor([0.001, 0.004]), tensor(0.005)
    parts = highland(p, PION, thin, log_term=False).square().sum()
    torch.testing.assert_close(parts.sqrt(), highland(p, PION, thick, log_term=False))


def test_no_matter_scatters_nothing_with_finite_derivatives():
    p = tensor([0.2, 5.0]).requires_grad_()
    angle = highland(p, PION, tensor([0.0, 0.0]))
    assert torch.equal(angle, torch.zeros(2, dtype=torch.float64))
    (slope,) = torch.autograd.grad(angle.sum(), p)
    assert torch.isfinite(slope).all()


def test_scattering_falls_with_momentum_as_one_over_beta_p():
    p = tensor([50.0, 100.0])
    angle = highland(p, PION, tensor(0.01))
    assert float(angle[0] / angle[1]) == pytest.approx(2.0, rel=1e-5)


def test_silicon_loses_1_664_mev_per_g_cm2_at_its_minimum():
    gram = tensor(1 / RADIATION_LENGTH_SI)
    beta_gamma = torch.linspace(1.0, 20.0, 400, dtype=torch.float64)
    loss = mean_energy_loss(MUON_MASS * beta_gamma, tensor(MUON_MASS), gram)
    assert float(loss.min()) == pytest.approx(1.664e-3, rel=0.03)
    assert float(beta_gamma[loss.argmin()]) == pytest.approx(3.5, abs=0.5)


@pytest.mark.parametrize("beta_gamma", [0.5, 0.95, 1.67, 3.5, 10.0, 30.0, 100.0])
def test_mean_energy_loss_follows_bethe_with_sternheimers_density_effect(beta_gamma):
    expected = bethe(beta_gamma)
    found = mean_energy_loss(
        tensor(MUON_MASS * beta_gamma), tensor(MUON_MASS), tensor(1 / RADIATION_LENGTH_SI)
    )
    assert float(found) * 1e3 == pytest.approx(expected, rel=0.05)


def bethe(beta_gamma: float) -> float:
    """Muon in silicon [MeV cm²/g], PDG eq. 34.5 with the tabulated parameters of the density effect."""
    beta2 = beta_gamma**2 / (1 + beta_gamma**2)
    gamma = math.sqrt(1 + beta_gamma**2)
    ratio = 0.51099895 / 105.6583755
    transfer = 2 * 0.51099895e6 * beta_gamma**2 / (1 + 2 * gamma * ratio + ratio**2)  # eV
    x = math.log10(beta_gamma)
    a, k, x0, x1, c = 0.14921, 3.2546, 0.2015, 2.8716, 4.4351
    delta = 0.14 * 10 ** (2 * (x - x0)) if x < x0 else 2 * math.log(10) * x - c + a * max(x1 - x, 0.0) ** k
    logarithm = 0.5 * math.log(2 * 0.51099895e6 * beta_gamma**2 * transfer / 173.0**2)
    return 0.307075 * 14 / 28.0855 / beta2 * (logarithm - beta2 - delta / 2)


def test_energy_loss_is_proportional_to_thickness():
    thin = mean_energy_loss(tensor(0.5), PION, tensor(0.001))
    torch.testing.assert_close(mean_energy_loss(tensor(0.5), PION, tensor(0.004)), 4 * thin)
    width = energy_loss_width(tensor(0.5), PION, tensor(0.001))
    torch.testing.assert_close(energy_loss_width(tensor(0.5), PION, tensor(0.004)), 4 * width)


def test_an_electron_can_take_all_of_anothers_kinetic_energy():
    # Head-on between equal masses: T_max of the formula is the kinetic energy E − m.
    p, mass = tensor(1.0), tensor(ELECTRON_MASS)
    torch.testing.assert_close(maximum_transfer(p, mass), torch.sqrt(p**2 + mass**2) - mass)


def test_landau_core_of_300_um_of_silicon_is_22_kev_wide():
    # ξ = 0.1535 · 14/28.0855 · 0.0699 g/cm² = 5.35 keV for β = 1, and the full width is 4.02 ξ = 21.5 keV.
    x_over_x0 = tensor(0.03 * 2.329 / RADIATION_LENGTH_SI)
    width = energy_loss_width(tensor(100.0), PION, x_over_x0)
    assert float(width) * 2.3548e6 == pytest.approx(21.5, rel=0.01)


def test_curvature_changes_by_what_an_energy_loss_changes_one_over_p():
    p, omega, x_over_x0 = tensor(0.4), tensor(-0.003), tensor(0.01)
    lost = energy_loss_width(p, PION, x_over_x0)
    energy = torch.sqrt(p**2 + PION**2) - lost
    after = omega * p / torch.sqrt(energy**2 - PION**2)
    found = curvature_width(p, PION, omega, x_over_x0)
    assert float(found) == pytest.approx(float((after - omega).abs()), rel=0.01)


def planes_across(helix: Helix, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Planes at these path lengths (planes,), tilted against the path: origin, u, v, normal."""
    along = Helix(*(field.expand(len(s), *field.shape) for field in helix))
    normal = tangent(along, s) + 0.4 * torch.randn(len(s), 3, dtype=torch.float64).clamp(-1, 1)
    normal = normal / normal.norm(dim=-1, keepdim=True)
    u, v = frame(normal)
    return point(along, s), u, v, normal


def kinked(
    helix: Helix, planes: tuple[Tensor, ...], scatterer_s: Tensor, angle: Tensor, curvature: Tensor, n: int
) -> Tensor:
    """Displacements (n, planes, 2) of `n` copies of a path that has a random kink at each scatterer."""
    origin, u, v, normal = planes
    hit_s = path_to_plane(Helix(*(f.expand(len(origin), *f.shape) for f in helix)), origin, normal)
    state, at = Helix(*(field.expand(n, *field.shape) for field in helix)), 0.0
    kinks = [(float(s), "kink", i) for i, s in enumerate(scatterer_s)]
    events = sorted([*kinks, *((float(s), "hit", i) for i, s in enumerate(hit_s))])
    found: dict[int, Tensor] = {}
    for s, what, i in events:
        if what == "hit":
            length = path_to_plane(state, origin[i], normal[i], torch.full((n,), s - at, dtype=torch.float64))
            apart = point(state, length) - origin[i]
            found[i] = torch.stack([(apart * u[i]).sum(-1), (apart * v[i]).sum(-1)], -1)
        else:
            length = torch.full((n,), s - at, dtype=torch.float64)
            state, at = Helix(point(state, length), tangent(state, length), state.omega), s
            kick = torch.randn(n, 3, dtype=torch.float64) * torch.stack([angle[i], angle[i], curvature[i]])
            state = updated(state, torch.nn.functional.pad(kick, (2, 0)))
    return torch.stack([found[i] for i in range(len(origin))], 1)


@pytest.mark.parametrize(("omega", "width"), [(0.0, 0.0), (0.0015, 0.0), (0.0015, 2e-6)])
def test_residual_covariance_equals_that_of_simulated_kinks(omega, width):
    direction = tensor([0.6, 0.5, 0.3])
    helix = Helix(tensor([0.01, 0.0, 0.2]), direction / direction.norm(), tensor(omega))
    s, scatterer_s = tensor([3.0, 4.0, 5.0, 24.0, 30.0, 42.0]), tensor([2.2, 4.0, 24.0, 30.0])
    angle, curvature = 1e-3 * tensor([1.0, 1.5, 2.5, 1.0]), width * tensor([1.0, 1.0, 2.0, 2.0])
    planes = planes_across(helix, s)
    sample = kinked(helix, planes, scatterer_s, angle, curvature, 40_000).flatten(1)

    along = Helix(*(field.expand(len(s), *field.shape) for field in helix))
    t = tangent(along, s)
    axes = tuple(in_plane(axis, t, *planes[1:])[None] for axis in frame(t))
    found = residual_covariance(
        axes, s[None], scatterer_s[None], helix.omega[None], angle[None], curvature[None]
    )[0]
    reach = found.diagonal().sqrt().clamp_min(1e-12)
    wrong = (sample.T.cov() - found) / (reach[:, None] * reach)
    assert wrong[2:, 2:].abs().max() < 0.035
    assert found[:2].abs().max() > 0  # the first plane is behind the first scatterer
    assert torch.linalg.eigvalsh(found).min() > -1e-12 * found.max()


def test_hits_in_front_of_a_scatterer_do_not_feel_it():
    axes = (tensor([[[1.0, 0.0]] * 3]), tensor([[[0.0, 1.0]] * 3]))
    found = residual_covariance(
        axes, tensor([[1.0, 2.0, 5.0]]), tensor([[2.0]]), tensor([0.001]), tensor([[1e-3]]), tensor([[1e-6]])
    )[0]
    assert torch.equal(found[:4], torch.zeros(4, 6, dtype=torch.float64))
    assert (found.diagonal()[4:] > 0).all()


def test_a_straight_track_is_displaced_by_lever_arm_times_angle():
    axes = (tensor([[[1.0, 0.0]] * 2]), tensor([[[0.0, 1.0]] * 2]))
    found = residual_covariance(
        axes, tensor([[3.0, 7.0]]), tensor([[1.0]]), tensor([0.0]), tensor([[1e-3]]), tensor([[0.0]])
    )[0]
    expected = 1e-6 * torch.kron(tensor([[4.0, 12.0], [12.0, 36.0]]), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(found, expected)


def test_a_displacement_along_the_track_is_none_in_the_sensors_plane():
    along = torch.randn(50, 3, dtype=torch.float64)
    normal = along + 0.3 * torch.randn(50, 3, dtype=torch.float64)
    normal = normal / normal.norm(dim=-1, keepdim=True)
    u, v = frame(normal)
    moved = in_plane(7 * along, along, u, v, normal)
    torch.testing.assert_close(moved, torch.zeros(50, 2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(in_plane(u, along, u, v, normal), tensor([[1.0, 0.0]]).expand(50, 2))
