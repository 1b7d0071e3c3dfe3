"""Which way the axes of sensors point, seen from the detector: towards +φ, along the beam line, outwards."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.geometry.detector import Detector


def is_barrel(detector: Detector, rows: Tensor) -> bool:
    """Whether these sensors' planes are along the beam line."""
    return bool((detector.rotation[rows, 2, 1].abs() < 0.5).all())


def middle(detector: Detector, rows: Tensor) -> Tensor:
    """Centres of the active areas (sensors, 3) [cm]."""
    u, _, v = detector.rotation[rows].unbind(-1)
    centre = detector.centre[rows]
    return detector.translation[rows] + u * centre[:, :1] + v * centre[:, 1:]


def sides(detector: Detector, rows: Tensor) -> Tensor:
    """+1 or −1 for each sensor's u, v and normal (sensors, 3): towards +φ, +z and outwards, or against it.

    Sensors across the beam count towards +x, +y and +z.
    """
    u, normal, v = detector.rotation[rows].unbind(-1)
    axes = torch.stack([u, v, normal], -1)
    towards = torch.eye(3, dtype=torch.float64).expand_as(axes)
    if is_barrel(detector, rows):
        outwards = torch.nn.functional.pad(middle(detector, rows)[:, :2], (0, 1))
        z = towards[..., 2]
        towards = torch.stack([torch.linalg.cross(z, outwards), z, outwards], -1)
    return torch.where((axes * towards).sum(-2) < 0, -1.0, 1.0).to(torch.float64)
