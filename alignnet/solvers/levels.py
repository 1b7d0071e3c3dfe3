"""Volumes above the sensors: their unknowns, their priors, and a preconditioner that knows them.

The displacement of the sensors is written with more unknowns than it needs,

    δ = δ_sensor + Σ_levels Z_l x_l,

Z_l the rigid motions of the volumes of a level (half-barrels, staves, modules …). Each level may have a
Gaussian prior of its own: a chip against its module, a stave against its half-barrel, as a mechanical drawing
states tolerances. (A prior on every sensor against the drawing would pin their collective motion √N times
tighter.) Without priors the extra unknowns change no answer; they are a coarse space. Slow modes of an
alignment are collective, and conjugate gradients preconditioned by each level's own matrix Z_lᵀHZ_l find them
in few iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes
from alignnet.geometry.weak_modes import rigid_motion_basis
from alignnet.sensors.hierarchy import frame_motions, theta_motions
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.assembled import AssembledProblem, JoinedProblem
from alignnet.solvers.hessian import Problem, all_reduced
from alignnet.solvers.linearised import Block
from alignnet.solvers.pcg import BlockJacobi
from alignnet.solvers.term_system import TermSystem

_CHUNK = 1024  # tracks whose small matrices are in memory at a time
_DENSE = 400  # a level of at most this many volumes gets a dense matrix, a larger one a block for each volume


@dataclass(frozen=True)
class Level:
    """The volumes of one level as unknowns."""

    name: str
    basis: Tensor  # motions of each sensor (sensors, dof, motions), along and about the axes of its volume
    group: Tensor  # volume of each sensor (sensors,), clamped to 0 where it has none (its basis is 0 there)
    n_groups: int
    weight: Tensor  # 1/σ² of each motion's prior (motions,), 0 for none
    depth: int = 0  # how deep the volumes' paths go: what is inside a volume is deeper

    def restrict(self, vector: Tensor) -> Tensor:
        """Zᵀ: (sensors, dof) → (groups, motions)."""
        part = (self.basis.transpose(-1, -2) @ vector[..., None]).squeeze(-1)
        return part.new_zeros(self.n_groups, part.shape[-1]).index_add_(0, self.group, part)

    def prolong(self, coarse: Tensor) -> Tensor:
        """Z: (groups, motions) → (sensors, dof)."""
        return (self.basis @ coarse.index_select(0, self.group)[..., None]).squeeze(-1)


def level(
    detector: Detector,
    sensors: SensorLayer,
    name: str,
    sigma: tuple[float, float] | None,
    fixed: Sequence[str] = (),
) -> Level:
    """A hierarchy level with the prior σ of its volumes' translations [cm] and rotations [rad], or none.

    Args:
        detector: the nominal places.
        sensors: the model of its sensors.
        name: the level.
        sigma: of the prior.
        fixed: degrees of freedom that its volumes do not have, of `rigid.LOCAL_NAMES`.
    """
    volumes = Volumes.of(detector, name)
    device = sensors.theta.device
    basis = theta_motions(sensors, frame_motions(detector, volumes).to(device)) * sensors.free[..., None]
    held = torch.tensor([dof in fixed for dof in rigid.LOCAL_NAMES], device=device)
    weight = prior_weight(sigma).to(device)
    weight = torch.where(held & (weight == 0), 1.0, weight)  # what moves nothing stays at 0
    group = volumes.group.clamp_min(0).to(device)
    return Level(name, basis * ~held, group, len(volumes), weight, volumes.depth)


def whole(detector: Detector, sensors: SensorLayer) -> Level:
    """The detector as one volume, without a prior."""
    device = sensors.theta.device
    motions = rigid_motion_basis(detector).permute(1, 2, 0).to(device)
    basis = theta_motions(sensors, motions) * sensors.free[..., None]
    group = torch.zeros(len(detector), dtype=torch.int64, device=device)
    return Level("whole", basis, group, 1, prior_weight(None).to(device), -1)


def prior_weight(sigma: tuple[float, float] | None) -> Tensor:
    """1/σ² of three translations and three rotations, shape (6,)."""
    if sigma is None:
        return torch.zeros(6, dtype=torch.float64)
    return torch.tensor([sigma[0]] * 3 + [sigma[1]] * 3, dtype=torch.float64).pow(-2)


class Hierarchical:
    """H in the unknowns (δ_sensor, x_l …), packed into one vector, with priors and a preconditioner.

    Args:
        problem: H and g of the sensors.
        levels: volumes above them.
        sensor_weight: 1/σ² of the sensors' own priors (dof,) or (sensors, dof); 0 for none.
        moves: sensors with unknowns of their own (sensors,); the others only follow their volumes.
        basis: the sensors' own unknowns as motions of their degrees of freedom (sensors, dof, unknowns),
            where they are not these themselves: a prior is about the sensor's frame, whatever Θ is.
        penalties: (c · δ)²/σ² of collective displacements, which are 0 for no more than σ: c/σ, each
            (sensors, dof); None for none.
        terms: of the objective, linearised where the tracks are; None for none. Their rows are penalties too.
    """

    def __init__(
        self,
        problem: Problem,
        levels: list[Level],
        sensor_weight: Tensor,
        moves: Tensor,
        basis: Tensor | None = None,
        penalties: Tensor | None = None,
        terms: TermSystem | None = None,
    ) -> None:
        self.problem, self.levels, self.terms = problem, levels, terms
        none = problem.free.new_zeros(0, *problem.free.shape)
        held, rows = none if penalties is None else penalties, none if terms is None else terms.rows
        self.n_held = len(held)
        self.penalties = torch.cat([held.to(none), rows.to(none)]) * problem.free
        self.basis = None if basis is None else basis * problem.free[..., None]
        own = problem.free if basis is None else torch.ones_like(problem.free)
        self.own = own * moves[:, None]
        sensor_weight = sensor_weight.to(self.own.device)
        if not sensor_weight.any():
            sensor_weight = sensor_weight.new_zeros(())  # none, however many degrees of freedom there are
        self.sensor_weight = sensor_weight
        self.weight = torch.cat(
            [(sensor_weight.expand_as(self.own) * self.own).flatten()]
            + [level.weight.expand(level.n_groups, -1).flatten() for level in levels]
        )
        self._sizes = [self.own.numel(), *(level.n_groups * level.weight.numel() for level in levels)]

    def __len__(self) -> int:
        return sum(self._sizes)

    def of_levels(self, x: Tensor) -> tuple[Tensor, ...]:
        """The part of each level in packed unknowns (volumes, 6)."""
        _, *rest = x.split(self._sizes)
        return tuple(part.view(level.n_groups, -1) for part, level in zip(rest, self.levels, strict=True))

    def own_part(self, x: Tensor) -> Tensor:
        """The sensors' own displacement (sensors, dof) of packed unknowns, without that of their volumes."""
        own = x[: self.own.numel()].view_as(self.own) * self.own
        return own if self.basis is None else (self.basis @ own[..., None]).squeeze(-1)

    def expand(self, x: Tensor) -> Tensor:
        """The sensors' displacement (sensors, dof) of packed unknowns."""
        total, (_, *rest) = self.own_part(x), x.split(self._sizes)
        for part, level in zip(rest, self.levels, strict=True):
            total = total + level.prolong(part.view(level.n_groups, -1))
        return total

    def moves(self, n_hits: Tensor) -> Tensor:
        """Which sensors an answer moves: by themselves, or with a volume that has hits (sensors,).

        Args:
            n_hits: of each sensor (sensors,).
        """
        moving = self.own.any(-1)
        for level in self.levels:
            total = n_hits.new_zeros(level.n_groups).index_add_(0, level.group, n_hits)
            moving = moving | (level.basis.flatten(1).any(-1) & (total[level.group] > 0))
        return moving

    def inside(self, x: Tensor, depth: int) -> Tensor:
        """What volumes deeper than `depth`, and the sensors themselves, add to the displacement."""
        total, (_, *rest) = self.own_part(x), x.split(self._sizes)
        for part, level in zip(rest, self.levels, strict=True):
            if level.depth > depth:
                total = total + level.prolong(part.view(level.n_groups, -1))
        return total

    def collect_inside(self, force: Tensor, depth: int) -> Tensor:
        """Transpose of `inside`."""
        parts = [self.collect_own(force)[: self._sizes[0]]]
        for level, size in zip(self.levels, self._sizes[1:], strict=True):
            parts.append(level.restrict(force).flatten() if level.depth > depth else force.new_zeros(size))
        return torch.cat(parts)

    def collect_own(self, force: Tensor) -> Tensor:
        """Transpose of `own_part`."""
        first = force if self.basis is None else (self.basis.mT @ force[..., None]).squeeze(-1)
        return torch.cat([(first * self.own).flatten(), force.new_zeros(sum(self._sizes[1:]))])

    def collect(self, force: Tensor) -> Tensor:
        """Transpose of `expand`."""
        first = self.collect_own(force)[: self._sizes[0]]
        return torch.cat([first, *(level.restrict(force).flatten() for level in self.levels)])

    def __call__(self, x: Tensor) -> Tensor:
        """H with priors and penalties times packed unknowns."""
        moved = self.expand(x)
        force = self.problem(moved) + self.penalty(moved)
        if self.terms is not None:
            force = force + self.terms(moved) * self.problem.free
        return self.collect(force) + self.weight * x

    def gradient(self, moved: Tensor) -> Tensor:
        """g of the tracks, of penalties at a displacement from the start, and of terms (sensors, dof)."""
        held = self.penalties[: self.n_held]
        total = self.problem.gradient() + torch.einsum(
            "k,ksd->sd", torch.einsum("ksd,sd->k", held, moved), held
        )
        return total if self.terms is None else total + self.terms.gradient.to(total)

    def penalty(self, displacement: Tensor) -> Tensor:
        """The gradient of the penalties at a displacement, both (sensors, dof)."""
        if not len(self.penalties):
            return torch.zeros_like(displacement)
        return torch.einsum("k,ksd->sd", self.penalised(displacement), self.penalties)

    def penalised(self, displacement: Tensor) -> Tensor:
        """c · δ of the penalties, over their σ (penalties,)."""
        return torch.einsum("ksd,sd->k", self.penalties, displacement)

    def prior_blocks(self, moving: bool = True) -> Tensor:
        """The sensors' own priors in their degrees of freedom (sensors, dof, dof).

        Args:
            moving: of those with unknowns of their own only; or of all.
        """
        weight = self.sensor_weight.expand_as(self.own) * (self.own if moving else 1)
        if self.basis is None:
            return torch.diag_embed(weight)
        back = torch.linalg.pinv(self.basis)
        return back.mT @ torch.diag_embed(weight) @ back

    def diagonal_blocks(self) -> Tensor:
        """The blocks of H with penalties, one a sensor (sensors, dof, dof)."""
        own = torch.einsum("ksd,kse->sde", self.penalties, self.penalties)
        return self.problem.diagonal_blocks() + own

    def noise(self, seed: int = 0) -> Tensor:
        """A right-hand side drawn from N(0, H + priors): what solves it is a draw of the answer's errors."""
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(len(self), generator=generator, dtype=self.weight.dtype)
        few = torch.randn(len(self.penalties), generator=generator, dtype=self.weight.dtype)
        held = torch.einsum("k,ksd->sd", few.to(self.penalties), self.penalties)
        force = self.problem.noise(seed) + held
        if self.terms is not None:
            force = force + self.terms.noise(seed).to(force)
        return self.collect(force) + self.weight.sqrt() * draw.to(self.weight.device)

    def preconditioner(self) -> Preconditioner:
        """Each level's own matrix, inverted."""
        return Preconditioner(self)


