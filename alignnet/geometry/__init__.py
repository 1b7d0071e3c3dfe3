"""Detectors, rigid motions, and misalignments. Lengths in cm, angles in rad, float64."""

from __future__ import annotations

from alignnet.geometry import its2, rigid, telescope
from alignnet.geometry.detector import Detector, Scatterers
from alignnet.geometry.misalign import (
    Composed,
    Gaussian,
    Misalignment,
    NoMisalignment,
    Only,
    SurfaceModes,
    misaligned,
)
from alignnet.geometry.plane import Plane
from alignnet.geometry.volumes import Volumes, volume_frames
from alignnet.geometry.weak_modes import (
    WEAK_MODE_NAMES,
    WEAK_MODES,
    WeakMode,
    displacement,
    rigid_motion_basis,
    weak_mode_basis,
)

__all__ = [
    "WEAK_MODES",
    "WEAK_MODE_NAMES",
    "Composed",
    "Detector",
    "Gaussian",
    "Misalignment",
    "NoMisalignment",
    "Only",
    "Plane",
    "Scatterers",
    "SurfaceModes",
    "Volumes",
    "WeakMode",
    "displacement",
    "its2",
    "misaligned",
    "rigid",
    "rigid_motion_basis",
    "telescope",
    "volume_frames",
    "weak_mode_basis",
]
