"""`alignnet evaluate`: how good an alignment is, in numbers, tables and pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from alignnet.cli.app import command
from alignnet.cli.provenance import provenance, typed
from alignnet.cli.report import leave_report
from alignnet.cli.run_folder import trained_config, trained_metrics, warn_unless_converged
from alignnet.cli.sensor_answer import sensor_answer
from alignnet.cli.setup import evaluation_of, load_problem, plain, quiet
from alignnet.data.memory import peak_memory_mb
from alignnet.data.root_alignment import read_alignment, read_alignment_table
from alignnet.evaluation.numbers import DEFAULT_NUMBERS
from alignnet.evaluation.stream import events_of
from alignnet.evaluation.summary import report, write_metrics
from alignnet.evaluation.weak_modes import moved_by, with_truth
from alignnet.export.alice import read_start_volumes
from alignnet.geometry.detector import Detector
from alignnet.training.answer import ALIGNED, FIXED

OF_TRAINING = ("errors", "pulls", "spectrum", "weak_modes", "volumes")
"""What training found of the answer's errors, whichever tracks are evaluated."""

log = logging.getLogger("alignnet.evaluate")


@command("evaluate")
def main(config: DictConfig) -> None:
    """Evaluate the alignment of a training run, on its own files or on others."""
    quiet()
    start = time.perf_counter()
    run = Path(config.run)
    settings = trained_config(run)
    warn_unless_converged(run)
    if config.data.files:
        if settings.detector.get("path", "") is None:
            settings.detector.path = settings.data.files[0]  # of which the run took its detector
        settings.data.files = config.data.files
    settings.evaluation.report = config.evaluation.report  # runs of earlier versions have none
    settings.evaluation.setdefault("numbers", list(DEFAULT_NUMBERS))  # runs of earlier versions have none
    settings.evaluation.decays = settings.evaluation.get("decays") or None  # an empty section takes no names
    for key in ("o2", "selection"):
        settings[key] = OmegaConf.merge(settings.get(key) or {}, _given(plain(config[key])))
    OmegaConf.set_struct(settings, True)  # a misspelt +evaluation.part is an error
    settings.evaluation = OmegaConf.merge(settings.evaluation, _given(plain(config.evaluation)))
    problem = load_problem(settings)
    local = read_alignment(run / "alignment.root", problem.detector)
    volumes = read_start_volumes(run / "alignment.root", problem.detector).values()
    answer = sensor_answer(problem, settings, local, volumes, _answer(run, problem.detector))
    evaluation = replace(
        evaluation_of(problem, settings.evaluation),
        after=local,
        aligned=answer.status == ALIGNED,
        answer=answer,
    )
    trained = trained_metrics(run)
    n_tracks = events_of(evaluation.tracks, problem.detector).n_tracks
    log.info("%s: %d sensors, evaluating %s tracks from %s", problem.detector.name, len(problem.detector),
             f"{n_tracks:,}", ", ".join(problem.data.files))  # fmt: skip
    metrics = evaluation.run(run / "evaluation", trained.get("history", []))
    metrics |= _limits(trained, metrics)
    metrics |= {key: trained[key] for key in OF_TRAINING if key in trained}
    if evaluation.truth is not None and metrics.get("weak_modes"):
        metrics["weak_modes"] = with_truth(
            metrics["weak_modes"],
            problem.detector,
            moved_by(evaluation.before, local),
            evaluation.before,
            evaluation.truth,
        )
    metrics |= {"seconds": time.perf_counter() - start, "peak_memory_mb": peak_memory_mb()}
    metrics["run"] = provenance(problem, typed("evaluate"), settings.seed)
    write_metrics(run / "evaluation" / "metrics.json", metrics)
    report(metrics, run / "evaluation")
    if settings.evaluation.report:
        leave_report(run, metrics, problem.detector, local, trained)


def _given(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the user has set of a section: not what is ???, which is as the run had it."""
    given = {}
    for key, value in section.items():
        inner = _given(value) if isinstance(value, Mapping) else value
        if value != "???" and (inner == value or inner):
            given[key] = inner
    return given


def _answer(run: Path, detector: Detector) -> tuple[Tensor, Tensor, Tensor]:
    """Hits, status and errors of tree `alignment` by sensor; those without a row are fixed."""
    table, n = read_alignment_table(run / "alignment.root"), len(detector)
    rows = detector.rows(table.sensor_id)
    n_hits, status = torch.zeros(n, dtype=torch.int64), torch.full((n,), FIXED, dtype=torch.int8)
    error = torch.full((n, table.error.shape[1]), torch.nan, dtype=torch.float64)
    n_hits[rows], status[rows] = torch.from_numpy(table.n_hits), torch.from_numpy(table.status)
    error[rows] = torch.from_numpy(table.error)
    return n_hits, status, error


def _limits(trained: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Truth recovery with the statistical limits that training found on its tracks."""
    merged: dict[str, Any] = {}
    for kind in ("truth", "truth_rigid_only", "truth_layer_rigid"):
        now, then = metrics.get(kind), trained.get(kind)
        if now and then:
            merged[kind] = {layer: _with_limit(rows, then.get(layer, {})) for layer, rows in now.items()}
    return merged


def _with_limit(rows: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    limits = ("limit_um", "limit_spread_um", "efficiency")
    known = {c: {k: trained.get(c, {}).get(k) for k in limits} for c in rows}
    return {c: {**row, **known[c]} for c, row in rows.items()}


if __name__ == "__main__":
    main()
