"""The sensor as a linear layer: two normalised coordinates in, a global position out.

    g = R PO (W + diag(d₁, d₂)) s̃ − R PO D⁻¹ Δ + R PO b + T,       l = PO D⁻¹ (s̃ − Δ),  Δ = −D · centre

s̃ ∈ [−1, 1]² over the active area; W (3×2) and b (3) are corrections, zero at the nominal place (R, T), and
come from the degrees of freedom Θ through a `Parametrisation` in every forward pass, so that autograd carries
∇_Φ C → (∂Φ/∂Θ)ᵀ ∇_Φ C. One class serves one sensor or any batch: 24,120 sensors are one stacked parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.sensors.parametrisation import PARAMETRISATIONS, Frame, Phi


class SensorLayer(nn.Module):
    """One sensor, or any batch of them, as a 2→3 linear layer with trainable degrees of freedom.

    Args:
        rotation: nominal local → global rotations (*batch, 3, 3); columns local x (u), y (normal), z (v).
        translation: nominal positions of the local origins (*batch, 3) [cm].
        half: half-lengths of the active areas (*batch, 2) [cm].
        centre: local (u, v) of their centres (*batch, 2) [cm]; default 0.
        parametrisation: "local" (six, sensor's frame), "global" (six, ALICE's AlignParam) or "affine" (nine).

    Attributes:
        theta: the degrees of freedom, parameter (*batch, 6 or 9), zero at the nominal place.
        free: which of them train, buffer like `theta`; the gradient of the others is zero.
    """

    rotation: Tensor
    translation: Tensor
    half_length: Tensor
    centre: Tensor
    free: Tensor

    def __init__(
        self,
        rotation: Tensor,
        translation: Tensor,
        half: Tensor,
        centre: Tensor | None = None,
        parametrisation: str = "local",
    ) -> None:
        super().__init__()
        if parametrisation not in PARAMETRISATIONS:
            raise ConfigError(f"parametrisation {parametrisation!r}; choose from {sorted(PARAMETRISATIONS)}")
        self.parametrisation = PARAMETRISATIONS[parametrisation]()
        self.register_buffer("rotation", rotation)
        self.register_buffer("translation", translation)
        self.register_buffer("half_length", half)
        self.register_buffer("centre", torch.zeros_like(half) if centre is None else centre)
        n_dof = len(self.parametrisation.names)
        self.theta = nn.Parameter(translation.new_zeros(*translation.shape[:-1], n_dof))
        self.register_buffer("free", torch.ones_like(self.theta, dtype=torch.bool))

    @classmethod
    def of(cls, detector: Detector, parametrisation: str = "local") -> SensorLayer:
        """All sensors of a detector, at their nominal places.

        Raises:
            GeometryError: a sensor is bent; this layer is flat.
        """
        if (detector.curvature_radius != 0).any():
            name = detector.names[int((detector.curvature_radius != 0).nonzero()[0])]
            raise GeometryError(f"sensor {name} is bent (curvature_radius ≠ 0); flat sensors were expected")
        rotation, translation = detector.rotation.clone(), detector.translation.clone()
        return cls(rotation, translation, detector.half.clone(), detector.centre.clone(), parametrisation)

    def __len__(self) -> int:
        return self.theta.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> SensorLayer:
        """Sensor(s) `index` as a layer of their own; of an integer or a slice, a view on Θ's memory."""
        half, centre = self.half_length[index], self.centre[index]
        part = SensorLayer(self.rotation[index], self.translation[index], half, centre)
        part.parametrisation = self.parametrisation
        part.theta = nn.Parameter(self.theta.data[index])
        part.free = self.free[index]
        return part

    @property
    def frame(self) -> Frame:
        """The constants that Θ → Φ needs."""
        return Frame(self.rotation, self.translation, self.half_length, self.centre)

    def phi(self) -> Phi:
        """Φ = (W, b) of every sensor, in the graph; keep it to ask for ∇_Φ C."""
        theta = torch.where(self.free, self.theta, self.theta.detach())
        return self.parametrisation.phi(theta, self.frame)

    @torch.no_grad()
    def jacobian(self) -> Tensor:
        """∂Φ/∂Θ (sensors, 9, dof), W row by row, then b, along the axes u, v, w as they stand by Θ."""
        nominal = self.parametrisation.jacobian(self.theta, self.frame)
        order = torch.tensor(rigid.LOCAL_TO_XYZ, device=nominal.device)
        turn = self.placement()[0].transpose(-1, -2) @ self.rotation
        turn = turn.index_select(-2, order).index_select(-1, order)
        weight = (turn @ nominal[:, :6].unflatten(1, (3, 2)).flatten(2)).unflatten(2, (2, -1))
        return torch.cat([weight.flatten(1, 2), turn @ nominal[:, 6:]], 1)

    def normalised(self, uv: Tensor, sensor: Tensor | None = None) -> Tensor:
        """s̃ of local positions `uv` [cm] (..., 2), on this sensor or on rows `sensor` (...)."""
        half, centre = (_rows(table, sensor) for table in (self.half_length, self.centre))
        return (uv - centre) / half

    def affine_map(self, phi: Phi | None = None) -> tuple[Tensor, Tensor]:
        """A (*batch, 3, 2) and c (*batch, 3) with g = A s̃ + c: the layer with its constants folded in."""
        weight, bias = self.phi() if phi is None else phi
        u, normal, v = self.rotation.unbind(-1)
        axes = torch.stack([u, v, normal], -1)  # R PO
        scale = torch.diag_embed(self.half_length)
        scale = torch.cat([scale, torch.zeros_like(scale[..., :1, :])], -2)
        offset = torch.cat([self.centre, torch.zeros_like(self.centre[..., :1])], -1)
        return axes @ (weight + scale), self.translation + (axes @ (bias + offset)[..., None]).squeeze(-1)

    def forward(self, uv: Tensor, sensor: Tensor | None = None, phi: Phi | None = None) -> Tensor:
        """Corrected global positions [cm] of measured local positions `uv` [cm].

        Args:
            uv: (..., 2).
            sensor: rows of the sensors, (...), where this layer holds many; None for one, or one hit each.
            phi: Φ to use instead of that of Θ.
        """
        slope, offset = self.affine_map(phi)
        tilde = self.normalised(uv, sensor)
        return (_rows(slope, sensor) @ tilde[..., None]).squeeze(-1) + _rows(offset, sensor)

    def planes(self, uv: Tensor, sensor: Tensor, phi: Phi | None = None) -> Plane:
        """The corrected planes of hits, through their measured positions.

        One gather of nine numbers a hit (`index_select`, whose backward is one `index_add`).

        Args:
            uv: measured local positions (..., 2) [cm].
            sensor: rows of their sensors (...).
            phi: Φ to use instead of that of Θ.
        """
        slope, offset = self.affine_map(phi)
        packed = torch.cat([slope.transpose(-1, -2).flatten(-2), offset], -1)
        a, b, c = packed.index_select(0, sensor.flatten()).unflatten(0, sensor.shape).split(3, -1)
        tilde = self.normalised(uv, sensor)
        origin = a * tilde[..., 0:1] + b * tilde[..., 1:2] + c
        u, v = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
        return Plane(origin, u, v, _cross(v, u))

    @torch.no_grad()
    def placement(self) -> tuple[Tensor, Tensor]:
        """Where the sensors are by Θ: rotations (*batch, 3, 3), positions of their local origins (*batch, 3).

        For `affine`, the rotation nearest to the layer's axes.
        """
        slope, offset = self.affine_map()
        axes = slope / self.half_length[..., None, :]
        u, v = axes.unbind(-1)
        w = _cross(v, u)
        raw = torch.stack([u, w / w.norm(dim=-1, keepdim=True), v], -1)
        left, _, right = torch.linalg.svd(raw)
        origin = offset - (axes @ self.centre[..., None]).squeeze(-1)
        return left @ right, origin

    @torch.no_grad()
    def local(self) -> Tensor:
        """The local six (*batch, 6) by which the sensors stand off their nominal places."""
        if self.parametrisation.names == rigid.LOCAL_NAMES:
            return self.theta.detach().clone()
        return rigid.local_of(self.rotation, self.translation, *self.placement())

    @torch.no_grad()
    def set_local(self, local: Tensor) -> None:
        """Put the sensors where the local six (*batch, 6) says."""
        self.theta.copy_(self.parametrisation.theta(local.to(self.theta), self.frame))


def _rows(table: Tensor, sensor: Tensor | None) -> Tensor:
    if sensor is None:
        return table
    return table.index_select(0, sensor.flatten()).unflatten(0, sensor.shape)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.cross(a, b)
