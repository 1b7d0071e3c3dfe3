"""What a run found for the volumes above the sensors: where they are, and how well that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignnet.data.root_volumes import LevelAnswer
from alignnet.geometry import rigid
from alignnet.geometry.volumes import Motion, Volumes, accumulated, parents_first, replaced, still
from alignnet.solvers.errors import Errors
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, Level, volume_blocks
from alignnet.training.optim import GaussNewton, PreconditionedSGD

ALIGNED, HELD, TOO_FEW_HITS = 0, 1, 2

Placed = Mapping[str, tuple[Volumes, Motion]]
"""Levels by name, and how their volumes are moved from the drawing."""


def level_answers(
    trained: GaussNewton | PreconditionedSGD,
    solver: GaussNewton,
    system: Hierarchical,
    errors: Errors | None,
    start: Placed,
) -> list[LevelAnswer]:
    """The levels that a run has aligned, and those that its start has.

    Args:
        trained: the optimiser of the run.
        solver: one that made the linear system of its answer.
        system: that system.
        errors: of all unknowns together; None: those of each volume with all else in place.
        start: where the volumes were.
    """
    volumes, sixes = trained.volumes()
    together = {level.name: i for i, level in enumerate(system.levels)}
    answers = []
    for level, moved in zip(*moved_from_drawing(volumes, sixes, start), strict=True):
        mine = next((one for one in solver.levels if one.name == level.level), None)
        moves = mine is not None and any(stage.moves(level.level) for stage in solver.stages)
        hits = _summed(system.problem.hits(), level)
        status = torch.where(hits >= solver.min_hits, ALIGNED, TOO_FEW_HITS) if moves else _all(HELD, level)
        error, kind = torch.zeros(len(level), 6, dtype=torch.float64), 0
        if mine is not None and moves and errors is not None and level.level in together and errors.volumes:
            error, kind = errors.volumes[together[level.level]], 2 if errors.n_draws else 1
        elif mine is not None and moves:
            error = errors_alone(system.problem, mine)
        answers.append(LevelAnswer(level, moved, error, hits, status, kind))
    return answers


def moved_from_drawing(
    volumes: Sequence[Volumes], sixes: Sequence[Tensor], start: Placed
) -> tuple[list[Volumes], list[Motion]]:
    """P of the volumes of a run's levels and of its start's, the coarsest first.

    Args:
        volumes: levels that have moved since the start.
        sixes: by how much, in the volumes' frames (volumes, 6).
        start: where volumes were then.
    """
    order = parents_first(volumes)
    here = [next(six for one, six in zip(volumes, sixes, strict=True) if one is level) for level in order]
    since = {
        level.level: motion for level, motion in zip(order, accumulated(order, _plain(here)), strict=True)
    }
    known = {_key(name): motion for name, (_, motion) in start.items()}
    extra = [level for name, (level, _) in start.items() if _key(name) not in map(_key, since)]
    every = parents_first([*volumes, *extra])
    n = len(every[0].group) if every else 0
    then, after = _all_still(n), _all_still(n)
    moved = []
    for level in every:
        if _key(level.level) in known:
            then = replaced(then, level, known[_key(level.level)])
        if level.level in since:
            after = replaced(after, level, since[level.level])
        moved.append(_rows(rigid.compose(then, after), level.first))
    return every, moved


def errors_alone(problem: Problem, level: Level) -> Tensor:
    """σ of the six of each volume, with its prior, all else in place (volumes, 6); 0 for what is fixed."""
    matrix = volume_blocks(problem, level) + torch.diag(level.weight)
    scale = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30).rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale[:, :, None] * scale[:, None, :])
    variance = (vectors.square() / values.clamp_min(1e-12)[:, None]).sum(-1) * scale.square()
    determined = values.amin(-1, keepdim=True) > 1e-10
    moves = level.basis.abs().amax((0, 1)) > 0
    return torch.where(moves, torch.where(determined, variance.sqrt(), torch.nan), 0.0)


def carried_errors(system: Hierarchical) -> Tensor:
    """σ of sensors that only follow their volumes, each of these with all else in place (sensors, dof)."""
    variance = torch.zeros_like(system.problem.free)
    for level in system.levels:
        error = errors_alone(system.problem, level).nan_to_num(nan=torch.inf)[level.group]
        variance = variance + (level.basis.square() * error[:, None].square()).nan_to_num(nan=0.0).sum(-1)
    return torch.where(variance.isfinite(), variance.sqrt(), torch.nan)


def _summed(hits: Tensor, level: Volumes) -> Tensor:
    has = level.group >= 0
    return torch.zeros(len(level), dtype=hits.dtype).index_add_(0, level.group[has], hits.cpu()[has])


def _all(status: int, level: Volumes) -> Tensor:
    return torch.full((len(level),), status)


def _all_still(n: int) -> Motion:
    rotation, shift = still()
    return rotation.expand(n, 3, 3), shift.expand(n, 3)


def _plain(sixes: Sequence[Tensor]) -> list[Tensor]:
    return [six.detach().cpu().double() for six in sixes]


def _rows(motion: Motion, rows: Tensor) -> Motion:
    return motion[0][rows], motion[1][rows]


def _key(level: str) -> str:
    return level.replace("_", "").lower()
