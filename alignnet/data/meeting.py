"""Where helices meet sensors' sheets: planes, and bent or deformed ones."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.geometry.detector import Detector
from alignnet.physics.helix import Helix, path_to_plane, point
from alignnet.physics.surface_path import Sheet, height_above, line_to_cylinder, path_to_sheet

_ON_SHEET = 1e-8  # [cm]
_SAME = 1e-6  # [cm] apart, two searches have come to one place


def sheets(detector: Detector, sensor: Tensor) -> Sheet:
    """The sheets of the sensors of these rows (n,)."""
    return Sheet(detector.rotation, detector.translation, detector.surface).at(sensor)


def is_flat(detector: Detector, sensors: Tensor) -> bool:
    """Whether all sensors of these rows are planes."""
    return not bool(detector.curved[sensors].any())


def met(
    detector: Detector, sensor: Tensor, helix: Helix, start: Tensor, flat: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Path lengths (n,) [cm] to sensors (n,), local (u, v) there (n, 2) [cm] and normals (n, 3).

    Args:
        detector: the sensors where they really are.
        sensor: their rows (n,).
        helix: states (n,).
        start: of the search for the path lengths (n,) [cm].
        flat: these sensors are planes.
    """
    origin, normal = detector.translation[sensor], detector.rotation[sensor, :, 1]
    if flat:
        s = path_to_plane(helix, origin, normal, start)
        return s, local_point(detector, sensor, point(helix, s)), normal
    sheet = sheets(detector, sensor)
    s = path_to_sheet(helix, sheet, start)
    uv = sheet.uv(point(helix, s))
    return s, uv, sheet.normal(uv)


def landed(detector: Detector, sensor: Tensor, helix: Helix, s: Tensor, flat: bool) -> Tensor:
    """Whether path lengths lead to the sensors' sheets (n,): a search from far away may end elsewhere."""
    if flat:
        origin, normal = detector.translation[sensor], detector.rotation[sensor, :, 1]
        return ((point(helix, s) - origin) * normal).sum(-1).abs() < _ON_SHEET
    return height_above(helix, sheets(detector, sensor), s).abs() < _ON_SHEET


def line_starts(detector: Detector, sensor: Tensor, helix: Helix, flat: bool) -> Tensor:
    """Path lengths (n, 1 or 2) [cm] at which straight lines along helices (n,) meet the sensors' sheets."""
    if flat:
        origin, normal = detector.translation[sensor], detector.rotation[sensor, :, 1]
        s = ((origin - helix.position) * normal).sum(-1) / (helix.direction * normal).sum(-1)
        return s[:, None]
    return line_to_cylinder(helix, sheets(detector, sensor))


def local_point(detector: Detector, sensor: Tensor, position: Tensor) -> Tensor:
    """Local (u, v) [cm] of global points (n, 3) on the sensors of these rows (n,), shape (n, 2)."""
    if not is_flat(detector, sensor):
        return sheets(detector, sensor).uv(position)
    axes = detector.rotation[sensor][:, :, [0, 2]]
    return ((position - detector.translation[sensor])[:, :, None] * axes).sum(1)


def repeated(track: Tensor, sensor: Tensor, s: Tensor) -> Tensor:
    """Rows that say the same as the row before (n,), of crossings sorted by track and path length."""
    same = (track[1:] == track[:-1]) & (sensor[1:] == sensor[:-1]) & ((s[1:] - s[:-1]).abs() < _SAME)
    return torch.cat([same.new_zeros(min(1, len(track))), same])
