"""The LightningModule of an alignment. It holds no physics: `HelixChi2` gives the cost, an optimiser moves Θ.

Ranks work on shares of common batches. DDP averages gradients, so each rank returns its share of the sum
times the number of ranks over the joint denominator: N ranks do what one process does with the joint batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from alignnet.data.batch import Batch
from alignnet.data.datamodule import to_device
from alignnet.data.joint import JointBatch
from alignnet.errors import CheckpointError, ConfigError, ConvergenceError
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import Chi2, HelixChi2
from alignnet.loss.objective import DataSet, Objective
from alignnet.loss.residuals import LayerSums, path_residual
from alignnet.sensors.field import follows_field
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem, all_reduced
from alignnet.solvers.linearised import Block, linearise, linearise_at
from alignnet.training.optim import GaussNewton, PreconditionedSGD
from alignnet.training.robust_schedule import begin_epoch, measure_scales
from alignnet.training.sums import EpochSums, fractions, joint, means_of
from alignnet.units import UM

_CURVATURE_BATCHES = 3  # batches with which the largest eigenvalue is measured


class AlignmentModule(L.LightningModule):
    """Moves sensors until tracks pass through their hits.

    Args:
        sensors: the model; its `theta` is the one parameter, but where a correction field gives it.
        loss: the cost.
        optimizer: makes the optimiser of given parameters.
        detector: nominal places; what a checkpoint must agree with.
        local_training: the ranks' gradients are not averaged (their Θ are, by `PartitionAveraging`).
        objective: further data sets and terms, its first set with `loss`; default: that alone.
    """

    def __init__(
        self,
        sensors: SensorLayer,
        loss: HelixChi2,
        optimizer: Callable[..., torch.optim.Optimizer],
        detector: Detector,
        local_training: bool = False,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.sensors, self.loss = sensors, loss
        self._objective = Objective(loss) if objective is None else objective
        self.further = torch.nn.ModuleList(one.loss for one in self._objective.others)
        if len(self._objective.terms):
            self.further.append(self._objective.terms)
        self.make_optimizer, self.detector, self.local_training = optimizer, detector, local_training
        self.sums = EpochSums()
        self.layer_sums = LayerSums(detector.layer)
        self.seed = 0
        self.train_chi2 = 0.0  # Σχ² of the last epoch's training tracks, over all ranks

    @property
    def objective(self) -> Objective:
        """What is minimised, its first set with the module's loss."""
        return replace(self._objective, first=self.loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The configured optimiser; Gauss–Newton switches to manual optimisation, one step an epoch.

        Raises:
            ConfigError: it does not take one of its values.
        """
        try:
            optimizer = self.make_optimizer(self.weights)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"optimizer: {error}; a value that it does not take, or of the wrong kind"
            ) from error
        if follows_field(self.sensors) and isinstance(optimizer, GaussNewton | PreconditionedSGD):
            raise ConfigError(
                f"{type(optimizer).__name__} moves sensors, not the weights of a correction field "
                "(sensors.parametrisation=field); choose optimizer=adam"
            )
        if isinstance(optimizer, PreconditionedSGD):
            optimizer.attach(self.detector, self.sensors)
        if isinstance(optimizer, PreconditionedSGD) and optimizer.levels and self.local_training:
            raise ConfigError(
                "optimizer.levels does not go with averaging, which is of sensors: leave one out"
            )
        if isinstance(optimizer, GaussNewton):
            optimizer.attach(self.detector, self.sensors, self.objective.terms)
            self.automatic_optimization = False
        return optimizer

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """What an optimiser moves."""
        return [weight for weight in self.sensors.parameters() if weight.requires_grad]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser itself, without Lightning's wrapper."""
        optimizer: torch.optim.Optimizer = self.trainer.optimizers[0]
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Choose the epoch's order; measure the curvature where the optimiser asks for it."""
        sampler = getattr(self.trainer.train_dataloader, "batch_sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.current_epoch)
        self.sums.forget("train")
        self._prepare_weights()
        optimizer = self.optimizer
        if isinstance(optimizer, PreconditionedSGD) and optimizer.needs_curvature(self.current_epoch):
            self._measure_curvature(optimizer)
        if isinstance(optimizer, PreconditionedSGD):
            largest = optimizer.state[self.sensors.theta]["largest"]
            self.log("train/largest_eigenvalue", largest, on_step=False, on_epoch=True, batch_size=1)

    def training_step(self, batch: Batch | JointBatch, index: int) -> Tensor | None:
        """This rank's share of the cost of a batch; with Gauss–Newton, tracks for the epoch's step."""
        last = self.trainer.is_last_batch
        if isinstance(self.optimizer, GaussNewton):
            self._linearise(batch, self.optimizer)
            cost = None
        else:
            cost = self._cost(batch)
        if last:
            self._log("train")  # which stops where too much was rejected
        if last and isinstance(self.optimizer, GaussNewton):
            self._step()
        return cost

    def on_validation_epoch_start(self) -> None:
        """Start the sums of this pass."""
        self.sums.forget("val")
        self.layer_sums = LayerSums(self.detector.layer)

    def validation_step(self, batch: Batch | JointBatch, index: int) -> None:
        """χ² of events that are not trained on, and residuals of those of the first set."""
        for one, part in self.objective.pairs(batch):
            chi2 = one.loss(self.sensors, part)
            self._check(one, chi2)
            self._count("val", one, chi2)
            if one.loss is self.loss:
                self.layer_sums.add(path_residual(one.loss, chi2), part.sensor, chi2.used_hits)

    def on_validation_epoch_end(self) -> None:
        """The pass's means."""
        self.layer_sums.sums = all_reduced(self.layer_sums.sums)
        self._log("val")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which detector and parametrisation this is."""
        checkpoint["alignnet"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another detector or parametrisation; the optimiser's options are this run's.

        Raises:
            CheckpointError: what differs, and what was expected; or it is not complete.
        """
        found = checkpoint.get("alignnet")
        if not isinstance(found, dict):
            raise CheckpointError(
                "the checkpoint was not written by alignnet: it does not say which detector it is for"
            )
        for key, expected in self._identity().items():
            if found.get(key) != expected:
                raise CheckpointError(
                    f"the checkpoint is for another {key}: {found.get(key)!r}; this run has {expected!r}"
                )
        self._check_sensors(checkpoint["state_dict"])
        options = self.make_optimizer([self.sensors.theta.detach().clone()]).defaults
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                group |= options  # or a new optimizer.lr would change nothing

    def _check_sensors(self, state: dict[str, Any]) -> None:
        for name, own in self.sensors.state_dict().items():
            found = state.get(f"sensors.{name}")
            if not isinstance(found, Tensor) or found.shape != own.shape:
                raise CheckpointError(
                    f"the checkpoint is damaged: sensors.{name} is {getattr(found, 'shape', None)}, "
                    f"expected {tuple(own.shape)}"
                )
            if not found.isfinite().all():
                raise CheckpointError(f"the checkpoint is damaged: sensors.{name} is not finite")
            if name == "free" and not torch.equal(found.to(own), own):
                raise CheckpointError(
                    "the checkpoint is of a run with other sensors.fixed; resume without changing it, or "
                    "start a new run from its places: sensors.start=DIR/alignment.root"
                )

    def _identity(self) -> dict[str, Any]:
        return {
            "detector": self.detector.name,
            "geometry": self.detector.fingerprint,
            "sensors": len(self.sensors),
            "parametrisation": "Field"
            if follows_field(self.sensors)
            else type(self.sensors.parametrisation).__name__,
        }

    def _cost(self, batch: Batch | JointBatch) -> Tensor:
        total, count = self.sensors.theta.new_zeros(()), self.sensors.theta.new_zeros(())
        for one, part in self.objective.pairs(batch):
            chi2 = one.loss(self.sensors, part)
            self._check(one, chi2)
            self._count("train", one, chi2)
            mine, ndf = chi2.sums(one.loss.normalisation)
            total, count = total + one.weight * mine, count + one.weight * ndf
        ranks = 1 if self.local_training else self.trainer.world_size
        if len(self.objective.terms):
            total = total + self.objective.terms.chi2(self.sensors) / (len(self._training_batches) * ranks)
        if self.local_training:
            return total / count.clamp_min(1)
        return total * ranks / all_reduced(count.detach().clone()).clamp_min(1)

    def _step(self) -> None:
        """Gauss–Newton's step, through Lightning's wrapper, which counts it."""
        wrapped = self.optimizers()
        assert not isinstance(wrapped, list)
        wrapped.step()

    def _linearise(self, batch: Batch | JointBatch, optimizer: GaussNewton) -> None:
        for one, whole in self.objective.pairs(batch):
            self._check(one, *(self._linearised(one, part, optimizer) for part in one.loss.parts(whole)))

    @torch.no_grad()
    def _linearised(self, one: DataSet, part: Batch, optimizer: GaussNewton) -> Chi2:
        planes = self.sensors.planes(part.uv, part.sensor)
        fit = one.loss.fit(planes, part)
        chi2 = one.loss.at(planes, fit, part)
        self._count("train", one, chi2)
        block = linearise_at(
            one.loss, self.sensors, planes, fit, part, optimizer.dtype, self.seed, chi2.weight
        )
        optimizer.add(block.weighted(one.weight))
        return chi2

    def blocks(self, batch: Batch | JointBatch, sensors: SensorLayer, dtype: torch.dtype) -> Iterator[Block]:
        """The linearised tracks of a batch at the sensors' places, as their sets' weights count them."""
        for one, whole in self.objective.pairs(batch):
            for part in one.loss.parts(whole):
                yield linearise(one.loss, sensors, part, dtype, self.seed).weighted(one.weight)

    def _prepare_weights(self) -> None:
        """The kinds and scales of robust weights in this epoch."""
        for i, one in enumerate(self.objective.sets):
            begin_epoch(one.loss, self.current_epoch)
            measure_scales(one.loss, self.sensors, self._batches_of(i))
        tau, scale = self.loss.hit_weights.scale, self.loss.weights.scale
        named = {"hit_tau_um": None if tau is None else tau / UM, "track_scale": scale}
        for name, value in named.items():
            if value is not None:
                self.log(f"robust/{name}", value, on_step=False, on_epoch=True, batch_size=1)

    def _batches_of(self, i: int) -> Iterator[Batch]:
        """The training batches of one of the sets."""
        for batch in self._training_batches:
            yield to_device(batch if isinstance(batch, Batch) else batch[i], self.device)

    @property
    def _training_batches(self) -> DataLoader[Any]:
        loader: DataLoader[Any] | None = self.trainer.train_dataloader
        assert loader is not None
        return loader

    @torch.no_grad()
    def _measure_curvature(self, optimizer: PreconditionedSGD) -> None:
        """A pass over the training events for the diagonal blocks; some batches for the top eigenvalue."""
        n_dof, n_batches = self.sensors.theta.shape[-1], len(self._training_batches)
        total = self.sensors.theta.new_zeros(len(self.sensors), n_dof, n_dof)
        ndf = torch.zeros((), dtype=torch.float64)
        sample: list[Problem] = []
        for batch in self._training_batches:
            pairs = [(one, to_device(part, self.device)) for one, part in self.objective.pairs(batch)]
            blocks = [linearise(one.loss, self.sensors, part).weighted(one.weight) for one, part in pairs]
            problem = Problem(self.sensors, blocks)
            total = total + problem.diagonal_blocks(reduce=False)
            ndf += sum(one.weight * self._ndf(one.loss, part) for one, part in pairs)
            sample += [problem] if len(sample) < _CURVATURE_BATCHES else []
        mean_ndf = float(all_reduced(ndf)) / n_batches
        optimizer.precondition(all_reduced(total) / n_batches, sample, mean_ndf, 1 / n_batches)

    @staticmethod
    def _ndf(loss: HelixChi2, batch: Batch) -> int:
        """Degrees of freedom of this rank's part of a batch."""
        rows = 2 * batch.is_hit.sum() + 2 * (loss.vertex != "absent") * batch.has_vertex.sum()
        return int(rows) - loss.n_parameters * batch.n_tracks

    def _check(self, one: DataSet, *parts: Chi2) -> None:
        """Stop, on all ranks, where a fitted track's χ² is not finite or most tracks cannot be fitted."""
        bad = [chi2.fit.ok & ~(chi2.track + chi2.vertex).isfinite() for chi2 in parts]
        lost = [~chi2.fit.ok for chi2 in parts]
        counts = [sum(float(mask.sum()) for mask in masks) for masks in (bad, lost)]
        counts.append(float(sum(chi2.batch.n_tracks for chi2 in parts)))
        n_bad, n_lost, n_tracks = all_reduced(torch.tensor(counts, dtype=torch.float64)).tolist()
        if n_bad == 0 and n_lost <= 0.5 * n_tracks:
            return
        masks = zip(parts, bad if n_bad else lost, strict=True)
        events = [
            int(n) for chi2, mask in masks for n in chi2.batch.event_number[chi2.batch.event[mask].unique()]
        ]
        events = _of_all_ranks(events)
        what = "χ² is not finite" if n_bad else f"{n_lost:.0f} of {n_tracks:.0f} tracks cannot be fitted"
        which = f"{sorted(set(events))[:10]}{' …' if len(events) > 10 else ''}"
        where = f" of set {one.name}" if len(self.objective.sets) > 1 else ""
        raise ConvergenceError(
            f"{what} in epoch {self.current_epoch}, events {which}{where}; "
            "the last good checkpoint is kept. Look at these events, lower optimizer.lr, or set loss.weights"
        )

    def _count(self, stage: str, one: DataSet, chi2: Chi2) -> None:
        self.sums.add(stage, one.name, chi2, one.loss.normalisation)

    def _log(self, stage: str) -> None:
        """Means of the pass over all ranks: χ²/ndf, its track and vertex parts, cost and used fractions.

        Raises:
            ConvergenceError: robust weights have rejected too much in training.
        """
        sets = self.sums.of(stage, self.objective)
        total = joint(sets, self.objective)
        used = fractions(sets, self.objective, self.current_epoch if stage == "train" else None)
        means = {**means_of(total), **used}
        if len(sets) > 1:
            means |= {f"{name}/{key}": x for name, row in sets.items() for key, x in means_of(row).items()}
        if stage == "train":
            self.train_chi2 = total["track"] + total["vertex"]
        for name, value in means.items():
            show = name == "chi2_per_ndf"
            self.log(f"{stage}/{name}", value, prog_bar=show, on_step=False, on_epoch=True, batch_size=1)


def _of_all_ranks(values: list[int]) -> list[int]:
    """The values of every rank, one after the other."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    parts: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]
