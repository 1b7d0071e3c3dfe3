"""A full disk under TensorBoard's file is one error, which names the folder."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from lightning.pytorch.callbacks import LambdaCallback
from tensorboard.summary.writer.record_writer import RecordWriter
from training_runs import OPTIMIZERS, fitted, problem_of

from alignnet.errors import ConfigError
from alignnet.training.board import Board
from alignnet.training.checkpoint import load_checkpoint

FULL = r"cannot write .*tensorboard/?: No space left on device; make room, or write elsewhere"


@pytest.fixture
def full(monkeypatch):
    """Lets so many records pass before the disk is full."""

    def after(n_records):
        written, write = [], RecordWriter.write

        def until_full(self, record):
            written.append(len(record))
            if len(written) > n_records:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(self, record)

        monkeypatch.setattr(RecordWriter, "write", until_full)

    return after


def log_until_it_is_met(board):
    """The thread takes a moment."""
    for step in range(100):
        board.log_metrics({"a": 1.0}, step)
        time.sleep(0.01)


def test_it_is_said_once_and_by_no_thread(tmp_path, full, capfd):
    full(2)
    board = Board(str(tmp_path), name="tensorboard", version="")
    board.log_metrics({"a": 1.0}, 0)
    with pytest.raises(ConfigError, match=FULL):
        log_until_it_is_met(board)
    board.log_metrics({"a": 1.0}, 1)
    board.finalize("failed")
    assert capfd.readouterr().err == ""


def test_other_errors_of_threads_and_of_values_are_still_told(tmp_path, capfd):
    board = Board(str(tmp_path), name="tensorboard", version="")
    with pytest.raises(ValueError, match="you tried to log"):
        board.log_metrics({"a": "a word"}, 0)
    seen = []
    before = threading.excepthook
    threading.excepthook = seen.append
    try:
        Board(str(tmp_path / "other"), name="tensorboard", version="")
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
    assert [arguments.exc_type for arguments in seen] == [ZeroDivisionError]
    board.finalize("success")


def test_a_training_ends_with_the_checkpoints_that_it_had(barrel_file, tmp_path, full):
    fills = LambdaCallback(on_train_epoch_start=lambda trainer, _: trainer.current_epoch == 2 and full(0))
    problem = problem_of(barrel_file, OPTIMIZERS["sgd"])
    with pytest.raises(ConfigError, match=FULL):
        fitted(tmp_path, *problem, epochs=500, callbacks=(fills,))
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] >= 1
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
