"""A cache that is not whole, damaged or of other data is not believed, and a failed write leaves nothing."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cached_tracks import BARREL, assert_same, counted, everything, folders, source_of
from small_detectors import GUN, simulated

from alignnet.data import cache_write
from alignnet.data.cache import cached
from alignnet.data.root_write import write_simulation
from alignnet.data.track_source import root_source
from alignnet.data.tracks import Tracks
from alignnet.errors import ConfigError, SchemaError


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return simulated(BARREL, replace(GUN, n_tracks_per_event=3), 40, hit_efficiency=1.0)


@pytest.fixture
def file(tracks, tmp_path) -> Path:
    write_simulation(tmp_path / "tracks.root", BARREL, tracks, None, {"generator": "gun", "seed": 0})
    return tmp_path / "tracks.root"


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of some ten tracks."""
    monkeypatch.setattr(cache_write, "BLOCK", 10)


class Killed(BaseException):
    """As if the process ended here."""


def test_what_an_interrupted_process_leaves_is_not_used_and_removed(tracks, file, monkeypatch):
    def chunks() -> Iterator[Tracks]:
        yield tracks
        monkeypatch.setattr("alignnet.data.cache.shutil.rmtree", lambda *_, **__: None)  # nor tidied up
        raise Killed

    source = source_of(file, tracks)
    with pytest.raises(Killed):
        cached(source._replace(chunks=chunks), BARREL)
    monkeypatch.undo()
    assert [folder.suffix for folder in folders(file)] == [".partial"]
    os.utime(file, ns=(1, 1))  # another cache is written, beside what is left of the first one
    assert_same(everything(cached(source, BARREL)), tracks)
    assert [folder.suffix for folder in folders(file)] == [""]


def rewritten(folder: Path, change: dict[str, object]) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["identity"] |= change
    (folder / "index.json").write_text(json.dumps(index))


DAMAGE = {
    "without its index": (lambda f: (f / "index.json").unlink(), "is not a whole cache"),
    "index cut": (lambda f: (f / "index.json").write_text('{"rows"'), "is not a whole cache"),
    "index empty": (lambda f: (f / "index.json").write_text("[]"), "is not a whole cache"),
    "column cut": (lambda f: os.truncate(f / "uv.npy", 500), r"uv\.npy: holds"),
    "column missing": (lambda f: (f / "sensor.npy").unlink(), r"sensor\.npy: cannot be read"),
    "another version": (lambda f: rewritten(f, {"version": 7}), "is of version 7, expected 1"),
    "other data": (lambda f: rewritten(f, {"files": []}), "is of other data; it differs in files"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_cache_that_is_not_whole_or_of_other_data_is_written_again(kind, tracks, file, caplog):
    damage, line = DAMAGE[kind]
    source, reads = counted(root_source(file, BARREL))
    damage(cached(source, BARREL).folder)
    with caplog.at_level(logging.INFO, "alignnet.data"):
        again = cached(source, BARREL)
    assert len(reads) == 2
    assert any(re.search(line, message) for message in caplog.messages)
    assert any("it is written again" in message for message in caplog.messages)
    assert_same(everything(again), tracks)


def test_a_flipped_bit_is_seen_when_its_block_is_read(file, small_blocks):
    source = root_source(file, BARREL)
    folder = cached(source, BARREL).folder
    with (folder / "uv.npy").open("r+b") as column:
        column.seek(-3, os.SEEK_END)
        byte = column.read(1)
        column.seek(-3, os.SEEK_END)
        column.write(bytes([byte[0] ^ 4]))
    found = cached(source, BARREL)
    assert len(found.tracks(np.arange(2))) == 6
    with pytest.raises(SchemaError, match=r"cache is damaged: block \d+ of uv .*delete this folder"):
        everything(found)


def test_a_source_that_changes_while_it_is_read_is_an_error(tracks, file):
    def chunks() -> Iterator[Tracks]:
        yield tracks
        os.utime(file, ns=(1, 1))

    with pytest.raises(SchemaError, match="was changed while it was read"):
        cached(source_of(file)._replace(chunks=chunks), BARREL)
    assert folders(file) == []


def test_a_folder_that_cannot_be_written_is_named(file):
    with pytest.raises(
        ConfigError, match=r"cannot write a cache in .*: Not a directory; set data\.cache=DIR"
    ):
        cached(root_source(file, BARREL), BARREL, file)  # root may write anywhere, but not below a file


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_nothing(tracks, file, tmp_path):
    directory = tmp_path / "elsewhere"
    with no_more_than(2000), pytest.raises(ConfigError, match=r"cannot write a cache in .*data\.cache=null"):
        cached(root_source(file, BARREL), BARREL, directory)
    assert not any(path.is_dir() for path in directory.glob("*/*"))
    assert_same(everything(cached(root_source(file, BARREL), BARREL, directory)), tracks)
