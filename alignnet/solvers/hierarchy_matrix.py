"""The matrix of sensors and the volumes that carry them, as sparse as that of the sensors alone.

With the unknowns of `Hierarchical`, δ = x_sensor + Σ Z_l x_l, every pair of sensors would couple all of their
volumes too. In the unknowns (δ, x_l) only priors couple a sensor to its volumes,

    ½ δᵀHδ + ½ (δ − Σ Z_l x_l)ᵀ W (δ − Σ Z_l x_l) + ½ Σ x_lᵀ W_l x_l ,

a few blocks a sensor. Sensors without unknowns of their own follow their volumes, δ = Σ Z_l x_l.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from alignnet.data.tracks import Array
from alignnet.solvers.block_matrix import BlockMatrix
from alignnet.solvers.levels import Hierarchical


class Volumes(NamedTuple):
    """The volumes of a level as blocks of unknowns after the sensors."""

    motion: Array  # Z of each sensor (sensors, 6, 6), 0 for none
    block: Array  # its volume's row of blocks (sensors,)
    has: Array  # whether it has one (sensors,)


class Blocks:
    """Blocks of a symmetric matrix while they are collected; those of the same place are added."""

    def __init__(self) -> None:
        self.row: list[Array] = []
        self.column: list[Array] = []
        self.values: list[Array] = []

    def add(self, row: Array, column: Array, values: Array) -> None:
        """Blocks anywhere off the diagonal (their mirror images are meant too), or on it."""
        flip = row > column
        self.row.append(np.where(flip, column, row))
        self.column.append(np.where(flip, row, column))
        self.values.append(np.where(flip[:, None, None], values.swapaxes(1, 2), values))

    def summed(self, rows: int) -> tuple[Array, Array, Array]:
        """Row, column and values, each place once."""
        key = np.concatenate(self.row) * rows + np.concatenate(self.column)
        place, which = np.unique(key, return_inverse=True)
        values = np.concatenate(self.values)
        total = np.zeros((len(place), *values.shape[1:]))
        torch.from_numpy(total).index_add_(0, torch.from_numpy(which), torch.from_numpy(values))
        return place // rows, place % rows, total


def volumes_of(hierarchy: Hierarchical) -> list[Volumes]:
    """The levels above the sensors, in order."""
    found, first = [], len(hierarchy.own)
    for level in hierarchy.levels:
        motion = level.basis.double().numpy()
        found.append(Volumes(motion, first + level.group.numpy(), np.abs(motion).max((1, 2)) > 0))
        first += level.n_groups
    return found


def hierarchy_matrix(hierarchy: Hierarchical, matrix: BlockMatrix) -> BlockMatrix:
    """The matrix of (δ of the sensors, x_l of the volumes).

    Args:
        hierarchy: levels and priors; its sensors' unknowns are their own degrees of freedom.
        matrix: H of all tracks.
    """
    volumes, own = volumes_of(hierarchy), hierarchy.own.double().numpy()
    moves = np.asarray((own > 0).any(1))
    rows = len(own) + sum(level.n_groups for level in hierarchy.levels)
    row, column = matrix.row, matrix.column.astype(np.int64)
    extra = Blocks()
    _add_priors(extra, hierarchy, volumes, own)
    kept = moves[row] & moves[column]
    _add_followers(extra, volumes, moves, row[~kept], column[~kept], matrix.values[~kept])
    more_row, more_column, more = extra.summed(rows)
    # what the priors add to blocks that are there already
    there = {"row": row[kept], "column": column[kept], "values": matrix.values[kept]}
    key = there["row"] * rows + there["column"]
    wanted = more_row * rows + more_column
    at = np.searchsorted(key, wanted)
    same = (at < len(key)) & (key[np.minimum(at, len(key) - 1)] == wanted) if len(key) else at < 0
    there["values"][at[same]] += more[same]
    return BlockMatrix.of_pairs(
        np.concatenate([there["row"], more_row[~same]]),
        np.concatenate([there["column"], more_column[~same]]),
        np.concatenate([there["values"], more[~same]]),
        rows,
    )


def _add_priors(extra: Blocks, hierarchy: Hierarchical, volumes: list[Volumes], own: Array) -> None:
    """W of the sensors about their volumes, and of the volumes."""
    n, moves = len(own), own.any(1)
    weight = hierarchy.weight[: own.size].double().view(own.shape).numpy()
    sensor = np.flatnonzero(moves)
    extra.add(sensor, sensor, weight[sensor, :, None] * np.eye(own.shape[1]))
    for i, level in enumerate(volumes):
        some = np.flatnonzero(moves & level.has)
        held = weight[some, :, None] * level.motion[some]
        extra.add(some, level.block[some], -held)
        for other in volumes[i:]:
            both = np.flatnonzero(moves & level.has & other.has)
            part = weight[both, :, None] * other.motion[both]
            extra.add(level.block[both], other.block[both], level.motion[both].swapaxes(1, 2) @ part)
    first = n
    for group in hierarchy.levels:
        block = np.arange(first, first + group.n_groups)
        extra.add(block, block, np.broadcast_to(np.diag(group.weight.numpy()), (len(block), 6, 6)))
        first += group.n_groups


def _add_followers(
    extra: Blocks, volumes: list[Volumes], moves: Array, row: Array, column: Array, values: Array
) -> None:
    """H's blocks of pairs of which one sensor or both follow their volumes."""
    for level in volumes:
        for lead, follow, block in ((row, column, values), (column, row, values.swapaxes(1, 2))):
            k = np.flatnonzero(moves[lead] & ~moves[follow] & level.has[follow])
            extra.add(lead[k], level.block[follow[k]], block[k] @ level.motion[follow[k]])
    for i, first in enumerate(volumes):
        for j, second in enumerate(volumes):
            both = ~moves[row] & ~moves[column] & first.has[row] & second.has[column]
            k = np.flatnonzero(both & ((row != column) | (i <= j)))
            a, b = first.block[row[k]], second.block[column[k]]
            part = first.motion[row[k]].swapaxes(1, 2) @ values[k] @ second.motion[column[k]]
            twice = (a == b) & (row[k] != column[k])
            extra.add(a, b, np.where(twice[:, None, None], part + part.swapaxes(1, 2), part))
