"""Hits on bent or deformed sensors: their tangent planes, and how residuals there follow the sensor.

A hit is compared with the track in the plane that touches the sheet at its measured position. Where the track
crosses δ away from it, the sheet is k δ²/2 off this plane, so that the residual is wrong by that times the
slope: at 18 mm radius and 45° by 0.3 µm for δ = 100 µm, by 1 nm for 5 µm, which an aligned sensor has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.plane import Plane
from alignnet.physics.surface_path import Sheet


def planes_of(sheet: Sheet, uv: Tensor) -> Plane:
    """The planes that touch sheets (...) at measured positions `uv` (..., 2) [cm]."""
    axes = torch.stack(sheet.surface.axes(uv), -1)
    return Plane(sheet.point(uv), *(sheet.rotation @ axes).unbind(-1))


def response(
    sheet: Sheet,
    jacobian: Tensor,
    planes: Plane,
    slope: Tensor,
    residual: Tensor,
    uv: Tensor,
    sensor: Tensor,
) -> Tensor:
    """Change of hits' residuals by Θ of their sensors, (..., 2, dof).

    A sheet that moves by δ(p) at the predicted point p changes r_u by −(û − (t_u/t_n) ŵ) · δ(p), and r_v
    alike; rigid motions move p by A p + a, and a mode of amplitude a_ij by P_i P_j, as the touching plane
    continues it from the hit, along the undeformed normal.

    Args:
        sheet: of all sensors as they stand.
        jacobian: ∂(W, b)/∂Θ of rigid motions along their axes (`SensorLayer.jacobian`; sensors, 9, dof).
        planes, slope, residual, uv, sensor: of hits (...), as for `SensorLayer.hit_response`.
    """
    own = sheet.at(sensor)
    along = residual[..., :1] * planes.u + residual[..., 1:] * planes.v
    predicted = own.local(planes.origin + along)[..., rigid.LOCAL_TO_XYZ]  # u, v, w
    across = torch.stack([planes.u, planes.v], -2) - slope[..., None] * planes.normal[..., None, :]
    across = (across @ own.rotation)[..., rigid.LOCAL_TO_XYZ]  # (..., 2, 3)
    turn, shift = (part[sensor] for part in _motions(sheet, jacobian))
    moved = torch.einsum("...kjd,...j->...kd", turn, predicted) + shift
    change = -across @ moved
    if (n := sheet.surface.amplitude.shape[-1]) > 0:
        value, by_u, by_v = own.surface.modes(uv)
        height = value + by_u * residual[..., :1] + by_v * residual[..., 1:]  # of the plane that touches
        normal = own.surface.normal(uv)[..., rigid.LOCAL_TO_XYZ]
        change[..., -n:] = -(across @ normal[..., None]) * height[..., None, :]
    return change


def _motions(sheet: Sheet, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """A (sensors, 3, 3, dof) and a (sensors, 3, dof) of what each of Θ does to local points in u, v, w order.

    Rigid motions have A = −Aᵀ, which gives its third column.
    """
    half, centre = sheet.surface.half, sheet.surface.centre
    flat = jacobian[:, :6].unflatten(1, (3, 2)) / half[:, None, :, None]  # δ_k by u and v
    shift = jacobian[:, 6:] - (flat * centre[:, None, :, None]).sum(2)
    third = torch.cat([-flat[:, 2], torch.zeros_like(flat[:, 2, :1])], 1)
    return torch.cat([flat, third[:, :, None]], 2), shift
