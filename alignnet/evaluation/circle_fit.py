"""Circles through points of a plane, and lines z(β) along them: weighted, without iterations, batched.

The circle is V. Karimäki's (Nucl. Instrum. Meth. A 305 (1991) 187), from weighted means and covariances of
x, y and r² = x² + y². With β the angle about its centre, z is a straight line in β along a helix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Circle(NamedTuple):
    """Circles in the plane across the field; fields (tracks,)."""

    x: Tensor  # centre [cm]
    y: Tensor
    radius: Tensor  # [cm]


def fit_circle(xy: Tensor, weight: Tensor) -> Circle:
    """Circles through points.

    Args:
        xy: (tracks, points, 2) [cm].
        weight: 1/σ², 0 for what is no point (tracks, points).
    """
    weight = weight / weight.sum(-1, keepdim=True)
    middle = (weight[..., None] * xy).sum(1, keepdim=True)
    x, y = (xy - middle).unbind(-1)
    r2 = x.square() + y.square()

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum(-1)

    mr = mean(r2)
    cxx, cxy, cyy, cxr, cyr = mean(x * x), mean(x * y), mean(y * y), mean(x * r2), mean(y * r2)
    crr = mean(r2 * r2) - mr.square()
    phi = 0.5 * torch.atan2(2 * (crr * cxy - cxr * cyr), crr * (cxx - cyy) - cxr.square() + cyr.square())
    kappa = (phi.sin() * cxr - phi.cos() * cyr) / crr.clamp_min(1e-300)
    delta = -kappa * mr
    root = (1 - 4 * delta * kappa).clamp_min(1e-12).sqrt()
    curvature, offset = 2 * kappa / root, 2 * delta / (1 + root)
    curvature = torch.where(curvature.abs() < 1e-8, 1e-8, curvature)
    reach = offset + 1 / curvature
    place = torch.stack([reach * phi.sin(), -reach * phi.cos()], -1) + middle[:, 0]
    return Circle(place[:, 0], place[:, 1], 1 / curvature.abs())


def nearest(circle: Circle, xy: Tensor) -> Tensor:
    """The points of circles nearest to others (tracks, points, 2) [cm]."""
    centre = torch.stack([circle.x, circle.y], -1)[:, None]
    away = xy - centre
    return centre + away * (circle.radius[:, None] / away.norm(dim=-1).clamp_min(1e-12))[..., None]


def arc(circle: Circle, xy: Tensor) -> Tensor:
    """Angle about the centre of points, from the first one on (tracks, points) [rad]."""
    away = xy - torch.stack([circle.x, circle.y], -1)[:, None]
    first = away[:, :1]
    cross = first[..., 0] * away[..., 1] - first[..., 1] * away[..., 0]
    return torch.atan2(cross, (first * away).sum(-1))


def fit_line(t: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """Straight lines z(t): their z at each t (tracks, points)."""
    weight = weight / weight.sum(-1, keepdim=True)
    t = t - (weight * t).sum(-1, keepdim=True)
    middle = (weight * z).sum(-1, keepdim=True)
    slope = (weight * t * (z - middle)).sum(-1, keepdim=True) / (weight * t.square()).sum(-1, keepdim=True)
    return middle + slope * t
