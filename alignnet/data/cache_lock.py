"""Who may write a cache, and who is using it: advisory locks of files, let go of when a process ends."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

from alignnet.errors import ConfigError

log = logging.getLogger("alignnet.data")

_PAUSE = 0.1  # seconds between two tries


class Lock:
    """A lock on a file, which is made if need be: shared by readers, or owned by a writer.

    Args:
        path: beside what it is for; stays there, empty.
        what: it is for, as a person would call it; default: the cache of this name.

    Raises:
        ConfigError: it can neither be made nor opened.
    """

    def __init__(self, path: Path, what: str | None = None) -> None:
        self.path, self.writable = path, True
        self.what = what or f"the cache {path.with_suffix('')}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self.writable = False
            try:
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                raise unwritable(path.parent, error) from error

    def share(self) -> None:
        """Wait until nobody owns it."""
        self._wait(fcntl.LOCK_SH)

    def own(self) -> None:
        """Wait until nobody else has it at all."""
        self._wait(fcntl.LOCK_EX)

    def try_own(self) -> bool:
        """Own it, if that can be at once."""
        return self._try(fcntl.LOCK_EX)

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConfigError(
                f"cannot lock {self.path}: {error.strerror}; set data.cache=DIR to a folder of a local disk"
            ) from error
        return True

    def _wait(self, kind: int) -> None:
        if self._try(kind):
            return
        doing = "is writing" if kind == fcntl.LOCK_SH else "has"
        log.info("another process %s %s; waiting for it", doing, self.what)
        while not self._try(kind):
            time.sleep(_PAUSE)


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """The error of a folder in which no cache can be written."""
    return ConfigError(
        f"cannot write a cache in {folder}: {error.strerror or error}; set data.cache=DIR to a folder with "
        "room for it, or data.cache=null to read the tracks into memory"
    )
