"""Files and folders that are there whole, or not at all, even if the process or the machine stops in between.

What a rename makes visible has been written to the disk before, and the rename itself after it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignnet.data.atomic import replacing


def write_durably(path: Path, content: bytes) -> None:
    """Write a file; one of that name is replaced.

    Raises:
        ConfigError: it cannot be written there.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object the same way."""
    write_durably(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """A folder with what `fill` writes into it; one that is there already stays as it is.

    Args:
        path: of the folder.
        fill: is given a folder of another name beside it.
    """
    if path.is_dir():
        return
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    fill(temporary)
    for file in temporary.iterdir():
        _sync(file)
    sync_folder(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def point_to(link: Path, target: Path) -> None:
    """Let a symbolic link lead to a file or folder beside it or below; it leads somewhere at every moment."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.relative_to(link.parent))
    os.replace(temporary, link)
    sync_folder(link.parent)


def sync_folder(path: Path) -> None:
    """Names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
