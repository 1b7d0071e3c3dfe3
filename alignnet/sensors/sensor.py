"""The sensor as a linear layer: two normalised coordinates in, a global position out.

    g = R PO (W + diag(d₁, d₂)) s̃ − R PO D⁻¹ Δ + R PO b + T,       l = PO D⁻¹ (s̃ − Δ),  Δ = −D · centre

s̃ ∈ [−1, 1]² over the active area; W (3×2) and b (3) are corrections, zero at the nominal place (R, T), and
come from the degrees of freedom Θ through a `Parametrisation` in every forward pass, so that autograd carries
∇_Φ C → (∂Φ/∂Θ)ᵀ ∇_Φ C. One class serves one sensor or any batch: 24,120 sensors are one stacked parameter.

A sensor that is bent, or whose surface has modes, is the layer applied to the points of its sheet: u and v
give a point of the sheet in the local frame (`geometry.surface`), and the layer takes this to where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.plane import Plane
from alignnet.geometry.surface import Surface, curvature_of, mode_names, n_modes, order_of, padded
from alignnet.physics.surface_path import Sheet
from alignnet.sensors.curved import planes_of, response
from alignnet.sensors.parametrisation import PARAMETRISATIONS, Affine, Frame, Phi, ShapedPhi


class SensorLayer(nn.Module):
    """One sensor, or any batch of them, as a 2→3 linear layer with trainable degrees of freedom.

    Args:
        rotation: nominal local → global rotations (*batch, 3, 3); columns local x (u), y (normal), z (v).
        translation: nominal positions of the local origins (*batch, 3) [cm].
        half: half-lengths of the active areas (*batch, 2) [cm].
        centre: local (u, v) of their centres (*batch, 2) [cm]; default 0.
        parametrisation: "local" (six, sensor's frame), "global" (six, ALICE's AlignParam) or "affine" (nine).
        curvature: 1 / radius of their bends about local z (*batch,) [1/cm]; default 0, flat.
        surface_order: of the Legendre modes of their surfaces, 0 for none.

    Attributes:
        theta: the degrees of freedom, parameter (*batch, 6 or 9, and one a mode), zero at the nominal place.
        free: which of them train, buffer like `theta`; the gradient of the others is zero.
    """

    rotation: Tensor
    translation: Tensor
    half_length: Tensor
    centre: Tensor
    curvature: Tensor
    free: Tensor

    def __init__(
        self,
        rotation: Tensor,
        translation: Tensor,
        half: Tensor,
        centre: Tensor | None = None,
        parametrisation: str = "local",
        curvature: Tensor | None = None,
        surface_order: int = 0,
    ) -> None:
        super().__init__()
        if parametrisation not in PARAMETRISATIONS:
            raise ConfigError(f"parametrisation {parametrisation!r}; choose from {sorted(PARAMETRISATIONS)}")
        self.parametrisation = PARAMETRISATIONS[parametrisation]()
        self.register_buffer("rotation", rotation)
        self.register_buffer("translation", translation)
        self.register_buffer("half_length", half)
        self.register_buffer("centre", torch.zeros_like(half) if centre is None else centre)
        flat = torch.zeros_like(half[..., 0]) if curvature is None else curvature
        self.register_buffer("curvature", flat, persistent=False)
        self.surface_order, self.n_modes = surface_order, n_modes(surface_order)
        self.is_curved = bool((flat != 0).any()) or self.n_modes > 0
        if self.is_curved and not self.is_rigid:
            raise ConfigError(
                "sensors.parametrisation=affine is for flat sensors without modes; choose local or global"
            )
        n_dof = len(self.dof_names)
        self.theta = nn.Parameter(translation.new_zeros(*translation.shape[:-1], n_dof))
        self.register_buffer("free", torch.ones_like(self.theta, dtype=torch.bool))

    @classmethod
    def of(cls, detector: Detector, parametrisation: str = "local", surface_order: int = 0) -> SensorLayer:
        """All sensors of a detector, at their nominal places.

        Raises:
            ConfigError: there is no such parametrisation or order, or the parametrisation is for flat
                sensors.
        """
        curvature = curvature_of(detector.curvature_radius)
        rotation, translation = detector.rotation.clone(), detector.translation.clone()
        half, centre = detector.half.clone(), detector.centre.clone()
        return cls(rotation, translation, half, centre, parametrisation, curvature, surface_order)

    @classmethod
    def at(cls, detector: Detector, local: Tensor) -> SensorLayer:
        """All sensors of a detector where a local six, with amplitudes of surfaces or without, has them."""
        layer = cls.of(detector, surface_order=order_of(local.shape[-1] - 6))
        layer.set_local(local)
        return layer

    def __len__(self) -> int:
        return self.theta.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> SensorLayer:
        """Sensor(s) `index` as a layer of their own; of an integer or a slice, a view on Θ's memory."""
        half, centre = self.half_length[index], self.centre[index]
        part = SensorLayer(
            self.rotation[index], self.translation[index], half, centre,
            curvature=self.curvature[index], surface_order=self.surface_order,
        )  # fmt: skip
        part.parametrisation, part.is_curved = self.parametrisation, self.is_curved
        part.theta = nn.Parameter(self.theta.data[index])
        part.free = self.free[index]
        return part

    @property
    def dof_names(self) -> tuple[str, ...]:
        """What the numbers of Θ are called, in order."""
        return (*self.parametrisation.names, *mode_names(self.surface_order))

    @property
    def is_rigid(self) -> bool:
        """Whether the first six of Θ are a rigid motion: three lengths and three angles."""
        return not isinstance(self.parametrisation, Affine)

    @property
    def frame(self) -> Frame:
        """The constants that Θ → Φ needs."""
        return Frame(self.rotation, self.translation, self.half_length, self.centre)

    def phi(self) -> Phi | ShapedPhi:
        """Φ = (W, b) of every sensor, and modes if any, in the graph; keep it to ask for ∇_Φ C."""
        theta = torch.where(self.free, self.theta, self.theta.detach())
        if not self.n_modes:
            return self.parametrisation.phi(theta, self.frame)
        phi = self.parametrisation.phi(theta[..., : -self.n_modes], self.frame)
        return ShapedPhi(*phi, theta[..., -self.n_modes :])

    @torch.no_grad()
    def jacobian(self) -> Tensor:
        """∂(W, b)/∂Θ (sensors, 9, dof), W row by row, then b, along the axes u, v, w as they stand by Θ."""
        rigid_part = self.theta[..., : len(self.parametrisation.names)]
        nominal = self.parametrisation.jacobian(rigid_part, self.frame)
        nominal = torch.nn.functional.pad(nominal, (0, self.n_modes))
        order = torch.tensor(rigid.LOCAL_TO_XYZ, device=nominal.device)
        turn = self.placement()[0].transpose(-1, -2) @ self.rotation
        turn = turn.index_select(-2, order).index_select(-1, order)
        weight = (turn @ nominal[:, :6].unflatten(1, (3, 2)).flatten(2)).unflatten(2, (2, -1))
        return torch.cat([weight.flatten(1, 2), turn @ nominal[:, 6:]], 1)

    @torch.no_grad()
    def motion(self) -> Tensor:
        """What `Block.derivative` takes: ∂(W, b)/∂Θ (sensors, 9, dof); of curved sensors, the unit matrix.

        The blocks of these hold each hit's derivatives by Θ themselves (`hit_response`).
        """
        if not self.is_curved:
            return self.jacobian()
        n, n_dof = self.theta.shape
        return torch.eye(n_dof, dtype=self.theta.dtype, device=self.theta.device).repeat(n, 1, 1)

    @torch.no_grad()
    def hit_response(
        self, planes: Plane, slope: Tensor, residual: Tensor, uv: Tensor, sensor: Tensor
    ) -> Tensor:
        """Change of hits' residuals by Θ of their sensors, (..., 2, dof); (..., 2, 0) where all are flat.

        Args:
            planes: of the hits (`planes`).
            slope: t_u/t_n and t_v/t_n of the tracks there (..., 2).
            residual: predicted minus measured (..., 2) [cm].
            uv: measured (..., 2) [cm].
            sensor: rows of their sensors (...).
        """
        if not self.is_curved:
            return slope.new_zeros(*slope.shape, 0)
        return response(self.sheet(), self.jacobian(), planes, slope, residual, uv, sensor)

    def sheet(self, phi: Phi | ShapedPhi | None = None) -> Sheet:
        """The sheets of the sensors where they stand, in the graph."""
        phi = self.phi() if phi is None else phi
        slope, offset = self.affine_map(phi)
        axes = slope / self.half_length[..., None, :]
        u, v = axes.unbind(-1)
        origin = offset - (axes @ self.centre[..., None]).squeeze(-1)
        amplitude = phi.modes if isinstance(phi, ShapedPhi) else u.new_zeros(*u.shape[:-1], 0)
        surface = Surface(self.curvature, self.half_length, self.centre, amplitude)
        return Sheet(torch.stack([u, _cross(v, u), v], -1), origin, surface)

    def normalised(self, uv: Tensor, sensor: Tensor | None = None) -> Tensor:
        """s̃ of local positions `uv` [cm] (..., 2), on this sensor or on rows `sensor` (...)."""
        half, centre = (_rows(table, sensor) for table in (self.half_length, self.centre))
        return (uv - centre) / half

    def affine_map(self, phi: Phi | ShapedPhi | None = None) -> tuple[Tensor, Tensor]:
        """A (*batch, 3, 2) and c (*batch, 3) with g = A s̃ + c: the layer with its constants folded in."""
        weight, bias = (self.phi() if phi is None else phi)[:2]
        u, normal, v = self.rotation.unbind(-1)
        axes = torch.stack([u, v, normal], -1)  # R PO
        scale = torch.diag_embed(self.half_length)
        scale = torch.cat([scale, torch.zeros_like(scale[..., :1, :])], -2)
        offset = torch.cat([self.centre, torch.zeros_like(self.centre[..., :1])], -1)
        return axes @ (weight + scale), self.translation + (axes @ (bias + offset)[..., None]).squeeze(-1)

    def forward(self, uv: Tensor, sensor: Tensor | None = None, phi: Phi | ShapedPhi | None = None) -> Tensor:
        """Corrected global positions [cm] of measured local positions `uv` [cm].

        Args:
            uv: (..., 2).
            sensor: rows of the sensors, (...), where this layer holds many; None for one, or one hit each.
            phi: Φ to use instead of that of Θ.
        """
        if self.is_curved:
            sheet = self.sheet(phi)
            return (sheet if sensor is None else sheet.at(sensor)).point(uv)
        slope, offset = self.affine_map(phi)
        tilde = self.normalised(uv, sensor)
        return (_rows(slope, sensor) @ tilde[..., None]).squeeze(-1) + _rows(offset, sensor)

    def planes(self, uv: Tensor, sensor: Tensor, phi: Phi | ShapedPhi | None = None) -> Plane:
        """The corrected planes of hits, through their measured positions; of curved sensors, tangent there.

        One gather of nine numbers a hit (`index_select`, whose backward is one `index_add`).

        Args:
            uv: measured local positions (..., 2) [cm].
            sensor: rows of their sensors (...).
            phi: Φ to use instead of that of Θ.
        """
        if self.is_curved:
            return planes_of(self.sheet(phi).at(sensor), uv)
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
        """The local six (*batch, 6) by which the sensors stand off their nominal places.

        With a surface order, amplitudes follow as further columns.
        """
        if self.parametrisation.names == rigid.LOCAL_NAMES:
            return self.theta.detach().clone()
        six = rigid.local_of(self.rotation, self.translation, *self.placement())
        return torch.cat([six, self.theta.detach()[..., len(self.parametrisation.names) :]], -1)

    @torch.no_grad()
    def set_local(self, local: Tensor) -> None:
        """Put the sensors where the local six (*batch, 6) says; further columns are amplitudes of surfaces.

        Raises:
            GeometryError: there are amplitudes of more modes than these sensors have.
        """
        if (extra := local.shape[-1] - 6 - self.n_modes) > 0 and bool((local[..., -extra:] != 0).any()):
            raise GeometryError(
                f"the surfaces have amplitudes of order {order_of(local.shape[-1] - 6)}, expected up to "
                f"{self.surface_order}; raise sensors.surface_order"
            )
        six, modes = padded(local.to(self.theta), 6 + self.n_modes)[..., : 6 + self.n_modes].split(
            [6, self.n_modes], -1
        )
        self.theta.copy_(torch.cat([self.parametrisation.theta(six, self.frame), modes], -1))


def _rows(table: Tensor, sensor: Tensor | None) -> Tensor:
    if sensor is None:
        return table
    return table.index_select(0, sensor.flatten()).unflatten(0, sensor.shape)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.cross(a, b)
