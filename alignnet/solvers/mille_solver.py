"""The problem of a pede steering text, solved: reduced matrix, priors, constraints, cuts, errors.

Differences from pede: the minimum is found by conjugate gradients, preconditioned with a factorisation of the
sparse matrix, to a tolerance on the gradient; all errors are exact; a presigma is a Gaussian prior about the
start value in every iteration; a linear problem that does not come to its end is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from alignnet.data.steering import Combination, Steering
from alignnet.data.tracks import Array
from alignnet.errors import ConvergenceError, SchemaError
from alignnet.solvers.projected import SparseRows
from alignnet.solvers.record_tables import Cuts, Labels, Reduced
from alignnet.solvers.records import find_labels, reduce_records, unknowns_of
from alignnet.solvers.scaled_problem import Parameters, ScaledProblem

SMALLEST, LARGEST = 1e-50, 1e50
"""Sizes of numbers of a text whose squares, and what these are divided by, can be added up."""

_MOST_CHI2 = 1e11
"""χ²/ndf of the start values: 16 digits leave four behind the point of the answer's."""


@dataclass(frozen=True)
class MilleAnswer:
    """Parameters and how they were found.

    Args:
        label, value, presigma, difference, error: one row a parameter; error is NaN where none was made.
        entries: measurements (or records) that have it.
        free: whether it was solved for.
        iterations: of conjugate gradients, all together.
        gradient: norm of the gradient at the end, over that at the start, in the scaled unknowns.
        chi2, ndf: of the records at the answer, without priors and measurements; ndf counts constraints.
        records, rejected: taken; undetermined, beyond the χ² limit, too much weight lost.
        passes: over the records.
        settled: whether another pass would change nothing that the text's convergence limit asks for.
        seconds: CPU seconds by phase.
    """

    label: Array
    value: Array
    presigma: Array
    difference: Array
    error: Array
    entries: Array
    free: Array
    iterations: int
    gradient: float
    chi2: float
    ndf: float
    records: int
    rejected: tuple[int, int, int]
    passes: int
    settled: bool
    seconds: dict[str, float] = field(default_factory=dict)


def solve_steering(
    steering: Steering,
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
    errors: str = "auto",
    progress: Callable[[str, float | None], Callable[[float], None]] | None = None,
) -> MilleAnswer:
    """Solve the problem of a steering text.

    Args:
        steering: it.
        tolerance: of the gradient, against its start.
        max_iterations: of conjugate gradients.
        errors: "exact", "none", or "auto": exact where the matrix' factor fits in memory.
        progress: gives, for a phase and the size of its work, what is told how much more of it was done.

    Raises:
        SchemaError: a file is damaged; a label of the text is in no file; a constraint follows from others.
        ConvergenceError: the problem is singular, too many records are cut, or it does not converge.
    """
    if steering.commands.maxrecord:
        raise SchemaError(f"{steering.path}: maxrecord is not supported, all records are read; take it out")
    watch, told = _Watch(), progress or (lambda *_: lambda _: None)
    labels = find_labels([binary.path for binary in steering.binaries], told("labels", None))
    parameters = parameters_of(steering, labels)
    watch.lap("labels")
    unknown, size = unknowns_of(labels.label, parameters.free, labels.width)
    exact = combinations(steering.constraints, labels, unknown, size)
    survey = combinations(steering.measurements, labels, unknown, size)
    at, total, passes = parameters.start.copy(), 0, max(steering.commands.iterations, 1)
    for iteration in range(passes):
        reduced = reduce_records(
            [binary.path for binary in steering.binaries],
            [binary.weight for binary in steering.binaries],
            labels, unknown, size, at, _cuts(steering, labels, iteration), told("records", labels.n_records),
        )  # fmt: skip
        _check_rejected(reduced, steering)
        watch.lap("records")
        problem = ScaledProblem(reduced, labels, parameters, unknown, at, exact, survey)
        if errors == "exact":
            problem.require_errors()
        double = errors != "none" and (iteration == passes - 1 or not _goes_on(steering, np.inf, reduced))
        solved = problem.solve(tolerance, max_iterations, double, told("solution", 1.0))
        step = problem.factor_times(solved.x)
        drop, before = problem.drop(solved.x), _penalty(at, parameters, survey[1])
        at = at + np.where(unknown >= 0, step[unknown], 0.0)
        chi2 = reduced.chi2 + before - drop - _penalty(at, parameters, survey[1])
        if not (np.isfinite(at).all() and np.isfinite(chi2)):
            raise ConvergenceError(
                f"{steering.path}: the answer is not finite; look for numbers out of range in the records"
            )
        total += solved.iterations
        watch.lap("solution")
        if not _goes_on(steering, drop, reduced):
            break
    _check_digits(reduced, steering)
    error = np.full(len(at), np.nan)
    if errors == "exact" or (errors == "auto" and problem.tree is not None):
        error = np.where(unknown >= 0, problem.errors(told("errors", None))[unknown], 0.0)
        watch.lap("errors")
    return MilleAnswer(
        labels.label, at, parameters.presigma, at - parameters.start, error, parameters.entries,
        parameters.free, total, problem.gradient_left(solved.x), chi2,
        reduced.ndf - problem.determined + len(exact[1]), reduced.counts[0], reduced.counts[1:],
        iteration + 1, not _goes_on(steering, drop, reduced), watch.seconds,
    )  # fmt: skip


