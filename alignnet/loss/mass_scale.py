"""The mass that decays of known mass are found with: what the track model leaves out lowers or raises it.

A helix has one momentum, but a particle loses energy on its way: momenta of half a GeV come out some per
mille too low, and the mass with them. A fit to the true mass would blame the places of the sensors, all of
which would have to be farther out. So the mass is taken that a simulation with perfect places is found with,
by the estimate that the alignment itself uses: with s_i the resolution of a pair's tracks,

    Σ w_i (m_i − m₀) = 0,      w_i = 1/(s_i² + σ_m²),

the m₀ for which decays do not pull at a scale of all momenta.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from alignnet.data.batch import Batch
from alignnet.errors import ConfigError
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.sensors.sensor import SensorLayer


class MassScale(NamedTuple):
    """The mass of a sample of decays [GeV/c²]."""

    mass: float
    error: float
    pairs: int


@torch.no_grad()
def mass_scale(loss: DecayChi2, sensors: SensorLayer, batches: Iterable[Batch]) -> MassScale:
    """One Newton step from the cost's own m₀ to the mass of these decays.

    Args:
        loss: the cost.
        sensors: where they truly are.
        batches: of decays of a simulation.

    Raises:
        ConfigError: none of the events is a pair that can be fitted.
    """
    force, weight, pairs = 0.0, 0.0, 0
    for batch in batches:
        part = loss.parts(batch)[0]
        planes = sensors.planes(part.uv, part.sensor)
        fit = loss.fit(planes, part)
        rows = loss.pair_rows(planes, fit, part)
        good = fit.ok[rows.pairs].all(-1)
        tracks, slope = rows.jacobian[good, :-1], rows.jacobian[good, -1]
        size = tracks.square().sum(-2).sqrt().clamp_min(1e-30)
        r = torch.linalg.qr(tracks / size[:, None])[1]
        along = torch.linalg.solve_triangular(r.mT, (slope / size)[..., None], upper=False).squeeze(-1)
        force += float(rows.residual[good, -1].sum()) / loss.width
        weight += float((1 / (1 + along.square().sum(-1))).sum()) / loss.width**2
        pairs += int(good.sum())
    if not pairs:
        raise ConfigError("decay: no event is a pair of tracks that can be fitted, so that it has no mass")
    return MassScale(loss.mass + force / weight, weight**-0.5, pairs)
