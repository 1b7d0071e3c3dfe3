"""What the tracks of one interval of validity say of volumes that move, and where a walk says that they are.

The sensors stand still in their volumes, where a static alignment has put them; the volumes of one level move
from interval to interval. Tracks are linearised at the places of the moment and forgotten: what stays is one
small matrix an interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.data.event_table import Events
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError, ConvergenceError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.composition import Composition
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.changes import Freedom
from alignnet.solvers.levels import Level, level
from alignnet.solvers.linearised import linearise_at
from alignnet.solvers.volume_sums import VolumeSums
from alignnet.solvers.walk import Seen
from alignnet.training.priors import Pair

MOST = 3000
"""Unknowns of an interval, all volumes together; half-staves of ITS2 are 2,016."""


@dataclass(frozen=True)
class Linearised:
    """The tracks of an interval at some places of the volumes."""

    matrix: Tensor  # H (unknowns, unknowns)
    gradient: Tensor  # of ½χ² (unknowns,)
    at: Tensor  # the unknowns there (unknowns,)
    chi2: float
    ndf: float
    hits: Tensor  # of each volume (volumes,)
    n_tracks: int
    used: float  # part of the tracks' weight

    @property
    def chi2_per_ndf(self) -> float:
        """χ²/ndf."""
        return self.chi2 / max(self.ndf, 1.0)

    def seen(self, scaled: bool = True) -> Seen:
        """What it says of the unknowns; errors are √(χ²/ndf) larger where that is above 1, if `scaled`."""
        scale = max(1.0, self.chi2_per_ndf) if scaled else 1.0
        return Seen(self.matrix / scale, (self.matrix @ self.at - self.gradient) / scale)


class VolumeFit:
    """Volumes that move, and the cost of tracks.

    Args:
        detector: the nominal places.
        loss: the cost.
        name: the level of the volumes.
        start: where the sensors stand in their volumes, local six (sensors, 6).
        dof: of the volumes, of `rigid.LOCAL_NAMES`.
        batch_size: events that are linearised together.

    Raises:
        ConfigError: a degree of freedom does not exist, or there are more unknowns than `MOST`.
        GeometryError: the detector has no such level.
    """

    def __init__(
        self,
        detector: Detector,
        loss: HelixChi2,
        name: str,
        start: Tensor,
        dof: Sequence[str] = rigid.LOCAL_NAMES,
        batch_size: int = 500,
    ) -> None:
        if not dof or not set(dof) <= set(rigid.LOCAL_NAMES) or isinstance(dof, str):
            raise ConfigError(f"watch.dof is {dof}; expected some of {list(rigid.LOCAL_NAMES)}")
        self.detector, self.loss, self.batch_size = detector, loss, batch_size
        self.volumes, self.start = Volumes.of(detector, name), start
        self.dof = [i for i, one in enumerate(rigid.LOCAL_NAMES) if one in dof]
        self._layer = SensorLayer.of(detector)
        self._layer.requires_grad_(False)
        self._composition = Composition(detector, self._layer, [self.volumes])
        if len(self) > MOST:
            raise ConfigError(
                f"level {name} has {len(self.volumes):,} volumes, {len(self):,} unknowns, expected up to "
                f"{MOST:,}: intervals have dense matrices; choose a level of fewer volumes, or fewer of dof"
            )
        full = level(detector, self._layer, name, None)
        self._level = _with_motions(full, self.dof)

    def __len__(self) -> int:
        return len(self.volumes) * len(self.dof)

    def sixes(self, x: Tensor) -> Tensor:
        """The six numbers of each volume (volumes, 6) of unknowns (unknowns,)."""
        six = x.new_zeros(len(self.volumes), 6)
        six[:, self.dof] = x.view(len(self.volumes), -1)
        return six

    def local(self, x: Tensor) -> Tensor:
        """Where the sensors then are, local six (sensors, 6)."""
        return self._composition(self.start, [self.sixes(x)])

    @torch.no_grad()
    def linearised(self, tracks: Tracks, x: Tensor) -> Linearised:
        """The tracks with the volumes at x.

        Raises:
            ConvergenceError: χ² is not finite, or most tracks cannot be fitted.
        """
        layer = self._layer
        layer.set_local(self.local(x))
        sums = VolumeSums(layer, self._level)
        total = torch.zeros(3, dtype=torch.float64)
        for batch in self._batches(tracks):
            for part in self.loss.parts(batch):
                planes = layer.planes(part.uv, part.sensor)
                fit = self.loss.fit(planes, part)
                chi2 = self.loss.at(planes, fit, part)
                of_events, ndf = chi2.per_event()
                total += torch.stack([of_events.sum(), ndf.sum(), chi2.weight.sum()]).double()
                sums.add(linearise_at(self.loss, layer, planes, fit, part, weight=chi2.weight))
        chi2_sum, ndf_sum, weight = total.tolist()
        _check(chi2_sum, weight, len(tracks), sums)
        return Linearised(
            sums.matrix, sums.gradient, x.clone(), chi2_sum, ndf_sum, sums.hits, len(tracks),
            weight / max(len(tracks), 1),
        )  # fmt: skip

    def _batches(self, tracks: Tracks) -> Iterator[Batch]:
        events = Events(tracks, self.detector)
        for rows in np.split(np.arange(len(events)), range(self.batch_size, len(events), self.batch_size)):
            yield events.__getitems__(rows.tolist())

    def freedom(self, initial: Pair, step: Pair, gauge: bool, drifts: bool) -> Freedom:
        """What the volumes may do.

        Args:
            initial: σ of a translation [cm] and a rotation [rad] from where the static alignment has them.
            step: the same from one interval to the next.
            gauge: whether the detector as a whole stays, in the metric of `step`.
            drifts: whether to look for drifts.
        """
        n = len(self.volumes)
        first, then = (_widths(pair)[self.dof] for pair in (initial, step))
        p, q = (torch.diag(width.square().repeat(n)) for width in (first, then))
        hold = torch.eye(len(self), dtype=torch.float64)
        if gauge:
            hold = _held(whole_motions(self.volumes)[:, self.dof].flatten(0, 1), q.diagonal().reciprocal())
        return Freedom(hold @ p @ hold.T, hold @ q @ hold.T, hold, first, drifts)


def whole_motions(volumes: Volumes) -> Tensor:
    """The six rigid motions of the whole as motions of the volumes in their frames (volumes, 6, 6).

    The last dimension is three shifts along, and three turns about, global x, y, z.
    """
    axes, origin = volumes.frame
    back = axes.mT
    turned = -rigid.skew(origin)  # ω × c = −[c]× ω
    zero = torch.zeros_like(back)
    shift = torch.cat([back, back @ turned], -1)
    turn = torch.cat([zero, back], -1)
    order = torch.tensor(rigid.LOCAL_TO_XYZ)
    return torch.cat([shift.index_select(1, order), turn.index_select(1, order)], 1)


def _held(motions: Tensor, weight: Tensor) -> Tensor:
    """The projector that takes motions (unknowns, motions) out, orthogonal in the metric of weights."""
    root = weight.sqrt()
    basis, values, _ = torch.linalg.svd(root[:, None] * motions / motions.norm(dim=0), full_matrices=False)
    basis = basis[:, values > 1e-9 * values.amax()]
    free = torch.eye(len(weight), dtype=weight.dtype) - basis @ basis.T
    return free / root[:, None] * root


def _widths(pair: Pair) -> Tensor:
    return torch.tensor([pair[0]] * 3 + [pair[1]] * 3, dtype=torch.float64)


def _with_motions(full: Level, dof: list[int]) -> Level:
    return replace(full, basis=full.basis[..., dof], weight=full.weight[dof])


def _check(chi2: float, weight: float, n_tracks: int, sums: VolumeSums) -> None:
    finite = np.isfinite(chi2) and bool(sums.matrix.isfinite().all() and sums.gradient.isfinite().all())
    if not finite or weight < 0.5 * n_tracks:
        what = (
            f"{n_tracks - weight:.0f} of {n_tracks} tracks cannot be used" if finite else "χ² is not finite"
        )
        raise ConvergenceError(
            f"{what}; look at the file, start from a better alignment, or set loss.weights"
        )
