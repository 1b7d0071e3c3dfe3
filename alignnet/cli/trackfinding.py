"""`alignnet train task=trackfinding`: train a system that finds tracks, and score it beside the baselines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import lightning as L
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alignnet.cli.app import CONF, build, command, errors_in_one_line, values_of
from alignnet.cli.arguments import check_arguments
from alignnet.cli.provenance import machine, software, typed
from alignnet.cli.resume import continued
from alignnet.cli.run_folder import forget_curves
from alignnet.cli.setup import is_first_rank, plain, quiet
from alignnet.data.memory import peak_memory_mb
from alignnet.errors import ConfigError
from alignnet.evaluation.summary import write_metrics
from alignnet.trackfinding.data import TrackfindingData
from alignnet.trackfinding.module import TrackFinder
from alignnet.trackfinding.run import Baseline, LearningMonitor, baseline_figures, make_trainer, tested
from alignnet.trackfinding.systems.lstm_layer import n_parameters
from alignnet.training.checkpoint import load_checkpoint
from alignnet.training.run import last_checkpoint

log = logging.getLogger("alignnet.trackfinding")

Section = dict[str, Any]


@dataclass(frozen=True)
class Trackfinding:
    """conf/trackfinding.yaml; what has a `_target_` is checked by what it builds."""

    task: Literal["trackfinding"]
    seed: int
    figure_every: int
    data: Section
    optimizer: Section
    cosine: bool
    trainer: Section
    toy: Section
    system: Section
    objective: Section
    row: str | None = None
    resume: str | None = None
    filters: int | None = None
    test_backgrounds: list[float] = field(default_factory=list)
    printed: dict[str, float] = field(default_factory=dict)
    baselines: Section = field(default_factory=dict)


@command("trackfinding")
def main(config: DictConfig) -> None:
    """Build toy, system and objective; train; test; leave metrics.json."""
    quiet()
    start = time.perf_counter()
    check(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with values_of("seed"):
        L.seed_everything(config.seed, workers=True, verbose=False)
    checkpoint = None if config.resume is None else last_checkpoint(Path(config.resume))
    if checkpoint is None and is_first_rank():
        forget_curves(folder)
    data = TrackfindingData(build(config.toy), seed=config.seed, **plain(config.data))
    module = TrackFinder(
        build(config.system), build(config.objective), build(config.optimizer), config.cosine
    )
    baselines = {name: build(node) for name, node in config.baselines.items()}
    monitor = LearningMonitor(config.figure_every, config.filters)
    trainer = make_trainer(folder, plain(config.trainer), monitor)
    log.info("%s: %s, %d parameters", config.row or "a system", type(module.system).__name__,
             n_parameters(module.system))  # fmt: skip
    if checkpoint is not None:
        load_checkpoint(checkpoint)  # refused here where it is damaged
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    figures = tested(trainer, module, data)
    elsewhere = by_background(config, trainer, module, baselines)  # by all ranks, as all that is tested
    if not trainer.is_global_zero:
        return
    metrics = {
        "row": config.row,
        "system": type(module.system).__name__,
        "parameters": n_parameters(module.system),
        "training_events": module.events,
        "cpu_minutes": monitor.cpu_seconds / 60,
        "test_events": config.data.test,
        "test": figures,
        "printed": plain(config.printed),
        "baselines": baseline_figures(baselines, module.objective, data),
        "by_background": elsewhere,
        "history": monitor.history,
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_mb(),
        "run": {
            "command": typed("train"),
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "seed": config.seed,
            "software": software(),
            "machine": machine(),
        },
    }
    write_metrics(folder / "metrics.json", metrics)
    for name, values in {"test": figures, **metrics["baselines"]}.items():
        log.info("%s: %s", name, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    log.info("metrics: %s", folder / "metrics.json")


def by_background(
    config: DictConfig, trainer: L.Trainer, module: TrackFinder, baselines: Mapping[str, Baseline]
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of merit of the system and of the baselines at each of `test_backgrounds`."""
    found = {}
    for background in config.test_backgrounds:
        toy = config.toy.copy()
        toy.background = background
        data = TrackfindingData(build(toy), seed=config.seed, **plain(config.data))
        own = {"system": tested(trainer, module, data)}
        found[f"{background:g}"] = own | baseline_figures(baselines, module.objective, data)
    return found


def check(config: DictConfig) -> None:
    """Refuse what would not be read, or could not.

    Raises:
        ConfigError: no row or system is chosen, an unknown key, or a value of the wrong kind; names it.
    """
    if any(config.get(key) is None for key in ("toy", "system", "objective")):
        rows = sorted(path.stem for path in Path(CONF, "experiment", "trackfinding").glob("*.yaml"))
        raise ConfigError(
            "nothing to train: toy, system and objective are needed; choose a row, "
            f"experiment=trackfinding/NAME, of {', '.join(rows)}"
        )
    values = plain(config)
    check_arguments(Trackfinding, values, "", {})
    if values["test_backgrounds"] and "background" not in values["toy"]:
        raise ConfigError(
            f"test_backgrounds is {values['test_backgrounds']}, but this toy has no background tracks; "
            "choose toy=planes or another with toy.background"
        )
    check_arguments(TrackfindingData, values["data"], "data")
    check_arguments(L.Trainer, values["trainer"], "trainer")


if __name__ == "__main__":
    with errors_in_one_line(CONF, "trackfinding"):
        sys.argv[1:] = continued(sys.argv[1:])
    main()
