"""Rotations and rigid motions: group laws, limits, ALICE's entries, and scipy's answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from alignnet.geometry import rigid
from alignnet.geometry.its2 import its2

TOLERANCE = 1e-12  # cm and rad
IDEAL = its2()


def triples(largest: float) -> st.SearchStrategy[Tensor]:
    number = st.floats(-largest, largest, allow_subnormal=False)
    return st.tuples(number, number, number).map(lambda t: torch.tensor(t, dtype=torch.float64))


def random_local(n: int, shift: float, turn: float) -> Tensor:
    """Local six uniform within ±shift [cm] and ±turn [rad]."""
    scale = torch.tensor([shift] * 3 + [turn] * 3, dtype=torch.float64)
    return (2 * torch.rand(n, 6, dtype=torch.float64) - 1) * scale


def homogeneous(rotation: Tensor, translation: Tensor) -> Tensor:
    matrix = torch.eye(4, dtype=torch.float64).repeat(*translation.shape[:-1], 1, 1)
    matrix[..., :3, :3], matrix[..., :3, 3] = rotation, translation
    return matrix


def random_motions(n: int) -> tuple[Tensor, Tensor]:
    rotation = torch.from_numpy(Rotation.random(n, random_state=7).as_matrix())
    return rotation, 50 * torch.randn(n, 3, dtype=torch.float64)


@given(triples(math.pi))
def test_euler_matrix_has_the_entries_of_alices_align_param(angles: Tensor) -> None:
    (sps, sth, sph), (cps, cth, cph) = angles.sin().tolist(), angles.cos().tolist()
    expected = torch.tensor(
        [
            [cth * cph, -cth * sph, sth],
            [sps * sth * cph + cps * sph, -sps * sth * sph + cps * cph, -cth * sps],
            [-cps * sth * cph + sps * sph, cps * sth * sph + sps * cph, cth * cps],
        ],
        dtype=torch.float64,
    )
    assert torch.allclose(rigid.euler_to_matrix(angles), expected, rtol=0, atol=1e-15)


@given(triples(math.pi))
def test_euler_matrix_is_rotation_about_x_times_about_y_times_about_z(angles: Tensor) -> None:
    about_x, about_y, about_z = (
        rigid.exp(axis * angle) for axis, angle in zip(torch.eye(3).double(), angles, strict=True)
    )
    product = about_x @ about_y @ about_z
    assert torch.allclose(rigid.euler_to_matrix(angles), product, rtol=0, atol=1e-14)
    scipys = torch.from_numpy(Rotation.from_euler("XYZ", angles.numpy()).as_matrix())
    assert torch.allclose(rigid.euler_to_matrix(angles), scipys, rtol=0, atol=1e-14)


@given(triples(1.5))
def test_euler_angles_come_back_from_their_matrix(angles: Tensor) -> None:
    back = rigid.matrix_to_euler(rigid.euler_to_matrix(angles))
    assert torch.allclose(back, angles, rtol=0, atol=1e-13)


def test_small_euler_angles_come_back_to_their_last_digits() -> None:
    angles = 1e-6 * torch.randn(1000, 3, dtype=torch.float64)
    back = rigid.matrix_to_euler(rigid.euler_to_matrix(angles))
    assert torch.allclose(back, angles, rtol=1e-12, atol=1e-20)


@pytest.mark.parametrize(
    "angles", [[0.0, math.pi / 2, 0.0], [math.pi / 2, 0.0, 0.0], [0.0, 0.0, math.pi / 2]]
)
def test_a_right_angle_without_euler_angles_is_refused(angles: list[float]) -> None:
    with pytest.raises(ValueError, match="90°"):
        rigid.matrix_to_euler(rigid.euler_to_matrix(torch.tensor(angles, dtype=torch.float64)))


@given(triples(4.0))
def test_exp_is_scipys_rotation_of_a_rotation_vector(vector: Tensor) -> None:
    expected = torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix())
    assert torch.allclose(rigid.exp(vector), expected, rtol=0, atol=4e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.0499999, 0.0500001, 0.0999999, 0.1000001, 1.0, 3.1])
def test_exp_and_log_are_exact_on_both_sides_of_where_series_take_over(angle: float) -> None:
    axis = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    vector = angle * axis
    scipys = Rotation.from_rotvec(vector.numpy())
    assert torch.allclose(rigid.exp(vector), torch.from_numpy(scipys.as_matrix()), rtol=0, atol=1e-15)
    near_pi = 1e-13 if angle > 1 else 1e-25  # the sine, which carries the axis, goes to zero there
    assert torch.allclose(rigid.log(rigid.exp(vector)), vector, rtol=1e-13, atol=near_pi)


def test_exp_minus_one_keeps_the_digits_of_the_smallest_rotations() -> None:
    vector = 1e-9 * torch.randn(100, 3, dtype=torch.float64)
    k = rigid.skew(vector)
    expected = k + k @ k / 2
    assert torch.allclose(rigid.exp_minus_one(vector), expected, rtol=1e-15, atol=0)


@given(triples(1.7))
def test_log_undoes_exp_and_agrees_with_scipy(vector: Tensor) -> None:
    matrix = rigid.exp(vector)
    assert torch.allclose(rigid.log(matrix), vector, rtol=0, atol=2e-14)
    scipys = torch.from_numpy(Rotation.from_matrix(matrix.numpy()).as_rotvec())
    assert torch.allclose(rigid.log(matrix), scipys, rtol=0, atol=2e-14)


@pytest.mark.parametrize(
    "vector", [[0.0, 0.0, 0.0], [1e-4, 0.0, -2e-4], [0.04, -0.03, 0.0], [0.3, -1.2, 0.8]]
)
def test_exp_has_exact_first_and_second_derivatives(vector: list[float]) -> None:
    leaf = torch.tensor([vector], dtype=torch.float64, requires_grad=True)
    assert gradcheck(rigid.exp, (leaf,))
    assert gradgradcheck(rigid.exp, (leaf,))


def test_the_third_derivative_of_exp_at_zero_is_finite_and_right() -> None:
    """Along one axis Exp(a x̂) has sin a at [2, 1], whose third derivative at 0 is −1."""
    angle = torch.zeros((), dtype=torch.float64, requires_grad=True)
    derivative = rigid.exp(angle * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))[2, 1]
    for _ in range(3):
        (derivative,) = torch.autograd.grad(derivative, angle, create_graph=True)
    assert derivative.item() == pytest.approx(-1, abs=1e-14)


@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [1e-3, -2e-3, 5e-4], [0.3, -1.2, 0.8]])
def test_log_of_exp_and_the_euler_angles_have_exact_derivatives(vector: list[float]) -> None:
    leaf = torch.tensor([vector], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: rigid.log(rigid.exp(v)), (leaf,))
    assert gradcheck(lambda v: rigid.matrix_to_euler(rigid.exp(v)), (leaf,))
    assert gradcheck(rigid.euler_to_matrix, (leaf,))


def test_the_local_to_global_conversion_is_differentiable_at_zero() -> None:
    rotation, translation = random_motions(3)
    local = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda d: rigid.local_to_global(rotation, translation, d), (local,))
    assert gradcheck(lambda d: rigid.global_to_local(rotation, translation, d), (local,))


def test_skew_is_the_cross_product() -> None:
    a, b = torch.randn(2, 50, 3, dtype=torch.float64)
    product = (rigid.skew(a) @ b[..., None]).squeeze(-1)
    assert torch.allclose(product, torch.linalg.cross(a, b), rtol=0, atol=1e-15)


def test_split_puts_u_along_x_v_along_z_and_w_along_y() -> None:
    du, dv, dw, rot_u, rot_v, rot_w = torch.arange(6.0).double()
    shift, turn = rigid.split_local(torch.arange(6.0).double())
    assert shift.tolist() == [du, dw, dv]
    assert turn.tolist() == [rot_u, rot_w, rot_v]
    assert rigid.join_local(shift, turn).tolist() == list(range(6))


def test_a_local_six_moves_points_as_the_data_format_says() -> None:
    """A point l of the sensor goes to T + R (d + Exp(ω) l): shift and turn in the sensor's own frame."""
    rotation, translation = random_motions(20)
    local, point = random_local(20, 1.0, 1.0), torch.randn(20, 3, dtype=torch.float64)
    shift, turn = rigid.split_local(local)
    turned = torch.from_numpy(Rotation.from_rotvec(turn.numpy()).apply(point.numpy()))
    expected = (rotation @ (shift + turned)[..., None]).squeeze(-1) + translation
    placed = rigid.place_local(rotation, translation, local)
    found = (placed[0] @ point[..., None]).squeeze(-1) + placed[1]
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)


