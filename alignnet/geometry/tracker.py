"""Forward discs, and a barrel with endcaps as large experiments have them, from a handful of numbers.

A disc is made of rings of rectangular sensors, neighbours of a ring in front of each other by turns so that
they
overlap: u along +φ, v outwards, w along +z. A barrel layer is made of ladders, each tilted none, every other
one further out: u along +φ, v along z, w towards the beam line. Lengths in cm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.geometry.detector import Detector, Scatterers


class _Sensors(NamedTuple):
    """Columns of a part of a detector."""

    names: list[str]
    layer: Tensor
    rotation: Tensor
    translation: Tensor
    half: Tensor


def discs(
    z: Sequence[float] = (30.0, 36.0, 44.0, 54.0, 66.0, 80.0),
    radii: Sequence[float] = (2.5, 10.0, 17.5),
    stagger: float = 0.3,
    overlap: float = 0.1,
    sensor_length: float = 4.0,
    x_over_x0: float = 0.006,
    b_z: float = 0.5,
) -> Detector:
    """Forward discs at the given z, named Forward/Disc0/Ring0/Sensor0, …; a disc is a layer.

    Args:
        z: positions of the discs [cm], ascending in |z| on either side.
        radii: edges of the rings [cm], ascending: one ring between each two.
        stagger: distance in z between neighbours of a ring; rings are four of these apart [cm].
        overlap: how far neighbours overlap in the ring and rings in radius [cm].
        sensor_length: about the length of a sensor along φ [cm].
        x_over_x0: material of a sensor at normal incidence.
        b_z: field along z [T].

    Raises:
        GeometryError: a list is empty or does not ascend, or a length cannot be used.
    """
    parts = [
        _disc(f"Forward/Disc{i}", i, place, radii, stagger, overlap, sensor_length)
        for i, place in enumerate(z)
    ]
    return _detector("discs", parts, x_over_x0, b_z)


def barrel_endcap(
    radii: Sequence[float] = (3.0, 7.0, 12.0, 18.0, 30.0, 50.0),
    half_length: float = 60.0,
    ladder_width: float = 4.0,
    modules: int = 12,
    endcap_z: Sequence[float] = (70.0, 85.0, 105.0, 130.0, 160.0),
    endcap_radii: Sequence[float] = (8.0, 20.0, 34.0, 50.0),
    overlap: float = 0.1,
    sensor_length: float = 8.0,
    x_over_x0: float = 0.01,
    b_z: float = 2.0,
) -> Detector:
    """A barrel of ladders closed by discs on both sides, as of ATLAS (2 T) or CMS (3.8 T), in small numbers.

    Names are Tracker/BarrelLayer0/Ladder0/Module0 and Tracker/EndcapPlus0/Ring0/Module0 (EndcapMinus at z <
    0); layers are numbered from the beam line outwards, then the discs at +z, then those at −z.

    Args:
        radii: of the barrel's layers [cm], ascending.
        half_length: of all of them [cm].
        ladder_width: about the width of a ladder [cm].
        modules: sensors of a ladder, in a row along z with `overlap` between them.
        endcap_z: positions of the discs at +z [cm], ascending; those at −z mirror them.
        endcap_radii: edges of their rings [cm], ascending.
        overlap: how far neighbours overlap along φ, z and in radius [cm].
        sensor_length: about the length along φ of a disc's sensor [cm].
        x_over_x0: material of a sensor at normal incidence.
        b_z: field along z [T].

    Raises:
        GeometryError: a list is empty or does not ascend, or a length cannot be used.
    """
    _ascending("radii", radii)
    _ascending("endcap_z", endcap_z)
    if endcap_z[0] <= half_length or modules < 1:
        raise GeometryError(
            f"endcap_z begins at {endcap_z[0]} and modules is {modules}, expected discs beyond the "
            f"half_length of {half_length} cm and at least 1 module"
        )
    parts = [_barrel(i, r, half_length, ladder_width, modules, overlap) for i, r in enumerate(radii)]
    for side, sign in (("Plus", 1.0), ("Minus", -1.0)):
        for i, place in enumerate(endcap_z):
            name = f"Tracker/Endcap{side}{i}"
            parts.append(
                _disc(name, len(parts), sign * place, endcap_radii, 0.5, overlap, sensor_length, "Module")
            )
    return _detector("barrel and endcaps", parts, x_over_x0, b_z)


def _disc(
    name: str,
    layer: int,
    z: float,
    radii: Sequence[float],
    stagger: float,
    overlap: float,
    length: float,
    word: str = "Sensor",
) -> _Sensors:
    """Rings of an even number of sensors, each as wide as its part of the ring's outer edge."""
    _ascending("radii of rings", radii)
    if len(radii) < 2 or not stagger > 0 or not overlap >= 0 or not length > 0:
        raise GeometryError(
            f"rings at radii {list(radii)}, stagger {stagger}, overlap {overlap}, sensors of {length} cm: "
            "expected at least two radii, and lengths > 0"
        )
    names, phi, r, height, half = [], [], [], [], []
    for ring, (low, high) in enumerate(itertools.pairwise(radii)):
        n = 2 * max(2, math.ceil(math.pi * high / length))
        for i in range(n):
            names.append(f"{name}/Ring{ring}/{word}{i}")
            phi.append(2 * math.pi * (i + 0.5 * (layer % 2)) / n)
            r.append((low + high) / 2)
            height.append(4 * stagger * (ring % 2 - 0.5) + stagger * (i % 2 - 0.5))
            half.append([high * math.tan(math.pi / n) + overlap / 2, (high - low + overlap) / 2])
    out, along, beam = _axes(torch.tensor(phi, dtype=torch.float64))
    place = torch.tensor(r, dtype=torch.float64)[:, None] * out
    place = place + (z + torch.tensor(height, dtype=torch.float64))[:, None] * beam
    layers = torch.full((len(names),), layer)
    return _Sensors(
        names, layers, torch.stack([along, beam, out], -1), place, torch.tensor(half, dtype=torch.float64)
    )


