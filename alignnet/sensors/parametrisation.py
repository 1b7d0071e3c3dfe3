"""From the degrees of freedom Θ of sensors to the weights Φ = (W, b) of their linear layers.

With the nominal place (R, T), the reordering PO of (l_x, l_y, l_z) into (u, v, w), D⁻¹ = diag(d₁, d₂, ·) and
the constant Δ = −D · centre (docs/physics.md, A sensor is a linear layer), a rigid motion (a_R, a_T) is

    W = POᵀ Rᵀ (a_R − 1) R PO D⁻¹   (first two columns)
    b = POᵀ Rᵀ [ (a_R − 1)(T − R PO D⁻¹ Δ) + a_T ]

* `RigidLocal`: Θ = (du, dv, dw, rot_u, rot_v, rot_w), in the sensor's own frame about its own origin. There
  a_R = R E Rᵀ and (a_R − 1) T + a_T = R d, so that no lever arm of 80 cm enters.
* `RigidGlobal`: Θ = (x, y, z, psi, theta, phi), ALICE's AlignParam about the global origin.
* `Affine`: Θ = Φ, nine free numbers a sensor, the purely data-driven model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from alignnet.geometry import rigid


class Phi(NamedTuple):
    """Weights and biases of sensors' linear layers; zero is the nominal place."""

    weight: Tensor  # (..., 3, 2) rows u, v, w [cm per unit of the normalised position]
    bias: Tensor  # (..., 3) along u, v, w [cm]


class ShapedPhi(NamedTuple):
    """Φ of sensors whose surfaces have modes."""

    weight: Tensor
    bias: Tensor
    modes: Tensor  # (..., modes) their amplitudes [cm]


class Frame(NamedTuple):
    """The constants of sensors that Θ → Φ needs."""

    rotation: Tensor  # (..., 3, 3)
    translation: Tensor  # (..., 3) [cm]
    half: Tensor  # (..., 2) [cm]
    centre: Tensor  # (..., 2) [cm]


class Parametrisation(ABC):
    """Θ → Φ for any batch of sensors; stateless, so that a solver may evaluate it anywhere."""

    names: ClassVar[tuple[str, ...]]
    """What the numbers of Θ are called, in order."""

    @abstractmethod
    def phi(self, theta: Tensor, frame: Frame) -> Phi:
        """Φ of the degrees of freedom `theta` (..., len(names))."""

    @abstractmethod
    def theta(self, local: Tensor, frame: Frame) -> Tensor:
        """The degrees of freedom of a rigid motion given as local six (..., 6)."""

    def jacobian(self, theta: Tensor, frame: Frame) -> Tensor:
        """∂Φ/∂Θ of sensors (sensors, 9, len(names)): rows are W row by row, then b."""

        def flat(row: Tensor, *constants: Tensor) -> Tensor:
            phi = self.phi(row, Frame(*constants))
            return torch.cat([phi.weight.flatten(), phi.bias])

        result: Tensor = torch.vmap(torch.func.jacrev(flat))(theta.detach(), *frame)
        return result


class RigidLocal(Parametrisation):
    """Six degrees of freedom in the sensor's own frame."""

    names = rigid.LOCAL_NAMES

    def phi(self, theta: Tensor, frame: Frame) -> Phi:
        """Φ of local sixes; exact, and well scaled at any distance from the origin."""
        shift, turn = rigid.split_local(theta)
        return _phi(rigid.exp_minus_one(turn), shift, frame)

    def theta(self, local: Tensor, frame: Frame) -> Tensor:
        """The local six itself."""
        return local


class RigidGlobal(Parametrisation):
    """Six degrees of freedom as ALICE's global delta."""

    names = rigid.GLOBAL_NAMES

    def phi(self, theta: Tensor, frame: Frame) -> Phi:
        """Φ of global deltas."""
        turn = rigid.euler_to_matrix(theta[..., 3:])
        turn = turn - torch.eye(3, dtype=turn.dtype, device=turn.device)
        back = frame.rotation.transpose(-1, -2)
        shift = (
            back @ ((turn @ frame.translation[..., None]).squeeze(-1) + theta[..., :3])[..., None]
        ).squeeze(-1)
        return _phi(back @ turn @ frame.rotation, shift, frame)

    def theta(self, local: Tensor, frame: Frame) -> Tensor:
        """The exact conversion of `alignnet.geometry.rigid`."""
        return rigid.local_to_global(frame.rotation, frame.translation, local)


class Affine(Parametrisation):
    """The nine numbers of Φ, trained freely."""

    names = ("w11", "w21", "w12", "w22", "w13", "w23", "b1", "b2", "b3")

    def phi(self, theta: Tensor, frame: Frame) -> Phi:
        """Φ itself."""
        return Phi(theta[..., :6].unflatten(-1, (3, 2)), theta[..., 6:])

    def theta(self, local: Tensor, frame: Frame) -> Tensor:
        """Φ of the rigid motion."""
        phi = RigidLocal().phi(local, frame)
        return torch.cat([phi.weight.flatten(-2), phi.bias], -1)


PARAMETRISATIONS: dict[str, type[Parametrisation]] = {
    "local": RigidLocal,
    "global": RigidGlobal,
    "affine": Affine,
}
"""By the name that a configuration uses."""


def _phi(turn: Tensor, shift: Tensor, frame: Frame) -> Phi:
    """Φ of l → l + turn · l + shift in local x, y, z (turn = matrix − 1)."""
    order = torch.tensor(rigid.LOCAL_TO_XYZ, device=turn.device)
    reordered = turn.index_select(-2, order).index_select(-1, order)[..., :2]
    bias = shift.index_select(-1, order) + (reordered @ frame.centre[..., None]).squeeze(-1)
    return Phi(reordered * frame.half[..., None, :], bias)
