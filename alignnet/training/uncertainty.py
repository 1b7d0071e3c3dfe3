"""How well an answer is known: errors of all degrees of freedom together, and the least known motions.

Linear systems of up to `EXACT` unknowns are solved as dense matrices; larger ones by draws and iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.geometry.recovery import displacement_metric, shears
from alignnet.geometry.surface import padded
from alignnet.geometry.weak_modes import rigid_motion_basis, weak_mode_basis
from alignnet.solvers.constrained import constraints_of
from alignnet.solvers.errors import Errors, Removal, drawn_errors, error_draws, exact_errors
from alignnet.solvers.levels import Hierarchical, Preconditioner
from alignnet.solvers.mode_errors import ModeErrors, mode_errors
from alignnet.solvers.spectrum import Spectrum, exact_spectrum, lowest_spectrum

EXACT = 2000
"""Unknowns up to which a system is taken as a dense matrix."""

KINDS = ("exact", "draws", "auto")

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Passes things on as they come: the things, their plural, how many there are."""

_NULL = 12  # modes among which those that nothing determines are looked for


def _unwatched(things: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    return things


@dataclass(frozen=True)
class Uncertainty:
    """What is worked out of a linear system.

    Args:
        errors: "exact", "draws", "auto" (exact for small systems), or None for none.
        n_draws: of "draws".
        n_modes: least known motions; 0 for none.
        weak_modes: whether to work out how well the weak modes are known.
        tolerance, max_iterations: of the draws' conjugate gradients.
        watch: shows how far the draws are.
        step: called with the iteration and residual of the search for modes.

    Raises:
        ConfigError: a value cannot be used.
    """

    errors: str | None = None
    n_draws: int = 32
    n_modes: int = 0
    weak_modes: bool = False
    tolerance: float = 1e-3
    max_iterations: int = 1000
    watch: Watch = _unwatched
    step: Callable[[int, float], None] | None = None

    def __post_init__(self) -> None:
        if self.errors is not None and self.errors not in KINDS:
            raise ConfigError(f"evaluation.errors is {self.errors!r}; choose from {list(KINDS)}, or null")
        if self.n_draws < 2 or self.n_modes < 0:
            raise ConfigError(
                f"evaluation.draws is {self.n_draws} and spectrum {self.n_modes}; "
                "expected at least 2 draws and at least 0 modes"
            )

    @torch.no_grad()
    def of(
        self,
        system: tuple[Hierarchical, Preconditioner],
        detector: Detector,
        precision: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> tuple[Errors | None, Spectrum | None]:
        """Errors and spectrum of a system in the local six, each None where it is not wanted.

        Args:
            system: of the training tracks, with its preconditioner.
            detector: the nominal places.
            precision: of the stored tracks.
            seed: of the draws.
        """
        moves = bool(system[0].own.any()) or bool(system[0].levels)
        if not (self.errors or self.n_modes) or not moves or not bool((system[0].problem.free > 0).any()):
            return None, None
        columns = system[0].problem.free.shape[-1]
        metric = displacement_metric(detector, columns).to(system[0].weight)
        n_modes = self.n_modes if _is_held(system[0]) or self._dense(system[0]) else max(self.n_modes, _NULL)
        found = self._spectrum(system, detector, metric, n_modes, precision) if n_modes else None
        errors = None
        if self._dense(system[0]):
            errors = exact_errors(system[0], metric, constraints_of(system[1]))
        elif self.errors:
            null = _no_motions(metric) if found is None else found.motion[: found.n_null]
            errors = self._drawn(system, Removal(null, metric), seed)
        return errors, found.first(self.n_modes) if found is not None and self.n_modes else None

    @torch.no_grad()
    def modes(
        self, system: tuple[Hierarchical, Preconditioner], detector: Detector, moving: Tensor
    ) -> ModeErrors | None:
        """Errors of the weak modes' amplitudes in a system in the local six; None where not wanted.

        Args:
            system: of the training tracks, with its preconditioner.
            detector: the nominal places.
            moving: sensors that count (sensors,).
        """
        if not self.weak_modes or not bool(moving.any()):
            return None
        found = ModeAmplitudes(detector, moving)
        columns = system[0].problem.free.shape[-1]
        metric = displacement_metric(detector, columns).to(system[0].weight)
        forms, motions = padded(found.forms, columns), padded(found.motions, columns)
        errors = mode_errors(*system, found.names, forms, motions, metric, len(system[0]) <= EXACT)
        return errors._replace(counted=moving)

    def _dense(self, system: Hierarchical) -> bool:
        return self.errors == "exact" or (self.errors == "auto" and len(system) <= EXACT)

    def _spectrum(
        self,
        system: tuple[Hierarchical, Preconditioner],
        detector: Detector,
        metric: Tensor,
        n_modes: int,
        precision: torch.dtype,
    ) -> Spectrum:
        if len(system[0]) <= EXACT:
            return exact_spectrum(system[0], metric, n_modes, precision)
        guesses = torch.cat([rigid_motion_basis(detector), weak_mode_basis(detector), shears(detector)])
        guesses = padded(guesses, metric.shape[-1])
        return lowest_spectrum(
            *system, metric, n_modes, guesses, precision, progress=self.step
        )  # fmt: skip

    def _drawn(self, system: tuple[Hierarchical, Preconditioner], removal: Removal, seed: int) -> Errors:
        seeds = range(seed, seed + self.n_draws)
        unknowns: list[Tensor] = []
        draws = error_draws(*system, seeds, self.tolerance, self.max_iterations, unknowns)
        watched = list(self.watch(draws, "draws of the errors", self.n_draws))
        return drawn_errors(*system, removal, watched, system[0].problem.hits(), unknowns)


def _is_held(system: Hierarchical) -> bool:
    """Whether every unknown has a prior, so that nothing can be undetermined."""
    own = system.own.flatten() > 0
    used = torch.cat([own, own.new_ones(len(system) - len(own))])
    return bool((system.weight[used] > 0).all())


def _no_motions(metric: Tensor) -> Tensor:
    return metric.new_zeros(0, *metric.shape[:2])
