"""Second hits in a layer: where sensors overlap a particle leaves one in each, and an alignment wants both.

A free hit belongs to a track if it stands off the track's helix as the track's own hit in that layer does: a
few millimetres of path lie between the two, on which little scattering happens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.physics.helix import Helix, expand, frame, momentum_of, path_to_plane, point, tangent
from alignnet.physics.material import highland
from alignnet.trackfinding.its2.fit import Fitted, TrackFit
from alignnet.trackfinding.its2.hits import Hits
from alignnet.trackfinding.its2.pairs import within
from alignnet.units import PION_MASS

_REACH_PHI, _REACH_Z = 0.1, 1.0  # [cm] how far apart two hits in overlapping sensors may be
_LIMIT = 25.0  # on the squared distance in units of its error
_THICKNESS = 0.05  # x/X0: by as much matter the direction at a layer strays from the fitted helix


def with_overlaps(hits: Hits, tracks: Fitted, fit: TrackFit, max_chi2_per_ndf: float) -> Fitted:
    """The tracks with free hits that are near, where the fit stays good with them; at most one a layer.

    Args:
        hits: what the tracks' chains refer to; those of no track are free.
        tracks: that share no hit.
        fit: fits them again.
        max_chi2_per_ndf: of a track with all its hits.
    """
    track, own, other = _near(hits, tracks)
    distance2 = _distance2(hits, tracks, fit, track, own, other)
    rows = (distance2 < _LIMIT).nonzero().squeeze(-1)
    rows = rows[distance2[rows].argsort(stable=True)]
    rows = rows[first_of_each(other[rows])]
    rows = rows[first_of_each(track[rows] * 64 + hits.layer[other[rows]])]
    longer = packed(_extended(hits, tracks.chain, track[rows], other[rows]))
    changed = track[rows].unique()
    again = fit(hits, longer[changed])
    good = again.ok & (again.chi2 < max_chi2_per_ndf * again.ndf)
    return _replaced(tracks, changed[good], again.take(good.nonzero().squeeze(-1)), longer.shape[1])


def first_of_each(key: Tensor) -> Tensor:
    """Where each value of `key` occurs first, ascending."""
    order = key.argsort(stable=True)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = key[order][1:] != key[order][:-1]
    return order[starts].sort().values


def packed(chain: Tensor) -> Tensor:
    """Chains with their hits first, in the order they had, and no more columns than needed."""
    order = (chain < 0).long().argsort(dim=1, stable=True)
    chain = chain.gather(1, order)
    width = int((chain >= 0).sum(-1).max()) if len(chain) else 0
    return chain[:, :width]


def _near(hits: Hits, tracks: Fitted) -> tuple[Tensor, Tensor, Tensor]:
    """Tracks, their own hits, and free hits near these on another sensor of the layer; (pairs,) each."""
    owner = torch.full((hits.n_hits,), -1, dtype=torch.int64)
    is_hit = tracks.chain >= 0
    owner[tracks.chain[is_hit]] = torch.arange(len(tracks.chain))[:, None].expand_as(is_hit)[is_hit]
    found = []
    for layer in hits.layer.unique().tolist():
        mine = hits.layer == layer
        reach = _REACH_PHI / float(hits.radius[mine].min())
        found.append(within(hits, mine & (owner >= 0), layer, reach))
    own, other = torch.cat(found, 1) if found else torch.zeros(2, 0, dtype=torch.int64)
    near = (hits.z[own] - hits.z[other]).abs() < _REACH_Z
    near &= (owner[other] < 0) & (hits.sensor[own] != hits.sensor[other])
    return owner[own[near]], own[near], other[near]


def _distance2(
    hits: Hits, tracks: Fitted, fit: TrackFit, track: Tensor, own: Tensor, other: Tensor
) -> Tensor:
    """Squared distances of hits from where their tracks' own hits let expect them, in units of the errors."""
    helix = Helix(*(field[track] for field in tracks.helix))
    both = torch.stack([own, other], -1)
    planes = fit.sensors.planes(hits.uv[both], hits.sensor[both])
    s = path_to_plane(expand(helix), planes.origin, planes.normal).detach()
    off = planes.origin.detach() - point(expand(helix), s)
    difference = off[:, 1] - off[:, 0]
    across = torch.stack(frame(tangent(helix, s[:, 0])), -2)
    variance = hits.sigma[both].square().sum(1) + 2 * fit.systematic**2
    p = momentum_of(helix, fit.detector.b_z)
    angle = highland(p, torch.full_like(p, PION_MASS), torch.full_like(p, _THICKNESS))
    kink = (angle * (s[:, 1] - s[:, 0])).square()
    distance = (across @ difference[..., None]).squeeze(-1)
    return (distance.square() / (variance + kink[:, None])).sum(-1)


def _extended(hits: Hits, chain: Tensor, track: Tensor, hit: Tensor) -> Tensor:
    """Chains with a column more for each layer, where the tracks' new hits are."""
    more = torch.full((len(chain), int(hits.layer.max()) + 1 if hits.n_hits else 0), -1, dtype=torch.int64)
    more[track, hits.layer[hit]] = hit
    return torch.cat([chain, more], 1)


def _replaced(tracks: Fitted, rows: Tensor, again: Fitted, width: int) -> Fitted:
    """The tracks with some of them fitted again, their chains padded to one width."""
    width = max(width, tracks.chain.shape[1])
    chain, new = (_padded(part.chain, width) for part in (tracks, again))
    pairs = zip(tracks.helix, again.helix, strict=True)
    helix = Helix(*(old.index_copy(0, rows, part) for old, part in pairs))
    rest = (getattr(tracks, k).index_copy(0, rows, getattr(again, k)) for k in ("chi2", "ndf", "ok"))
    return Fitted(chain.index_copy(0, rows, new), helix, *rest)


def _padded(chain: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(chain, (0, width - chain.shape[1]), value=-1)
