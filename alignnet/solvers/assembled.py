"""H of the whole alignment as a matrix of sensors' blocks, summed while tracks are read and then forgotten.

Tracks from one interaction region couple few pairs of sensors (1.1–1.4 million of 24,120, 0.4 %), so the
matrix takes the same memory and a product the same time however many tracks there were. Each rank assembles
its own tracks and a product is summed over ranks: the sum of a vector is small beside the matrix itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alignnet.errors import ConvergenceError
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import assembly
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.hessian import Problem, all_reduced
from alignnet.solvers.linearised import Block
from alignnet.solvers.pair_blocks import PairBlocks

N_DRAWS = 32
MANY = 4096
"""Tracks from which on the matrix is assembled (`Collection`)."""


class AssembledProblem(Problem):
    """`Problem` with an assembled H; blocks are added one by one.

    Args:
        sensors: gives ∂Φ/∂Θ at the point of linearisation, and which degrees of freedom are free.
    """

    def __init__(self, sensors: SensorLayer) -> None:
        self.blocks, self.dtype = [], torch.float64
        self.free = sensors.free.double()
        self.jacobian = sensors.jacobian().double() * self.free[:, None]
        n, n_dof = self.free.shape
        self._pairs: PairBlocks | None = PairBlocks(n, n_dof)
        self._moves = (self.free > 0).any(-1).numpy()
        self._gradient, self._draws = np.zeros((n, n_dof)), np.zeros((n, n_dof, N_DRAWS))
        self._hits, self._tracks = np.zeros(n), 0
        self._matrix: BlockMatrix | None = None

    @property
    def matrix(self) -> BlockMatrix:
        """H of this rank's tracks; none can be added any more."""
        if self._matrix is None:
            assert self._pairs is not None
            self._matrix, self._pairs = self._pairs.matrix(), None
        return self._matrix

    def add(self, block: Block) -> None:
        """Add linearised tracks.

        Raises:
            ValueError: their origins are fitted, which couples tracks, or the matrix was asked for already.
        """
        if len(block.origin_inverse) or self._pairs is None:
            raise ValueError("blocks with fitted origins, or after the first product, cannot be assembled")
        stored = (block.slope, block.arm, block.force, block.noise, block.metric)
        arrays = [field.double().numpy() for field in stored]
        n, done = block.n_hits, 0
        while done < len(block.sensor):
            self._pairs.make_room(64 * n * n)
            done = assembly.accumulate(
                block.sensor.numpy(), block.is_hit.numpy(), *arrays, self.jacobian.numpy(), self._moves, done,
                self._tracks, self._pairs.table, self._pairs.values, self._pairs.used, self._gradient,
                self._draws, self._hits, (0,) * self.free.shape[1],
            )  # fmt: skip
        self._tracks += len(block.sensor)

    def gradient(self) -> Tensor:
        """g (sensors, dof).

        Raises:
            ConvergenceError: it is not finite, on any rank.
        """
        return _finite(_summed(self._gradient))

    def noise(self, seed: int = 0) -> Tensor:
        """A gradient drawn from N(0, H), as of pure noise; H⁻¹ times it is a draw of the answer's errors.

        Args:
            seed: below `N_DRAWS`, which of the draws with signs of their own for every track; beyond, a
                random combination of these, no longer independent of them.
        """
        weight = np.zeros(N_DRAWS)
        if 0 <= seed < N_DRAWS:
            weight[seed] = 1.0
        else:
            weight = np.random.default_rng(seed).standard_normal(N_DRAWS)
        return _summed(self._draws @ (weight / np.linalg.norm(weight)))

    def __call__(self, vector: Tensor) -> Tensor:
        """H times a vector (sensors, dof)."""
        product = self.matrix @ vector.detach().double().numpy().ravel()
        return all_reduced(torch.from_numpy(product).view_as(vector))

    def diagonal_blocks(self, reduce: bool = True) -> Tensor:
        """The (dof, dof) blocks of H, one a sensor; fixed degrees of freedom have a 1 on the diagonal.

        Args:
            reduce: sum over ranks.

        Raises:
            ConvergenceError: one is not finite, on any rank.
        """
        blocks = torch.from_numpy(self.matrix.diagonal_blocks.copy())
        return _finite(all_reduced(blocks) if reduce else blocks) + torch.diag_embed(1 - self.free)

    def hits(self) -> Tensor:
        """Number of hits with weight of each sensor (sensors,)."""
        return _summed(self._hits)

    def between_volumes(self, basis: Tensor, group: Tensor, n_groups: int) -> Tensor:
        """ZᵀHZ (groups·motions, groups·motions) of motions Z (sensors, dof, motions) of groups of sensors."""
        m, matrix = basis.shape[-1], self.matrix
        upper = np.zeros((n_groups, n_groups, m, m))
        assembly.between_volumes(
            matrix.start, matrix.column, matrix.values, basis.contiguous().numpy(), group.numpy(), upper
        )
        full = torch.from_numpy(upper).transpose(1, 2).reshape(n_groups * m, n_groups * m)
        return all_reduced(full + full.T)


class Collection:
    """Linearised tracks on their way to a `Problem`: stored while they are few, assembled when many.

    An assembled product costs the time of reading the matrix, and no track needs to stay in memory. Fitted
    origins couple tracks, and a GPU has no use for loops: these stay as they are.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.tracks = 0
        self._assembled: AssembledProblem | None = None

    def add(self, sensors: SensorLayer, block: Block) -> None:
        """Add tracks linearised at Θ of the sensors, the same for all."""
        self.blocks.append(block)
        self.tracks += len(block.sensor)
        plain = not len(block.origin_inverse) and block.metric.device.type == "cpu"
        if self.tracks < MANY or not plain:
            return
        if self._assembled is None:
            self._assembled = AssembledProblem(sensors)
        for one in self.blocks:
            self._assembled.add(one)
        self.blocks.clear()

    def problem(self, sensors: SensorLayer) -> Problem:
        """The problem of all of them; the collection is empty then."""
        found = self._assembled or Problem(sensors, self.blocks, consume=True)
        self.blocks, self.tracks, self._assembled = [], 0, None
        return found


def _summed(values: np.ndarray) -> Tensor:
    """The sum over ranks, in a tensor of its own."""
    return all_reduced(torch.from_numpy(np.array(values)))


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ConvergenceError(
            "linearised tracks have numbers that are not finite; look at the events of the last batches, "
            "or set loss.weights"
        )
    return values
