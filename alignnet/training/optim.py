"""Optimisers of alignments.

* `torch.optim.SGD` in Θ is the published method; its learning rate has the units of Θ² and differs by orders of
  magnitude between a shift and a rotation.
* `PreconditionedSGD` multiplies the gradient by the inverse of the Gauss–Newton matrix's diagonal, or of its block
  of each sensor, so that one learning rate near 1 serves every degree of freedom.
* `GaussNewton` solves for all of them together, once an epoch, by conjugate gradients on the linearised tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Hierarchical, Level, Preconditioner, level, prior_weight
from alignnet.solvers.linearised import Block
from alignnet.solvers.pcg import BlockJacobi, Solution, conjugate_gradients


class PreconditionedSGD(torch.optim.Optimizer):
    """Θ ← Θ − η B⁻¹ ∇C, with B the Gauss–Newton matrix's diagonal or its block of each sensor.

    B is scaled by the largest eigenvalue of B⁻¹H, so that η = 1 is stable; it is measured once, before the first
    step, and kept in the optimiser's state.

    Args:
        params: the one parameter Θ (sensors, dof).
        lr: η, near 1.
        momentum: heavy-ball momentum in [0, 1).
        block: "diagonal" or "sensor".
        damping: relative to each diagonal element; larger keeps weakly measured directions from wandering.
        refresh: measure B again every so many epochs; 0 for once.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1.0,
        momentum: float = 0.0,
        block: str = "sensor",
        damping: float = 1e-4,
        refresh: int = 0,
    ) -> None:
        if block not in ("diagonal", "sensor"):
            raise ConfigError(f"optimizer.block is {block!r}; choose diagonal or sensor")
        if not lr > 0 or not 0 <= momentum < 1:
            raise ConfigError(f"optimizer.lr is {lr} and momentum {momentum}; expected lr > 0 and momentum in [0, 1)")
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.block, self.damping, self.refresh = block, damping, refresh

    def needs_curvature(self, epoch: int) -> bool:
        """Whether `precondition` is due before this epoch."""
        state = self.state[self.param_groups[0]["params"][0]]
        return "inverse" not in state or (self.refresh > 0 and epoch % self.refresh == 0 and epoch > 0)

    @torch.no_grad()
    def precondition(self, problem: Problem, blocks: Tensor, ndf: float) -> float:
        """Take B from curvature blocks (sensors, dof, dof) of ½χ²; returns the largest eigenvalue of B⁻¹H.

        Args:
            problem: tracks to find the eigenvalue with, a sample is enough.
            blocks: diagonal blocks over the training tracks.
            ndf: degrees of freedom of the training tracks, the cost's denominator.
        """
        local = self._inverse(blocks)
        sample = self._inverse(problem.diagonal_blocks())
        largest = largest_eigenvalue(lambda x: sample(problem(x)), problem.free)
        parameter = self.param_groups[0]["params"][0]
        self.state[parameter]["inverse"] = local.inverse * (0.5 * ndf / largest)
        return largest

    def _inverse(self, blocks: Tensor) -> BlockJacobi:
        if self.block == "diagonal":
            blocks = torch.diag_embed(blocks.diagonal(dim1=-2, dim2=-1))
        return BlockJacobi(blocks, self.damping)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        assert parameter.grad is not None
        direction = (state["inverse"] @ parameter.grad[..., None]).squeeze(-1)
        if group["momentum"]:
            velocity = state.get("velocity")
            direction = direction if velocity is None else direction + group["momentum"] * velocity
            state["velocity"] = direction.clone()
        parameter.sub_(group["lr"] * direction)


def largest_eigenvalue(matrix: Callable[[Tensor], Tensor], like: Tensor, iterations: int = 20) -> float:
    """The largest eigenvalue of a matrix that is similar to a symmetric one, by power iteration (5 % high)."""
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype) * like
    value = torch.ones((), dtype=like.dtype)
    for _ in range(iterations):
        x = matrix(x / x.norm().clamp_min(1e-300))
        value = x.norm()
    return max(1.05 * float(value), 1e-30)


@dataclass(frozen=True)
class StepReport:
    """What a Gauss–Newton step did."""

    solution: Solution
    step: float  # r.m.s. of the change of the sensors' translations [cm]
    expected_drop: float  # of Σχ² by the quadratic model
    gradient: float  # norm of the gradient of ½Σχ² in the preconditioned norm


