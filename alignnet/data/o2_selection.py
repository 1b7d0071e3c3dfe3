"""Which of O2's tracks are aligned with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignnet.data.o2_tracks import States
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """Cuts on what the file says of a track; None is no cut.

    Args:
        pt: least and largest transverse momentum [GeV/c].
        max_abs_eta: largest |pseudorapidity|.
        min_clusters: at least 3.
        max_chi2_per_ndf: of O2's fit of n clusters, 2n − 5 degrees of freedom.
        min_contributors: of the track's vertex.
        max_dca: of a track to its vertex, along z and across it: a + b/p_T with a in cm and b in cm GeV/c.

    Raises:
        ConfigError: a value cannot be used.
    """

    pt: Sequence[float | None] = (None, None)
    max_abs_eta: float | None = None
    min_clusters: int = 3
    max_chi2_per_ndf: float | None = None
    min_contributors: int = 0
    max_dca: Sequence[float] = (1.0, 0.0)

    def __post_init__(self) -> None:
        _require(len(self.pt) == 2, "pt", self.pt, "two numbers, null for no limit")
        low, high = (0.0 if self.pt[0] is None else self.pt[0]), self.pt[1]
        _require(high is None or low <= high, "pt", self.pt, "the least one first, [low, high] in GeV/c")
        _require(self.min_clusters >= 3, "min_clusters", self.min_clusters, "at least 3")
        chi2 = self.max_chi2_per_ndf
        _require(chi2 is None or chi2 > 0, "max_chi2_per_ndf", chi2, "a number > 0, null for no limit")
        good = len(self.max_dca) == 2 and min(self.max_dca) >= 0
        _require(good, "max_dca", self.max_dca, "two numbers >= 0, [cm, cm GeV/c]")

    def tracks(self, states: States) -> Array:
        """Which tracks pass what needs no vertex, booleans (tracks,)."""
        low, high = self.pt
        keep = states.n_clusters >= self.min_clusters
        keep &= np.isfinite(states.pt) if low is None else states.pt >= low
        if high is not None:
            keep &= states.pt <= high
        if self.max_abs_eta is not None:
            keep &= np.abs(np.arcsinh(states.tan_lambda)) <= self.max_abs_eta
        if self.max_chi2_per_ndf is not None:
            keep &= states.chi2 <= self.max_chi2_per_ndf * (2 * states.n_clusters - 5)
        return keep

    def reach(self, states: States) -> Array:
        """The largest DCA of each track [cm], (tracks,)."""
        return self.max_dca[0] + self.max_dca[1] / states.pt


def _require(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"selection.{name} is {value!r}, expected {expected}")
