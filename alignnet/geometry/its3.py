"""ALICE's ITS3: three layers of wafer-scale sensors bent to half-cylinders, inside ITS2's outer barrel.

A half-layer is one sensor of 27 cm. Its local origin is the middle of the sheet, on the surface; u runs along
the arc in the sense of +φ, v along z, and the normal w looks at the beam line, so that the radius of the bend
is positive. Radii (18, 24, 30 mm), length and matter are about those of the design (ALICE-TDR-021); the outer
four layers are those of `its2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.geometry.detector import Detector, Scatterers
from alignnet.geometry.its2 import its2

FIRST_OUTER = 3
"""The first layer of ITS2 that stays."""


def its3(
    radii: Sequence[float] = (1.8, 2.4, 3.0),
    length: float = 26.6,
    gap: float = 0.1,
    x_over_x0: float = 0.0009,
    outer_barrel: bool = True,
    b_z: float = 0.5,
) -> Detector:
    """The ideal ITS3 with its beam pipe; identifiers 0 to 5 are the half-layers, the others those of ITS2.

    Args:
        radii: of the bent layers [cm], ascending.
        length: of the half-cylinders along z [cm].
        gap: between the two half-layers' active areas at either side [cm].
        x_over_x0: material of a bent layer at normal incidence.
        outer_barrel: with the outer four layers of ITS2, numbered on from the bent ones.
        b_z: field along z [T].

    Raises:
        GeometryError: radii do not ascend from above the beam pipe, or leave no active area.
    """
    if not radii or list(radii) != sorted(set(radii)) or radii[0] <= _PIPE[0] or length <= 0:
        raise GeometryError(
            f"its3: radii {list(radii)} and length {length}, expected ascending radii above {_PIPE[0]} cm"
        )
    if not 0 <= gap < math.pi * radii[0]:
        raise GeometryError(
            f"its3: gap is {gap}, expected at least 0 and less than half of the circumference"
        )
    inner = _half_layers(radii, length, gap, x_over_x0, b_z)
    return _joined(inner, its2(b_z)) if outer_barrel else inner


_PIPE = (1.625, 44.4, 0.0014)  # radius and half-length [cm], radiation lengths: 0.5 mm of beryllium


def _half_layers(radii: Sequence[float], length: float, gap: float, x_over_x0: float, b_z: float) -> Detector:
    rows = [(layer, half, r) for layer, r in enumerate(radii) for half in range(2)]
    layer, half, radius = torch.tensor(rows, dtype=torch.float64).T
    phi = torch.pi * (half + 0.5)
    zero, one = torch.zeros_like(phi), torch.ones_like(phi)
    out, z = torch.stack([phi.cos(), phi.sin(), zero], -1), torch.stack([zero, zero, one], -1)
    return Detector(
        name="ITS3",
        sensor_id=torch.arange(len(rows)),
        names=tuple(f"ITS/ITSULayer{i}/ITSUHalfBarrel{k}/ITSUWafer0" for i, k, _ in rows),
        layer=layer.long(),
        rotation=torch.stack([torch.linalg.cross(z, out), -out, z], -1),
        translation=radius[:, None] * out,
        half=torch.stack([torch.pi * radius / 2 - gap / 2, length / 2 * one], -1),
        centre=torch.zeros(len(rows), 2, dtype=torch.float64),
        x_over_x0=x_over_x0 * one,
        curvature_radius=radius,
        b_z=b_z,
        scatterers=Scatterers(*(torch.tensor([value], dtype=torch.float64) for value in _PIPE)),
    )


def _joined(inner: Detector, full: Detector) -> Detector:
    """The half-layers with the outer layers of ITS2, whose words and identifiers stay."""
    keep = (full.layer >= FIRST_OUTER).nonzero().squeeze(-1)
    shift = len(inner.layers) - FIRST_OUTER
    names = [full.names[i] for i in keep.tolist()]
    if shift:
        names = [_renumbered(name, shift) for name in names]

    def both(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b[keep]])

    return replace(
        inner,
        names=(*inner.names, *names),
        sensor_id=both(inner.sensor_id, full.sensor_id),
        layer=both(inner.layer, full.layer + shift),
        rotation=both(inner.rotation, full.rotation),
        translation=both(inner.translation, full.translation),
        half=both(inner.half, full.half),
        centre=both(inner.centre, full.centre),
        x_over_x0=both(inner.x_over_x0, full.x_over_x0),
        curvature_radius=both(inner.curvature_radius, full.curvature_radius),
    )


def _renumbered(name: str, shift: int) -> str:
    root, layer, *rest = name.split("/")
    number = int(layer.removeprefix("ITSULayer")) + shift
    return "/".join([root, f"ITSULayer{number}", *rest])
