"""Mille records read where they lie, word by word: which labels they have, what they say.

The format is that of `alignnet.data.mille`, whose reader is the reference: a record that looks wrong here, or
holds a special block, is left to it. Labels are looked up in a table (2ⁿ, 2) of keys and values with open
addressing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignnet.data.tracks import Array
from alignnet.solvers.jit import compiled

UNREADABLE, NO_ROOM, UNDETERMINED = -1, -2, -3
"""Why a record is not taken: the reference reader must look at it, the buffers are too small, or it has more
track parameters than measurements."""


class Buffers(NamedTuple):
    """Room for one record, and for what it adds."""

    y: Array  # (measurements,)
    weight: Array  # 1/σ² (measurements,)
    local: Array  # ∂y/∂q (measurements, locals)
    globals: Array  # global derivatives of each measurement
    label: Array  # (measurements, globals)
    value: Array  # ∂y/∂p (measurements, globals)
    owner: Array  # which of the record's blocks it belongs to, −1 for a fixed parameter
    inside: Array  # which unknown of that block
    block: Array  # the record's blocks
    factor: Array  # robust weight of each measurement
    cholesky: Array  # C (locals, locals)
    pull: Array  # C⁻¹Lᵀy, then the track parameters (locals,)
    reduced: Array  # B (blocks, locals, width)
    own: Array  # GᵀG (blocks, blocks, width, width)
    pair: Array  # where each pair of its blocks is in the matrix (blocks, blocks)
    touched: Array  # which of its blocks are not 0 (blocks, blocks)
    gradient: Array  # (blocks, width)
    bits: Array  # one double as int64
    double: Array  # the same as float64
    width: tuple[int, ...]  # as long as a block has unknowns, and
    depth: tuple[int, ...]  # as long as a row of Bᵀ: parts of the type, so constants for the compiler


def buffers(measurements: int, n_locals: int, n_globals: int, blocks: int, width: int) -> Buffers:
    """Room for records of so many measurements, track parameters, globals of a measurement and blocks."""
    m, n, g, b = (max(1, size) for size in (measurements, n_locals, n_globals, blocks))
    depth = next(size for size in (5 * 2**k for k in range(32)) if size >= n)
    bits = np.zeros(1, dtype=np.int64)
    return Buffers(
        y=np.zeros(m),
        weight=np.zeros(m),
        local=np.zeros((m, n)),
        globals=np.zeros(m, dtype=np.int64),
        label=np.zeros((m, g), dtype=np.int64),
        value=np.zeros((m, g)),
        owner=np.zeros((m, g), dtype=np.int64),
        inside=np.zeros((m, g), dtype=np.int64),
        block=np.zeros(b, dtype=np.int64),
        factor=np.ones(m),
        cholesky=np.zeros((n, n)),
        pull=np.zeros(n),
        reduced=np.zeros((b, depth, width)),
        own=np.zeros((b, b, width, width)),
        pair=np.zeros((b, b), dtype=np.int64),
        touched=np.zeros((b, b), dtype=np.bool_),
        gradient=np.zeros((b, width)),
        bits=bits,
        double=bits.view(np.float64),
        width=(0,) * width,
        depth=(0,) * depth,
    )


@compiled
def find(table: Array, key: int) -> int:
    """Row of a key in a table, or the free row for a new one."""
    mask = len(table) - 1
    row = ((key * np.int64(-7046029254386353131)) >> np.int64(24)) & mask
    while table[row, 0] != -1 and table[row, 0] != key:
        row = (row + 1) & mask
    return int(row)


@compiled
def _has_special_block(words: Array, begin: int, labels: int, n: int, is_double: bool) -> bool:
    """Whether a y is followed at once by a number below 0, which is no sigma; its last word has the sign."""
    zeros = 0
    for k in range(1, n):
        if words[labels + k] == 0:
            zeros += 1
            follows = zeros % 2 == 0 and words[labels + k - 1] == 0
            if follows and words[begin + (2 * k + 1 if is_double else k)] < 0:
                return True
    return False


@compiled
def scan(
    words: Array, starts: Array, first: int, table: Array, entries: Array, largest: Array
) -> tuple[int, int]:
    """Note the labels of records from `first` on and how often each is seen.

    Args:
        words, starts: a block of records.
        first: where to begin.
        table: rows of the labels so far; the value counts them through.
        entries: for each, measurements and records that have it, and the last such record (labels, 3).
        largest: most measurements, track parameters (of records with as many measurements), and globals of a
            measurement; labels; records so far.

    Returns:
        The first record that was not scanned, and why: 0 if none is left, NO_ROOM in the table, or UNREADABLE
        for one with a special block.
    """
    for r in range(first, len(starts) - 1):
        if largest[3] > len(entries) - 2 * (starts[r + 1] - starts[r]):
            return r, NO_ROOM
        begin, size = starts[r] + 1, words[starts[r]]
        n = abs(size) // 2
        labels = begin + (n if size > 0 else 2 * n)
        if _has_special_block(words, begin, labels, n, size < 0):
            return r, UNREADABLE
        zeros, n_globals, n_local = 0, 0, 0
        for k in range(1, n):
            label = words[labels + k]
            if label == 0:
                zeros += 1
                n_globals = 0
            elif label > 0 and zeros % 2 == 1:
                n_local = max(n_local, label)
            elif label > 0:
                n_globals += 1
                largest[2] = max(largest[2], n_globals)
                row = find(table, np.int64(label))
                if table[row, 0] == -1:
                    table[row, 0], table[row, 1] = label, largest[3]
                    entries[largest[3], 2] = -1
                    largest[3] += 1
                i = table[row, 1]
                entries[i, 0] += 1
                if entries[i, 2] != largest[4]:
                    entries[i, 1] += 1
                    entries[i, 2] = largest[4]
        largest[0] = max(largest[0], zeros // 2)
        if n_local <= zeros // 2:  # or they are not determined, or the file is damaged
            largest[1] = max(largest[1], n_local)
        largest[4] += 1
    return len(starts) - 1, 0


@compiled
def number_at(words: Array, singles: Array, values: int, k: int, b: Buffers, is_double: bool) -> float:
    """The k-th value of a record whose values begin at a word."""
    if not is_double:
        return np.float64(singles[values + k])
    low = np.int64(words[values + 2 * k]) & np.int64(0xFFFFFFFF)
    b.bits[0] = low | (np.int64(words[values + 2 * k + 1]) << np.int64(32))
    return b.double[0]


@compiled
def parse(words: Array, singles: Array, start: int, b: Buffers) -> tuple[int, int]:
    """Read the record that starts at a word into the buffers; (measurements, locals), or why not, and 0."""
    size = words[start]
    is_double, n, values = size < 0, abs(size) // 2, start + 1
    labels = values + (2 * n if is_double else n)
    m, n_local, in_local, undetermined = 0, 0, False, False
    for k in range(1, n):
        label, value = words[labels + k], number_at(words, singles, values, k, b, is_double)
        if label < 0 or not np.isfinite(value) or (m == 0 and label > 0):
            return UNREADABLE, 0
        if label > b.local.shape[1] and in_local:
            undetermined = True
        elif label > 0 and in_local:
            while n_local < label:
                for i in range(m):
                    b.local[i, n_local] = 0.0
                n_local += 1
            b.local[m - 1, label - 1] = value
        elif label > 0:
            b.label[m - 1, b.globals[m - 1]], b.value[m - 1, b.globals[m - 1]] = label, value
            b.globals[m - 1] += 1
        elif in_local:
            if not value > 0:
                return UNREADABLE, 0  # or a special block
            b.weight[m - 1], in_local = 1.0 / (value * value), False
        else:
            b.y[m], b.globals[m] = value, 0
            for a in range(n_local):
                b.local[m, a] = 0.0
            m, in_local = m + 1, True
    if in_local:
        return UNREADABLE, 0
    return (UNDETERMINED, 0) if undetermined else (m, n_local)