class GaussNewton(torch.optim.Optimizer):
    """Θ ← Θ − η H⁻¹ g over all training tracks, once an epoch.

    Args:
        params: the one parameter Θ (sensors, dof).
        lr: η, 1 for the full step.
        levels: hierarchy levels above the sensors and, for each, the prior widths of their volumes' motions,
            `{translation: cm, rotation: rad}`, or null for none (then the level only speeds up convergence).
        sensor_prior: the same for the sensors against their volumes; null for none.
        min_hits: sensors with fewer hits have no unknowns of their own and follow their volumes.
        tolerance, max_iterations: of the conjugate gradients.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1.0,
        levels: Mapping[str, Mapping[str, float] | None] | None = None,
        sensor_prior: Mapping[str, float] | None = None,
        min_hits: int = 10,
        tolerance: float = 1e-4,
        max_iterations: int = 200,
    ) -> None:
        super().__init__(params, dict(lr=lr))
        self.level_priors = {name: _pair(name, sigma) for name, sigma in (levels or {}).items()}
        self.sensor_prior = _pair("sensor", sensor_prior)
        self.min_hits, self.tolerance, self.max_iterations = min_hits, tolerance, max_iterations
        self.blocks: list[Block] = []
        self._sensors: SensorLayer | None = None
        self._levels: list[Level] = []
        self.report: StepReport | None = None
        self.n_hits: Tensor | None = None

    def attach(self, detector: Detector, sensors: SensorLayer) -> None:
        """Say what Θ belongs to; the levels that the detector's names do not have are left out."""
        known = {name.lower() for name in detector.levels}
        wanted = {n: s for n, s in self.level_priors.items() if n.replace("_", "").lower() in known}
        self._sensors = sensors
        self._levels = [level(detector, sensors, name, sigma) for name, sigma in wanted.items()]

    def add(self, block: Block) -> None:
        """Add linearised tracks to the next step."""
        self.blocks.append(block)

    def system(self) -> tuple[Hierarchical, Preconditioner]:
        """The linear system of the tracks added so far."""
        assert self._sensors is not None
        problem = Problem(self._sensors, self.blocks)
        self.n_hits = problem.hits()
        hierarchy = Hierarchical(problem, self._levels, prior_weight(self.sensor_prior), self.n_hits >= self.min_hits)
        return hierarchy, hierarchy.preconditioner()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Solve for the tracks added, move Θ, and forget them."""
        if closure is not None:
            closure()
        hierarchy, preconditioner = self.system()
        parameter = self.param_groups[0]["params"][0]
        state = self.state[parameter]
        x = state.get("x", torch.zeros(len(hierarchy), dtype=torch.float64))
        force = -(hierarchy.collect(hierarchy.problem.gradient()) + hierarchy.weight * x)
        solution = conjugate_gradients(hierarchy, force, preconditioner, self.tolerance, self.max_iterations)
        step = self.param_groups[0]["lr"] * solution.x
        state["x"] = x + step
        change = hierarchy.expand(step)
        parameter.add_(change.to(parameter))
        moved = float(change[:, :3].square().mean().sqrt())
        gradient = float((force * preconditioner(force)).sum().clamp_min(0).sqrt())
        self.report = StepReport(solution, moved, float((force * solution.x).sum()), gradient)
        self.blocks = []

    @torch.no_grad()
    def error_draw(self, seed: int = 0) -> Tensor:
        """A draw of the answer's statistical errors (sensors, dof), from the tracks added so far."""
        hierarchy, preconditioner = self.system()
        solution = conjugate_gradients(
            hierarchy, hierarchy.noise(seed), preconditioner, self.tolerance, self.max_iterations
        )
        return hierarchy.expand(solution.x)


def _pair(name: str, sigma: Mapping[str, float] | None) -> tuple[float, float] | None:
    if sigma is None:
        return None
    if set(sigma) != {"translation", "rotation"} or not all(value > 0 for value in sigma.values()):
        raise ConfigError(
            f"optimizer prior of {name} is {dict(sigma)}; expected translation (cm) and rotation (rad), both > 0, or null"
        )
    return sigma["translation"], sigma["rotation"]
