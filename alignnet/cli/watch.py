"""`alignnet watch DIR`: files as they appear in a folder, in; constants with intervals of validity, out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from alignnet.cli.app import CONF, command, errors_in_one_line, values_of
from alignnet.cli.arguments import check_arguments
from alignnet.cli.detector import detector_of
from alignnet.cli.o2 import runs_of
from alignnet.cli.sets import load_loss
from alignnet.cli.setup import plain
from alignnet.data.o2_runs import O2Runs, is_run
from alignnet.data.root import check_same_sensors
from alignnet.data.simulate import Simulation
from alignnet.data.sources import ParticleGun
from alignnet.data.track_source import read_sources, root_source
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.export.alice import read_start
from alignnet.geometry.detector import Detector
from alignnet.online.decision import Criterion
from alignnet.online.history import History
from alignnet.online.inbox import Inbox
from alignnet.online.report import write_report
from alignnet.online.watch import Watch
from alignnet.physics.jit import SWITCH
from alignnet.solvers.changes import ChangeSearch
from alignnet.training.intervals import VolumeFit
from alignnet.training.priors import pair
from alignnet.training.robust_schedule import begin_epoch

log = logging.getLogger("alignnet.watch")


@dataclass(frozen=True)
class Keys:
    """The section `watch` of conf/watch.yaml."""

    directory: str
    output: str | None
    pattern: str
    settle: float
    poll: float
    stop_after: int | None
    idle: float | None
    level: str
    dof: list[str]
    events: int | None
    initial: dict[str, float]
    walk: dict[str, float]
    gauge: bool | None
    drifts: bool
    window: int
    scale_errors: bool
    significance: float
    improved: float
    always: bool
    report: bool


@command("watch")
def main(config: DictConfig) -> None:
    """Read the configuration, and take files until told to end."""
    os.environ.setdefault(SWITCH, "on")  # compiled before the first file comes, and kept on disk
    given = plain(config.watch)
    check_arguments(Keys, given, "watch", {})
    keys = Keys(**given)
    inbox = Inbox(Path(keys.directory).expanduser(), keys.pattern, float(keys.settle))
    watch = watch_of(config, keys, inbox)
    try:
        _warm_up(watch.fit)
        log.info("%s: watching %s, constants in %s", watch.fit.detector.name, inbox.folder, watch.folder)
        follow(watch, keys)
    finally:
        watch.close()


def follow(watch: Watch, keys: Keys) -> int:
    """Take files until it is time to end; returns how many."""
    taken, last = 0, time.monotonic()
    while keys.stop_after is None or taken < keys.stop_after:
        new = watch.look(None if keys.stop_after is None else keys.stop_after - taken)
        if new:
            taken, last = taken + new, time.monotonic()
            if keys.report and watch.history.intervals:
                write_report(watch)
        elif keys.idle is not None and time.monotonic() - last >= keys.idle:
            break
        else:
            time.sleep(keys.poll)
    return taken


def watch_of(config: DictConfig, keys: Keys, inbox: Inbox) -> Watch:
    """Everything that a watch is made of.

    Raises:
        ConfigError: a value cannot be used.
        SchemaError: a file of the configuration is not as it should be.
    """
    with values_of("detector"):
        files = [] if config.detector.get("_target_") else sorted(map(str, inbox.folder.glob(keys.pattern)))
        detector = detector_of(config.detector, files)
    start = torch.zeros(len(detector), 6, dtype=torch.float64)
    if config.sensors.start is not None:
        start = read_start(config.sensors.start, detector)
    with values_of("loss"):
        loss = load_loss(config.loss, detector)
    begin_epoch(loss, None)
    fit = VolumeFit(detector, loss, keys.level, start, keys.dof, config.data.batch_size)
    widths = [pair(f"watch.{name}", getattr(keys, name)) for name in ("initial", "walk")]
    assert widths[0] is not None
    assert widths[1] is not None
    gauge = loss.vertex != "given" if keys.gauge is None else keys.gauge
    freedom = fit.freedom(widths[0], widths[1], gauge, keys.drifts)
    if keys.window < 2 or (keys.events is not None and keys.events < 1):
        raise ConfigError(
            f"watch.window is {keys.window} and events {keys.events}; expected ≥ 2, and ≥ 1 or null"
        )
    history = History(ChangeSearch(freedom, keys.significance), keys.window, keys.scale_errors)
    output = inbox.folder / "constants" if keys.output is None else Path(keys.output).expanduser()
    reader = FileReader(detector, runs_of(config), plain(config.data), keys.events)
    criterion = Criterion(keys.significance, keys.improved, keys.always)
    return Watch(inbox, output, fit, history, reader, criterion, _identity(config, keys, detector, start))


@dataclass(frozen=True)
class FileReader:
    """Reads the tracks of a file, those of an interval at a time.

    Args:
        detector: what hits refer to.
        runs: how runs of O2 are read.
        data: section `data` of the configuration.
        events: of an interval, counted by their numbers; None: a file is one.
    """

    detector: Detector
    runs: O2Runs
    data: dict[str, Any]
    events: int | None

    def __call__(self, path: Path) -> Iterator[Tracks]:
        """The tracks, whole events."""
        most, least = self.data["max_tracks"], self.data["min_hits"]
        if is_run(path):
            source = self.runs.source(path, self.detector, most, least)
        else:
            check_same_sensors(path, self.detector)
            source = root_source(path, self.detector, most, least, self.data["short_tracks"])
        tracks = read_sources([source])
        if self.events is None:
            yield tracks
            return
        part = tracks.event // self.events
        for number in dict.fromkeys(part.tolist()):
            yield tracks.select(part == number)


def _identity(config: DictConfig, keys: Keys, detector: Detector, start: torch.Tensor) -> dict[str, Any]:
    """What constants of another start would have to agree with."""
    settings = {
        "loss": plain(config.loss), "data": plain(config.data), "dof": list(keys.dof),
        "initial": keys.initial, "walk": keys.walk, "gauge": keys.gauge, "drifts": keys.drifts,
        "events": keys.events, "window": keys.window, "scale_errors": keys.scale_errors,
        "b_z": detector.b_z,
    }  # fmt: skip
    text = json.dumps(settings, sort_keys=True, default=str)
    return {
        "detector": detector.name,
        "geometry": detector.fingerprint,
        "level": keys.level,
        "start": hashlib.sha256(np.ascontiguousarray(start.numpy()).tobytes()).hexdigest()[:16],
        "settings": text,
    }


def _warm_up(fit: VolumeFit) -> None:
    """Compile what the first file would wait for, on a few tracks from the origin, if any are seen."""
    gun = ParticleGun(n_tracks_per_event=2, pt_min=0.5, eta_max=0.5)
    tracks = Simulation(gun, fit.detector, min_hits=4, seed=1).generate(5)
    if len(tracks):
        fit.linearised(tracks, torch.zeros(len(fit), dtype=torch.float64))


def folder_first(arguments: Sequence[str]) -> list[str]:
    """Arguments in which the folder stands alone, as Hydra wants them."""
    return [f"watch.directory='{a}'" if "=" not in a and not a.startswith("-") else a for a in arguments]


if __name__ == "__main__":
    with errors_in_one_line(CONF, "watch"):
        sys.argv[1:] = folder_first(sys.argv[1:])
    main()
