"""From a configuration to the objects of an alignment, the same for training, evaluation and export."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from alignnet.cli.app import values_of
from alignnet.cli.arguments import check_arguments
from alignnet.cli.detector import detector_of
from alignnet.cli.o2 import runs_of
from alignnet.cli.sets import data_of, load_loss, sets_of, terms_of
from alignnet.data.datamodule import AlignmentData
from alignnet.data.o2_runs import is_run, tracks_of
from alignnet.data.root import check_same_sensors, has_misalignment, read_misalignment
from alignnet.errors import ConfigError
from alignnet.evaluation.summary import Evaluation
from alignnet.evaluation.weak_modes import AIM
from alignnet.export.alice import read_start, read_start_volumes
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.loss.objective import Objective
from alignnet.sensors.constraints import set_free
from alignnet.sensors.field import CorrectionField, follow_field
from alignnet.sensors.sensor import SensorLayer
from alignnet.training.volume_answers import Placed


@dataclass
class AlignmentProblem:
    """Everything that an alignment is made of."""

    detector: Detector
    sensors: SensorLayer
    loss: HelixChi2
    data: AlignmentData
    truth: Tensor | None  # true local six (sensors, 6) where the first file is one that has them
    start: Tensor  # local six that the run starts from
    objective: Objective  # of all data sets and terms
    volumes: Placed = field(default_factory=dict)  # where volumes above the sensors are then


def load_problem(config: DictConfig) -> AlignmentProblem:
    """Build detector, sensors, cost and data of a training configuration.

    Raises:
        ConfigError: a key has a value that cannot be used.
        SchemaError: a file is not as docs/data-format.md says.
    """
    files = _files(config)
    roots = [file for file in files if not is_run(file)]
    with values_of("detector"):
        detector = detector_of(config.detector, roots)
    first = files[0] if files[0] in roots else None  # of the schema: it may have sensors and truth
    if first is not None:
        check_same_sensors(first, detector)
    kind, order = (
        config.sensors.parametrisation,
        config.sensors.get("surface_order", 0),
    )  # none in earlier runs
    sensors = SensorLayer.of(detector, "local" if kind == "field" else kind, order)
    fixed = plain(config.sensors.fixed)
    check_arguments(set_free, fixed, "sensors.fixed", {"sensors": sensors, "detector": detector})
    set_free(sensors, detector, **fixed)
    start = torch.zeros(len(detector), 6, dtype=torch.float64)
    volumes: Placed = {}
    if config.sensors.start is not None:
        start = read_start(config.sensors.start, detector)
        volumes = read_start_volumes(config.sensors.start, detector)
        sensors.set_local(start)
    if kind == "field":
        _add_field(sensors, detector, config)
    with values_of("loss"):
        loss = load_loss(config.loss, detector)
    settings = {**data_of(plain(config.data)), "files": files}
    given = {"detector": detector, "seed": config.seed, "runs": runs_of(config)}
    check_arguments(AlignmentData, settings, "data", given)
    others, sets = sets_of(config, detector, given)
    objective = Objective(loss, config.data.get("weight", 1.0), sets, terms_of(config.loss, detector))
    with values_of("data"):
        data = AlignmentData(**given, **settings, others=others)
        data.setup()
    truth = read_misalignment(first, detector) if first and has_misalignment(first) else None
    return AlignmentProblem(detector, sensors, loss, data, truth, start, objective, volumes)


def _add_field(sensors: SensorLayer, detector: Detector, config: DictConfig) -> None:
    options, given = plain(config.sensors.field), {"detector": detector, "seed": config.seed}
    check_arguments(CorrectionField, options, "sensors.field", given)
    with values_of("sensors.field"):
        follow_field(sensors, CorrectionField(**given, **options))


def evaluation_of(problem: AlignmentProblem, settings: DictConfig) -> Evaluation:
    """The evaluation that the key `evaluation` describes, as yet of the places that the run starts from.

    Raises:
        ConfigError: one of its values cannot be used.
    """
    with values_of("evaluation"):
        return Evaluation(
            detector=problem.detector,
            loss=problem.loss,
            tracks=problem.data.selected(settings.part, settings.max_tracks),
            before=problem.start,
            after=problem.start,
            truth=problem.truth,
            aligned=torch.zeros(len(problem.detector), dtype=torch.bool),
            dca_vertex=settings.dca_vertex,
            max_chi2_per_ndf=settings.max_chi2_per_ndf,
            numbers=tuple(settings.numbers),
            decays=plain(settings)["decays"] or {},
            mode_aim=settings.get("mode_aim") or AIM,  # runs of earlier versions have none
        )


def is_first_rank() -> bool:
    """Whether this process is the only one of a run, or the first of several."""
    return not getattr(rank_zero_only, "rank", 0)


def quiet() -> None:
    """Leave out Lightning's advice that does not concern an alignment, and what ranks but the first say."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if not is_first_rank():
        logging.getLogger("alignnet").setLevel(logging.WARNING)
    for message in (
        "The '.*' does not have many workers",
        "The number of training batches",
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory",
        ".*isinstance.treespec, LeafSpec.* is deprecated",
        ".*Trying to infer the `batch_size`",
        "It is recommended to use `self.log.*sync_dist",  # what is logged is summed over ranks already
        "You defined a `validation_step` but have no `val_dataloader`",
        "The dirpath has changed",
        "Be aware that when using `ckpt_path`",
    ):
        warnings.filterwarnings("ignore", message=message)


def _files(config: DictConfig) -> list[str]:
    files = config.data.files
    if not files or not isinstance(files, ListConfig):
        raise ConfigError(
            f"data.files is {files!r}; expected a list of at least one ROOT file: data.files=[FILE,…]"
        )
    names = [str(file) for file in files]
    paths = [tracks_of(Path(name).expanduser()).resolve() for name in names]
    if twice := [name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1]:
        raise ConfigError(f"data.files names {twice[0]} more than once; its tracks would count twice")
    return names


def plain(node: Any) -> dict[str, Any]:
    """The values of a node of the configuration, without Hydra's types."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}