def test_global_delta_and_local_delta_are_the_same_motion_seen_from_two_frames() -> None:
    """D = G d G⁻¹ with 4×4 matrices."""
    rotation, translation = random_motions(20)
    local = random_local(20, 1.0, 0.5)
    shift, turn = rigid.split_local(local)
    g, d = homogeneous(rotation, translation), homogeneous(rigid.exp(turn), shift)
    delta = rigid.local_to_global(rotation, translation, local)
    found = homogeneous(rigid.euler_to_matrix(delta[:, 3:]), delta[:, :3])
    assert torch.allclose(found, g @ d @ torch.linalg.inv(g), rtol=0, atol=1e-12)


def test_local_and_global_deltas_convert_exactly_on_its2() -> None:
    row = torch.randperm(len(IDEAL))[:2000]
    rotation, translation = IDEAL.rotation[row], IDEAL.translation[row]
    local = random_local(len(row), 0.1, 1e-3)
    delta = rigid.local_to_global(rotation, translation, local)
    assert (rigid.global_to_local(rotation, translation, delta) - local).abs().max() < TOLERANCE
    by_local = rigid.place_local(rotation, translation, local)
    by_global = rigid.place_global(rotation, translation, delta)
    for ours, theirs in zip(by_local, by_global, strict=True):
        assert (ours - theirs).abs().max() < TOLERANCE
    assert (rigid.global_of(rotation, translation, *by_global) - delta).abs().max() < TOLERANCE


