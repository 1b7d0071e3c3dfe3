"""What is left of a displacement once collective motions are taken away."""

from __future__ import annotations

import pytest
import torch
from small_detectors import inner_barrel
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.recovery import Recovery, difference, displacement, probe_points, shears
from alignnet.geometry.telescope import telescope
from alignnet.geometry.weak_modes import rigid_motion_basis, weak_mode_basis

UM = 1e-4


barrel = inner_barrel()
planes = telescope([0.0, 1.95, 10.88, 12.83], 1.0, 0.84)
DETECTORS = pytest.mark.parametrize("detector", [barrel, planes], ids=["barrel", "telescope"])


def every(detector: Detector) -> Tensor:
    return torch.ones(len(detector), dtype=torch.bool)


def random_local(detector: Detector, seed: int = 0) -> Tensor:
    size = torch.tensor([10 * UM] * 3 + [1e-4] * 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(detector), 6, generator=generator, dtype=torch.float64) * size


@DETECTORS
def test_displacements_are_how_far_corners_and_centre_move_along_the_sensors_axes(detector: Detector) -> None:
    local = random_local(detector)
    rotation, translation = rigid.place_local(detector.rotation, detector.translation, local)
    points = probe_points(detector)
    before = points @ detector.rotation.transpose(-1, -2) + detector.translation[:, None]
    after = points @ rotation.transpose(-1, -2) + translation[:, None]
    u, w, v = detector.rotation.unbind(-1)
    expected = torch.stack([((after - before) * axis[:, None]).sum(-1) for axis in (u, v, w)], -1)
    torch.testing.assert_close(displacement(detector, local), expected, rtol=0, atol=1e-13)


@DETECTORS
@pytest.mark.parametrize("weak_modes", [True, False])
def test_small_rigid_motions_of_the_whole_leave_nothing(detector: Detector, weak_modes: bool) -> None:
    recovery = Recovery(detector, every(detector), weak_modes)
    for motion in rigid_motion_basis(detector):
        assert recovery.remove(displacement(detector, 1e-7 * motion)).abs().max() < 1e-13


@DETECTORS
def test_a_finite_rigid_motion_leaves_second_order_only(detector: Detector) -> None:
    delta = torch.tensor([0.01, -0.02, 0.015, 1e-3, -5e-4, 8e-4], dtype=torch.float64)
    local = rigid.global_to_local(detector.rotation, detector.translation, delta.expand(len(detector), 6))
    moved = displacement(detector, local)
    left = Recovery(detector, every(detector), weak_modes=False).remove(moved)
    assert moved.abs().max() > 50 * UM
    assert left.abs().max() < 0.3 * UM


def test_weak_modes_leave_nothing_where_they_are_removed_and_much_where_not() -> None:
    with_them, without = (Recovery(barrel, every(barrel), weak) for weak in (True, False))
    for mode in weak_mode_basis(barrel):
        moved = displacement(barrel, 1e-7 * mode)
        assert with_them.remove(moved).abs().max() < 1e-13
        assert without.remove(moved).square().sum() > 0.01 * moved.square().sum()


@DETECTORS
def test_removing_twice_is_removing_once(detector: Detector) -> None:
    recovery, moved = Recovery(detector, every(detector)), displacement(detector, random_local(detector))
    once = recovery.remove(moved)
    torch.testing.assert_close(recovery.remove(once), once, rtol=0, atol=1e-15)
    assert once.square().sum() < moved.square().sum()


def test_telescopes_shear_and_stretch_and_barrels_do_not() -> None:
    assert shears(barrel).shape == (0, 432, 6)
    modes = shears(planes)
    stretch = displacement(planes, modes[1])
    assert stretch[..., :2].abs().max() < 1e-15  # along the normal alone
    assert stretch[..., 2].abs().max() == pytest.approx(12.83)
    recovery = Recovery(planes, every(planes))
    for mode in modes:
        assert recovery.remove(displacement(planes, mode)).abs().max() < 1e-12


def test_modes_that_move_nothing_remove_nothing() -> None:
    # The radial field, for one, is 0 at planes on the axis, up to rounding.
    recovery = Recovery(planes, every(planes))
    n_modes = 6 + len(weak_mode_basis(planes)) + 3
    assert recovery.columns.shape[-1] < n_modes
    length = recovery.columns.square().sum(0)
    torch.testing.assert_close(length, torch.ones_like(length))
    turned = torch.zeros(4, 6, dtype=torch.float64)
    turned[:, 5] = torch.tensor([1.0, -1.0, -1.0, 1.0]) * 1e-4  # planes against each other, about the beam
    moved = displacement(planes, turned)
    assert recovery.remove(moved).square().sum() > 0.1 * moved.square().sum()


def test_rms_of_a_layer_is_over_its_selected_sensors() -> None:
    selected = every(barrel)
    selected[5] = False
    moved = displacement(barrel, random_local(barrel))
    moved[5] = 1e3
    recovery = Recovery(barrel, selected)
    left, layer = recovery.remove(moved), barrel.layer[selected]
    expected = left[layer == 1].square().mean((0, 1)).sqrt()
    assert recovery.per_layer(moved)[1] == pytest.approx(expected.tolist())
    assert max(recovery.per_layer(moved)[0]) < 30 * UM


def test_a_layers_own_motion_is_removed_alone() -> None:
    truth = random_local(barrel, 1)
    moved = truth.clone()
    shift = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    along_z = rigid.join_local((barrel.rotation.transpose(-1, -2) @ shift), torch.zeros(432, 3).double())
    moved = truth + 0.02 * along_z * (barrel.layer == 0)[:, None]
    left = difference(moved, truth, barrel)
    recovery = Recovery(barrel, every(barrel))
    assert max(recovery.per_layer(left)[0]) > 10 * UM
    assert max(recovery.per_layer_alone(left)[0]) < 1e-12
