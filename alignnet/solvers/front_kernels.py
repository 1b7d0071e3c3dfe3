"""Loops of the multifrontal factorisation: fronts collected and passed on, triangular solves."""

from __future__ import annotations

import numpy as np

from alignnet.data.tracks import Array
from alignnet.solvers.jit import compiled


@compiled
def clear(front: Array) -> None:
    """Zero the lower triangle of a front."""
    for i in range(len(front)):
        front[i, : i + 1] = 0.0


@compiled
def assemble(
    front: Array,
    first: int,
    last: int,
    order: Array,
    place: Array,
    start: Array,
    column: Array,
    entry: Array,
    values: Array,
    local: Array,
    width: tuple[int, ...],
) -> None:
    """Put the matrix' columns of positions `first` to `last` into a front; a 0 on its diagonal becomes 1."""
    n = len(width)
    for p in range(first, last):
        c = (p - first) * n
        for e in range(start[order[p]], start[order[p] + 1]):
            q = place[column[e]]
            if q >= p:
                r, k = local[q] * n, entry[e]
                for x in range(n):
                    for y in range(n):  # block (p, q) is stored, or its mirror image (q, p)
                        front[r + x, c + y] = values[k, y, x] if k >= 0 else values[-1 - k, x, y]
        for x in range(n):
            if front[c + x, c + x] == 0.0:
                front[c + x, c + x] = 1.0


@compiled
def pack(front: Array, own: int, stack: Array) -> None:
    """Lower triangle of what lies beyond a front's own columns, row by row."""
    k = 0
    for i in range(own, len(front)):
        stack[k : k + i + 1 - own] = front[i, own : i + 1]
        k += i + 1 - own


@compiled
def extend_add(front: Array, stack: Array, where: Array, width: tuple[int, ...]) -> None:
    """Add a packed lower triangle to the blocks `where` (ascending) of a front."""
    n, k = len(width), 0
    for i in range(len(where)):
        for x in range(n):
            target = front[where[i] * n + x]
            for j in range(i):
                c = where[j] * n
                for y in range(n):
                    target[c + y] += stack[k + y]
                k += n
            for y in range(x + 1):
                target[where[i] * n + y] += stack[k + y]
            k += x + 1


@compiled
def extend_add_square(front: Array, square: Array, where: Array, width: tuple[int, ...]) -> None:
    """Add the lower triangle of a matrix to the blocks `where` (ascending) of a front."""
    n = len(width)
    for i in range(len(where)):
        for x in range(n):
            source, target = square[i * n + x], front[where[i] * n + x]
            for j in range(i):
                c = where[j] * n
                for y in range(n):
                    target[c + y] += source[j * n + y]
            for y in range(x + 1):
                target[where[i] * n + y] += source[i * n + y]


@compiled
def factor_thin(columns: Array, own: int, weakest: float) -> int:
    """Factor few columns in place; returns as bits which diagonal elements got 1 more."""
    weak = 0
    for j in range(own):
        pivot = columns[j, j]
        for k in range(j):
            pivot -= columns[j, k] * columns[j, k]
        if pivot < weakest:
            pivot += 1
            weak |= 1 << j
        columns[j, j] = np.sqrt(pivot)
        for i in range(j + 1, len(columns)):
            s = columns[i, j]
            for k in range(j):
                s -= columns[i, k] * columns[j, k]
            columns[i, j] = s / columns[j, j]
    return weak


@compiled
def forward(
    first: Array, offset: Array, rows: Array, begin: Array, values: Array, x: Array, width: tuple[int, ...]
) -> None:
    """x ← L⁻¹ x."""
    n = len(width)
    for s in range(len(first) - 1):
        k, a = (first[s + 1] - first[s]) * n, first[s] * n
        own = x[a : a + k]
        block = values[begin[s] : begin[s + 1]]
        for i in range(k):
            t = own[i]
            for j in range(i):
                t -= block[i * k + j] * own[j]
            own[i] = t / block[i * k + i]
        for r in range(offset[s + 1] - offset[s]):
            for c in range(n):
                line = block[(k + r * n + c) * k : (k + r * n + c + 1) * k]
                t = own[0] * 0
                for j in range(k):
                    t += line[j] * own[j]
                x[rows[offset[s] + r] * n + c] -= t


@compiled
def backward(
    first: Array, offset: Array, rows: Array, begin: Array, values: Array, x: Array, width: tuple[int, ...]
) -> None:
    """x ← L⁻ᵀ x."""
    n = len(width)
    for s in range(len(first) - 2, -1, -1):
        k, a = (first[s + 1] - first[s]) * n, first[s] * n
        own = x[a : a + k]
        block = values[begin[s] : begin[s + 1]]
        for r in range(offset[s + 1] - offset[s]):
            for c in range(n):
                line = block[(k + r * n + c) * k : (k + r * n + c + 1) * k]
                t = x[rows[offset[s] + r] * n + c]
                for j in range(k):
                    own[j] -= line[j] * t
        for i in range(k - 1, -1, -1):
            own[i] /= block[i * k + i]
            for j in range(i):
                own[j] -= block[i * k + j] * own[i]
