"""The parallel scheme of the published method: local training, then a weighted mean of Θ.

    Θ ← Σ_m μ_m Θ_m / Σ_m μ_m   every τ steps, μ_m the size of worker m's partition of the data

on top of torch's model averagers and Lightning's DDP: gradients stay local (torch's post-local-SGD hook with
its all-reduce switched off), and after every τ-th step the parameters are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from torch.distributed.algorithms.model_averaging.averagers import ModelAverager
from torch.nn.parallel import DistributedDataParallel

from alignnet.errors import ConfigError


class WeightedPeriodicAverager(ModelAverager):
    """Replaces parameters by their weighted mean over ranks, every `period` steps.

    Args:
        period: τ.
        weight: μ of this rank.
    """

    def __init__(self, period: int, weight: float) -> None:
        super().__init__()
        self.period, self.weight = period, weight

    @torch.no_grad()
    def average_parameters(self, params: Iterator[torch.nn.Parameter]) -> None:
        """Count a step; average where it is due."""
        self.step += 1
        if self.step % self.period == 0:
            self.average(params)

    @torch.no_grad()
    def average(self, params: Iterable[torch.nn.Parameter]) -> None:
        """Average now."""
        total = torch.tensor(self.weight, dtype=torch.float64)
        dist.all_reduce(total)
        for parameter in params:
            mean = parameter * (self.weight / float(total))
            dist.all_reduce(mean)
            parameter.copy_(mean)


class PartitionAveraging(DDPStrategy):
    """DDP in which every rank trains on its own partition, and Θ is averaged every `period` steps.

    Use it with `data.partitioned=true` (each rank keeps its events) and `module.local_training=true`.

    Args:
        period: τ, 5 in the published method.
        weight: μ of this rank; null takes the size of its partition from the data module.
        kwargs: of `DDPStrategy`.

    Raises:
        ConfigError: period or weight cannot be used.
    """

    def __init__(self, period: int = 5, weight: float | None = None, **kwargs: Any) -> None:
        if period < 1 or not (weight is None or weight > 0):
            raise ConfigError(
                f"averaging.period is {period} and weight {weight}; "
                "expected a period ≥ 1 and a weight > 0, or null"
            )
        super().__init__(
            ddp_comm_hook=post_localSGD_hook,
            model_averaging_period=period,
            **kwargs,
        )
        self.weight = weight

    def setup(self, trainer: Any) -> None:
        """Make the hook's state, which needs the process group, and find the partition's size."""
        self._ddp_comm_state = PostLocalSGDState(
            process_group=None, subgroup=None, start_localSGD_iter=0, post_local_gradient_allreduce=False
        )
        if self.weight is None:
            self.weight = float(len(trainer.datamodule.train_dataloader().batch_sampler.rows))
        super().setup(trainer)

    def average(self, module: torch.nn.Module) -> None:
        """Average a module's parameters now: after the last step, which need not be a τ-th one."""
        assert isinstance(self._model_averager, WeightedPeriodicAverager)
        self._model_averager.average(module.parameters())

    def _register_ddp_hooks(self) -> None:
        """Register the hook on any device; `DDPStrategy` does so for CUDA alone, else averages gradients."""
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(self._ddp_comm_state, post_localSGD_hook)

    def _enable_model_averaging(self) -> None:
        assert self._model_averaging_period is not None
        assert self.weight is not None
        self._model_averager = WeightedPeriodicAverager(self._model_averaging_period, self.weight)
