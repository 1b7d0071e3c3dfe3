"""H and g of the motions of a level's volumes alone, summed over tracks: dense, and small.

The sensors stand still in their volumes. A track's rows answer the motions of the volumes it hits, (2·hits,
hits·motions), and its metric makes one small matrix of that, which is scattered by volume. Where events'
origins are fitted, what these take is subtracted event by event.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.levels import Level
from alignnet.solvers.linearised import Block

_CHUNK = 1024  # tracks whose small matrices are in memory at a time


class VolumeSums:
    """The quadratic ½ δᵀHδ + gᵀδ of the motions δ of volumes.

    Args:
        sensors: at the point of linearisation.
        level: the volumes and their motions.

    Attributes:
        matrix: H (volumes·motions, volumes·motions).
        gradient: g (volumes·motions,).
        hits: hits with weight of each volume (volumes,).
    """

    def __init__(self, sensors: SensorLayer, level: Level) -> None:
        self.level = level
        self._size = level.n_groups * level.basis.shape[-1]
        self._motions = sensors.jacobian() @ level.basis  # (sensors, 9, motions)
        self.matrix = self._motions.new_zeros(self._size, self._size)
        self.gradient = self._motions.new_zeros(self._size)
        self.hits = self._motions.new_zeros(level.n_groups)

    def add(self, block: Block) -> None:
        """Add linearised tracks, whole events of them where origins are fitted."""
        n_events = len(block.origin_inverse)
        towards = self.gradient.new_zeros(n_events, self._size, 3)
        for rows in torch.arange(len(block.sensor)).split(_CHUNK):
            self._add(block.take(rows, block.n_hits), towards)
        if n_events:
            held = torch.einsum("eni,eij->enj", towards, block.origin_inverse.to(towards))
            self.matrix -= torch.einsum("eni,emi->nm", held, towards)

    def _add(self, block: Block, towards: Tensor) -> None:
        rows = block.derivative(self._motions)  # (tracks, hits, 2, motions)
        t, hits, _, m = rows.shape
        own = rows.new_zeros(t, hits, 2, hits, m)
        own.diagonal(dim1=1, dim2=3).copy_(rows.permute(0, 2, 3, 1))
        wide = own.view(t, 2 * hits, hits * m).transpose(-1, -2)
        small = wide @ block.metric @ wide.transpose(-1, -2)
        group = self.level.group[block.sensor]
        index = (group[..., None] * m + torch.arange(m)).flatten(1)  # (tracks, hits·motions)
        both = (index[:, :, None] * self._size + index[:, None]).flatten()
        self.matrix.view(-1).index_add_(0, both, small.flatten().to(self.matrix))
        force = (wide @ block.force[..., None]).flatten().to(self.gradient)
        self.gradient.index_add_(0, index.flatten(), force)
        used = (block.own_metric().diagonal(dim1=-2, dim2=-1).sum(-1) > 0) & (rows != 0).any(-1).any(-1)
        self.hits.index_add_(0, group.flatten(), used.to(self.hits).flatten())
        if len(towards):
            pull = (wide @ block.towards_origin).to(towards)  # (tracks, hits·motions, 3)
            where = (block.event[:, None] * self._size + index).flatten()
            towards.view(-1, 3).index_add_(0, where, pull.flatten(0, 1))