def parameters_of(steering: Steering, labels: Labels) -> Parameters:
    """Start, presigma and freedom of each label.

    Raises:
        SchemaError: the text names a label that is in no file, or no parameter is free.
    """
    commands, known = steering.commands, {int(label): i for i, label in enumerate(labels.label)}
    entries = labels.records if commands.countrecords else labels.measurements
    start, presigma = np.zeros(len(known)), np.full(len(known), commands.presigma)
    for label, (value, sigma) in steering.parameters.items():
        check_sizes(f"{steering.path}: parameter {label}", value, sigma)
        if label in known:
            start[known[label]], presigma[known[label]] = value, sigma or commands.presigma
        elif sigma >= 0:
            raise SchemaError(
                f"{steering.path}: parameter {label} has no entry in the binary files; fix it (presigma < 0) "
                "or leave it out"
            )
    free = (presigma >= 0) & (entries >= commands.entries[0])
    if not free.any():
        raise SchemaError(
            f"{steering.path}: no parameter is free: all are fixed or have fewer than "
            f"{commands.entries[0]} entries (command `entries`)"
        )
    strength = commands.regularization[0] if commands.regularization else 1.0
    return Parameters(start, presigma, free, entries, strength)


def combinations(
    wanted: Sequence[Combination], labels: Labels, unknown: Array, size: int
) -> tuple[SparseRows, list[tuple[Combination, Array]]]:
    """Constraints or measurements as rows of the unknowns, and each with its parameters' rows.

    Raises:
        SchemaError: a label is in no file, or a number is too large or too small to compute with.
    """
    index, factors, kept = [], [], []
    for one in wanted:
        check_sizes(str(one.line), one.value, one.sigma, *one.factors)
        rows = np.searchsorted(labels.label, one.labels)
        there = rows < len(labels.label)
        there[there] = labels.label[rows[there]] == one.labels[there]
        if not there.all():
            raise SchemaError(
                f"{one.line}: label {one.labels[~there][0]} has no entry in the binary files; take it out"
            )
        free = unknown[rows] >= 0
        index.append(unknown[rows[free]])
        factors.append(one.factors[free])
        kept.append((one, rows))
    return SparseRows(index, factors, size), kept


def check_sizes(where: str, *numbers: float) -> None:
    """Refuse numbers, other than 0, that cannot be squared and divided by.

    Raises:
        SchemaError: there is one.
    """
    for number in numbers:
        if number and not SMALLEST <= abs(number) <= LARGEST:
            raise SchemaError(
                f"{where}: found {number:g}, expected 0 or a size of {SMALLEST:g} to {LARGEST:g}"
            )


def chi2_limit(most: int) -> Array:
    """χ² that 0.27 % of all records exceed (three standard deviations), by degrees of freedom to `most`."""
    ndf = torch.arange(1, most + 1, dtype=torch.float64)
    low, high = torch.zeros_like(ndf), 10 * ndf + 30
    for _ in range(80):
        middle = (low + high) / 2
        below = torch.special.gammainc(ndf / 2, middle / 2) < 0.9973002039367398
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return np.concatenate([[0.0], high.numpy()])


def _cuts(steering: Steering, labels: Labels, iteration: int) -> Cuts:
    c = steering.commands
    factor = c.hugecut
    if c.chisqcut is not None:
        first, second = c.chisqcut
        late = max(second, 1.0) ** (0.5 ** max(iteration - 1, 0))
        factor = min(factor, first if iteration == 0 else 1.0 if late < 1.5 else late)
    weighting = c.outlierdownweighting if iteration else 0
    return Cuts(
        passes=max(weighting, 1),
        most_lost=c.dwfractioncut if c.dwfractioncut and iteration else 1.0,
        limit=tuple(factor * chi2_limit(labels.largest[0])),
        scale=(c.scaleerrors[0] ** -2, c.scaleerrors[1] ** -2),
    )


def _goes_on(steering: Steering, drop: float, reduced: Reduced) -> bool:
    """Whether a further iteration could change the answer: by its cuts, or by records that were cut off."""
    c = steering.commands
    changes = c.chisqcut is not None or c.outlierdownweighting > 0 or reduced.counts[2] > 0
    return changes and drop > (0.01 if c.convergence is None else c.convergence)


def _penalty(at: Array, parameters: Parameters, survey: Sequence[tuple[Combination, Array]]) -> float:
    """What priors and measurements add to χ²."""
    short = [(one.value - one.factors @ at[rows]) / one.sigma for one, rows in survey]
    return float((parameters.weight * (at - parameters.start) ** 2).sum() + np.square(short).sum())


def _check_rejected(reduced: Reduced, steering: Steering) -> None:
    taken, *lost = reduced.counts
    if 2 * sum(lost) > taken:
        raise ConvergenceError(
            f"{steering.path}: {sum(lost):,} of {sum(reduced.counts):,} records are rejected ({lost[0]:,} "
            f"with undetermined track parameters, {lost[1]:,} by χ², {lost[2]:,} by their weight); "
            "raise `hugecut` (the start may be far off), or look at the records"
        )


def _check_digits(reduced: Reduced, steering: Steering) -> None:
    """χ² of the answer is that of the start less what it drops by: digits that these share are lost."""
    found = reduced.chi2 / max(reduced.ndf, 1)
    if not found <= _MOST_CHI2:
        raise ConvergenceError(
            f"{steering.path}: χ²/ndf is {found:.1e} at the start values, of which double precision leaves "
            f"no digits for the answer; expected up to {_MOST_CHI2:g}: give start values nearer to it, and "
            "look for records with far too small errors, which a smaller `hugecut` leaves out"
        )


class _Watch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, phase: str) -> None:
        now = time.process_time()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
