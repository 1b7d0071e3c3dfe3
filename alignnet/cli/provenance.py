"""What ran: command, date, software, machine and data, for metrics.json and the report."""

from __future__ import annotations

import os
import platform
import shlex
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

import alignnet
from alignnet.cli.setup import AlignmentProblem

_PACKAGES = ("torch", "lightning", "numpy", "scipy", "numba", "uproot", "hydra-core")


def provenance(problem: AlignmentProblem, command: str, seed: int) -> dict[str, Any]:
    """What a command works with, as plain values.

    Args:
        problem: detector and data.
        command: as it was typed.
        seed: of the run.

    Returns:
        `{"command", "date" (UTC), "seed", "detector": {"name", "n_sensors", "n_layers", "b_z_tesla"},
        "data": [{"file", "megabytes", "events", "tracks", "hits"}, …], "software": {name: version},
        "machine": {"name", "system", "processor", "cores", "threads", "accelerator"}}`.
    """
    detector = problem.detector
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "seed": seed,
        "detector": {
            "name": detector.name,
            "n_sensors": len(detector),
            "n_layers": len(detector.layers),
            "b_z_tesla": detector.b_z,
        },
        "data": _data(problem),
        "software": software(),
        "machine": machine(),
    }


def typed(command: str) -> str:
    """A command of this process as it is typed, its overrides quoted for a shell."""
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    return shlex.join(["alignnet", command, *overrides])


def software() -> dict[str, str]:
    """Versions of Python, of alignnet and of what it stands on."""
    found = {"alignnet": alignnet.__version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine, as far as the system tells."""
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _data(problem: AlignmentProblem) -> list[dict[str, Any]]:
    """Files and what was read of each."""
    files = problem.data.files
    return [
        {
            "file": name,
            "megabytes": sum(file.stat().st_size for file in problem.data.files_of(name)) / 2**20,
            **size._asdict(),
        }
        for name, size in zip(files, problem.data.table.sizes(len(files)), strict=True)
    ]
