"""What has been done, a line each: a checksum and a JSON object, on the disk when `append` returns.

    8f3c61aa {"kind": "taken", …}

A line that a process left half-written when it was killed is the last one; it is cut off, as what it told of
counts as not done. A damaged line anywhere else is an error.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from alignnet.errors import CheckpointError
from alignnet.online.durable import sync_folder

Record = dict[str, Any]


class Journal:
    """The journal of a file, which is made if need be.

    Args:
        path: the file.

    Attributes:
        records: all that it says, in order.

    Raises:
        CheckpointError: it is damaged before its last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        sync_folder(path.parent)
        self.records = self._read()

    def append(self, record: Record) -> None:
        """Say what has been done."""
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)
        self.records.append(json.loads(text))

    def close(self) -> None:
        """Nothing more will be said."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self) -> list[Record]:
        content = self.path.read_bytes()
        records: list[Record] = []
        done = 0
        for line in content.splitlines(keepends=True):
            record = _parsed(line)
            if record is None:
                break
            records.append(record)
            done += len(line)
        rest = content[done:]
        if rest.count(b"\n") > (1 if rest.endswith(b"\n") else 0):
            raise CheckpointError(
                f"{self.path}: line {len(records) + 1} is damaged, and more follow; bring the journal back "
                "from a copy, or start anew with another watch.output"
            )
        if rest:
            os.ftruncate(self._file, done)
            os.fsync(self._file)
        return records


def _parsed(line: bytes) -> Record | None:
    """The object of a line; None where it is not whole."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != f"{zlib.crc32(text):08x}".encode():
        return None
    found = json.loads(text)
    return found if isinstance(found, dict) else None