class Preconditioner:
    """The inverse of H's diagonal blocks: sensors' 6×6, each level's matrix (dense, or a block a volume).

    Args:
        hierarchy: the system.
        with_levels: False leaves out the volumes'.
    """

    n_null = 0  # motions that nothing knows of, where it finds them

    def __init__(self, hierarchy: Hierarchical, with_levels: bool = True) -> None:
        self.hierarchy = hierarchy
        blocks = hierarchy.problem.diagonal_blocks()
        self._tracks = self._inverted(blocks)  # penalties are whoever wraps this one's
        whole = len(hierarchy.penalties) > 0
        self.sensors = self._inverted(hierarchy.diagonal_blocks()) if whole else self._tracks
        levels = hierarchy.levels if with_levels else []
        self.levels = [_level_inverse(hierarchy.problem, level, blocks) for level in levels]

    def _inverted(self, blocks: Tensor) -> BlockJacobi:
        """The sensors' own blocks of a matrix (sensors, dof, dof), with priors, inverted."""
        h = self.hierarchy
        first, own, basis = h.weight.split(h._sizes)[0], h.own, h.basis
        mine = blocks if basis is None else basis.mT @ blocks @ basis
        local = mine * own[:, :, None] * own[:, None, :] + torch.diag_embed(first.view_as(own) + (1 - own))
        return BlockJacobi(local)

    def __call__(self, vector: Tensor) -> Tensor:
        """The preconditioner times packed unknowns."""
        h = self.hierarchy
        first, *rest = vector.split(h._sizes)
        parts = [(self._tracks(first.view_as(h.own)) * h.own).flatten()]
        for part, level, inverse in zip(rest, h.levels, self.levels, strict=True):
            if isinstance(inverse, BlockJacobi):
                parts.append(inverse(part.view(level.n_groups, -1)).flatten())
            else:
                parts.append(inverse @ part)
        return torch.cat(parts)

    def on_all(self, vector: Tensor) -> Tensor:
        """The same, but positive on motions that nothing knows of, too."""
        return self(vector)

    def alone(self) -> Tensor:
        """Covariance of each sensor's displacement while all else stays in place (sensors, dof, dof)."""
        own, basis = self.hierarchy.own, self.hierarchy.basis
        inverse = self.sensors.inverse * own[:, :, None] * own[:, None, :]
        return inverse if basis is None else basis @ inverse @ basis.mT

    def sensors_alone(self, vector: Tensor) -> Tensor:
        """Each sensor's displacement by its share of a packed force, all else in place (sensors, dof)."""
        own, basis = self.hierarchy.own, self.hierarchy.basis
        moved = self.sensors(vector[: own.numel()].view_as(own)) * own
        return moved if basis is None else (basis @ moved[..., None]).squeeze(-1)


