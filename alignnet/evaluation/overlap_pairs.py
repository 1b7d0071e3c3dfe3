"""Pairs of hits of one track in one layer, where neighbouring sensors overlap, and their residuals.

Both hits of a pair are left out of the fit together, so that neither is drawn to the other. What the track
is not known by then moves both residuals alike, and their difference is known far better than each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.evaluation.track_kernel import Pairs
from alignnet.geometry.detector import Detector
from alignnet.solvers.linearised import Block


def pairs_of(batch: Batch, detector: Detector) -> Pairs:
    """All pairs of hits of a track that lie on different sensors of one layer."""
    layer = torch.where(batch.is_hit, detector.layer[batch.sensor], -1)
    same = (layer[:, :, None] == layer[:, None]) & batch.is_hit[:, :, None]
    later = torch.ones(layer.shape[1], layer.shape[1], dtype=torch.bool).triu(1)
    apart = batch.sensor[:, :, None] != batch.sensor[:, None]
    track, one, other = (same & later & apart).nonzero(as_tuple=True)
    count = torch.bincount(track, minlength=batch.n_tracks)
    first = np.concatenate([[0], np.cumsum(count.numpy())]).astype(np.int64)
    return Pairs(first, torch.stack([one, other], -1).numpy())


def no_pairs(batch: Batch) -> Pairs:
    """None of them."""
    return Pairs(np.zeros(batch.n_tracks + 1, dtype=np.int64), np.zeros((0, 2), dtype=np.int64))


def tracks_of(pairs: Pairs) -> Tensor:
    """Row of each pair's track (pairs,)."""
    return torch.from_numpy(np.repeat(np.arange(len(pairs.first) - 1), np.diff(pairs.first)))


def pair_residuals(block: Block, pairs: Pairs, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals (pairs, 2, 2) [cm] of both hits to the track without them; covariance (pairs, 4, 4) [cm²].

    NaN where the other hits do not determine the track.

    Args:
        block: of the tracks, origins projected out.
        weight: of the tracks, which is in the block's metric (tracks,).
    """
    track, hits = tracks_of(pairs), torch.from_numpy(pairs.hits)
    index = (2 * hits[..., None] + torch.tensor([0, 1])).flatten(1)  # rows of the two hits
    metric = block.metric[track[:, None, None], index[:, :, None], index[:, None]]
    force = block.force[track[:, None], index]
    diagonal = metric.diagonal(dim1=-2, dim2=-1).prod(-1)
    determined = torch.linalg.det(metric) > 1e-9 * diagonal.clamp_min(1e-30)
    eye = torch.eye(4, dtype=metric.dtype, device=metric.device)
    inverse = torch.linalg.inv(torch.where(determined[:, None, None], metric, eye))
    inverse = torch.where(determined[:, None, None], inverse, torch.nan)
    residual = (inverse @ force[..., None]).squeeze(-1).unflatten(1, (2, 2))
    return residual, inverse * weight[track, None, None]
