"""Two tracks of one decay: where they meet, their momenta there, and the mass of what decayed."""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix

_ROUNDS = 8
_FURTHEST = 60.0  # [cm] where the search ends


@torch.no_grad()
def meeting_point(helix: Helix) -> Tensor:
    """The point nearest to both tracks of each pair (pairs, 3) [cm]; fields of `helix` are (pairs, 2, …).

    Least squares of the distances to the tangents, which are taken anew where the last round led. Along
    tracks that are parallel there the point stays where it was.
    """
    place = torch.zeros_like(helix.position[:, 0])
    eye = torch.eye(3, dtype=place.dtype, device=place.device)
    for _ in range(_ROUNDS):
        s = hx.path_to_axis(helix, place[:, None].expand_as(helix.position))
        t, near = hx.tangent(helix, s), hx.point(helix, s)
        across = eye - t[..., :, None] * t[..., None, :]
        matrix = across.sum(1) + 1e-6 * eye
        force = (across @ (near - place[:, None])[..., None]).sum(1)
        move = torch.linalg.solve(matrix, force).squeeze(-1).nan_to_num()
        place = (place + move).clamp(-_FURTHEST, _FURTHEST)
    return place


def invariant_mass(helix: Helix, masses: Tensor, place: Tensor, b_z: float) -> Tensor:
    """Mass (pairs,) [GeV/c²] of two particles of unit charge that part at a point, in the graph.

    Args:
        helix: of both, fields (pairs, 2, …).
        masses: of the particles (pairs, 2) [GeV/c²].
        place: where their momenta are taken, at the closest approach (pairs, 3) [cm].
        b_z: field [T], not 0.
    """
    s = hx.path_to_axis(helix, place[:, None].expand_as(helix.position))
    momentum = hx.momentum_of(helix, b_z)[..., None] * hx.tangent(helix, s)
    one, two = (momentum.square().sum(-1) + masses.square()).sqrt().unbind(-1)
    p, q = momentum.unbind(1)
    # (E₁ + E₂)² − |p₁ + p₂|² without the difference of nearly equal squares
    return (masses.square().sum(-1) + 2 * (one * two - (p * q).sum(-1))).clamp_min(0).sqrt()
