"""`alignnet export`: the alignment of a training run in the formats of others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from alignnet.cli.app import command
from alignnet.cli.detector import detector_of
from alignnet.cli.progress import tracked
from alignnet.cli.run_folder import trained_config, warn_unless_converged
from alignnet.data.mille_write import MilleWriter
from alignnet.data.root_alignment import AlignmentTable, read_alignment_table
from alignnet.data.tracks import Array
from alignnet.errors import ConfigError, SchemaError
from alignnet.export.alice import hierarchy_params, read_start_volumes, write_alice, write_align_params
from alignnet.export.mille_tracks import BATCH, iterate_records
from alignnet.export.millepede import sensor_labels, write_result, write_steering
from alignnet.export.table import SUFFIXES, write_table
from alignnet.geometry.detector import Detector

log = logging.getLogger("alignnet.export")

FORMATS = ("alice", "table", "millepede")
OBJECTS = ("sensors", "levels")
DENSE = 6000
"""Parameters up to which Millepede inverts the matrix; beyond, it solves iteratively."""


@command("export")
def main(config: DictConfig) -> None:
    """Read the run, write its alignment."""
    run, output = (Path(str(config[key])).expanduser() for key in ("run", "output"))
    _check(config, run, output)
    trained = trained_config(run)
    warn_unless_converged(run)
    if output.resolve() in [Path(file).resolve() for file in trained.data.files]:
        raise ConfigError(f"output is {output}, the run's own tracks; choose another name")
    detector = detector_of(trained.detector, trained.data.files)
    table = _in_order(run / "alignment.root", detector)
    local, error = torch.from_numpy(table.local), torch.from_numpy(table.error)
    if config.format == "alice":
        if not detector.names[0].startswith("ITS/ITSU"):
            log.warning("%s has names like %s: not those of ALICE", detector.name, detector.names[0])
        if config.objects == "levels":
            volumes = read_start_volumes(run / "alignment.root", detector)
            write_align_params(output, hierarchy_params(detector, local, volumes))
        else:
            write_alice(output, detector, local)
    elif config.format == "table":
        kind = int(table.error_kind[0])
        write_table(output, detector, local, error, table.n_hits, table.status, kind)
    else:
        fixed = np.where(_fixed(table), -1.0, 0.0)
        write_result(
            output, sensor_labels(detector, table.local.shape[1]), table.local, fixed, error=table.error
        )
    log.info("%s: %d sensors aligned, %d fixed, %d with too few hits",
             detector.name, *(int((table.status == status).sum()) for status in (0, 1, 2)))  # fmt: skip
    log.info("written: %s", output)
    if config.mille is not None:
        _write_tracks(Path(str(config.mille)).expanduser(), trained, table)


def _check(config: DictConfig, run: Path, output: Path) -> None:
    """Refuse what cannot be exported, before anything is read."""
    if config.format not in FORMATS:
        raise ConfigError(f"format is {config.format!r}, expected {', '.join(FORMATS)}")
    suffixes = {"alice": (".root",), "table": SUFFIXES}.get(config.format)
    if suffixes is not None and output.suffix.lower() not in suffixes:
        raise ConfigError(f"output is {output}, expected a name that ends in {' or '.join(suffixes)}")
    if config.objects not in OBJECTS:
        raise ConfigError(f"objects is {config.objects!r}, expected {' or '.join(OBJECTS)}")
    if config.objects != OBJECTS[0] and config.format != "alice":
        raise ConfigError(f"objects={config.objects} is for format=alice, not for format={config.format}")
    if config.mille is not None and config.format != "millepede":
        raise ConfigError(f"mille={config.mille} goes with format=millepede, not with {config.format}")
    if config.mille is not None and str(config.mille).endswith(".txt"):
        raise ConfigError(f"mille is {config.mille}: pede takes .txt for steering; choose another name")
    if config.mille is not None:
        mille = Path(str(config.mille)).expanduser().resolve()
        if output.resolve() in (mille, _steering_of(mille)):
            raise ConfigError(f"mille is {config.mille}: it or its steering text is output; choose another")
    if output.resolve() == (run / "alignment.root").resolve():
        raise ConfigError(f"output is {output}, the run's own answer; choose another name")


def _steering_of(mille: Path) -> Path:
    """The steering text that is written with a Mille file."""
    return mille.with_name(mille.name.removesuffix(".gz")).with_suffix(".txt")


def _in_order(path: Path, detector: Detector) -> AlignmentTable:
    """The run's answer with one row for each sensor of the detector, in its order."""
    table = read_alignment_table(path)
    rows = detector.rows(table.sensor_id)
    if len(rows) != len(detector) or not np.array_equal(np.sort(rows), np.arange(len(detector))):
        raise SchemaError(
            f"{path}: has {len(rows)} sensors that are not the {len(detector)} of detector {detector.name}; "
            "was the detector's file changed after the training?"
        )
    order = np.argsort(rows)
    name = tuple(table.name[i] for i in order)
    columns = {key: getattr(table, key)[order] for key in table._fields if key != "name"}
    return AlignmentTable(name=name, **columns)


def _fixed(table: AlignmentTable) -> Array:
    """Degrees of freedom that the training kept where they were (sensors, 6): they have an error of 0."""
    fixed: Array = (table.status == 1)[:, None] | (table.error == 0)
    return fixed


def _write_tracks(path: Path, trained: DictConfig, table: AlignmentTable) -> None:
    """The training's tracks for Millepede, and the steering to solve them with."""
    from alignnet.cli.setup import load_problem  # with Lightning, which takes seconds and only this needs

    problem = load_problem(trained)
    n_tracks = problem.data.part_size("train")
    labels, fixed = sensor_labels(problem.detector, table.local.shape[1]), _fixed(table)
    steering = _steering_of(path)
    count, seen = 0, np.zeros(labels.max() + 1, dtype=bool)
    with MilleWriter(path) as writer:
        parts = (
            records
            for tracks in problem.data.chunks("train")
            for records in iterate_records(
                tracks, problem.detector, torch.from_numpy(table.local), problem.loss
            )
        )
        for records in tracked(parts, "tracks", n_tracks, BATCH, log):
            writer.append(records)
            count += len(records)
            seen[records.global_label] = True
    fixed |= ~seen[labels]  # what no record knows is no parameter
    method = "method inversion 3 0.01" if np.count_nonzero(~fixed) <= DENSE else "method sparseMINRES 3 0.01"
    write_steering(
        steering, [path.name], labels, fixed, start=np.where(fixed, table.local, 0.0),
        options=(method, "countrecords", "entries 10 5", "hugecut 1e7"),
    )  # fmt: skip
    log.info("written: %s (%d of %d tracks), %s", path, count, n_tracks, steering)


if __name__ == "__main__":
    main()
