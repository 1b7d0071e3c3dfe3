"""Numbers of volumes and of weak modes of a small barrel, as metrics.json has them."""

from __future__ import annotations

from typing import Any

import torch
from small_detectors import barrel, random_local

from alignnet.data.root_volumes import LevelAnswer
from alignnet.evaluation.volumes import volume_metrics
from alignnet.evaluation.weak_modes import mode_metrics
from alignnet.geometry.misalign import Composed, WeakMode
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.geometry.volumes import Volumes, accumulated
from alignnet.solvers.mode_errors import ModeErrors

DETECTOR = barrel(chips=3)
UM = 1e-4
EVERYONE = torch.ones(len(DETECTOR), dtype=torch.bool)
STAVES = Volumes.of(DETECTOR, "stave")
SIX = random_local(len(STAVES), 50 * UM, 2e-4)


def volumes() -> dict[str, Any]:
    """Of staves 50 µm off, one of them not known along w."""
    (moved,) = accumulated([STAVES], [SIX])
    error = torch.full((len(STAVES), 6), 3 * UM, dtype=torch.float64)
    error[4, 2] = torch.nan
    nothing = torch.zeros(len(STAVES), dtype=torch.int64)
    return volume_metrics(DETECTOR, [LevelAnswer(STAVES, moved, error, nothing + 70, nothing, 2)])


def weak_modes() -> dict[str, Any]:
    """Of a radial expansion and a twist, 90 % of which are found; nothing is known of the curl."""
    names = ModeAmplitudes(DETECTOR).names
    sigma = torch.full((len(names),), 2 * UM, dtype=torch.float64)
    sigma[names.index("curl")] = torch.inf
    none = torch.full_like(sigma, torch.inf)
    errors = ModeErrors(names, sigma, sigma / 2, none, none, torch.eye(len(sigma)))
    truth = Composed([WeakMode("radial", 50 * UM), WeakMode("twist", 1 * UM)])(DETECTOR)
    start = torch.zeros_like(truth)
    return mode_metrics(DETECTOR, errors, start, 0.9 * truth, truth)