@given(st.integers(0, 24119), triples(1.0), triples(0.7))
def test_large_motions_convert_too(sensor: int, shift: Tensor, turn: Tensor) -> None:
    rotation, translation = IDEAL.rotation[sensor], IDEAL.translation[sensor]
    local = torch.cat([shift, turn])
    delta = rigid.local_to_global(rotation, translation, local)
    assert (rigid.global_to_local(rotation, translation, delta) - local).abs().max() < 1e-12
    placed = rigid.place_local(rotation, translation, local)
    assert (rigid.local_of(rotation, translation, *placed) - local).abs().max() < 1e-13


def test_no_motion_is_no_delta() -> None:
    rotation, translation = random_motions(50)
    nothing = torch.zeros(50, 6, dtype=torch.float64)
    assert (rigid.local_to_global(rotation, translation, nothing).abs() < 1e-13).all()
    assert (rigid.global_to_local(rotation, translation, nothing).abs() < 1e-13).all()


def test_composition_is_associative_and_has_inverses() -> None:
    a, b, c = (tuple(t[i::3] for t in random_motions(60)) for i in range(3))
    left = homogeneous(*rigid.compose(rigid.compose(a, b), c))
    right = homogeneous(*rigid.compose(a, rigid.compose(b, c)))
    assert torch.allclose(left, right, rtol=0, atol=1e-12)
    assert torch.allclose(left, homogeneous(*c) @ homogeneous(*b) @ homogeneous(*a), rtol=0, atol=1e-12)
    one = torch.eye(4, dtype=torch.float64).expand(20, 4, 4)
    for pair in ((a, rigid.invert(a)), (rigid.invert(a), a)):
        assert torch.allclose(homogeneous(*rigid.compose(*pair)), one, rtol=0, atol=1e-12)


def test_any_batch_shape_gives_what_one_at_a_time_gives() -> None:
    rotation, translation = (t.unflatten(0, (2, 3)) for t in random_motions(6))
    local = random_local(6, 1.0, 1.0).unflatten(0, (2, 3))
    together = rigid.local_to_global(rotation, translation, local)
    for i in range(2):
        for j in range(3):
            alone = rigid.local_to_global(rotation[i, j], translation[i, j], local[i, j])
            assert torch.allclose(together[i, j], alone, rtol=0, atol=1e-13)
