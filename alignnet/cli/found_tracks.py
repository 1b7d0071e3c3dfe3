"""`alignnet train data=found_tracks`: tracks are found in the hits of the files first, then align."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from alignnet.cli.detector import detector_of
from alignnet.cli.find import find
from alignnet.cli.run_folder import found_files
from alignnet.cli.setup import plain
from alignnet.data.cache_layout import stamp
from alignnet.data.cache_lock import Lock
from alignnet.data.o2_runs import is_run
from alignnet.data.root import read_metadata
from alignnet.errors import ConfigError
from alignnet.evaluation.summary import write_metrics
from alignnet.training.run import last_checkpoint

log = logging.getLogger("alignnet.find")

FIGURES = "finding.json"
"""Figures of merit of the finding, in the folder of the run."""


def with_found_tracks(config: DictConfig, folder: Path) -> DictConfig:
    """The configuration of a training with found tracks in the place of the hits, which `data.find` asks for.

    They are files in the run's folder, and are found again only where hits, places of sensors or settings are
    others. Of processes that start together one finds them, and the others wait.

    Args:
        config: of `alignnet train`.
        folder: of the run.

    Raises:
        ConfigError: a setting cannot be used, or a file is a run of ALICE O2.
        SchemaError: a file of hits cannot be read.
    """
    if config.data.get("find") is None:
        return config
    hits, config = [Path(str(file)).expanduser() for file in config.data.files], config.copy()
    if runs := [path for path in hits if is_run(path)]:
        raise ConfigError(
            f"data.files has {runs[0]}, a run of ALICE O2; data=found_tracks takes files of "
            "docs/data-format.md"
        )
    config.data.files = found_files(config, folder)
    lock = Lock(folder / ".found_tracks.lock", f"the tracks of {folder}, which it finds")
    lock.own()
    figures = {}
    for path, found in zip(hits, config.data.files, strict=True):
        figures[str(path)] = _found(config, path, Path(found), folder)
    write_metrics(folder / FIGURES, figures)
    lock.close()
    config.data.find = None
    return config


def finding_figures(folder: Path) -> dict[str, Any]:
    """What the finding of a run has come to, `{"finding": {file of hits: {name: number}}}`; empty without."""
    path = folder / FIGURES
    return {"finding": json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}


def _found(config: DictConfig, hits: Path, found: Path, folder: Path) -> dict[str, Any]:
    """Find the tracks of a file, unless they are there; figures of merit."""
    nominal, start = detector_of(config.detector, [str(hits)]), config.sensors.start
    others = [] if start is None else [Path(start).expanduser()]
    if config.data.find.network is not None:
        others.append(last_checkpoint(Path(config.data.find.network).expanduser()))
    made_of = _as_json({"settings": plain(config.data.find), "files": [stamp(p) for p in (hits, *others)]})
    figures = found.with_suffix(".json")
    if found.is_file() and figures.is_file() and read_metadata(found).get("made_of") == made_of:
        log.info("%s: has the tracks of %s already", found, hits)
    else:
        log.info("finding tracks in %s", hits)
        figures.unlink(missing_ok=True)
        write_metrics(figures, find(config.data.find, hits, found, nominal, start, made_of=made_of))
    kept: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    return kept


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
