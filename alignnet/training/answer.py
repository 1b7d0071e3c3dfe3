"""The answer of a run: where the sensors are, how well that is known, and which of them it holds for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.data.datamodule import AlignmentData
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.linearised import linearise
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton

ALIGNED, FIXED, TOO_FEW_HITS = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """An alignment of a detector's sensors."""

    local: Tensor  # local six (sensors, 6)
    error: Tensor  # σ of each, other sensors held in place (sensors, 6); NaN where hits do not determine it
    n_hits: Tensor  # hits of training tracks (sensors,)
    status: Tensor  # 0 aligned, 1 fixed, 2 too few hits (sensors,)
    error_draws: list[Tensor]  # draws of the statistical errors of all sensors together, each (sensors, 6)


def answer_of(module: AlignmentModule, data: AlignmentData, draw: bool = False) -> Answer:
    """Linearise the training tracks at the sensors' places for hits, errors and draws.

    Args:
        module: trained.
        data: its data.
        draw: make a draw of the statistical errors, one linear solve.
    """
    local = module.sensors.local()
    layer = SensorLayer.of(module.detector)
    layer.set_local(local)
    solver = _solver(module, layer)
    for batch in data.loader("train"):
        for part in module.loss.parts(batch):
            solver.add(linearise(module.loss, layer, part, solver.dtype, module.seed))
    system = solver.system()
    problem = system[0].problem
    n_hits = problem.hits()
    status = torch.where(n_hits >= solver.min_hits, ALIGNED, TOO_FEW_HITS)
    status[~module.sensors.free.any(-1)] = FIXED
    error_draws = [solver.error_draw(system, module.seed)] if draw else []
    return Answer(local, _conditional_errors(problem, n_hits), n_hits, status, error_draws)


def _solver(module: AlignmentModule, layer: SensorLayer) -> GaussNewton:
    """A Gauss–Newton system with the run's own priors, or with none."""
    same = layer.parametrisation.names == module.sensors.parametrisation.names
    layer.free.copy_(module.sensors.free if same else module.sensors.free.any(-1, keepdim=True).expand(-1, 6))
    used = module.make_optimizer([torch.nn.Parameter(module.sensors.theta.detach().clone())])
    if isinstance(used, GaussNewton):
        solver = module.make_optimizer([layer.theta])
        assert isinstance(solver, GaussNewton)
    else:
        solver = GaussNewton([layer.theta], levels={"half_barrel": None, "stave": None})
    solver.attach(module.detector, layer)
    return solver


def _conditional_errors(problem: Problem, n_hits: Tensor) -> Tensor:
    blocks = problem.diagonal_blocks()
    scale = blocks.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30).rsqrt()
    values, vectors = torch.linalg.eigh(blocks * scale[:, :, None] * scale[:, None, :])
    variance = (vectors.square() / values.clamp_min(1e-12)[:, None]).sum(-1) * scale.square()
    error = torch.where(problem.free > 0, variance.sqrt(), torch.zeros_like(variance))
    determined = (values.amin(-1, keepdim=True) > 1e-10) & (n_hits[:, None] > 0)
    return torch.where(determined, error, torch.nan)
