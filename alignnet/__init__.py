"""Align particle-tracking detectors: each sensor is a linear layer, the track fit is the loss.

The names below are what README.md uses; they are imported when first asked for: `import alignnet` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AlignmentData": "alignnet.data.datamodule",
    "AlignmentModule": "alignnet.training.module",
    "AlignmentMonitor": "alignnet.training.callbacks",
    "Detector": "alignnet.geometry.detector",
    "GaussNewton": "alignnet.training.optim",
    "Gaussian": "alignnet.geometry.misalign",
    "HelixChi2": "alignnet.loss.chi2",
    "NoiseModel": "alignnet.loss.noise",
    "ParticleGun": "alignnet.data.sources",
    "PreconditionedSGD": "alignnet.training.optim",
    "Recovery": "alignnet.geometry.recovery",
    "SensorLayer": "alignnet.sensors.sensor",
    "Simulation": "alignnet.data.simulate",
    "barrel_endcap": "alignnet.geometry.tracker",
    "discs": "alignnet.geometry.tracker",
    "fit": "alignnet.training.run",
    "its2": "alignnet.geometry.its2",
    "its3": "alignnet.geometry.its3",
    "make_trainer": "alignnet.training.run",
    "read_detector": "alignnet.data.root",
    "read_tracks": "alignnet.data.root",
    "telescope": "alignnet.geometry.telescope",
    "write_simulation": "alignnet.data.root",
}

__all__ = [
    "AlignmentData",
    "AlignmentModule",
    "AlignmentMonitor",
    "Detector",
    "GaussNewton",
    "Gaussian",
    "HelixChi2",
    "NoiseModel",
    "ParticleGun",
    "PreconditionedSGD",
    "Recovery",
    "SensorLayer",
    "Simulation",
    "barrel_endcap",
    "discs",
    "fit",
    "its2",
    "its3",
    "make_trainer",
    "read_detector",
    "read_tracks",
    "telescope",
    "write_simulation",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'alignnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])


if TYPE_CHECKING:
    from alignnet.data.datamodule import AlignmentData as AlignmentData
    from alignnet.data.root import read_detector as read_detector
    from alignnet.data.root import read_tracks as read_tracks
    from alignnet.data.root import write_simulation as write_simulation
    from alignnet.data.simulate import Simulation as Simulation
    from alignnet.data.sources import ParticleGun as ParticleGun
    from alignnet.geometry.detector import Detector as Detector
    from alignnet.geometry.its2 import its2 as its2
    from alignnet.geometry.its3 import its3 as its3
    from alignnet.geometry.misalign import Gaussian as Gaussian
    from alignnet.geometry.recovery import Recovery as Recovery
    from alignnet.geometry.telescope import telescope as telescope
    from alignnet.geometry.tracker import barrel_endcap as barrel_endcap
    from alignnet.geometry.tracker import discs as discs
    from alignnet.loss.chi2 import HelixChi2 as HelixChi2
    from alignnet.loss.noise import NoiseModel as NoiseModel
    from alignnet.sensors.sensor import SensorLayer as SensorLayer
    from alignnet.training.callbacks import AlignmentMonitor as AlignmentMonitor
    from alignnet.training.module import AlignmentModule as AlignmentModule
    from alignnet.training.optim import GaussNewton as GaussNewton
    from alignnet.training.optim import PreconditionedSGD as PreconditionedSGD
    from alignnet.training.run import fit as fit
    from alignnet.training.run import make_trainer as make_trainer
