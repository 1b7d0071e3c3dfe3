"""The folder of a training run: what it was started with, and whether it has come to its end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from alignnet.errors import CheckpointError

log = logging.getLogger("alignnet.run_folder")

_SECTIONS = {"data.files": ListConfig, "detector": DictConfig, "sensors": DictConfig}
"""What every configuration of a training has."""


def trained_config(run: Path) -> DictConfig:
    """The configuration of a finished run.

    Relative names of files in it count from the folder that the run was started in; those that are not here
    are changed to be found there.

    Raises:
        CheckpointError: the folder is not one of a run, its configuration is damaged, or the run has left no
            alignment.root.
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
    config = _settings(path)
    for key, kind in _SECTIONS.items():
        if not isinstance(OmegaConf.select(config, key), kind):
            raise CheckpointError(f"{path}: damaged, or not of a training run: it has no {key}")
    home = _started_in(run)
    config.data.files = [_found(str(file), home) for file in config.data.files]
    for one in (config.data.get("sets") or {}).values():
        one.files = [_found(str(file), home) for file in one.files]
    if config.data.get("find") is not None:  # not in runs of earlier versions
        config.data.files, config.data.find = found_files(config, run), None
    if "path" in config.detector:
        config.detector.path = _found(config.detector.path, home)
    config.sensors.start = _found(config.sensors.start, home)
    for key, name in (config.get("o2") or {}).items():
        if isinstance(name, str) and (home / name).exists():  # a file, not a word
            config.o2[key] = _found(name, home)
    return config


def found_files(config: DictConfig, folder: Path) -> list[str]:
    """Names of the files of found tracks in the folder of a run, one for each file of hits."""
    n = len(config.data.files)
    return [str(folder / f"found_tracks{f'_{k}' if n > 1 else ''}.root") for k in range(n)]


def trained_metrics(run: Path) -> dict[str, Any]:
    """What the training of a run has left in metrics.json, empty where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run / "metrics.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = f"is no JSON ({error})" if path.stat().st_size else "is empty"
        raise _damaged(path, why) from error
    if not isinstance(found, dict):
        raise _damaged(path, "has no numbers by their names")
    for key, is_good in _METRICS.items():
        if key in found and not is_good(found[key]):
            raise _damaged(path, f"has a {key} that alignnet train does not write")
    return found


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: damaged, it {why}; remove it to go on without what it says of the training"
    )


def _is_status(value: Any) -> bool:
    return isinstance(value, dict) and "converged" in value and isinstance(value.get("reasons"), list)


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


_METRICS = {"convergence": _is_status, "history": _are_rows}
"""What is used of metrics.json by more than its name."""


def warn_unless_converged(run: Path) -> None:
    """Say so where the training of a run came to its end before its answer had settled.

    Raises:
        CheckpointError: metrics.json is damaged.
    """
    status = trained_metrics(run).get("convergence")
    if status and status["converged"] is False:
        log.warning("%s has not converged: %s", run, "; ".join(map(str, status["reasons"])))


def forget_curves(run: Path) -> None:
    """Remove what an earlier run in the same folder left for TensorBoard, which would draw both as one."""
    for events in (run / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink(missing_ok=True)


def _started_in(run: Path) -> Path:
    """The working directory of the run."""
    path = run / ".hydra" / "hydra.yaml"
    cwd = OmegaConf.select(_settings(path), "hydra.runtime.cwd") if path.is_file() else None
    return Path(cwd or ".")


def _settings(path: Path) -> DictConfig:
    """A file that Hydra has written."""
    try:
        found = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: damaged, it is no YAML ({error})") from error
    if not isinstance(found, DictConfig):
        raise CheckpointError(f"{path}: damaged, expected keys with values")
    return found


def _found(name: str | None, home: Path) -> str | None:
    return str(home / name) if name is not None and not Path(name).exists() else name
