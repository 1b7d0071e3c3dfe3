"""Gradient descent on batches with inverse blocks of the Gauss–Newton matrix, of sensors or of volumes.

    Θ ← Θ − η B⁻¹ ∇C,      and with volumes     x_l ← x_l − η (Z_lᵀ B Z_l)⁻¹ Z_lᵀ ∇C

for each level that moves, Z_l its motions, all at once (an additive preconditioner). Places are composed from
all unknowns, parents first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import Level, level, prior_weight
from alignnet.solvers.pcg import BlockJacobi
from alignnet.training.priors import USUAL_LEVELS, absent, pair
from alignnet.training.schedule import SENSOR
from alignnet.training.unknowns import Unknowns


class PreconditionedSGD(torch.optim.Optimizer):
    """Θ ← Θ − η B⁻¹ ∇C, with B the Gauss–Newton matrix's diagonal or its block of each sensor.

    B is scaled by the largest eigenvalue of B⁻¹H, so that η = 1 is stable; it is measured once, before the
    first step, and kept in the optimiser's state.

    Args:
        params: the one parameter Θ (sensors, dof).
        lr: η, near 1.
        momentum: heavy-ball momentum in [0, 1).
        block: "diagonal" or "sensor".
        tolerance: `{translation: cm, rotation: rad}` by which a sensor may be off: what its hits say less
            about than this moves slowly, instead of far at the first step. None for no such limit.
        refresh: measure B again every so many epochs; 0 for once.
        levels: of the hierarchy that move, "sensor" the sensors themselves.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1.0,
        momentum: float = 0.0,
        block: str = "sensor",
        tolerance: Mapping[str, float] | None = None,
        refresh: int = 0,
        levels: Sequence[str] = (SENSOR,),
    ) -> None:
        if block not in ("diagonal", "sensor"):
            raise ConfigError(f"optimizer.block is {block!r}; choose diagonal or sensor")
        if not lr > 0 or not 0 <= momentum < 1:
            raise ConfigError(
                f"optimizer.lr is {lr} and momentum {momentum}; expected lr > 0 and momentum in [0, 1)"
            )
        if isinstance(levels, str) or not levels:
            raise ConfigError(f"optimizer.levels is {levels!r}; expected a list of levels: [stave, sensor]")
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.block, self.refresh = block, refresh
        self.tolerance = pair(SENSOR, tolerance)
        self.wanted = tuple(levels)
        self._levels: list[Level] = []
        self._unknowns: Unknowns | None = None

    @property
    def moves_sensors(self) -> bool:
        """Whether sensors move by themselves."""
        return SENSOR in self.wanted

    def attach(self, detector: Detector, sensors: SensorLayer) -> None:
        """Say what Θ belongs to; levels of ITS2 that the detector's names do not have are left out.

        Raises:
            ConfigError: a level that neither has, or none is left.
        """
        above = [name for name in self.wanted if name != SENSOR]
        unknown = absent(above, detector, USUAL_LEVELS, "optimizer.levels")
        self._levels = [level(detector, sensors, name, None) for name in above if name not in unknown]
        if not self._levels and not self.moves_sensors:
            raise ConfigError(f"optimizer.levels is {list(self.wanted)}; {detector.name} has none of these")
        if self._levels:
            self._unknowns = Unknowns(detector, sensors, self._levels, None)

    @property
    def levels(self) -> list[Level]:
        """The levels above the sensors."""
        return self._levels

    def volumes(self) -> tuple[list[Volumes], list[Tensor]]:
        """The levels above the sensors, and how their volumes have moved from the start (volumes, 6)."""
        if self._unknowns is None:
            return [], []
        state = self._begun(self.param_groups[0]["params"][0])
        return self._unknowns.volumes, self._unknowns.parts(state["x"])[1]

    def needs_curvature(self, epoch: int) -> bool:
        """Whether `precondition` is due before this epoch."""
        state = self.state[self.param_groups[0]["params"][0]]
        return "inverse" not in state or (self.refresh > 0 and epoch % self.refresh == 0 and epoch > 0)

    @torch.no_grad()
    def precondition(self, blocks: Tensor, batches: list[Problem], ndf: float, share: float = 1.0) -> float:
        """Take B from curvature blocks; returns the largest eigenvalue of B⁻¹H over single batches.

        A sensor's few hits in one batch can be all it has, so that a batch's H exceeds the mean: the
        eigenvalue is that of batches as they come.

        Args:
            blocks: diagonal blocks of ½χ² of a mean batch (sensors, dof, dof).
            batches: some batches' H.
            ndf: degrees of freedom of a mean batch, the cost's denominator.
            share: of a mean batch in the training events.
        """
        parameter = self.param_groups[0]["params"][0]
        state, free = self.state[parameter], batches[0].free
        local = self._inverse(blocks, share, batches[0].is_rigid).inverse
        # what is fixed does not even move by rounding errors
        state["inverse"] = local * free[:, :, None] * free[:, None] * self.moves_sensors
        for one in self._levels:
            state[f"inverse_{one.name}"] = self._volume_inverse(blocks, one, free, share)
        largest = max(largest_eigenvalue(batch, self._direction) for batch in batches)
        for key in ("inverse", *(f"inverse_{one.name}" for one in self._levels)):
            state[key] = state[key] * (0.5 * ndf / largest)
        state["largest"] = largest
        return largest

    def _inverse(self, blocks: Tensor, share: float, rigid: bool) -> BlockJacobi:
        if self.block == "diagonal":
            blocks = torch.diag_embed(blocks.diagonal(dim1=-2, dim2=-1))
        n_dof = blocks.shape[-1]
        weight = prior_weight(self.tolerance)
        lengths = weight[:1].expand(n_dof)  # W and b of `affine`, and amplitudes of surfaces
        weight = torch.cat([weight, lengths[6:]]) if rigid else lengths
        return BlockJacobi(blocks + torch.diag(weight * share))

    def _volume_inverse(self, blocks: Tensor, one: Level, free: Tensor, share: float) -> Tensor:
        """(Z_lᵀ B Z_l)⁻¹ of each volume (volumes, 6, 6); the tolerance is that of sensors."""
        seen = one.basis.mT @ (blocks - torch.diag_embed(1 - free)) @ one.basis
        total = seen.new_zeros(one.n_groups, 6, 6).index_add_(0, one.group, seen)
        return BlockJacobi(total + torch.diag(prior_weight(self.tolerance) * share).to(total)).inverse

    def _direction(self, gradient: Tensor) -> Tensor:
        """The preconditioner times a gradient, as a displacement (sensors, dof), volumes to first order."""
        own, parts = self._parts(gradient)
        for one, part in zip(self._levels, parts, strict=True):
            own = own + one.prolong(part)
        return own

    def _parts(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The preconditioner times a gradient: of the sensors (sensors, dof), of each level (volumes, 6)."""
        state = self.state[self.param_groups[0]["params"][0]]
        own = (state["inverse"] @ gradient[..., None]).squeeze(-1)
        inverses = [state[f"inverse_{one.name}"] for one in self._levels]
        parts = [
            (inverse @ one.restrict(gradient)[..., None]).squeeze(-1)
            for one, inverse in zip(self._levels, inverses, strict=True)
        ]
        return own, parts

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
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
        own, parts = self._parts(parameter.grad)
        direction = torch.cat([own.flatten(), *(part.flatten() for part in parts)]) if parts else own
        if group["momentum"]:
            velocity = state.get("velocity")
            direction = direction if velocity is None else direction + group["momentum"] * velocity
            state["velocity"] = direction.clone()
        if self._unknowns is None:
            parameter.sub_(group["lr"] * direction)
            return
        state = self._begun(parameter)
        state["x"] = state["x"] - group["lr"] * direction
        parameter.copy_(self._unknowns.theta(state["start"], state["x"]))

    def _begun(self, parameter: Tensor) -> dict[str, Any]:
        """The state, with the unknowns of all levels, and Θ where they are 0."""
        assert self._unknowns is not None
        state: dict[str, Any] = self.state[parameter]
        self._unknowns.begin(state, parameter.detach())
        return state


def largest_eigenvalue(
    matrix: Problem, preconditioner: Callable[[Tensor], Tensor], iterations: int = 30
) -> float:
    """The largest eigenvalue of B⁻¹H by power iteration, as the Rayleigh quotient xᵀHx / xᵀBx (5 % high)."""
    y = torch.randn(matrix.free.shape, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    y = y.to(matrix.free.device)
    x, value = preconditioner(y) * matrix.free, 1e-30
    for _ in range(iterations):
        weight = float((x * y).sum())
        y = matrix(x)
        value = max(float((x * y).sum()) / weight, 1e-30) if weight > 0 else value
        x = preconditioner(y)
        scale = float((x * y).sum().clamp_min(1e-300).rsqrt())
        x, y = x * scale, y * scale
    return 1.05 * value
