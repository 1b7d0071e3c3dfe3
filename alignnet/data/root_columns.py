"""One tree of a ROOT file as numpy columns, every one checked: what cannot be used is a `SchemaError`.

TTrees and RNTuples read alike. Whatever uproot makes of a damaged file (it raises errors of many kinds) ends
up as one error that names the file. Types are checked by kind: any integer where an integer is expected, any
float where a float is, so that float32 positions read, but an energy cannot pass for a sensor number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
import uproot

from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

Kind = Literal["float", "integer"]


@dataclass(frozen=True)
class Origin:
    """Where columns came from (or go to), for messages: file, tree, and the entry number of row 0."""

    path: str
    tree: str
    first: int = 0
    item: str = "hit"  # what the lists of an entry are of

    def error(
        self, branch: str, row: int | None, found: object, expected: str, hit: int | None = None
    ) -> SchemaError:
        """The error for one value: file, tree, branch, entry, hit, what was found and what was expected."""
        where = (
            ""
            if row is None
            else f", entry {self.first + row}" + ("" if hit is None else f", {self.item} {hit}")
        )
        return SchemaError(
            f"{self.path}: tree {self.tree}, branch {branch}{where}: found {found}, expected {expected}"
        )

    def require(
        self, branch: str, good: Array, found: Array, expected: str, offset: Array | None = None
    ) -> None:
        """Raise for the first row where `good` is not true in every component.

        Args:
            branch: name of the branch in the message.
            good: booleans, (rows,) or (rows, components).
            found: the values, same number of rows.
            expected: what a good value is.
            offset: for hits, the first row of each track (tracks + 1,).
        """
        if good.all():
            return
        row = int(np.flatnonzero(~good.reshape(len(good), -1).all(-1))[0])
        value = found[row].tolist()
        if offset is None:
            raise self.error(branch, row, value, expected)
        track = int(np.searchsorted(offset, row, side="right")) - 1
        raise self.error(branch, track, value, expected, hit=row - int(offset[track]))


@contextmanager
def open_root(path: str | Path) -> Iterator[Any]:
    """An open ROOT file (uproot's directory).

    Raises:
        SchemaError: there is no such file, or it is not a ROOT file.
    """
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "no such file"
        raise SchemaError(f"{path}: found {found}, expected a ROOT file; check the name")
    _check_begin(Path(path))
    with damage_named(path):
        # A bare string would be cut at its first ':'; every array is read once, and a cache would keep it.
        file = uproot.open({str(path): None}, array_cache=None)
    with file:
        yield file


def _check_begin(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(20)
    begin = head[:4]
    if begin != b"root":
        found = f"it begins with {begin!r}, expected b'root'" if begin else "it is empty"
        raise SchemaError(f"{path}: cannot be read as a ROOT file: {found}; copy or produce it again")
    large = int.from_bytes(head[4:8], "big") >= 1_000_000  # with 64-bit positions
    end, size = int.from_bytes(head[12 : 20 if large else 16], "big"), path.stat().st_size
    if end > size:
        raise SchemaError(
            f"{path}: cannot be read as a ROOT file: it has {size} bytes and should have {end}, it is "
            "truncated; copy or produce it again"
        )


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Turn whatever uproot raises on bytes that make no sense into a SchemaError."""
    try:
        yield
    except SchemaError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise SchemaError(
            f"{path}: cannot be read as a ROOT file ({type(error).__name__}: {reason}); "
            "it is damaged or truncated: copy or produce it again"
        ) from error


def read_text(path: str | Path, key: str) -> str:
    """The text of a TObjString.

    Raises:
        SchemaError: file, key or text are missing or damaged.
    """
    with open_root(path) as file, damage_named(path):
        if key not in file.keys(cycle=False):
            raise SchemaError(
                f"{path}: found no {key}, expected a TObjString (JSON); add it, see docs/data-format.md"
            )
        text = file[key]
        if not isinstance(text, str):
            raise SchemaError(f"{path}: {key} is a {file.classname_of(key)}, expected a TObjString (JSON)")
        return str(text)


def read_payload(path: str | Path, keys: Sequence[str], class_name: str) -> bytes:
    """The serialised bytes of an object, unpacked, under the first of `keys` that the file has.

    Raises:
        SchemaError: file or object are missing or damaged, or it is of another class.
    """
    with open_root(path) as file, damage_named(path):
        classes = file.classnames(cycle=False)
        found = next((key for key in keys if key in classes), None)
        if found is None:
            raise SchemaError(f"{path}: found only {sorted(classes)}, expected an object {' or '.join(keys)}")
        if classes[found].removeprefix("std::") != class_name:
            raise SchemaError(f"{path}: {found} is a {classes[found]}, expected a {class_name}")
        chunk, cursor = file.key(found).get_uncompressed_chunk_cursor()
        return bytes(chunk.raw_data)[cursor.index :]


def has_tree(path: str | Path, tree: str) -> bool:
    """Whether the file has an object of this name."""
    with open_root(path) as file, damage_named(path):
        return tree in file.keys(cycle=False)


def count_entries(path: str | Path, tree: str) -> int:
    """Number of entries of a tree; SchemaError if there is no such tree or no entry."""
    with open_root(path) as file, damage_named(path):
        return _entries(_tree(file, path, tree), path, tree)


class Table:
    """The wanted branches of one tree, from entry `start` up to `stop`.

    Args:
        path: the file.
        tree: the tree's name.
        required: branches that must be there.
        optional: branches that are read if they are there.
        start, stop: range of entries; all by default.

    Raises:
        SchemaError: file, tree or a required branch is missing, the tree is empty, or the file is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        tree: str,
        required: Sequence[str],
        optional: Sequence[str] = (),
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.origin = Origin(str(path), tree, start)
        with open_root(path) as file, damage_named(path):
            source = _tree(file, path, tree)
            count = _entries(source, path, tree)
            stop = count if stop is None else min(stop, count)
            present = set(source.keys())
            missing = [branch for branch in required if branch not in present]
            if missing:
                raise SchemaError(
                    f"{path}: tree {tree} has no branch {', '.join(missing)}, expected "
                    f"{', '.join(required)}; see docs/data-format.md"
                )
            wanted = [*required, *(branch for branch in optional if branch in present)]
            self._columns = {
                branch: source[branch].array(entry_start=start, entry_stop=stop, library="ak")
                for branch in wanted
            }
        for branch, column in self._columns.items():
            if len(column) != stop - start:
                found = f"{len(column)} entries after {start}"
                raise self.origin.error(branch, None, found, f"{stop - start}; the file is damaged")

    def __contains__(self, branch: str) -> bool:
        return branch in self._columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def numbers(self, branch: str, kind: Kind, size: int = 0) -> Array:
        """A branch as float64 or int64: (entries,), or (entries, size) of a fixed-size array."""
        column = self._columns[branch]
        expected = f"{kind} numbers" if size == 0 else f"arrays of {size} {kind} numbers"
        flat = self._flat(branch, kind, expected, depth=1 if size == 0 else 2)
        if size == 0:
            return flat
        length = np.asarray(ak.num(column, axis=1))
        self.origin.require(branch, length == size, length, f"{size} numbers")
        return flat.reshape(-1, size)

    def jagged(self, branch: str, kind: Kind) -> tuple[Array, Array]:
        """A branch of lists: the length of each, int64 (entries,), and all values, float64 or int64."""
        flat = self._flat(branch, kind, f"lists of {kind} numbers", depth=2)
        return np.asarray(ak.num(self._columns[branch], axis=1)).astype(np.int64), flat

    def text(self, branch: str) -> tuple[str, ...]:
        """A branch of strings."""
        column = self._columns[branch]
        if column.layout.parameter("__array__") != "string":
            raise self.origin.error(branch, None, f"type {_type(column)}", "strings")
        return tuple(column.to_list())

    def _flat(self, branch: str, kind: Kind, expected: str, depth: int) -> Array:
        column = self._columns[branch]
        found = _type(column)
        plain = column.ndim == depth and not any(mark in found for mark in ("string", "{", "?", "union", "["))
        values = np.asarray(ak.flatten(column, axis=None)) if plain else np.zeros(0, dtype=bool)
        if values.dtype.kind not in {"float": "f", "integer": "iu"}[kind]:
            raise self.origin.error(branch, None, f"type {found}", expected)
        return values.astype(np.float64 if kind == "float" else np.int64)


def write_columns(file: Any, tree: str, columns: Mapping[str, Array | Sequence[str]]) -> None:
    """Write a whole TTree into an open ROOT file.

    Args:
        file: uproot's writable file.
        tree: the tree's name.
        columns: numbers (entries,) or (entries, size), or strings.
    """
    data = {name: c if isinstance(c, np.ndarray) else ak.Array(list(c)) for name, c in columns.items()}
    file.mktree(tree, {name: branch_type(column) for name, column in data.items()}).extend(data)


def branch_type(column: Array | ak.Array) -> Any:
    """What `mktree` wants to hear of a column: the type of one entry."""
    if isinstance(column, ak.Array):
        return column.type.content
    return np.dtype((column.dtype, column.shape[1:]))


def _type(column: ak.Array) -> str:
    return str(column.type.content)


def _tree(file: Any, path: str | Path, tree: str) -> Any:
    names = file.classnames(cycle=False)
    if tree not in names:
        raise SchemaError(f"{path}: has no tree {tree}, only {sorted(names)}; see docs/data-format.md")
    source = file[tree]
    if not hasattr(source, "num_entries"):
        raise SchemaError(f"{path}: {tree} is a {names[tree]}, expected a TTree or an RNTuple")
    return source


def _entries(source: Any, path: str | Path, tree: str) -> int:
    count = int(source.num_entries)
    if count <= 0:
        raise SchemaError(f"{path}: tree {tree} is empty, expected at least one entry")
    return count
