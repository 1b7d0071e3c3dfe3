"""Generated events in a ROOT file: tree `events` of docs/data-format.md, one entry an event.

Whatever made them can be read, without the generator: `Events` ↔ file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from alignnet.data.atomic import replacing
from alignnet.data.events import Events
from alignnet.data.root_columns import Kind, Origin, Table, branch_type, count_entries
from alignnet.data.tracks import Array
from alignnet.errors import SchemaError

TREE = "events"

_BRANCHES: dict[str, Kind] = {
    "pdg": "integer", "charge": "integer", "mother": "integer", "mass": "float", "x": "float", "y": "float",
    "z": "float", "px": "float", "py": "float", "pz": "float",
}  # fmt: skip
_DTYPE = {"pdg": "int32", "charge": "int8", "mother": "int32"}


def write_events(path: str | Path, events: Events, metadata: Mapping[str, Any]) -> None:
    """Write events and what made them (JSON).

    Raises:
        SchemaError: a particle is not as the schema wants it, or there is no event.
        ConfigError: the file cannot be written there.
    """
    if events.n_events == 0:
        raise SchemaError(f"{path}: no events came, expected at least one; the file is not written")
    _check(events, Origin(str(path), TREE, item="particle"))
    count = np.diff(events.offset)
    flat = {
        "pdg": events.pdg, "charge": events.charge, "mother": events.mother_in_event, "mass": events.mass,
        **dict(zip("xyz", events.position.T, strict=True)),
        **dict(zip(("px", "py", "pz"), events.momentum.T, strict=True)),
    }  # fmt: skip
    lists = {
        name: ak.unflatten(np.ascontiguousarray(column).astype(_DTYPE.get(name, "float64")), count)
        for name, column in flat.items()
    }
    with replacing(path) as temporary, uproot.recreate(temporary) as file:
        file["metadata"] = json.dumps(dict(metadata))
        types = {name: branch_type(column) for name, column in lists.items()}
        tree = file.mktree(TREE, types, counter_name=lambda _: "n_particles")
        tree.extend({"n_particles": count.astype(np.int32), **lists})


def count_events(path: str | Path) -> int:
    """How many events a file has.

    Raises:
        SchemaError: there is no such file, tree or event.
    """
    return count_entries(path, TREE)


def read_events(path: str | Path, start: int = 0, stop: int | None = None) -> Events:
    """Events `start` up to `stop` of a file.

    Raises:
        SchemaError: the file does not follow the schema: names branch, event, particle and what was expected.
    """
    table = Table(path, TREE, tuple(_BRANCHES), (), start, stop)
    origin = replace(table.origin, item="particle")
    count, _ = table.jagged("pdg", "integer")
    offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    columns = {name: _column(table, name, kind, count) for name, kind in _BRANCHES.items()}
    first = np.repeat(offset[:-1], count)
    mother = np.where(columns["mother"] == -1, -1, columns["mother"] + first)
    position, momentum = (
        np.stack([columns[axis] for axis in axes], -1) for axes in (("x", "y", "z"), ("px", "py", "pz"))
    )
    events = Events(offset, columns["pdg"], columns["charge"], columns["mass"], mother, position, momentum)
    _check(events, origin)
    return events


def _column(table: Table, name: str, kind: Kind, count: Array) -> Array:
    length, values = table.jagged(name, kind)
    table.origin.require(name, length == count, length, "as many particles as pdg has")
    return values


def _check(events: Events, origin: Origin) -> None:
    """Raise SchemaError for the first particle that cannot be."""
    mother, below = events.mother_in_event, np.arange(len(events.pdg)) - events.offset[events.event]
    known = (mother >= -1) & (mother < below)
    expected = "-1, or the number in the event of a particle further up"
    origin.require("mother", known, mother, expected, events.offset)
    for names, column in (("x, y, z", events.position), ("px, py, pz", events.momentum)):
        origin.require(names, np.isfinite(column), column, "finite numbers", events.offset)
    good = np.isfinite(events.mass) & (events.mass >= 0)
    origin.require("mass", good, events.mass, "a mass >= 0", events.offset)
    moving = (events.momentum != 0).any(-1)
    origin.require("px, py, pz", moving, events.momentum, "a momentum that is not 0", events.offset)
