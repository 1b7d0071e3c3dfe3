"""A beam telescope: flat planes across the beam, which runs along z.

Local x (u) is global x, local z (v) is global y, and the normal (local y, w) is −z, so that the frame is
right-handed; the active areas are centred on the z axis. Lengths in cm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.geometry.detector import Detector

ROTATION = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))
"""Local → global, the same for every plane; columns are the global directions of u, w and v."""


def telescope(
    z: Sequence[float],
    half_u: float | Sequence[float],
    half_v: float | Sequence[float],
    x_over_x0: float | Sequence[float] = 0.0,
    b_z: float = 0.0,
) -> Detector:
    """Planes at the given z, named telescope/plane0, telescope/plane1, … with identifiers and layers 0, 1, …

    Args:
        z: positions of the planes [cm], ascending.
        half_u: half-length of the active area along x [cm], one number or one for each plane.
        half_v: the same along y.
        x_over_x0: material of a plane at normal incidence, one number or one for each plane.
        b_z: field along z [T].

    Raises:
        GeometryError: an argument is not numbers, is not finite or has the wrong length; z does not ascend; a
            half-length is not above 0; material is below 0.
    """
    places = _numbers("z", z)
    if places.ndim != 1 or len(places) == 0 or not (places.diff() > 0).all():
        raise GeometryError(f"telescope: z is {z!r}, expected a list of ascending positions [cm]")
    n = len(places)
    half = torch.stack([_of_planes("half_u", half_u, n), _of_planes("half_v", half_v, n)], -1)
    material = _of_planes("x_over_x0", x_over_x0, n)
    for name, value, bad in (
        ("half_u", half_u, half[:, 0] <= 0),
        ("half_v", half_v, half[:, 1] <= 0),
        ("x_over_x0", x_over_x0, material < 0),
    ):
        if bad.any():
            raise GeometryError(f"telescope: {name} is {value!r}, expected {_ACCEPTS[name]}")
    return Detector(
        name="telescope",
        sensor_id=torch.arange(n),
        names=tuple(f"telescope/plane{i}" for i in range(n)),
        layer=torch.arange(n),
        rotation=torch.tensor(ROTATION, dtype=torch.float64).repeat(n, 1, 1),
        translation=torch.nn.functional.pad(places[:, None], (2, 0)),
        half=half,
        centre=torch.zeros(n, 2, dtype=torch.float64),
        x_over_x0=material,
        curvature_radius=torch.zeros(n, dtype=torch.float64),
        b_z=float(_numbers("b_z", b_z)),
    )


_ACCEPTS = {"half_u": "values > 0", "half_v": "values > 0", "x_over_x0": "values >= 0"}


def _numbers(name: str, value: float | Sequence[float]) -> Tensor:
    try:
        numbers = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(f"telescope: {name} is {value!r}, expected numbers") from error
    if not torch.isfinite(numbers).all():
        raise GeometryError(f"telescope: {name} is {value!r}, expected finite numbers")
    return numbers


def _of_planes(name: str, value: float | Sequence[float], n: int) -> Tensor:
    numbers = _numbers(name, value)
    if numbers.shape not in ((), (n,)):
        raise GeometryError(
            f"telescope: {name} is {value!r}, expected one number or one for each of {n} planes"
        )
    return numbers.expand(n).clone()
