"""Costs of noisy tracks through small detectors, and their H as a dense matrix."""

from __future__ import annotations

import torch
from small_detectors import BEAM, GUN, barrel, planes, random_local, simulated
from torch import Tensor

from alignnet.data.sources import Source
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.noise import NoiseModel
from alignnet.solvers.hessian import Problem

BARREL, LINES, TELESCOPE = barrel(), barrel(b_z=0.0), planes()
PLACES = {"barrel": (BARREL, GUN), "straight": (LINES, GUN), "telescope": (TELESCOPE, BEAM)}
NOISE, VERTEX = ("none", "diagonal", "full"), ("absent", "given", "fitted")


def loss_of(detector: Detector, noise: str = "full", vertex: str = "absent", **options: object) -> HelixChi2:
    """The cost in a detector with one of the noise models."""
    return HelixChi2(detector, NoiseModel(detector, noise), vertex, **options)


def converged_loss(detector: Detector, *model: str, **options: object) -> HelixChi2:
    """`loss_of` with track fits that reach their minimum, where the derivatives are exact."""
    return loss_of(detector, *model, **{"iterations": 10, **options})


def noisy(detector: Detector = BARREL, source: Source = GUN, n_events: int = 15) -> Tracks:
    """Tracks in a detector whose sensors are some 5 µm off."""
    return simulated(detector, source, n_events, random_local(len(detector), 5e-4, 5e-5))


def dense(problem: Problem) -> Tensor:
    """H as a matrix (sensors·dof, sensors·dof)."""
    unit = torch.eye(problem.free.numel(), dtype=torch.float64).view(-1, *problem.free.shape)
    return torch.stack([problem(vector).flatten() for vector in unit])
