"""`alignnet` as its process runs it, in the process of the tests: a process imports torch for seconds."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from alignnet.cli.main import main


def called(command: str, *arguments: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that is started in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder), _own_logging():
        patch.setattr(sys, "argv", ["alignnet", command, *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")  # as commands set it, and leave it
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".* found in sys.modules after import of package", RuntimeWarning
            )
            try:
                code = main()
            except SystemExit as end:
                code = int(str(end.code))
    return code, out.getvalue(), err.getvalue()


@contextmanager
def _own_logging() -> Iterator[None]:
    """Loggers without pytest's handlers, for a command to set up; afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in (None, "alignnet", "__main__")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.handlers = []
    try:
        yield
    finally:
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            for handler in each.handlers:
                handler.close()
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)
