"""From a configuration to the objects of an alignment, the same for training, evaluation and export."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from alignnet.cli.app import build
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import has_misalignment, read_detector, read_misalignment
from alignnet.data.root_alignment import read_alignment
from alignnet.errors import CheckpointError, ConfigError
from alignnet.evaluation.summary import Evaluation
from alignnet.geometry.detector import Detector
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.constraints import set_free
from alignnet.sensors.sensor import SensorLayer


@dataclass
class AlignmentProblem:
    """Everything that an alignment is made of."""

    detector: Detector
    sensors: SensorLayer
    loss: HelixChi2
    data: AlignmentData
    truth: Tensor | None  # true local six (sensors, 6) where the first file has them
    start: Tensor  # local six that the run starts from


def load_problem(config: DictConfig) -> AlignmentProblem:
    """Build detector, sensors, cost and data of a training configuration.

    Raises:
        ConfigError: a key has a value that cannot be used.
        SchemaError: a file is not as docs/data-format.md says.
    """
    files = [str(file) for file in config.data.files]
    if not files:
        raise ConfigError("data.files is empty; give at least one ROOT file: data.files=[FILE,…]")
    detector = load_detector(config.detector, files)
    sensors = SensorLayer.of(detector, config.sensors.parametrisation)
    set_free(sensors, detector, **_plain(config.sensors.fixed))
    start = torch.zeros(len(detector), 6, dtype=torch.float64)
    if config.sensors.start is not None:
        start = read_alignment(config.sensors.start, detector)
        sensors.set_local(start)
    loss = load_loss(config.loss, detector)
    data = AlignmentData(detector=detector, seed=config.seed, **{**_plain(config.data), "files": files})
    truth = read_misalignment(files[0], detector) if has_misalignment(files[0]) else None
    return AlignmentProblem(detector, sensors, loss, data, truth, start)


def load_detector(node: DictConfig, files: list[str]) -> Detector:
    """The detector of a configuration; `detector=file` reads the `sensors` tree of detector.path."""
    if node.get("_target_") is not None:
        detector: Detector = build(node)
        return detector
    return read_detector(node.path or files[0], node.get("name"))


def load_loss(node: DictConfig, detector: Detector) -> HelixChi2:
    """The cost of a configuration."""
    noise = build(node.noise, detector=detector)
    loss: HelixChi2 = build(
        OmegaConf.masked_copy(node, [k for k in node if k not in ("noise", "weights")]),
        detector=detector,
        noise=noise,
        weights=build(node.weights),
    )
    return loss


def run_config(run: str | Path) -> DictConfig:
    """The configuration that a training run was started with.

    Raises:
        CheckpointError: the folder is not one of a run.
    """
    path = Path(run) / ".hydra" / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run}: not the folder of a training run, it has no .hydra/config.yaml")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def evaluation_of(
    problem: AlignmentProblem, after: Tensor, aligned: Tensor, draws: list[Tensor], settings: DictConfig
) -> Evaluation:
    """The evaluation that the key `evaluation` describes."""
    return Evaluation(
        problem.detector,
        problem.loss,
        problem.data.selected(settings.part, settings.max_tracks),
        problem.start,
        after,
        problem.truth,
        aligned,
        draws,
        settings.dca_vertex,
        settings.max_chi2_per_ndf,
    )


def quiet() -> None:
    """Leave out Lightning's advice that does not concern an alignment."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "The '.*' does not have many workers",
        "The number of training batches",
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory",
        ".*isinstance.treespec, LeafSpec.* is deprecated",
        ".*Trying to infer the `batch_size`",
        "You defined a `validation_step` but have no `val_dataloader`",
        "The dirpath has changed",
        "Be aware that when using `ckpt_path`",
    ):
        warnings.filterwarnings("ignore", message=message)


def _plain(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}
