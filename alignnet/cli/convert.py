"""`alignnet convert`: files of others, checked and written in the format of docs/data-format.md."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from omegaconf import DictConfig

import alignnet
from alignnet.cli.app import command
from alignnet.cli.detector import detector_of
from alignnet.cli.progress import Count, tracked
from alignnet.data.convert import STEP, Content, content_of_csv, content_of_root
from alignnet.data.hit_table import read_sensor_table
from alignnet.data.root import SimulationWriter
from alignnet.data.root_columns import open_root
from alignnet.errors import ConfigError
from alignnet.export.alice import CLASS_NAME, KEYS, read_alice_alignment
from alignnet.export.table import SUFFIXES, write_table
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2

log = logging.getLogger("alignnet.convert")

KINDS = ("root", "csv", "alice")


@command("convert")
def main(config: DictConfig) -> None:
    """Find out what the input is, read it, write it."""
    source, output = (Path(str(config[key])).expanduser() for key in ("input", "output"))
    kind = _kind(config["from"], source)
    _check_suffix(output, SUFFIXES if kind == "alice" else (".root",))
    detector = _detector(config, kind)
    if kind == "alice":
        _write_alignment(source, output, its2() if detector is None else detector)
    elif kind == "root":
        _write_tracks(content_of_root(source, detector, config.data.short_tracks), output)
    else:
        if detector is None:
            raise ConfigError(
                "no detector for the hits: give detector=its2, or detector=file detector.path=FILE.root, or "
                "sensors=FILE.csv with b_z=…"
            )
        _write_tracks(content_of_csv(source, detector, config.data.short_tracks), output)


def _kind(given: str | None, source: Path) -> str:
    """What the input is; where it is not said, by its suffix, and by what a ROOT file has inside."""
    if given is not None and given not in KINDS:
        raise ConfigError(f"from is {given!r}, expected {', '.join(KINDS)}")
    if given is None and source.suffix.lower() not in (".root", ".csv"):
        raise ConfigError(
            f"input is {source}: its suffix does not tell what it is; give from={'|'.join(KINDS)}"
        )
    if given is not None or source.suffix.lower() == ".csv":
        return given or "csv"
    with open_root(source) as file:
        classes = file.classnames(cycle=False)
    objects = [classes[key] for key in KEYS if key in classes]
    return "alice" if any(found.removeprefix("std::") == CLASS_NAME for found in objects) else "root"


def _check_suffix(output: Path, suffixes: tuple[str, ...]) -> None:
    if output.suffix.lower() not in suffixes:
        raise ConfigError(f"output is {output}, expected a name that ends in {' or '.join(suffixes)}")


def _detector(config: DictConfig, kind: str) -> Detector | None:
    """The detector that the keys describe, None where they do not."""
    if config.get("detector") is not None:
        if config.sensors is not None:
            raise ConfigError("both detector and sensors are given; which of them do the hits refer to?")
        return detector_of(config.detector)
    if config.sensors is None:
        given = [key for key in ("scatterers", "b_z", "name") if config[key] is not None]
        if given:
            raise ConfigError(
                f"{given[0]} goes with a table of sensors: give sensors=FILE.csv, or leave it out"
            )
        return None
    return read_sensor_table(config.sensors, _field(config.b_z), config.name, config.scatterers)


def _field(b_z: float | str | None) -> float:
    if isinstance(b_z, bool) or not isinstance(b_z, int | float) or not math.isfinite(b_z):
        found = "null" if b_z is None else repr(b_z)
        raise ConfigError(
            f"b_z is {found}: with sensors=FILE.csv give the field along z in tesla, 0 for none"
        )
    return float(b_z)


def _write_tracks(content: Content, output: Path) -> None:
    detector, local_six, metadata = content.header
    metadata = {**metadata, "converted_by": f"alignnet {alignnet.__version__}"}
    count = Count(detector)
    with SimulationWriter(output, detector, local_six, metadata) as writer:
        for tracks in count.counting(tracked(content.tracks, "tracks", content.n_tracks, STEP, log)):
            writer.append(tracks)
    truth = "with" if local_six is not None else "without"
    log.info("%s, %s true misalignment", count.summary(), truth)
    log.info("written: %s", output)


def _write_alignment(source: Path, output: Path, detector: Detector) -> None:
    local = read_alice_alignment(source, detector)
    nothing = torch.zeros(len(detector), dtype=torch.int64)
    write_table(output, detector, local, None, nothing, nothing)
    moved = int((local != 0).any(-1).sum())
    log.info("alignment of %d of %d sensors of %s", moved, len(detector), detector.name)
    log.info("written: %s", output)


if __name__ == "__main__":
    main()
