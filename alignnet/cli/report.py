"""The report of a run: what the commands know, put together, and where its file is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from alignnet.evaluation.figures import picture_words
from alignnet.evaluation.report.numbers import plural
from alignnet.evaluation.report.page import write_report
from alignnet.evaluation.report.report import Report
from alignnet.geometry.detector import Detector

log = logging.getLogger("alignnet.report")

_LINKS = {
    "../alignment.root": "the answer, tree alignment",
    "../metrics.json": "all numbers of the training and of its evaluation",
    "metrics.json": "numbers of alignnet evaluate",
    "../train.log": "what the training said",
    "../checkpoints/best.ckpt": "checkpoint with the smallest χ²/ndf",
    "../checkpoints/last.ckpt": "checkpoint of the last epoch",
    "../tensorboard": "scalars and figures for TensorBoard",
    "../.hydra/config.yaml": "configuration of the training",
}
OF_TRAINING = ("converged", "convergence", "history")
"""What a report of a later evaluation says of the training."""


def leave_report(
    run: Path,
    metrics: Mapping[str, Any],
    detector: Detector,
    local: Tensor,
    trained: Mapping[str, Any] | None = None,
) -> Path:
    """Write RUN/evaluation/report.html; returns its path.

    Args:
        run: folder of the training run.
        metrics: nested as in metrics.json; `run` is of `alignnet.cli.provenance`.
        detector: the nominal places.
        local: local six of the answer (sensors, 6).
        trained: metrics of the training, where those are of a later evaluation.

    Raises:
        ConfigError: it cannot be written there.
    """
    path = run / "evaluation" / "report.html"
    status = {key: trained[key] for key in OF_TRAINING if key in trained} if trained else {}
    write_report(
        path, Report({**metrics, **status}, detector, local, _what_ran(run, metrics, trained), _links(run))
    )
    log.info("report: %s", path)
    return path


def _what_ran(run: Path, metrics: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    latest: Mapping[str, Any] = metrics.get("run") or {}
    trained = latest if earlier is None else earlier.get("run") or {}
    evaluated = {} if earlier is None else latest
    config = run / ".hydra" / "config.yaml"
    return {
        "title": " · ".join(str(part) for part in ("alignnet", run.resolve(), latest.get("date")) if part),
        "facts": {
            "training": trained.get("command"),
            "trained on": trained.get("date"),
            "evaluation": evaluated.get("command"),
            "evaluated on": evaluated.get("date"),
            "detector": _detector(latest.get("detector") or {}),
            "seed": trained.get("seed"),
            "alignment file": run.resolve() / "alignment.root",
            "machine": _machine(latest.get("machine") or {}),
        },
        "data": latest.get("data"),
        "software": latest.get("software") or {},
        "config": config.read_text(encoding="utf-8") if config.is_file() else None,
    }


def _detector(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    sizes = f"{found['n_sensors']:,} sensors in {found['n_layers']} layers"
    return f"{found['name']}: {sizes}, field {found['b_z_tesla']:g} T"


def _machine(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    cores = f"{plural(found['cores'], 'core')}, {plural(found['threads'], 'thread')} used"
    parts = [found[key] for key in ("name", "processor", "accelerator", "system") if found[key]]
    return ", ".join([*map(str, parts), cores])


def _links(run: Path) -> dict[str, str]:
    """What there is beside the report."""
    folder = run / "evaluation"
    links = {path: words for path, words in _LINKS.items() if (folder / path).exists()}
    for picture in sorted(folder.glob("*.png")):
        links[picture.name] = picture_words(picture.stem)
    return links
