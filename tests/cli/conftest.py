"""A finished run of `alignnet train` for tests of the commands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from training_runs import SMALL, finish, run, start, stop


class Trained(NamedTuple):
    """A run and how it came about."""

    folder: Path
    overrides: tuple[str, ...]  # of its first part
    killed: int  # epochs that its checkpoint had when it was killed
    epochs: int
    printed: str  # by its second part


@pytest.fixture(scope="session")
def trained(barrel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that was killed while it trained, and went on: what it leaves is what any run leaves."""
    home = tmp_path_factory.mktemp("commands")
    folder = home / "run"
    options = ("optimizer=preconditioned_sgd", "optimizer.momentum=0.3", "data.max_tracks=300")
    overrides = (f"data.files=[{barrel_file}]", *SMALL[:-2], *SMALL[-1:], "figure_every=2", *options)
    process = start("train", *overrides, f"hydra.run.dir={folder}", "trainer.max_epochs=100000", folder=home)
    last = folder / "checkpoints" / "last.ckpt"
    for _ in range(2400):
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    if process.poll() is not None:
        pytest.fail(f"it ended by itself: {finish(process)}")
    stop(process)
    killed = torch.load(last, weights_only=True)["epoch"] + 1
    printed = run("train", f"resume={folder}", f"trainer.max_epochs={killed + 2}", folder=home)
    return Trained(folder, overrides, killed, killed + 2, printed)