def _level_inverse(problem: Problem, level: Level, blocks: Tensor) -> BlockJacobi | Tensor:
    if level.n_groups > _DENSE:
        own = level.basis.transpose(-1, -2) @ blocks @ level.basis
        sums = own.new_zeros(level.n_groups, *own.shape[1:]).index_add_(0, level.group, own)
        return BlockJacobi(sums + torch.diag(level.weight))
    matrix = level_matrix(problem, level)
    scale = matrix.diagonal().clamp_min(1e-30).rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale[:, None] * scale)
    keep = values > 1e-9 * values.max()
    scaled = vectors[:, keep] * scale[:, None]
    return (scaled / values[keep]) @ scaled.T


def level_matrix(problem: Problem, level: Level) -> Tensor:
    """ZᵀHZ with the prior (groups·motions, groups·motions), assembled from each track's own small matrix.

    A track sees few volumes: the response of its rows to the motions of the volumes it hits is (2·hits,
    hits·motions), and its metric turns that into one small dense matrix, scattered by volume. The coupling of
    tracks through a fitted origin is left out: this matrix only preconditions.
    """
    n, prior = level.n_groups * level.basis.shape[-1], torch.diag(level.weight.repeat(level.n_groups))
    if isinstance(problem, JoinedProblem):
        return level_matrix(problem.assembled, level) + level_matrix(problem.stored, level) - prior
    if isinstance(problem, AssembledProblem):
        return problem.between_volumes(level.basis, level.group, level.n_groups) + prior
    motions = problem.jacobian @ level.basis
    total = problem.free.new_zeros(n * n)
    for block in problem.blocks:
        for rows in torch.arange(len(block.sensor), device=total.device).split(_CHUNK):
            _add_tracks(total, n, block.take(rows, block.n_hits), motions, level.group)
    return all_reduced(total).view(n, n) + prior


