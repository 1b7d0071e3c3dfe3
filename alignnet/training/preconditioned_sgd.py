"""Gradient descent on batches with the inverse of each sensor's block of the Gauss–Newton matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import prior_weight
from alignnet.solvers.pcg import BlockJacobi
from alignnet.training.priors import pair


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
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1.0,
        momentum: float = 0.0,
        block: str = "sensor",
        tolerance: Mapping[str, float] | None = None,
        refresh: int = 0,
    ) -> None:
        if block not in ("diagonal", "sensor"):
            raise ConfigError(f"optimizer.block is {block!r}; choose diagonal or sensor")
        if not lr > 0 or not 0 <= momentum < 1:
            raise ConfigError(
                f"optimizer.lr is {lr} and momentum {momentum}; expected lr > 0 and momentum in [0, 1)"
            )
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.block, self.refresh = block, refresh
        self.tolerance = pair("sensor", tolerance)

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
        local = self._inverse(blocks, share)
        largest = max(largest_eigenvalue(batch, local) for batch in batches)
        parameter = self.param_groups[0]["params"][0]
        free = batches[0].free  # what is fixed does not even move by rounding errors
        self.state[parameter]["inverse"] = (
            local.inverse * free[:, :, None] * free[:, None] * (0.5 * ndf / largest)
        )
        self.state[parameter]["largest"] = largest
        return largest

    def _inverse(self, blocks: Tensor, share: float) -> BlockJacobi:
        if self.block == "diagonal":
            blocks = torch.diag_embed(blocks.diagonal(dim1=-2, dim2=-1))
        n_dof = blocks.shape[-1]
        weight = prior_weight(self.tolerance)
        weight = weight if n_dof == 6 else weight[:1].expand(n_dof)
        return BlockJacobi(blocks + torch.diag(weight * share))

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
        direction = (state["inverse"] @ parameter.grad[..., None]).squeeze(-1)
        if group["momentum"]:
            velocity = state.get("velocity")
            direction = direction if velocity is None else direction + group["momentum"] * velocity
            state["velocity"] = direction.clone()
        parameter.sub_(group["lr"] * direction)


def largest_eigenvalue(matrix: Problem, preconditioner: BlockJacobi, iterations: int = 30) -> float:
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
