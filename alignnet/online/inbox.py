"""The folder that files appear in: which are there, which are complete, and which is which.

A file is looked at once nothing has been written to it for a while; one that another program writes under a
name of its own and renames is complete at once, but for that while. Names that begin with a dot, and suffixes
of downloads, are left alone. Its identity is the hash of its content, whatever it is called.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from alignnet.data.o2_runs import TRACKS
from alignnet.errors import ConfigError

UNFINISHED = (".partial", ".part", ".tmp", ".crdownload", ".filepart")


@dataclass(frozen=True)
class Arrival:
    """A file, or a run of ALICE O2 with the files in its folder."""

    path: Path
    files: tuple[Path, ...]
    size: int
    changed: int  # last change [ns since 1970]

    @property
    def mark(self) -> tuple[str, int, int]:
        """Name, size and time: what says without reading that it is the same."""
        return self.path.name, self.size, self.changed

    def is_as_before(self) -> bool:
        """Whether it is still what it was."""
        again = arrival(self.path)
        return again is not None and again.mark == self.mark

    def digest(self) -> str:
        """SHA-256 of the content."""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    total.update(block)
        return total.hexdigest()


class Inbox:
    """What appears in a folder.

    Args:
        folder: that is watched.
        pattern: of the names, as a shell's; runs of O2 are folders.
        settle: seconds without a change after which a file is complete.

    Raises:
        ConfigError: there is no such folder, or a value cannot be used.
    """

    def __init__(self, folder: Path, pattern: str = "*.root", settle: float = 2.0) -> None:
        if not folder.is_dir():
            raise ConfigError(f"watch.directory is {folder}: no such folder; make it, or give another one")
        if not settle >= 0:
            raise ConfigError(f"watch.settle is {settle}; expected seconds ≥ 0")
        self.folder, self.pattern, self.settle = folder, pattern, settle

    def ready(self) -> list[Arrival]:
        """What is complete, in the order of names."""
        before = time.time_ns() - int(self.settle * 1e9)
        found = (arrival(path) for path in sorted(self.folder.iterdir()) if self._is_one(path))
        return [one for one in found if one is not None and one.changed <= before]

    def _is_one(self, path: Path) -> bool:
        if path.name.startswith(".") or path.suffix in UNFINISHED:
            return False
        return (path / TRACKS).is_file() if path.is_dir() else path.match(self.pattern)


def arrival(path: Path) -> Arrival | None:
    """What is there under a name; None where it is gone."""
    try:
        files = sorted(path.glob("*.*")) if path.is_dir() else [path]
        states = [file.stat() for file in files]
    except OSError:
        return None
    if not states:
        return None
    size = sum(state.st_size for state in states)
    return Arrival(path, tuple(files), size, max(state.st_mtime_ns for state in states))
