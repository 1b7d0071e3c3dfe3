"""A first guess of a track: the helix, or at B = 0 the line, through three of its hits.

With chords in the transverse plane, the circle through P₁, P₂, P₃ has κ = 2 sin(∠P₂P₁P₃) / |P₃ − P₂|; its
tangent at P₁ is the chord P₁P₃ turned back by asin(κ |P₁P₃| / 2). Nothing divides by κ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.physics.helix import Helix


def seed(points: Tensor, is_hit: Tensor, outward: Tensor, b_z: float) -> Helix:
    """States at the first hit of each track.

    Args:
        points: measured global positions (tracks, hits, 3) [cm].
        is_hit: which entries are hits rather than padding (tracks, hits).
        outward: True where the path starts at the hit nearest to the z axis (collisions), False where it
            starts at the hit of smallest z (beams) or, if the track is steeper in y, of largest y (cosmics);
            (tracks,).
        b_z: field along z [T]; 0 gives straight lines.
    """
    first, middle, last = _three(points, is_hit, outward)
    return _line(first, last) if b_z == 0 else _circle(first, middle, last)


def _three(points: Tensor, is_hit: Tensor, outward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two ends of each track along its own axis, in order, and the hit nearest to their middle."""
    count = is_hit.sum(-1, keepdim=True)
    hit = is_hit[..., None]
    offset = (points - (points * hit).sum(-2, keepdim=True) / count[..., None]) * hit
    far = _take(offset, offset.square().sum(-1).argmax(-1))
    along = (offset * far[:, None]).sum(-1)
    low = torch.where(is_hit, along, torch.inf).argmin(-1)
    high = torch.where(is_hit, along, -torch.inf).argmax(-1)
    half = 0.5 * (along.gather(1, low[:, None]) + along.gather(1, high[:, None]))
    inner = is_hit.scatter(1, low[:, None], False).scatter(1, high[:, None], False)
    middle = torch.where(inner, (along - half).abs(), torch.inf).argmin(-1)
    a, b = _take(points, low), _take(points, high)
    swap = _is_reversed(a, b, outward)[:, None]
    return torch.where(swap, b, a), _take(points, middle), torch.where(swap, a, b)


def _is_reversed(a: Tensor, b: Tensor, outward: Tensor) -> Tensor:
    inner_first = b[:, :2].square().sum(-1) < a[:, :2].square().sum(-1)
    step = b - a
    downward = step[:, 1].abs() > step[:, 2].abs()
    other = torch.where(downward, step[:, 1] > 0, step[:, 2] < 0)
    return torch.where(outward, inner_first, other)


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)


def _line(first: Tensor, last: Tensor) -> Helix:
    step = last - first
    return Helix(first, step / step.norm(dim=-1, keepdim=True), torch.zeros_like(step[:, 0]))


def _circle(first: Tensor, middle: Tensor, last: Tensor) -> Helix:
    near, full, rest = (middle - first)[:, :2], (last - first)[:, :2], (last - middle)[:, :2]
    cross = near[:, 0] * full[:, 1] - near[:, 1] * full[:, 0]
    length = full.norm(dim=-1).clamp_min(1e-12)  # 0 along the field
    kappa = 2 * cross / (near.norm(dim=-1) * length * rest.norm(dim=-1)).clamp_min(1e-12)
    sine = (0.5 * kappa * length).clamp(-0.99, 0.99)
    back, cosine = -torch.asin(sine), torch.sqrt(1 - sine.square())
    x = (full[:, 0] * cosine + full[:, 1] * sine) / length
    y = (full[:, 1] * cosine - full[:, 0] * sine) / length
    ratio = torch.where(sine.abs() < 1e-6, torch.ones_like(sine), -back / torch.where(sine == 0, 1.0, sine))
    tan_lambda = (last - first)[:, 2] / (length * ratio)
    cos_lambda = 1 / torch.sqrt(1 + tan_lambda.square())
    direction = cos_lambda[:, None] * torch.stack([x, y, tan_lambda], -1)
    return Helix(first, direction, 2 * sine / length * cos_lambda)