def volume_blocks(problem: Problem, level: Level) -> Tensor:
    """The block of ZᵀHZ of each volume, everything else in place, without its prior (groups, 6, 6).

    Of more than some hundred volumes and tracks that are stored, pairs of hits in one volume are left out.
    """
    m, n = level.basis.shape[-1], level.n_groups
    if not isinstance(problem, AssembledProblem) and n > _DENSE:
        own = level.basis.mT @ (problem.diagonal_blocks() - torch.diag_embed(1 - problem.free)) @ level.basis
        return own.new_zeros(n, m, m).index_add_(0, level.group, own)
    if not isinstance(problem, AssembledProblem):
        full = level_matrix(problem, replace(level, weight=torch.zeros_like(level.weight)))
        return full.view(n, m, n, m).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return problem.within_volumes(level.basis, level.group, n)


def _add_tracks(total: Tensor, n: int, block: Block, motions: Tensor, group: Tensor) -> None:
    rows = block.derivative(motions)  # (tracks, hits, 2, motions)
    t, hits, _, m = rows.shape
    own = rows.new_zeros(t, hits, 2, hits, m)
    own.diagonal(dim1=1, dim2=3).copy_(rows.permute(0, 2, 3, 1))
    wide = own.view(t, 2 * hits, hits * m)
    small = wide.transpose(-1, -2) @ block.metric @ wide
    index = (group[block.sensor][..., None] * m + torch.arange(m, device=rows.device)).flatten(1)
    total.index_add_(0, (index[:, :, None] * n + index[:, None]).flatten(), small.to(total.dtype).flatten())
