"""A cache beside the data: written once, used by any number of processes, and never believed unseen.

A cache appears whole: columns and index are written in a folder of another name, brought to the disk, and the
folder is renamed as the last act. Its name and its index say which data it is of. One process writes while
the others wait; whoever uses a cache holds a shared lock on it, so that nobody takes it away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignnet.data.cache_layout import INDEX, identity, key_of
from alignnet.data.cache_lock import Lock, unwritable
from alignnet.data.cache_read import CachedTracks, open_cache
from alignnet.data.cache_write import CacheWriter
from alignnet.data.memory import trim_memory
from alignnet.data.track_source import TrackSource
from alignnet.data.tracks import Tracks
from alignnet.errors import SchemaError
from alignnet.geometry.detector import Detector

log = logging.getLogger("alignnet.data")

SUFFIX = ".alignnet-cache"
"""Of the folder beside a file in which its caches are."""

_PARTIAL = ".partial"
_LOCK = ".lock"
_INTERVAL = 10.0  # seconds between two lines about how far it is


def cache_folder(source: TrackSource, directory: str | Path | None = None) -> Path:
    """Where the caches of a source are: beside its first file, or in a folder of their own of `directory`."""
    file = source.files[0]
    if directory is None:
        return file.with_name(file.name + SUFFIX)
    place = hashlib.blake2b(str(file.resolve()).encode(), digest_size=4).hexdigest()
    return Path(directory).expanduser() / f"{file.name}-{place}{SUFFIX}"


def cached(source: TrackSource, detector: Detector, directory: str | Path | None = None) -> CachedTracks:
    """The tracks of a source from its cache, which is written if it is not there.

    Caches of the source as it was before are removed, unless another process is using them.

    Args:
        source: what is cached.
        detector: what its hits refer to.
        directory: where caches are kept; by default beside the source.

    Raises:
        SchemaError: the source cannot be read, or has changed meanwhile.
        ConfigError: the cache cannot be written: no permission, no space.
    """
    what = identity(source, detector)
    place = cache_folder(source, directory) / key_of(what)
    lock = Lock(place.with_suffix(_LOCK))
    lock.share()
    try:
        return open_cache(place, what, lock)
    except SchemaError as reason:
        if place.exists():
            log.info("%s; it is written again", reason)
    lock.own()
    try:
        open_cache(place, what)  # another process may have written it meanwhile
    except SchemaError:
        _write(place, source, detector, what)
        _remove_outdated(place, what)
    lock.share()
    return open_cache(place, what, lock)


def _write(place: Path, source: TrackSource, detector: Detector, what: Mapping[str, Any]) -> None:
    """Write a cache in the place of whatever is there; the lock is owned."""
    partial = place.with_suffix(_PARTIAL)
    log.info("writing the cache %s", place)
    start = time.monotonic()
    try:
        _remove(place)
        partial.mkdir()
        with CacheWriter(partial, detector, str(source.files[0])) as writer:
            for tracks in _told(source):
                writer.append(tracks)
            writer.finish(what)
        if identity(source, detector) != what:
            raise SchemaError(f"{source.files[0]}: was changed while it was read; start again")
        _sync(partial)
        partial.rename(place)
        _sync(place.parent)
    except OSError as error:
        raise unwritable(place.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(file.stat().st_size for file in place.iterdir())
    log.info("the cache has %s tracks and %s hits in %.2f GB, written in %.0f s", f"{writer.rows['track']:,}",
             f"{writer.rows['hit']:,}", size / 1e9, time.monotonic() - start)  # fmt: skip


def _told(source: TrackSource) -> Iterator[Tracks]:
    """The chunks of a source; now and then a line says how many tracks were read."""
    count, said = 0, time.monotonic()
    try:
        for tracks in source.chunks():
            yield tracks
            count += len(tracks)
            trim_memory()
            if time.monotonic() - said >= _INTERVAL:
                said = time.monotonic()
                log.info("%s of %s tracks", f"{count:,}", f"{source.n_tracks:,}")
    except OSError as error:
        raise SchemaError(f"{source.files[0]}: cannot be read: {error}") from error


def _remove_outdated(place: Path, what: Mapping[str, Any]) -> None:
    """Remove caches of the files as they were, and interrupted ones, that no process is using."""
    for other in place.parent.iterdir():
        if other == place or not other.is_dir() or not (other.suffix == _PARTIAL or _outdated(other, what)):
            continue
        lock = Lock(other.with_suffix(_LOCK))
        if lock.try_own():
            log.info("removing %s: it is of the data as they were, or was interrupted", other)
            with suppress(OSError):  # somebody else's; it is in nobody's way
                _remove(other)
        lock.close()


def _outdated(folder: Path, what: Mapping[str, Any]) -> bool:
    """Whether a cache is of an earlier version, or one of its files has changed since."""
    try:
        own = json.loads((folder / INDEX).read_text())["identity"]
        now = {file["path"]: file for file in what["files"]}
        return own["version"] < what["version"] or any(
            now.get(file["path"], file) != file for file in own["files"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not one of ours


def _remove(folder: Path) -> None:
    """Remove a cache; what is half removed does not have its name."""
    doomed = folder.with_suffix(_PARTIAL)
    if folder.exists() and folder != doomed:
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
