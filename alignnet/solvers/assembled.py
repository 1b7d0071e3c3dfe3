"""H of the whole alignment as a matrix of sensors' blocks, summed while tracks are read and then forgotten.

Tracks from one interaction region couple few pairs of sensors (1.1–1.4 million of 24,120, 0.4 %), so the
matrix takes the same memory and a product the same time however many tracks there were. Each rank assembles
its own tracks and a product is summed over ranks: the sum of a vector is small beside the matrix itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alignnet.errors import ConvergenceError
from alignnet.physics.jit import Array, in_threads
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers import assembly
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.hessian import Problem, all_reduced
from alignnet.solvers.linearised import Block
from alignnet.solvers.pair_blocks import PairBlocks

N_DRAWS = 32
_MOST_SHARES = 8  # threads that assemble; each works out all derivatives for its own rows
MANY = 8192
"""Tracks from which on the matrix is assembled (`Collection`).

Measured on ITS2, one core, stored against assembled: setting up and the staves' matrix take 0.58 s and 0.40 s
of 5,000 tracks, 0.9 and 0.7 of 10,000, 3.1 and 1.3 of 50,000, a product 5 and 10 ms, 8 and 13 ms, 25 and
19 ms. With the usual hundred products that is even near 8,000; smaller detectors are faster assembled always.
"""


class AssembledProblem(Problem):
    """`Problem` with an assembled H; blocks are added one by one.

    Args:
        sensors: gives `SensorLayer.motion` at the point of linearisation, and which degrees of freedom are
            free.
    """

    def __init__(self, sensors: SensorLayer) -> None:
        self.blocks, self.dtype = [], torch.float64
        self.free, self.is_rigid = sensors.free.double(), sensors.is_rigid
        self.jacobian = sensors.motion().double() * self.free[:, None]
        n, n_dof = self.free.shape
        self._pairs = [PairBlocks(n, n_dof) for _ in range(min(torch.get_num_threads(), _MOST_SHARES))]
        self._moves = (self.free > 0).any(-1).numpy()
        self._gradient, self._draws = np.zeros((n, n_dof)), np.zeros((n, n_dof, N_DRAWS))
        self._hits, self._tracks = np.zeros(n), 0
        self._matrices: list[BlockMatrix] = []

    @property
    def matrices(self) -> list[BlockMatrix]:
        """H of this rank's tracks, a sum of one for each thread; no tracks can be added any more."""
        while self._pairs:
            self._matrices.append(self._pairs.pop(0).matrix())
        return self._matrices

    def add(self, block: Block) -> None:
        """Add linearised tracks.

        Raises:
            ValueError: their origins are fitted, which couples tracks, or the matrix was asked for already.
        """
        if len(block.origin_inverse) or not self._pairs:
            raise ValueError("blocks with fitted origins, or after the first product, cannot be assembled")
        fields = (block.slope, block.arm, block.response, block.force, block.noise, block.metric)
        tracks = [block.sensor.numpy(), block.is_hit.numpy(), *(field.double().numpy() for field in fields)]
        order = _neighbours_together(block.sensor.numpy())
        n = len(self._pairs)
        in_threads(lambda k: self._add_share(tracks, order, k, n), [(k,) for k in range(n)])
        self._tracks += len(block.sensor)

    @classmethod
    def sum_of(cls, sensors: SensorLayer, problems: Sequence[AssembledProblem]) -> AssembledProblem:
        """The tracks of several problems at the same Θ as one, to which none can be added any more."""
        total = cls(sensors)
        total._pairs = []
        for one in problems:
            total._matrices += one.matrices
            total._gradient += one._gradient
            total._draws += one._draws
            total._hits += one._hits
            total._tracks += one._tracks
        return total

    def _add_share(self, tracks: list[Array], order: Array, k: int, n: int) -> None:
        """Add what belongs to the rows k, k + n, k + 2n … of blocks."""
        pairs, done, n_hits = self._pairs[k], 0, tracks[0].shape[1]
        while done < len(order):
            pairs.make_room(64 * n_hits * n_hits)
            done = assembly.accumulate(
                *tracks, self.jacobian.numpy(), self._moves, order, done, self._tracks, (k, n), pairs.table,
                pairs.values, pairs.used, self._gradient, self._draws, self._hits, (0,) * self.free.shape[1],
            )  # fmt: skip

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
        flat = vector.detach().double().numpy().ravel()
        parts = in_threads(lambda matrix: matrix @ flat, [(matrix,) for matrix in self.matrices])
        return all_reduced(torch.from_numpy(sum(parts)).view_as(vector))

    def diagonal_blocks(self, reduce: bool = True) -> Tensor:
        """The (dof, dof) blocks of H, one a sensor; fixed degrees of freedom have a 1 on the diagonal.

        Args:
            reduce: sum over ranks.

        Raises:
            ConvergenceError: one is not finite, on any rank.
        """
        blocks = torch.from_numpy(sum(matrix.diagonal_blocks for matrix in self.matrices))
        return _finite(all_reduced(blocks) if reduce else blocks) + torch.diag_embed(1 - self.free)

    def hits(self) -> Tensor:
        """Number of hits with weight of each sensor (sensors,)."""
        return _summed(self._hits)

    def between_volumes(self, basis: Tensor, group: Tensor, n_groups: int) -> Tensor:
        """ZᵀHZ (groups·motions, groups·motions) of motions Z (sensors, dof, motions) of groups of sensors."""
        m, z, of = basis.shape[-1], basis.contiguous().numpy(), group.numpy()
        upper = np.zeros((n_groups, n_groups, m, m))
        for each in self.matrices:
            assembly.between_volumes(each.start, each.column, each.values, z, of, upper)
        full = torch.from_numpy(upper).transpose(1, 2).reshape(n_groups * m, n_groups * m)
        return all_reduced(full + full.T)

    def within_volumes(self, basis: Tensor, group: Tensor, n_groups: int) -> Tensor:
        """The diagonal blocks of `between_volumes` (groups, motions, motions)."""
        m, z, of = basis.shape[-1], basis.numpy(), group.numpy()
        total = basis.new_zeros(n_groups, m, m)
        for each in self.matrices:
            row, column = each.row, each.column
            pair = np.flatnonzero(of[row] == of[column])
            part = z[row[pair]].swapaxes(1, 2) @ each.values[pair] @ z[column[pair]]
            off = (row[pair] != column[pair])[:, None, None]
            both = torch.from_numpy(part + np.where(off, part.swapaxes(1, 2), 0.0))
            total.index_add_(0, torch.from_numpy(of[row[pair]]), both)
        return all_reduced(total)


