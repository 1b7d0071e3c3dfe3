"""Tracks that another program simulated, for tests of ours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from alignnet.data.root import read_detector, read_misalignment, read_tracks
from alignnet.data.tracks import Tracks
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import misaligned


class Sample(NamedTuple):
    """Tracks, the detector as it is drawn and as it is, and what is true of the tracks."""

    nominal: Detector
    actual: Detector
    tracks: Tracks
    truth: dict[str, Tensor]


@pytest.fixture(scope="session")
def acts_sample(acts_file: Path) -> Sample:
    """The first 8,000 entries of ACTS's file."""
    nominal = read_detector(acts_file)
    tracks = read_tracks(acts_file, nominal, 0, 8000, short_tracks="drop")
    truth = {name: torch.from_numpy(column) for name, column in tracks.truth.items()}
    return Sample(nominal, misaligned(nominal, read_misalignment(acts_file, nominal)), tracks, truth)
