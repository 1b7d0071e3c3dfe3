"""The answer of a run: where the sensors are, how well that is known, and which of them it holds for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignnet.data.datamodule import AlignmentData
from alignnet.data.root_volumes import LevelAnswer
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.errors import Errors
from alignnet.solvers.levels import Hierarchical
from alignnet.solvers.mode_errors import ModeErrors
from alignnet.solvers.spectrum import Spectrum
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton, PreconditionedSGD
from alignnet.training.schedule import SENSOR
from alignnet.training.uncertainty import Uncertainty
from alignnet.training.volume_answers import Placed, carried_errors, level_answers

ALIGNED, FIXED, TOO_FEW_HITS = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """An alignment of a detector's sensors."""

    local: Tensor  # local six (sensors, 6), with amplitudes of surfaces after it where these are free
    error: Tensor  # σ of each, of the same shape; NaN where hits do not determine it
    n_hits: Tensor  # hits of training tracks (sensors,)
    status: Tensor  # 0 aligned, 1 fixed, 2 too few hits (sensors,)
    error_draws: list[Tensor]  # draws of the statistical errors of all sensors together, each (sensors, 6)
    errors: Errors | None = None  # all sensors together; None: `error` holds the others in place
    spectrum: Spectrum | None = None  # the least known motions
    levels: tuple[LevelAnswer, ...] = ()  # volumes above the sensors
    modes: ModeErrors | None = None  # how well weak modes are known

    @property
    def error_kind(self) -> int:
        """What `error` is, a key of `ERROR_KINDS` of tree `alignment`."""
        return 0 if self.errors is None else 2 if self.errors.n_draws else 1


def answer_of(
    module: AlignmentModule,
    data: AlignmentData,
    draw: bool = False,
    uncertainty: Uncertainty | None = None,
    start: Placed | None = None,
) -> Answer:
    """Linearise the training tracks at the sensors' places for hits, errors and draws.

    Args:
        module: trained.
        data: its data.
        draw: make a draw of the statistical errors, one linear solve.
        uncertainty: what else to say of the errors; its draws then stand for that one.
        start: where the run's start has volumes above the sensors.
    """
    local = module.sensors.local()
    layer = SensorLayer.at(module.detector, local)
    solver = _solver(module, layer)
    for batch in data.loader("train"):
        for block in module.blocks(batch, layer, solver.dtype):
            solver.add(block)
    system = solver.system()
    problem = system[0].problem
    n_hits = problem.hits()
    status = torch.where(n_hits >= solver.min_hits, ALIGNED, TOO_FEW_HITS)
    status[~module.sensors.free.any(-1)] = FIXED
    wanted = uncertainty or Uncertainty()
    errors, spectrum = wanted.of(system, module.detector, solver.dtype, module.seed)
    trained = _trained(module)
    levels = () if trained is None else level_answers(trained, solver, system[0], errors, start or {})
    rest = errors, spectrum, tuple(levels), wanted.modes(system, module.detector, system[0].moves(n_hits))
    if errors is not None:
        return Answer(local, errors.sigma, n_hits, status, errors.draws, *rest)
    error_draws = [solver.error_draw(system, module.seed)] if draw else []
    error = _conditional_errors(system[0], n_hits) if bool(system[0].own.any()) else carried_errors(system[0])
    return Answer(local, error, n_hits, status, error_draws, *rest)


def _trained(module: AlignmentModule) -> GaussNewton | PreconditionedSGD | None:
    """The optimiser that the module was trained with, where it knows of volumes."""
    trainer = getattr(module, "_trainer", None)
    used = trainer.optimizers[0] if trainer is not None and trainer.optimizers else None
    return used if isinstance(used, GaussNewton | PreconditionedSGD) else None


def _solver(module: AlignmentModule, layer: SensorLayer) -> GaussNewton:
    """A Gauss–Newton system with the run's own priors, or with none."""
    same = layer.parametrisation.names == module.sensors.parametrisation.names
    free, n = module.sensors.free, len(module.sensors.parametrisation.names)
    six = free[:, :n].any(-1, keepdim=True).expand(-1, 6)
    layer.free.copy_(free if same else torch.cat([six, free[:, n:]], -1))
    used = module.make_optimizer([torch.nn.Parameter(module.sensors.theta.detach().clone())])
    if isinstance(used, GaussNewton):
        solver = module.make_optimizer([layer.theta])
        assert isinstance(solver, GaussNewton)
    elif isinstance(used, PreconditionedSGD) and tuple(used.wanted) != (SENSOR,):
        above = {name: None for name in used.wanted if name != SENSOR}
        solver = GaussNewton([layer.theta], levels=above, schedule=[{"levels": list(used.wanted)}])
    else:
        solver = GaussNewton([layer.theta], levels={"half_barrel": None, "stave": None})
    solver.attach(module.detector, layer, module.objective.terms)
    trained = _trained(module)
    last = len(solver.stages) - 1
    solver.go_to(trained.stage_number if isinstance(trained, GaussNewton) else last)
    return solver


def _conditional_errors(system: Hierarchical, n_hits: Tensor) -> Tensor:
    """With the other sensors and the volumes held in place, by a sensor's own hits and prior."""
    problem = system.problem
    blocks = problem.diagonal_blocks() + system.prior_blocks(moving=False)
    scale = blocks.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30).rsqrt()
    values, vectors = torch.linalg.eigh(blocks * scale[:, :, None] * scale[:, None, :])
    variance = (vectors.square() / values.clamp_min(1e-12)[:, None]).sum(-1) * scale.square()
    error = torch.where(problem.free > 0, variance.sqrt(), torch.zeros_like(variance))
    determined = (values.amin(-1, keepdim=True) > 1e-10) & (n_hits[:, None] > 0)
    return torch.where(determined, error, torch.nan)
