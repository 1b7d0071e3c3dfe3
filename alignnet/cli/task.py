"""What `alignnet train` trains: the places of sensors, or a system that finds tracks.

The two have nothing in common but the command's name, so each has a configuration and a file of its own;
which one is meant is read from the command line, before anything is imported for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

TASKS = {"alignment": "train", "trackfinding": "trackfinding"}
"""The file of alignnet/cli/ and the configuration of each task."""


def file_of(command: str, arguments: Sequence[str]) -> str:
    """The file of alignnet/cli/ for a command.

    A training's task is that of `task=NAME`, or else of `experiment=NAME/…`, or else that of the run that
    `resume=DIR` continues; without any of these, and for a name that there is not, it is the alignment.
    """
    if command != "train":
        return command
    task = _task(arguments)
    if task is None and (run := _value(arguments, r"resume=(.+)")):
        task = _task(_overrides(Path(run.strip("'\""))))
    return TASKS.get(task or "alignment", "train")


def as_typed(config_name: str) -> str:
    """The command line, after `alignnet`, that a configuration belongs to."""
    return "train task=trackfinding" if config_name == "trackfinding" else config_name


def _task(arguments: Sequence[str]) -> str | None:
    return _value(arguments, r"\+*task=(\w+)") or _value(arguments, r"\+*experiment=(\w+)/.*")


def _overrides(run: Path) -> list[str]:
    path = run / ".hydra" / "overrides.yaml"
    text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
    lines = text.splitlines()
    return [line.removeprefix("- ") for line in lines]


def _value(arguments: Sequence[str], pattern: str) -> str | None:
    found = (re.fullmatch(pattern, argument) for argument in arguments)
    return next((match[1] for match in found if match), None)