class JoinedProblem(Problem):
    """The sum of an assembled problem and of one whose tracks are stored.

    Args:
        assembled: of tracks without fitted origins.
        stored: of the others, at the same Θ.
    """

    def __init__(self, assembled: AssembledProblem, stored: Problem) -> None:
        self.assembled, self.stored = assembled, stored
        self.blocks, self.dtype = stored.blocks, assembled.dtype
        self.jacobian, self.free = assembled.jacobian, assembled.free

    def gradient(self) -> Tensor:
        """g (sensors, dof)."""
        return self.assembled.gradient() + self.stored.gradient().double()

    def noise(self, seed: int = 0) -> Tensor:
        """A gradient drawn from N(0, H)."""
        return self.assembled.noise(seed) + self.stored.noise(seed).double()

    def __call__(self, vector: Tensor) -> Tensor:
        """H times a vector (sensors, dof)."""
        return self.assembled(vector) + self.stored(vector)

    def diagonal_blocks(self, reduce: bool = True) -> Tensor:
        """The (dof, dof) blocks of H, one a sensor; fixed degrees of freedom have a 1 on the diagonal."""
        both = self.assembled.diagonal_blocks(reduce) + self.stored.diagonal_blocks(reduce)
        return both - torch.diag_embed(1 - self.free)

    def hits(self) -> Tensor:
        """Number of hits with weight of each sensor (sensors,)."""
        return self.assembled.hits() + self.stored.hits()


class Collection:
    """Linearised tracks on their way to a `Problem`: stored while they are few, assembled when many.

    An assembled product costs the time of reading the matrix, and no track needs to stay in memory. Fitted
    origins couple tracks, and a GPU has no use for loops: these stay as they are.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.tracks = 0
        self._coupled: list[Block] = []
        self._assembled: AssembledProblem | None = None

    def add(self, sensors: SensorLayer, block: Block) -> None:
        """Add tracks linearised at Θ of the sensors, the same for all."""
        if len(block.origin_inverse):
            self._coupled.append(block)
            return
        self.blocks.append(block)
        self.tracks += len(block.sensor)
        if self.tracks < MANY or block.metric.device.type != "cpu":
            return
        if self._assembled is None:
            self._assembled = AssembledProblem(sensors)
        for one in self.blocks:
            self._assembled.add(one)
        self.blocks.clear()

    def problem(self, sensors: SensorLayer) -> Problem:
        """The problem of all of them; the collection is empty then."""
        assembled, stored = self._assembled, [*self._coupled, *self.blocks]
        self.blocks, self._coupled, self.tracks, self._assembled = [], [], 0, None
        if assembled is None or not stored:
            return assembled or Problem(sensors, stored, consume=True)
        return JoinedProblem(assembled, Problem(sensors, stored, consume=True))


def _neighbours_together(sensor: Array) -> Array:
    """An order of tracks (tracks, hits) in which those that share sensors follow each other."""
    first = sensor[:, : min(2, sensor.shape[1])]
    return np.lexsort(first.T[::-1]) if first.size else np.arange(len(sensor))


def _summed(values: Array) -> Tensor:
    """The sum over ranks, in a tensor of its own."""
    return all_reduced(torch.from_numpy(np.array(values)))


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ConvergenceError(
            "linearised tracks have numbers that are not finite; look at the events of the last batches, "
            "or set loss.weights"
        )
    return values
