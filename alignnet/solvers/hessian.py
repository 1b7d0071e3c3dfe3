"""H and g of the whole alignment in the degrees of freedom Θ, summed over tracks and ranks.

H·v is two sparse products with the hits' derivatives A (two rows a hit, the dof of its sensor in each) around
a small dense product a track: AᵀMA v, with M the tracks' metrics. Memory traffic of A and M bounds it.
"""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import Tensor

from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.linearised import Block, merged


class Problem:
    """The quadratic ½ δᵀHδ + gᵀδ of a linearised alignment.

    Args:
        sensors: gives `SensorLayer.motion` at the point of linearisation, and which degrees of freedom are
            free.
        blocks: this rank's tracks.
        dtype: of vectors.
        consume: empty the list of blocks on the way, which saves memory.
    """

    def __init__(
        self,
        sensors: SensorLayer,
        blocks: list[Block],
        dtype: torch.dtype = torch.float64,
        consume: bool = False,
    ) -> None:
        self.blocks, self.dtype = merged(blocks, consume), dtype
        self.jacobian, self.is_rigid = sensors.motion(), sensors.is_rigid
        self.free = sensors.free.to(dtype)
        self.jacobian = self.jacobian * self.free[:, None]
        self._rows = [block.metric.shape[0] * block.metric.shape[1] for block in self.blocks]
        self._derivative, self._transposed = self._sparse()

    def __len__(self) -> int:
        return len(self.jacobian)

    def gradient(self) -> Tensor:
        """g (sensors, dof)."""
        return self._collected([block.force for block in self.blocks])

    def noise(self, seed: int = 0) -> Tensor:
        """A gradient drawn from N(0, H), as of pure noise; H⁻¹ times it is a draw of the answer's errors.

        Args:
            seed: another one changes the signs of the tracks' noise (of whole events', where a fitted origin
                couples them), which makes another draw.
        """
        generator = torch.Generator().manual_seed(seed)
        n_tracks = [len(block.sensor) for block in self.blocks]
        n_events = len(self.blocks[0].origin_inverse) if self.blocks else 0
        signs = 2 * torch.randint(2, (n_events or sum(n_tracks),), generator=generator) - 1
        parts = [signs[b.event] for b in self.blocks] if n_events else signs.split(n_tracks)
        return self._collected([b.noise * sign[:, None] for b, sign in zip(self.blocks, parts, strict=True)])

    def __call__(self, vector: Tensor) -> Tensor:
        """H times a vector (sensors, dof)."""
        if not self.blocks:
            return all_reduced(torch.zeros_like(vector))
        flat = vector.flatten().to(self._derivative.dtype)
        rows = torch.mv(self._derivative, flat).split(self._rows)
        rows = [row.view(block.metric.shape[:2]) for row, block in zip(rows, self.blocks, strict=True)]
        return self._collected(self._weighted(rows))

    def diagonal_blocks(self, reduce: bool = True) -> Tensor:
        """The (dof, dof) blocks of H, one a sensor; fixed degrees of freedom have a 1 on the diagonal.

        Args:
            reduce: sum over ranks.
        """
        n = self.jacobian.shape[-1]
        total = self.free.new_zeros(len(self), n, n)
        for block in self.blocks:
            derivative = block.derivative(self.jacobian)
            own = derivative.transpose(-1, -2) @ block.own_metric() @ derivative
            total.index_add_(0, block.sensor.flatten(), own.flatten(0, 1).to(self.dtype))
        if self.blocks and len(self.blocks[0].origin_inverse):
            total = total - self._origin_blocks()
        return (all_reduced(total) if reduce else total) + torch.diag_embed(1 - self.free)

    def hits(self) -> Tensor:
        """Number of hits with weight of each sensor (sensors,)."""
        total = self.free.new_zeros(len(self))
        for block in self.blocks:
            used = (block.own_metric().diagonal(dim1=-2, dim2=-1).sum(-1) > 0).to(total)
            total.index_add_(0, block.sensor.flatten(), used.flatten())
        return all_reduced(total)

    def _origin_blocks(self) -> Tensor:
        """What fitting the events' origins takes from the diagonal blocks (sensors, dof, dof)."""
        inverse, n = self.blocks[0].origin_inverse.to(self.dtype), self.jacobian.shape[-1]
        pair, rows = [], []
        for block in self.blocks:
            derivative = block.derivative(self.jacobian).to(self.dtype)
            towards = block.towards_origin.to(self.dtype).unflatten(1, (block.n_hits, 2))
            pair.append((block.event[:, None] * len(self) + block.sensor).flatten())
            rows.append((derivative.transpose(-1, -2) @ towards).flatten(0, 1))
        both, index = torch.cat(pair).unique(return_inverse=True)  # events and the sensors that they hit
        own = inverse.new_zeros(len(both), n, 3).index_add_(0, index, torch.cat(rows))
        taken = own @ inverse[both // len(self)] @ own.transpose(-1, -2)
        return inverse.new_zeros(len(self), n, n).index_add_(0, both % len(self), taken)

    def _weighted(self, rows: list[Tensor]) -> list[Tensor]:
        """M times rows, the events' origins projected out."""
        out = [
            (block.metric @ row[..., None]).squeeze(-1) for block, row in zip(self.blocks, rows, strict=True)
        ]
        inverse = self.blocks[0].origin_inverse
        if not len(inverse):
            return out
        pull = inverse.new_zeros(len(inverse), 3)
        for block, row in zip(self.blocks, rows, strict=True):
            pull.index_add_(0, block.event, (block.towards_origin * row[..., None]).sum(1))
        move = (inverse @ pull[..., None]).squeeze(-1)
        return [
            row - (block.towards_origin @ move[block.event][..., None]).squeeze(-1)
            for row, block in zip(out, self.blocks, strict=True)
        ]

    def _collected(self, rows: list[Tensor]) -> Tensor:
        """Aᵀ times rows, over all ranks (sensors, dof)."""
        if not rows:
            return all_reduced(torch.zeros_like(self.free))
        flat = torch.cat([row.flatten() for row in rows])
        return all_reduced(torch.mv(self._transposed, flat).to(self.dtype).view_as(self.free))

    def _sparse(self) -> tuple[Tensor, Tensor]:
        """A and Aᵀ in compressed rows; every row of A has one sensor's dof."""
        n_dof = self.jacobian.shape[-1]
        if not self.blocks:
            empty = self.free.new_zeros(0, len(self) * n_dof)
            return empty, empty.T
        values = torch.cat([block.derivative(self.jacobian).flatten() for block in self.blocks])
        sensor = torch.cat([block.sensor.repeat_interleave(2, 1).flatten() for block in self.blocks])
        device = sensor.device
        column = (sensor[:, None] * n_dof + torch.arange(n_dof, device=device)).flatten()
        n_rows = len(sensor)
        start = torch.arange(n_rows + 1, device=device) * n_dof
        a = _csr(start, column, values, (n_rows, len(self) * n_dof))
        order = torch.argsort(column, stable=True)
        count = torch.bincount(column, minlength=len(self) * n_dof)
        start = torch.cat([count.new_zeros(1), count.cumsum(0)])
        row = torch.arange(n_rows, device=device).repeat_interleave(n_dof)[order]
        return a, _csr(start, row, values[order], (len(self) * n_dof, n_rows))


def _csr(start: Tensor, column: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A matrix in compressed rows; torch's note that this layout is in beta is left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(start.int(), column.int(), values, size, check_invariants=False)


def all_reduced(tensor: Tensor) -> Tensor:
    """The sum over ranks where there are several, else the tensor itself."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    if dist.get_backend() == "nccl" and not tensor.is_cuda:  # which sums on the GPU only
        return all_reduced(tensor.cuda()).cpu()
    dist.all_reduce(tensor)
    return tensor
