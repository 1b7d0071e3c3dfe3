"""Simulated collisions in the ideal ITS2, and places of its sensors to evaluate them with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.loss.chi2 import HelixChi2

UM = 1e-4


@pytest.fixture(scope="session")
def detector() -> Detector:
    return its2()


@pytest.fixture(scope="session")
def tracks(detector: Detector) -> Tracks:
    """1,600 pions from 200 vertices, in a detector that is where the drawing has it."""
    return Simulation(ParticleGun(pt_min=0.3), detector, seed=11).generate(200)


@pytest.fixture(scope="session")
def loss(detector: Detector) -> HelixChi2:
    return HelixChi2(detector)


@pytest.fixture(scope="session")
def nominal(detector: Detector) -> Tensor:
    """The local six of a perfect detector."""
    return torch.zeros(len(detector), 6, dtype=torch.float64)


@pytest.fixture(scope="session")
def layer_moved(detector: Detector, nominal: Tensor) -> Tensor:
    """Layer 0 believed to be 50 µm further along z than it is."""
    moved = nominal.clone()
    moved[:, 1] = 50 * UM * detector.rotation[:, 2, 2] * (detector.layer == 0)
    return moved
