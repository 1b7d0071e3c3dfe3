"""Optimisers of alignments.

* `torch.optim.SGD` in Θ is the published method; its learning rate has the units of Θ² and differs by orders
  of magnitude between a shift and a rotation.
* `PreconditionedSGD` multiplies the gradient by the inverse of the Gauss–Newton matrix's diagonal, or of its
  block of each sensor, so that one learning rate near 1 serves every degree of freedom.
* `GaussNewton` solves for all together, once an epoch, by conjugate gradients on the linearised tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes
from alignnet.loss.terms import Terms
from alignnet.sensors.hierarchy import theta_motions
from alignnet.sensors.parametrisation import Affine, RigidLocal
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.assembled import Collection
from alignnet.solvers.constrained import ConstrainedPreconditioner, Constraints, minimised
from alignnet.solvers.direct_preconditioner import direct_preconditioner
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, Level, Preconditioner, level, prior_weight, whole
from alignnet.solvers.linearised import Block
from alignnet.solvers.pcg import Solution
from alignnet.solvers.penalised import PenalisedPreconditioner
from alignnet.solvers.term_system import TermSystem
from alignnet.training.preconditioned_sgd import PreconditionedSGD, largest_eigenvalue
from alignnet.training.priors import (
    USUAL_LEVELS,
    HeldModes,
    absent,
    held_modes,
    level_prior,
    mode_width,
    pair,
)
from alignnet.training.schedule import SENSOR, Stage, present, stages_of
from alignnet.training.unknowns import Unknowns

__all__ = ["GaussNewton", "PreconditionedSGD", "StepReport", "largest_eigenvalue"]

_SINGLE = 30_000  # unknowns beyond which the factor of their matrix is in single precision
_SETTLE = 3  # corrections of constraints, each some thousandth of the one before
_FAR = 10.0  # standard deviations in every unknown: from nearer, the tolerance is of the gradient there


@dataclass(frozen=True)
class StepReport:
    """What a Gauss–Newton step did."""

    solution: Solution
    step: float  # r.m.s. of the change of the sensors' translations [cm]
    expected_drop: float  # of Σχ² by the quadratic model
    gradient: float  # norm of the gradient of ½Σχ² in the preconditioned norm
    unknowns: int  # degrees of freedom of the sensors that it moves by themselves; of volumes, if only these
    n_null: int = 0  # motions that no track and no prior knows of, which stay as they were


class GaussNewton(torch.optim.Optimizer):
    """Θ ← Θ − η H⁻¹ g over all training tracks, once an epoch.

    Args:
        params: the one parameter Θ (sensors, dof).
        lr: η, 1 for the full step.
        levels: hierarchy levels above the sensors and, for each, the prior widths of their volumes' motions,
            `{translation: cm, rotation: rad}`, or null for none (where sensors have none either, the level
            then only speeds up convergence). `fixed` beside them: degrees of freedom that volumes lack.
        sensor_prior: the same for the sensors against their volumes; null for none.
        min_hits: sensors with fewer hits have no unknowns of their own and follow their volumes.
        tolerance: how much of the gradient's norm conjugate gradients may leave; of that of a place ten
            standard deviations off in every unknown where they start nearer than that.
        max_iterations: of the conjugate gradients.
        precision: "float64" or "float32" of the stored tracks; float32 halves the memory.
        converged: the expected drop of χ² for each unknown below which a step is small: the square of how
            many standard deviations it is, r.m.s.; null for a training that is not judged.
        converged_step: the r.m.s. change of the translations below which it is small, too [cm].
        gauge: whether the answer shall have no rigid motion of the whole detector, exactly.
        zero_mean: levels in whose volumes what is inside (finer volumes, sensors) shall have no common rigid
            motion, exactly.
        schedule: stages, `{levels: [stave], epochs: 3}` each, in which only some levels move ("sensor": the
            sensors themselves); empty for one of all levels.
        modes: weak modes that the answer's displacement from the start shall not have: by name, 0 for exactly
            none, or `{sigma: cm}` for a prior of its amplitude at the edge.
        surface_prior: width of the prior of amplitudes of the sensors' surfaces [cm]; null for none.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1.0,
        levels: Mapping[str, Mapping[str, Any] | None] | None = None,
        sensor_prior: Mapping[str, float] | None = None,
        min_hits: int = 10,
        tolerance: float = 1e-4,
        max_iterations: int = 200,
        precision: str = "float64",
        converged: float | None = 0.01,
        converged_step: float = 2e-4,
        gauge: bool = False,
        zero_mean: Sequence[str] = (),
        schedule: Sequence[Mapping[str, Any]] = (),
        modes: Mapping[str, Any] | None = None,
        surface_prior: float | None = None,
    ) -> None:
        if surface_prior is not None and not surface_prior > 0:
            raise ConfigError(
                f"optimizer.surface_prior is {surface_prior}; expected a length > 0 in cm, or null"
            )
        if precision not in ("float64", "float32"):
            raise ConfigError(f"optimizer.precision is {precision!r}; choose float64 or float32")
        if not lr > 0 or not min_hits >= 0:
            raise ConfigError(
                f"optimizer.lr is {lr} and min_hits {min_hits}; expected lr > 0 and min_hits ≥ 0"
            )
        if not 0 < tolerance < 1 or not max_iterations >= 1:
            raise ConfigError(
                f"optimizer.tolerance is {tolerance} and max_iterations {max_iterations}; "
                "expected a tolerance between 0 and 1 and at least 1 iteration"
            )
        if not (converged is None or converged > 0) or not converged_step > 0:
            raise ConfigError(
                f"optimizer.converged is {converged} and converged_step {converged_step}; "
                "expected a drop of χ² > 0, or null, and a length > 0 in cm"
            )
        super().__init__(params, dict(lr=lr))
        self.converged, self.converged_step = converged, converged_step
        self.dtype: torch.dtype = getattr(torch, precision)
        self.level_priors = {name: level_prior(name, sigma) for name, sigma in (levels or {}).items()}
        self.sensor_prior = pair(SENSOR, sensor_prior)
        self.surface_prior = surface_prior
        self.gauge, self.zero_mean, self.modes = bool(gauge), tuple(zero_mean), dict(modes or {})
        for name, wanted in self.modes.items():
            mode_width(name, wanted)
        self.stages = stages_of(schedule)
        if converged is None and any(stage.epochs is None for stage in self.stages[:-1]):
            raise ConfigError(
                "optimizer.converged is null, so that no stage of optimizer.schedule is judged; give all but "
                "the last their epochs"
            )
        self.min_hits, self.tolerance, self.max_iterations = min_hits, tolerance, max_iterations
        self.tracks = Collection()
        self._sensors: SensorLayer | None = None
        self._levels: list[Level] = []
        self._whole: Level | None = None
        self._volumes: list[Level] = []  # in which nothing has a common motion
        self._unknowns: Unknowns | None = None
        self._held: HeldModes | None = None
        self._terms: Terms | None = None
        self.report: StepReport | None = None

    def attach(self, detector: Detector, sensors: SensorLayer, terms: Terms | None = None) -> None:
        """Say what Θ and `terms` belong to; levels of ITS2 that the detector's names lack are left out.

        Raises:
            ConfigError: a level that neither has, or the sensors have a prior, but not the six degrees of
                freedom that it is for.
        """
        if self.sensor_prior is not None and isinstance(sensors.parametrisation, Affine):
            raise ConfigError(
                "optimizer.sensor_prior is for six degrees of freedom a sensor; "
                "set optimizer.sensor_prior=null with sensors.parametrisation=affine"
            )
        unknown = [
            name
            for key, wanted in (("levels", self.level_priors), ("zero_mean", self.zero_mean))
            for name in absent(list(wanted), detector, USUAL_LEVELS, f"optimizer.{key}")
        ]
        priors = {n: prior for n, prior in self.level_priors.items() if n not in unknown}
        usual = absent(USUAL_LEVELS, detector, USUAL_LEVELS, "optimizer.schedule")
        self.stages = present(self.stages, priors, [*unknown, *usual])
        self._sensors, self._terms = sensors, terms if terms is not None and len(terms) else None
        self._levels = [level(detector, sensors, n, one.sigma, one.fixed) for n, one in priors.items()]
        self._unknowns = Unknowns(detector, sensors, self._levels, self._own_basis())
        self._whole = whole(detector, sensors) if self.gauge else None
        held = [name for name in self.zero_mean if name not in unknown]
        self._volumes = [level(detector, sensors, name, None) for name in held]
        self._held = held_modes(self.modes, detector, sensors)

    @property
    def levels(self) -> list[Level]:
        """The levels above the sensors."""
        return self._levels

    @property
    def stage(self) -> Stage:
        """What moves now."""
        return self.stages[self.stage_number]

    @property
    def stage_number(self) -> int:
        """Which one of `stages` that is."""
        return min(self._progress("stage"), len(self.stages) - 1)

    @property
    def on_last_stage(self) -> bool:
        """Whether this is the end of the schedule."""
        return self._progress("stage") >= len(self.stages) - 1

    def go_to(self, stage: int) -> None:
        """Go to a stage of the schedule."""
        self.state[self.param_groups[0]["params"][0]]["stage"] = stage

    def finish_epoch(self, settled: bool) -> bool:
        """Count an epoch; go on to the next stage where this one has settled, or had its epochs.

        Returns:
            Whether another stage begins.
        """
        state = self.state[self.param_groups[0]["params"][0]]
        state["epochs"] = self._progress("epochs") + 1
        if self.on_last_stage or not (settled or state["epochs"] == self.stage.epochs):
            return False
        state["stage"], state["epochs"] = self._progress("stage") + 1, 0
        return True

    def _progress(self, what: str) -> int:
        return int(self.state[self.param_groups[0]["params"][0]].get(what, 0))

    def add(self, block: Block) -> None:
        """Add linearised tracks to the next step."""
        assert self._sensors is not None
        self.tracks.add(self._sensors, block)

    def system(self, problem: Problem | None = None) -> tuple[Hierarchical, Preconditioner]:
        """The linear system of the tracks added so far, which are then forgotten; or of other ones."""
        assert self._sensors is not None
        problem = self.tracks.problem(self._sensors) if problem is None else problem
        moves = (problem.hits() >= self.min_hits) & self.stage.moves(SENSOR)
        assert self._held is not None
        hierarchy = Hierarchical(
            problem, [one for one in self._levels if self.stage.moves(one.name)],
            self._own_weight(), moves, self._all.basis, self._held.penalties,
            None if self._terms is None else TermSystem(self._terms, self._sensors),
        )  # fmt: skip
        precision = "float32" if len(hierarchy) > _SINGLE else "float64"
        inverse = direct_preconditioner(hierarchy, precision) or hierarchy.preconditioner()
        if len(hierarchy.penalties):
            inverse = PenalisedPreconditioner(inverse)
        constraints = Constraints(hierarchy, self._whole, self._volumes, self._held.exact)
        return hierarchy, ConstrainedPreconditioner(inverse, constraints) if len(constraints) else inverse

    def _own_weight(self) -> Tensor:
        """1/σ² of the sensors' own priors, those of surfaces last; (6,) where there are none."""
        assert self._sensors is not None
        weight = prior_weight(self.sensor_prior)
        if not self._sensors.n_modes:
            return weight
        modes = 0.0 if self.surface_prior is None else self.surface_prior**-2
        return torch.cat([weight, weight.new_full((self._sensors.n_modes,), modes)])

    def _own_basis(self) -> Tensor | None:
        """The motions in their own frame that a prior of the sensors is about; None where these are Θ."""
        assert self._sensors is not None
        if self.sensor_prior is None or isinstance(self._sensors.parametrisation, RigidLocal):
            return None
        n, n_modes = len(self._sensors.theta), self._sensors.n_modes
        six = torch.eye(6, dtype=torch.float64).expand(n, 6, 6)
        basis = torch.nn.functional.pad(
            theta_motions(self._sensors, six.to(self._sensors.theta.device)), (0, n_modes)
        )
        if n_modes:
            basis[:, -n_modes:, -n_modes:] = torch.eye(n_modes).to(basis)
        return basis

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Solve for the tracks added, move Θ, and forget them."""
        if closure is not None:
            closure()
        hierarchy, preconditioner = self.system()
        parameter = self.param_groups[0]["params"][0]
        state = self._begun(parameter)
        x = state["x"][self._all.moving(self.stage)]
        moved = parameter.detach() - state["start"]
        force = hierarchy.collect(hierarchy.gradient(moved.to(hierarchy.weight)))
        force = -(force + hierarchy.weight * x)
        enough = (self.tolerance * _FAR) ** 2 * len(hierarchy)
        start = self._start(preconditioner, parameter, x, moved)
        left = force if start is None else force - hierarchy(start)
        solution = minimised(hierarchy, left, preconditioner, self.tolerance, self.max_iterations, enough)
        found = solution.x if start is None else solution.x + start
        step = self.param_groups[0]["lr"] * found
        self._move(parameter, x + step)
        if start is not None and self._levels:
            self._hold(preconditioner, parameter)
        length = float(hierarchy.expand(step)[:, :3].square().mean().sqrt())
        gradient = float((force * preconditioner(force)).sum().clamp_min(0).sqrt())
        drop, unknowns = float((left * solution.x).sum()), int(hierarchy.own.sum())
        unknowns = unknowns or len(hierarchy) - hierarchy.own.numel()
        self.report = StepReport(solution, length, drop, gradient, max(unknowns, 1), preconditioner.n_null)

    def volumes(self) -> tuple[list[Volumes], list[Tensor]]:
        """The levels above the sensors, and how their volumes have moved from the start (volumes, 6)."""
        state = self._begun(self.param_groups[0]["params"][0])
        return self._all.volumes, self._all.parts(state["x"])[1]

    @property
    def _all(self) -> Unknowns:
        assert self._unknowns is not None
        return self._unknowns

    def _begun(self, parameter: Tensor) -> dict[str, Any]:
        """The state, with the unknowns of all levels, and Θ where they are 0."""
        state: dict[str, Any] = self.state[parameter]
        self._all.begin(state, parameter.detach())
        return state

    def _move(self, parameter: Tensor, x: Tensor) -> None:
        """Put the stage's unknowns to x, and the sensors where all unknowns say."""
        state = self._begun(parameter)
        state["x"] = state["x"].masked_scatter(self._all.moving(self.stage), x)
        parameter.copy_(self._all.theta(state["start"], state["x"]))

    def _hold(self, preconditioner: Preconditioner, parameter: Tensor) -> None:
        """Fulfil constraints to rounding where composing volumes has bent them, to second order in angles."""
        state, moving = self._begun(parameter), self._all.moving(self.stage)
        for _ in range(_SETTLE):
            x = state["x"][moving]
            more = self._start(preconditioner, parameter, x, parameter - state["start"])
            assert more is not None
            self._move(parameter, x + more)

    @staticmethod
    def _start(preconditioner: Preconditioner, theta: Tensor, x: Tensor, moved: Tensor) -> Tensor | None:
        """A step after which the constraints hold; None without any."""
        if not isinstance(preconditioner, ConstrainedPreconditioner):
            return None
        total, moved = theta.detach().to(x), moved.detach().to(x)
        return preconditioner.start(-preconditioner.constraints.of(total, x, moved))

    @torch.no_grad()
    def error_draw(self, system: tuple[Hierarchical, Preconditioner], seed: int = 0) -> Tensor:
        """A draw of the statistical errors (sensors, dof) of the answer to a linear system."""
        hierarchy, preconditioner = system
        noise = hierarchy.noise(seed)
        solution = minimised(hierarchy, noise, preconditioner, self.tolerance, self.max_iterations)
        return hierarchy.expand(solution.x)
