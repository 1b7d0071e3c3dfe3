"""A finished run of `alignnet train`, a short one, and what any command says of what it refuses."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from training_runs import SMALL, finish, run, start, stop

from alignnet.cli.app import CONF, errors_in_one_line
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import read_detector


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


@pytest.fixture(scope="session")
def few(barrel_file: Path) -> tuple[str, ...]:
    """Overrides by which two ranks get unequal shares of every batch, and one of them none of the last."""
    split, size, n_tracks = "[0.8,0.1,0.1]", 3, 95
    data = AlignmentData([str(barrel_file)], read_detector(barrel_file), max_tracks=n_tracks, seed=1)
    data.setup()
    n_events = len(data.rows["train"])
    assert n_events % size == 1
    options = (
        f"data.files=[{barrel_file}]",
        *SMALL,
        f"data.batch_size={size}",
        f"data.max_tracks={n_tracks}",
    )
    return (*[o for o in options if o != "data.batch_size=20"], f"data.split={split}", "trainer.max_epochs=2")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command (a function of its name) says of arguments that it refuses: one line, exit code 2."""

    def line_of(command: Callable[..., object], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [command.__name__])
        with pytest.raises(SystemExit) as exit_code, errors_in_one_line(CONF, command.__name__):
            command(*arguments)
        assert exit_code.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("alignnet: error: ")
        assert line.endswith("\n")
        assert line.count("\n") == 1
        return line.removeprefix("alignnet: error: ").removesuffix("\n")

    return line_of
