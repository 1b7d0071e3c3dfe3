"""Where along the beam line an event's tracks come from: the peak of their tracklets' z₀.

Pairs of hits of the three innermost layers extrapolate to the beam line within a few hundred micrometres;
those that are of no particle spread over tens of centimetres. The vertex is the median of what is near the
most crowded place of a histogram.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.pairs import Windows
from alignnet.trackfinding.its2.tracklets import tracklets_of

_BIN = 0.1  # [cm]
_FEWEST = 3  # tracklets at the crowded place
_NEAR = 0.1  # [cm] what the median is of: within ± this of the crowded place


def vertex_z(hits: Hits, windows: Windows) -> Tensor:
    """The vertices' z of all events (events,) [cm]; NaN of one with too few tracklets."""
    pairs = torch.cat([windows.pairs(hits, layer, layer + 1, None) for layer in (0, 1)], 1)
    event, z0 = hits.event[pairs[0]], tracklets_of(hits, pairs).z0
    place = crowded(event, z0, hits.n_events, windows.z_max)
    for reach in (2 * _NEAR, _NEAR):
        near = (z0 - place[event]).abs() < reach
        place = medians(event[near], z0[near], place)
    return place


def crowded(event: Tensor, z0: Tensor, n_events: int, z_max: float) -> Tensor:
    """The middle of the two neighbouring bins with most of an event's z₀ (events,) [cm]; NaN if too few."""
    n_bins = int(2 * z_max / _BIN) + 1
    column = ((z0 + z_max) / _BIN).long().clamp(0, n_bins - 1)
    count = torch.bincount(event * n_bins + column, minlength=n_events * n_bins).view(n_events, n_bins)
    pair = count[:, 1:] + count[:, :-1]
    place = (pair.argmax(-1) + 1) * _BIN - z_max
    return torch.where(pair.amax(-1) >= _FEWEST, place, torch.nan).double()


def medians(group: Tensor, value: Tensor, empty: Tensor) -> Tensor:
    """Medians of values by their groups (groups,); `empty` where a group has none."""
    count = torch.bincount(group, minlength=len(empty))
    value, order = value.sort()
    value = value[group[order].argsort(stable=True)]
    if not len(value):
        return empty
    start = torch.cumsum(count, 0) - count
    low, high = (start + (count - 1) // 2, start + count // 2)
    middle = 0.5 * (value[low.clamp(0, len(value) - 1)] + value[high.clamp(0, len(value) - 1)])
    return torch.where(count > 0, middle, empty)