def _barrel(
    layer: int, radius: float, half_length: float, width: float, modules: int, overlap: float
) -> _Sensors:
    """An even number of ladders, every other one further out by 6 % of the radius, 0.5 cm at most."""
    n = 2 * max(3, math.ceil(math.pi * radius / width))
    step = min(0.06 * radius, 0.5)
    rows = [(i, j) for i in range(n) for j in range(modules)]
    ladder, module = torch.tensor(rows, dtype=torch.float64).T
    out, along, beam = _axes(2 * torch.pi * (ladder + 0.25 * (layer % 2)) / n)
    half_v = half_length / modules
    place = (radius + step * (ladder % 2))[:, None] * out
    place = place + ((2 * module + 1 - modules) * half_v)[:, None] * beam
    half_u = (radius + step) * math.tan(math.pi / n) + overlap / 2
    half = torch.tensor([half_u, half_v], dtype=torch.float64).repeat(len(rows), 1)
    names = [f"Tracker/BarrelLayer{layer}/Ladder{i}/Module{j}" for i, j in rows]
    return _Sensors(names, torch.full((len(rows),), layer), torch.stack([along, -out, beam], -1), place, half)


def _axes(phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors outwards, along +φ and along z, (sensors, 3) each."""
    zero, one = torch.zeros_like(phi), torch.ones_like(phi)
    out, beam = torch.stack([phi.cos(), phi.sin(), zero], -1), torch.stack([zero, zero, one], -1)
    return out, torch.linalg.cross(beam, out), beam


def _detector(name: str, parts: Sequence[_Sensors], x_over_x0: float, b_z: float) -> Detector:
    if not parts or x_over_x0 < 0:
        raise GeometryError(f"{name}: {len(parts)} layers of {x_over_x0} X0, expected at least one and >= 0")
    names = [each for part in parts for each in part.names]
    columns = (torch.cat([getattr(part, key) for part in parts]) for key in _Sensors._fields[1:])
    layer, rotation, translation, half = columns
    n = len(names)
    return Detector(
        name=name,
        sensor_id=torch.arange(n),
        names=tuple(names),
        layer=layer,
        rotation=rotation,
        translation=translation,
        half=half,
        centre=torch.zeros(n, 2, dtype=torch.float64),
        x_over_x0=torch.full((n,), float(x_over_x0), dtype=torch.float64),
        curvature_radius=torch.zeros(n, dtype=torch.float64),
        b_z=b_z,
        scatterers=Scatterers.none(),
    )


def _ascending(name: str, values: Sequence[float]) -> None:
    if not values or not all(a < b for a, b in itertools.pairwise(values)) or values[0] <= 0:
        raise GeometryError(f"{name} is {list(values)}, expected numbers > 0 in ascending order")
