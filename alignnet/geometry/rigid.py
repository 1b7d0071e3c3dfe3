"""Rigid motions: six numbers ↔ (rotation, translation), in the two conventions of the field.

**Local** (what is trained): `local = (du, dv, dw, rot_u, rot_v, rot_w)`, a translation [cm] and a rotation
vector [rad] in the sensor's own frame, about its own origin; u is local x, v local z, w local y (the normal):

    R_actual = R · Exp(ω),   T_actual = T + R · d,     d = (du, dw, dv),  ω = (rot_u, rot_w, rot_v)

**Global** (ALICE's AlignParam): `delta = (x, y, z, psi, theta, phi)`, applied from the left to global
positions, with the active matrix a_R = Rx(psi) · Ry(theta) · Rz(phi) about the global origin:

    G' = D · G,   R_actual = a_R · R,   T_actual = a_R · T + a_T

Both describe the same motion, D = G · d · G⁻¹; the conversions here are exact (no small-angle step).
Every function takes any leading batch shape, and is differentiable at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOCAL_NAMES = ("du", "dv", "dw", "rot_u", "rot_v", "rot_w")
"""The order of the local six."""

GLOBAL_NAMES = ("x", "y", "z", "psi", "theta", "phi")
"""The order of the global six (AlignParam's members)."""

LOCAL_TO_XYZ = (0, 2, 1)
"""Where local x, y, z stand in (u, v, w)."""


def exp(rotation_vector: Tensor) -> Tensor:
    """Rotation matrices of rotation vectors, (..., 3) → (..., 3, 3), by Rodrigues' formula."""
    one = torch.eye(3, dtype=rotation_vector.dtype, device=rotation_vector.device)
    return one + exp_minus_one(rotation_vector)


def exp_minus_one(rotation_vector: Tensor) -> Tensor:
    """Exp(ω) − 1, (..., 3) → (..., 3, 3), accurate for the smallest of rotations.

    sin(a)/a and (1 − cos a)/a² = ½ (sin(a/2)/(a/2))² are taken from their series below a = 0.05, where they
    and their derivatives of every order are finite at a = 0.
    """
    k = skew(rotation_vector)
    angle2 = rotation_vector.square().sum(-1)[..., None, None]
    return sinc_of_square(angle2) * k + 0.5 * sinc_of_square(angle2 / 4).square() * (k @ k)


def log(matrix: Tensor) -> Tensor:
    """Rotation vectors of rotation matrices, (..., 3, 3) → (..., 3); angles below π.

    Uses atan2(|axial part|, (trace − 1)/2), exact to rounding for small angles, where arccos is not.
    """
    axial = 0.5 * torch.stack(
        [
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ],
        -1,
    )
    sine = axial.norm(dim=-1)
    cosine = 0.5 * (matrix.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    angle = torch.atan2(sine, cosine)
    safe = torch.where(sine > 1e-12, sine, torch.ones_like(sine))
    return axial * torch.where(sine > 1e-12, angle / safe, torch.ones_like(sine))[..., None]


def skew(vector: Tensor) -> Tensor:
    """The matrix [v]× with [v]× w = v × w, (..., 3) → (..., 3, 3)."""
    x, y, z = vector.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Rx(psi) · Ry(theta) · Rz(phi), active, (..., 3) → (..., 3, 3) (AlignParam.cxx of ALICE O2)."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    rows = [
        cy * cz, -cy * sz, sy,
        sx * sy * cz + cx * sz, -sx * sy * sz + cx * cz, -cy * sx,
        -cx * sy * cz + sx * sz, cx * sy * sz + sx * cz, cy * cx,
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*sx.shape, 3, 3)


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """(psi, theta, phi) of rotation matrices, (..., 3, 3) → (..., 3).

    Raises:
        ValueError: |r00| or |r22| < 1e-7, where the angles are not defined (as ALICE O2 refuses it).
    """
    if (matrix[..., 0, 0].abs() < 1e-7).any() or (matrix[..., 2, 2].abs() < 1e-7).any():
        raise ValueError("a rotation by 90° about y, or about x or z, has no Euler angles psi, theta, phi")
    psi = torch.atan2(-matrix[..., 1, 2], matrix[..., 2, 2])
    # atan2 of the sine and of the cosine's length: asin alone loses digits near ±1.
    theta = torch.atan2(matrix[..., 0, 2], torch.hypot(matrix[..., 0, 0], matrix[..., 0, 1]))
    phi = torch.atan2(-matrix[..., 0, 1], matrix[..., 0, 0])
    return torch.stack([psi, theta, phi], -1)


def split_local(local: Tensor) -> tuple[Tensor, Tensor]:
    """Translation and rotation vector in local x, y, z order of a local six: (..., 6) → (..., 3) each."""
    index = torch.tensor(LOCAL_TO_XYZ, device=local.device)
    return local[..., :3].index_select(-1, index), local[..., 3:].index_select(-1, index)


def join_local(translation: Tensor, rotation_vector: Tensor) -> Tensor:
    """The local six of a translation and a rotation vector in local x, y, z order; undoes `split_local`."""
    index = torch.tensor(LOCAL_TO_XYZ, device=translation.device)
    return torch.cat([translation.index_select(-1, index), rotation_vector.index_select(-1, index)], -1)


def place_local(rotation: Tensor, translation: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """Where sensors drawn at (R, T) really are, given their local six: (..., 3, 3), (..., 3), (..., 6)."""
    shift, turn = split_local(local)
    return rotation @ exp(turn), translation + (rotation @ shift[..., None]).squeeze(-1)


def local_of(
    rotation: Tensor, translation: Tensor, actual_rotation: Tensor, actual_translation: Tensor
) -> Tensor:
    """The local six that bring (R, T) to the actual place; inverse of `place_local`."""
    back = rotation.transpose(-1, -2)
    shift = (back @ (actual_translation - translation)[..., None]).squeeze(-1)
    return join_local(shift, log(back @ actual_rotation))


def place_global(rotation: Tensor, translation: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Where sensors nominally at (R, T) really are, given ALICE's global delta (..., 6)."""
    turn = euler_to_matrix(delta[..., 3:])
    return turn @ rotation, (turn @ translation[..., None]).squeeze(-1) + delta[..., :3]


def global_of(
    rotation: Tensor, translation: Tensor, actual_rotation: Tensor, actual_translation: Tensor
) -> Tensor:
    """ALICE's global delta that brings (R, T) to the actual place; inverse of `place_global`."""
    turn = actual_rotation @ rotation.transpose(-1, -2)
    shift = actual_translation - (turn @ translation[..., None]).squeeze(-1)
    return torch.cat([shift, matrix_to_euler(turn)], -1)


def local_to_global(rotation: Tensor, translation: Tensor, local: Tensor) -> Tensor:
    """ALICE's global delta of a local six, both (..., 6): D = G · d · G⁻¹."""
    return global_of(rotation, translation, *place_local(rotation, translation, local))


def global_to_local(rotation: Tensor, translation: Tensor, delta: Tensor) -> Tensor:
    """The local six of ALICE's global delta, both (..., 6): d = G⁻¹ · D · G."""
    return local_of(rotation, translation, *place_global(rotation, translation, delta))


def compose(first: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The motion x → R₂ (R₁ x + t₁) + t₂ of two motions (R, t)."""
    return then[0] @ first[0], (then[0] @ first[1][..., None]).squeeze(-1) + then[1]


def invert(motion: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The motion that undoes (R, t)."""
    back = motion[0].transpose(-1, -2)
    return back, -(back @ motion[1][..., None]).squeeze(-1)


def sinc_of_square(x2: Tensor) -> Tensor:
    """sin(x)/x as a function of x², smooth at 0 in every derivative."""
    series = 1 - x2 / 6 * (1 - x2 / 20 * (1 - x2 / 42 * (1 - x2 / 72)))
    small = x2 < 2.5e-3
    x = torch.where(small, torch.ones_like(x2), x2).sqrt()
    return torch.where(small, series, x.sin() / x)
