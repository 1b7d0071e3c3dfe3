"""Files appear whole or not at all: written under a temporary name beside the final one, then renamed."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignnet.errors import ConfigError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk has no room."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def room_named(path: str | Path) -> Iterator[None]:
    """Names what is written in the block where there is no room for it.

    Raises:
        ConfigError: the disk is full, or the user's part of it.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise ConfigError(
                f"cannot write {path}: {error.strerror}; make room, or write elsewhere"
            ) from error
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes the name `path` when the block ends without error.

    The folder is made if need be. After an exception in the block nothing is left, and a file that had this
    name before is untouched.

    Raises:
        ConfigError: the folder cannot be made or written, `path` is a folder, or there is no room for it.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if final.is_dir():
            raise IsADirectoryError("it is a folder")
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise ConfigError(f"cannot write {final}: {error}; choose another name for the output") from error
    try:
        with room_named(final):
            yield temporary
            os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
