"""Time frames into files with the trees and branches of ALICE O2, written by uproot without ROOT.

What differs from a file of O2: members are branches of their own with a common counter (`nITSTrack`) instead
of a split `std::vector` of objects, so there is no class in the file, and a member that is an array lacks its
length in the name (`ITSTrack.mP` for `ITSTrack.mP[5]`). `TTree::Draw` and uproot read both alike; O2's own
readers, which ask for the vector of objects, read O2's only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import awkward as ak
import numpy as np
import uproot

from alignnet.data.atomic import replacing
from alignnet.data.o2_branches import TREE, Branch, Frames, collection_of
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError


class FrameWriter:
    """A file of time frames that grows by `append`; it gets its name when the block ends without error.

    Args:
        path: the file.
        branches: what every `Frames` has.

    Raises:
        ConfigError: the file cannot be written there.
    """

    def __init__(self, path: str | Path, branches: Sequence[Branch]) -> None:
        self._path, self._branches = Path(path), tuple(branches)

    def __enter__(self) -> FrameWriter:
        with ExitStack() as stack:
            file = stack.enter_context(uproot.recreate(stack.enter_context(replacing(self._path))))
            types = {branch.name: _type(branch) for branch in self._branches}
            self._tree = file.mktree(TREE, types, counter_name=_counter)
            _let_lists_hold_arrays(self._tree)
            self._stack = stack.pop_all()
        return self

    def append(self, frames: Frames) -> None:
        """Write more time frames.

        Raises:
            SchemaError: a branch is missing or of another type.
        """
        columns = {}
        for branch in self._branches:
            values = frames.columns.get(branch.name)
            shape = (branch.size,) if branch.size else ()
            if values is None or values.dtype != np.dtype(branch.dtype) or values.shape[1:] != shape:
                found = "nothing" if values is None else f"{values.dtype} of shape {values.shape}"
                raise SchemaError(f"{self._path}: branch {branch.name}: found {found}, expected {branch}")
            flat = ak.from_numpy(np.ascontiguousarray(values), regulararray=True)
            columns[branch.name] = ak.unflatten(flat, frames.counts[branch.collection])
        counts = {_counter(name): count.astype(np.int32) for name, count in frames.counts.items()}
        wanted = {_counter(branch.name) for branch in self._branches}
        self._tree.extend({**columns, **{name: counts[name] for name in wanted}})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _let_lists_hold_arrays(tree: Any) -> None:
    """Mend what uproot 5.7.7 does to lists of arrays: it says where they begin in arrays, not in numbers."""
    inner = tree._cascading
    write = inner.write_jagged_basket

    def mended(sink: Any, name: str, compression: Any, values: Array, offsets: Array) -> Any:
        if values.ndim == 1 and 0 < offsets[-1] < len(values):
            offsets *= len(values) // int(offsets[-1])
        return write(sink, name, compression, values, offsets)

    inner.write_jagged_basket = mended


def _counter(name: str) -> str:
    return f"n{collection_of(name)}"


def _type(branch: Branch) -> Any:
    number = ak.types.NumpyType(branch.dtype)
    return ak.types.ListType(ak.types.RegularType(number, branch.size) if branch.size else number)
