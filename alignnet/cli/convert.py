"""`alignnet convert`: files of others, checked and written in the format of docs/data-format.md."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

import alignnet
from alignnet.cli import decays
from alignnet.cli.app import command
from alignnet.cli.detector import detector_of
from alignnet.cli.o2 import runs_of
from alignnet.cli.progress import Count, tracked
from alignnet.data.convert import Content, content_of_csv, content_of_o2, content_of_root
from alignnet.data.hit_table import read_sensor_table
from alignnet.data.o2_branches import TREE
from alignnet.data.o2_output import O2Writer
from alignnet.data.o2_pixels import Boxes, Pixels, SubPixels
from alignnet.data.root import SimulationWriter
from alignnet.data.root_columns import has_tree
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError
from alignnet.export.alice import is_alice, read_alice_alignment
from alignnet.export.table import SUFFIXES, write_table
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2

log = logging.getLogger("alignnet.convert")

KINDS = ("root", "csv", "alice", "o2", "decays")
TARGETS = ("root", "o2")


@command("convert")
def main(config: DictConfig) -> None:
    """Find out what the input is, read it, write it."""
    source, output = (Path(str(config[key])).expanduser() for key in ("input", "output"))
    kind = _kind(config["from"], source)
    targets = ("root",) if kind in ("alice", "decays") else TARGETS
    if config.to not in targets:
        raise ConfigError(f"to is {config.to!r}, expected {' or '.join(targets)}")
    if kind == "decays":
        _write_decays(config, source, output)
        return
    decays.refuse_decay(config)
    if config.to == "root":
        _check_suffix(output, SUFFIXES if kind == "alice" else (".root",))
    detector = _detector(config, kind)
    if kind == "alice":
        _write_alignment(source, output, its2() if detector is None else detector)
    elif config.to == "o2":
        _write_o2(
            _content(config, kind, source, detector),
            output,
            SubPixels() if not config.o2.patterns else Boxes(),
        )
    else:
        _write_tracks(_content(config, kind, source, detector), output)


def _content(config: DictConfig, kind: str, source: Path, detector: Detector | None) -> Content:
    """The tracks of the input."""
    if kind == "root":
        return content_of_root(source, detector, config.data.short_tracks)
    if kind == "o2":
        runs = runs_of(config)
        chips = its2() if detector is None else detector
        return content_of_o2(runs.run(source), chips, runs.selection, _unassociated(config))
    if detector is None:
        raise ConfigError(
            "no detector for the hits: give detector=its2, or detector=file detector.path=FILE.root, or "
            "sensors=FILE.csv with b_z=…"
        )
    return content_of_csv(source, detector, config.data.short_tracks)


def _unassociated(config: DictConfig) -> bool:
    """Whether clusters of no track are wanted."""
    wanted = config.o2.unassociated
    if not isinstance(wanted, bool) or (wanted and config.to != "root"):
        raise ConfigError(f"o2.unassociated is {wanted!r}, expected true (with to=root) or false")
    return wanted


def _kind(given: str | None, source: Path) -> str:
    """What the input is; where it is not said, by its suffix, and by what a ROOT file has inside."""
    if given is not None and given not in KINDS:
        raise ConfigError(f"from is {given!r}, expected {', '.join(KINDS)}")
    if given is None and source.is_dir():
        return "o2"
    if given is None and source.suffix.lower() not in (".root", ".csv"):
        absent = "" if source.exists() else " (there is no such file or folder)"
        raise ConfigError(
            f"input is {source}: its suffix does not tell what it is{absent}; give from={'|'.join(KINDS)}"
        )
    if given is not None or source.suffix.lower() == ".csv":
        return given or "csv"
    if has_tree(source, TREE):
        return "o2"
    return "alice" if is_alice(source) else "root"


def _check_suffix(output: Path, suffixes: tuple[str, ...]) -> None:
    if output.suffix.lower() not in suffixes:
        raise ConfigError(f"output is {output}, expected a name that ends in {' or '.join(suffixes)}")


def _detector(config: DictConfig, kind: str) -> Detector | None:
    """The detector that the keys describe, None where they do not."""
    if config.sensors is not None:
        if config.get("detector") is not None:
            raise ConfigError("both detector and sensors are given; which of them do the hits refer to?")
        return read_sensor_table(config.sensors, _field(config.b_z), config.name, config.scatterers)
    given = [key for key in ("scatterers", "b_z", "name") if config[key] is not None]
    if given:
        chips = kind == "o2" or config.get("detector") is not None
        field = "; the field of ITS2 is detector=its2 detector.b_z=…" if given[0] == "b_z" and chips else ""
        raise ConfigError(
            f"{given[0]} goes with a table of sensors: give sensors=FILE.csv, or leave it out{field}"
        )
    return None if config.get("detector") is None else detector_of(config.detector)


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
        for tracks in count.counting(_tracked(content)):
            writer.append(tracks)
        for noise in () if content.noise is None else content.noise():
            writer.append_noise(noise)
    truth = "with" if local_six is not None else "without"
    log.info("%s, %s true misalignment", count.summary(), truth)
    log.info("written: %s", output)


def _write_decays(config: DictConfig, source: Path, output: Path) -> None:
    """The pairs of a decay among the tracks of a file of any kind that has tracks."""
    _check_suffix(output, (".root",))
    if output.resolve() == source.resolve():
        raise ConfigError(f"output is {output}, the file of the tracks; choose another name")
    kind = _kind(None, source)
    if kind == "alice":
        raise ConfigError(f"{source}: has alignment objects, expected tracks to look for decays in")
    if _unassociated(config):
        raise ConfigError("o2.unassociated=true: a file of decays has no clusters of no track; leave it out")
    content, tally = decays.pairs_of(config, _content(config, kind, source, _detector(config, kind)))
    _write_tracks(content, output)
    decays.report(tally)


def _write_o2(content: Content, folder: Path, pixels: Pixels) -> None:
    count = Count(content.detector)
    with O2Writer(folder, content.detector, pixels) as writer:
        for tracks in count.counting(_tracked(content)):
            writer.append(tracks, None if content.noise_of is None else content.noise_of(tracks.event))
    log.info("%s", count.summary())
    log.info("written: %s", ", ".join(str(path) for path in writer.written))


def _tracked(content: Content) -> Iterator[Tracks]:
    return tracked(content.tracks, content.unit, content.total, content.step, log)


def _write_alignment(source: Path, output: Path, detector: Detector) -> None:
    local = read_alice_alignment(source, detector)
    nothing = torch.zeros(len(detector), dtype=torch.int64)
    write_table(output, detector, local, None, nothing, nothing)
    moved = int((local != 0).any(-1).sum())
    log.info("alignment of %d of %d sensors of %s", moved, len(detector), detector.name)
    log.info("written: %s", output)


if __name__ == "__main__":
    main()
