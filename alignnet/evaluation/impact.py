"""Distances of closest approach to a point, and vertices fitted from the other tracks of an event.

A track fitted to its hits alone passes the axis along z through a reference point at d = (d0, z0), the
first two numbers of `alignnet.physics.helix.Perigee` (DCA_xy and DCA_z), with covariance C. From a point
moved by x it passes at

    d(x) = d + A x,     A = ( sin φ, −cos φ, 0 ;  tan λ cos φ, tan λ sin φ, −1 ),

so the vertex of an event is where Σ d(x)ᵀ C⁻¹ d(x) (+ the beam spot) is least: sums over tracks of AᵀC⁻¹A
and AᵀC⁻¹d, and a 3×3 system (Billoir, NIM 225 (1984) 352, the other track parameters eliminated). To leave
a track out is to leave its term out of the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation.impact_kernel import impact_tracks
from alignnet.geometry.plane import Plane
from alignnet.physics import helix as hx
from alignnet.physics.helix import Helix, Perigee
from alignnet.physics.jit import pays
from alignnet.physics.trackfit import derivatives
from alignnet.units import CURVATURE


class Impact(NamedTuple):
    """Closest approaches of tracks to the axes along z through reference points."""

    distance: Tensor  # d0 and z0 (tracks, 2) [cm]
    covariance: Tensor  # of the track alone (tracks, 2, 2) [cm²]
    towards: Tensor  # A (tracks, 2, 3)
    perigee: Perigee  # all five parameters there


class BeamSpot(NamedTuple):
    """Where collisions are expected."""

    position: Tensor  # (3,) [cm]
    covariance: Tensor  # (3, 3) [cm²]


class Vertices(NamedTuple):
    """Vertices as seen from their reference points."""

    offset: Tensor  # (…, 3) [cm]
    covariance: Tensor  # (…, 3, 3) [cm²]
    known: Tensor  # where there are two tracks, or a beam spot (…)


def state_covariance(jacobian: Tensor) -> Tensor:
    """(JᵀJ)⁻¹ (tracks, parameters, parameters) of whitened derivatives J (tracks, rows, parameters)."""
    scale = jacobian.square().sum(-2).sqrt().clamp_min(1e-30)
    _, r = torch.linalg.qr(jacobian / scale[:, None])
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device).expand_as(r)
    regular = r.diagonal(dim1=-2, dim2=-1).abs().amin(-1) > 1e-9
    root = torch.linalg.solve_triangular(torch.where(regular[:, None, None], r, eye), eye, upper=True)
    root = root / scale[..., None]
    return root @ root.transpose(-1, -2)


def impact(helix: Helix, covariance: Tensor, reference: Tensor, b_z: float) -> Impact:
    """Closest approaches of fitted tracks.

    Args:
        helix: states (tracks,).
        covariance: of their local numbers δ (tracks, 5, 5).
        reference: points (tracks, 3) [cm].
        b_z: field [T].
    """
    if _is_compiled(helix, covariance):
        return _compiled(helix, covariance, reference, b_z)
    five = hx.perigee(helix, reference, b_z)
    cosine, sine, zero = five.phi0.cos(), five.phi0.sin(), torch.zeros_like(five.d0)
    axes = ((-sine, cosine, zero), (cosine, sine, zero), (zero, zero, zero + 1))
    across, along, z = (torch.stack(axis, -1) for axis in axes)
    # The plane across the transverse direction: d0 and z0 are its coordinates.
    plane = Plane(reference[:, None], across[:, None], z[:, None], along[:, None])
    s = hx.path_to_axis(helix, reference)[:, None]
    change = derivatives(helix, plane, s, covariance.shape[-1]).squeeze(1)
    towards = torch.stack([-across, five.tan_lambda[:, None] * along - z], -2)
    spread = change @ covariance @ change.transpose(-1, -2)
    return Impact(torch.stack([five.d0, five.z0], -1), spread, towards, five)


def _is_compiled(helix: Helix, covariance: Tensor) -> bool:
    five = covariance.shape[-1] == 5 and covariance.dtype == torch.float64 and covariance.device.type == "cpu"
    return five and pays(impact_tracks, len(helix.omega))


def _compiled(helix: Helix, covariance: Tensor, reference: Tensor, b_z: float) -> Impact:
    n = len(helix.omega)
    state = torch.cat([helix.position, helix.direction, helix.omega[:, None]], -1).numpy()
    five, spread, towards = np.empty((n, 5)), np.empty((n, 2, 2)), np.empty((n, 2, 3))
    points = reference.expand(n, 3).contiguous().numpy()
    impact_tracks(state, covariance.contiguous().numpy(), points, five, spread, towards)
    d0, z0, phi0, tan_lambda, curvature = torch.from_numpy(five).unbind(-1)
    q_over_pt = -curvature / (CURVATURE * b_z) if b_z else torch.zeros_like(curvature)
    perigee = Perigee(d0, z0, phi0, tan_lambda, q_over_pt)
    distance = torch.from_numpy(five[:, :2])
    return Impact(distance, torch.from_numpy(spread), torch.from_numpy(towards), perigee)


def vertex_fit(
    helix: Helix,
    covariance: Tensor,
    usable: Tensor,
    batch: Batch,
    b_z: float,
    beam_spot: BeamSpot | None = None,
    rounds: int = 2,
) -> tuple[Tensor, Impact]:
    """The vertex of each event (events, 3) [cm], and the closest approaches of its tracks to it.

    Args:
        helix, covariance: tracks fitted to their hits alone.
        usable: which of them count (tracks,).
        batch: their events, and the given vertices, from which the search starts.
        b_z: field [T].
        beam_spot: known beforehand.
        rounds: how often the tracks are linearised anew.
    """
    reference = batch.vertex.new_zeros(batch.n_events, 3)
    if beam_spot is not None:
        reference = reference + beam_spot.position
    rows = batch.has_vertex.nonzero().squeeze(-1)
    reference[batch.event[rows]] = batch.vertex[rows]
    for _ in range(rounds):
        found = impact(helix, covariance, reference[batch.event], b_z)
        reference = reference + vertices(found, usable, batch.event, reference, beam_spot).offset
    return reference, impact(helix, covariance, reference[batch.event], b_z)


def vertices(
    impacts: Impact,
    usable: Tensor,
    event: Tensor,
    reference: Tensor,
    beam_spot: BeamSpot | None = None,
    leave_one_out: bool = False,
) -> Vertices:
    """The vertex of each event (events, …), or for each track that of the others of its event (tracks, …).

    Args:
        impacts: of tracks to the reference points of their events.
        usable: tracks that count (tracks,).
        event: event of each track (tracks,).
        reference: points (events, 3) [cm].
        beam_spot: known beforehand.
        leave_one_out: leave each track out of its own vertex.
    """
    own = _terms(impacts, usable)
    matrix, force, count = (
        field.new_zeros(len(reference), *field.shape[1:]).index_add_(0, event, field) for field in own
    )
    if beam_spot is not None:
        weight = torch.linalg.inv(beam_spot.covariance)
        matrix, force = matrix + weight, force + (beam_spot.position - reference) @ weight
    if leave_one_out:
        matrix, force, count = matrix[event] - own[0], force[event] - own[1], count[event] - own[2]
    known = (count > 1.5) | (beam_spot is not None)
    eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    covariance = torch.linalg.inv(torch.where(known[:, None, None], matrix, eye))
    offset = torch.where(known[:, None], (covariance @ force[..., None]).squeeze(-1), 0.0)
    return Vertices(offset, covariance, known)


def _terms(impacts: Impact, usable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each track's AᵀC⁻¹A, −AᵀC⁻¹d and 1, or 0 where it does not count."""
    eye = torch.eye(2, dtype=impacts.covariance.dtype, device=impacts.covariance.device)
    counts = usable[:, None, None]
    (a, b), (_, d) = (row.unbind(-1) for row in torch.where(counts, impacts.covariance, eye).unbind(-2))
    metric = torch.stack([d, -b, -b, a], -1).unflatten(-1, (2, 2)) / (a * d - b * b)[:, None, None]
    towards = torch.where(counts, impacts.towards, 0.0)
    distance = torch.where(counts, impacts.distance[..., None], 0.0)
    pull = towards.transpose(-1, -2) @ metric
    return pull @ towards, -(pull @ distance).squeeze(-1), usable.to(distance)
