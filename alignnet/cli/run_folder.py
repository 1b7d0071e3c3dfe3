"""The folder of a training run: what it was started with, and whether it has come to its end."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alignnet.errors import CheckpointError

log = logging.getLogger("alignnet.run_folder")


def trained_config(run: Path) -> DictConfig:
    """The configuration of a finished run.

    Relative names of files in it count from the folder that the run was started in; those that are not here
    are changed to be found there.

    Raises:
        CheckpointError: the folder is not one of a run, or the run has left no alignment.root.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"run is {run}: no such folder; give that of a training run, outputs/train/<date>/<time>"
        )
    path = run / ".hydra" / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run}: not the folder of a training run, it has no .hydra/config.yaml")
    if not (run / "alignment.root").is_file():
        raise CheckpointError(
            f"{run} has no alignment.root: the training has not finished; "
            f"go on with alignnet train resume={run}"
        )
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    home = _started_in(run)
    config.data.files = [_found(str(file), home) for file in config.data.files]
    for one in (config.data.get("sets") or {}).values():
        one.files = [_found(str(file), home) for file in one.files]
    if "path" in config.detector:
        config.detector.path = _found(config.detector.path, home)
    config.sensors.start = _found(config.sensors.start, home)
    for key, name in (config.get("o2") or {}).items():
        if isinstance(name, str) and (home / name).exists():  # a file, not a word
            config.o2[key] = _found(name, home)
    return config


def warn_unless_converged(run: Path) -> None:
    """Say so where the training of a run came to its end before its answer had settled."""
    path = run / "metrics.json"
    status = json.loads(path.read_text()).get("convergence") if path.is_file() else None
    if status and status["converged"] is False:
        log.warning("%s has not converged: %s", run, "; ".join(status["reasons"]))


def forget_curves(run: Path) -> None:
    """Remove what an earlier run in the same folder left for TensorBoard, which would draw both as one."""
    for events in (run / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink(missing_ok=True)


def _started_in(run: Path) -> Path:
    """The working directory of the run."""
    path = run / ".hydra" / "hydra.yaml"
    cwd = OmegaConf.select(OmegaConf.load(path), "hydra.runtime.cwd") if path.is_file() else None
    return Path(cwd or ".")


def _found(name: str | None, home: Path) -> str | None:
    return str(home / name) if name is not None and not Path(name).exists() else name
