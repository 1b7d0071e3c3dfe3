"""Writing the schema of docs/data-format.md: TTrees that uproot, RDataFrame and `TTree::Draw` read.

Files appear whole or not at all (`atomic.replacing`), and what is written has passed the same checks as what
is read. The lists of a track share one counter branch, `n_hits`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import awkward as ak
import numpy as np
import uproot
from torch import Tensor

from alignnet.data.atomic import replacing
from alignnet.data.check import check_tracks
from alignnet.data.noise import NoiseHits
from alignnet.data.root_alignment import checked_local, identifiers
from alignnet.data.root_columns import Origin, branch_type, write_columns
from alignnet.data.root_motion import motion_of, write_motion
from alignnet.data.root_noise import append_noise
from alignnet.data.tracks import Array, Tracks
from alignnet.errors import SchemaError
from alignnet.geometry.detector import Detector
from alignnet.geometry.motion import Step
from alignnet.geometry.surface import column_names

SCHEMA = 1
"""Version of the schema, in `metadata`."""

BASKET = 100_000
"""Tracks that are compressed together; a reader of a range unpacks whole baskets."""

UNITS = "cm, GeV/c, rad, T"

_DTYPE = {
    "event": "int64", "vertex": "float64", "vertex_cov": "float64", "p": "float32", "mass": "float32",
    "kind": "int8", "truth_position": "float64", "truth_momentum": "float64", "truth_q": "int8",
    "truth_pdg": "int32", "truth_vertex": "float64", "truth_mother": "int32", "truth_mother_pdg": "int32",
    "hit_sensor": "int32", "hit_u": "float64", "hit_v": "float64",
    "hit_sigma_u": "float32", "hit_sigma_v": "float32", "truth_hit_u": "float64", "truth_hit_v": "float64",
}  # fmt: skip


def write_simulation(
    path: str | Path,
    detector: Detector,
    tracks: Tracks,
    local_six: Tensor | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write one file with detector, tracks and true misalignment; arguments as for `SimulationWriter`."""
    with SimulationWriter(path, detector, local_six, metadata) as writer:
        writer.append(tracks)


class SimulationWriter:
    """A file of tracks that grows by `append`, so that a simulation may be larger than memory.

    with SimulationWriter("its2.root", detector, local_six, {"generator": "gun", "seed": 1}) as writer:
        for tracks in chunks:
            writer.append(tracks)

    The file gets its name when the block ends; after an exception there is none, nor a temporary file.

    Args:
        path: the file to write.
        detector: at its nominal places; its sensors, scatterers, name and field are written.
        local_six: the true misalignment (sensors, 6), with amplitudes of surfaces after it or without, or
            None for data whose truth is not known.
        metadata: `generator` and `seed`, and anything else that JSON can hold. Schema version, detector,
            field and units are filled in.

    Raises:
        SchemaError: metadata or tracks are not as the schema wants them, or no tracks came.
        GeometryError: the misalignment does not fit the detector.
        ConfigError: the file cannot be written there.
    """

    def __init__(
        self, path: str | Path, detector: Detector, local_six: Tensor | None, metadata: Mapping[str, Any]
    ) -> None:
        self._path, self._detector = Path(path), detector
        self._metadata = _complete(self._path, detector, metadata)
        self._local = None if local_six is None else checked_local(detector, local_six).numpy()
        self._columns: tuple[str, ...] = ()
        self._written = 0
        self._noise: Any = None  # its tree
        self._steps: list[Step] = []

    def __enter__(self) -> SimulationWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._path))
            self._file = stack.enter_context(uproot.recreate(temporary))
            self._file["metadata"] = self._metadata
            write_sensors(self._file, self._detector)
            if self._local is not None:
                write_columns(self._file, "misalignment", _misalignment(self._detector, self._local))
            self._stack = stack.pop_all()
        return self

    def append(self, tracks: Tracks) -> None:
        """Write more tracks, with the same columns as the first ones; no tracks is no error.

        Raises:
            SchemaError: the columns differ from the first ones', or `check_tracks` finds a fault.
        """
        for start in range(0, len(tracks), BASKET):
            self._append(tracks.select(np.arange(start, min(start + BASKET, len(tracks)))))

    def append_noise(self, noise: NoiseHits) -> None:
        """Write more hits that belong to no track (tree `noise`), of events after those that came before."""
        if len(noise):
            self._noise = append_noise(self._file, self._noise, noise, self._detector)

    def append_motion(self, steps: Sequence[Step]) -> None:
        """Write how far volumes had moved (tree `motion`), of events after those that came before."""
        self._steps += steps

    def _append(self, tracks: Tracks) -> None:
        origin = Origin(str(self._path), "tracks", self._written)
        check_tracks(tracks, origin)
        columns = _track_columns(tracks, self._detector, origin)
        if not self._columns:
            self._columns = tuple(columns)
            types = {name: branch_type(column) for name, column in columns.items()}
            self._tree = self._file.mktree("tracks", types, counter_name=lambda _: "n_hits")
        if tuple(columns) != self._columns:
            differ = sorted(set(columns) ^ set(self._columns))
            raise SchemaError(
                f"{self._path}: appended tracks differ in {differ}, expected {list(self._columns)}"
            )
        self._tree.extend({"n_hits": tracks.hits_per_track.astype(np.int32), **columns})
        self._written += len(tracks)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._written == 0:
            error = SchemaError(
                f"{self._path}: no tracks came, expected at least one; the file is not written"
            )
            self._stack.__exit__(SchemaError, error, None)
            raise error
        if kind is None:
            write_motion(self._file, motion_of(self._steps))
        self._stack.__exit__(kind, error, trace)


def write_sensors(file: Any, detector: Detector) -> None:
    """Write trees `sensors` and, where there are any, `scatterers` into an open ROOT file."""
    n = len(detector)
    columns: dict[str, Array | Sequence[str]] = {
        "sensor_id": identifiers(detector),
        "name": detector.names,
        "layer": detector.layer.numpy().astype(np.int32),
        "rotation": detector.rotation.reshape(n, 9).numpy(),
        "translation": detector.translation.numpy(),
        "half_u": detector.half[:, 0].numpy(),
        "half_v": detector.half[:, 1].numpy(),
        "centre_u": detector.centre[:, 0].numpy(),
        "centre_v": detector.centre[:, 1].numpy(),
        "x_over_x0": detector.x_over_x0.numpy().astype(np.float32),
        "curvature_radius": detector.curvature_radius.numpy(),
    }
    write_columns(file, "sensors", columns)
    if len(detector.scatterers):
        passive = detector.scatterers
        names = ("radius", "half_z", "x_over_x0")
        write_columns(file, "scatterers", {name: getattr(passive, name).numpy() for name in names})


def _complete(path: Path, detector: Detector, metadata: Mapping[str, Any]) -> str:
    missing = [key for key in ("generator", "seed") if key not in metadata]
    if missing:
        raise SchemaError(
            f"{path}: metadata lacks {missing}; say what made the tracks (seed None where there is none)"
        )
    own = {"schema": SCHEMA, "detector": detector.name, "b_z_tesla": float(detector.b_z), "units": UNITS}
    try:
        return json.dumps({**metadata, **own}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{path}: metadata cannot be written as JSON: {error}") from error


def _misalignment(detector: Detector, local: Array) -> dict[str, Array]:
    return {
        "sensor_id": identifiers(detector),
        **{name: local[:, i] for i, name in enumerate(column_names(local.shape[1]))},
    }


def _track_columns(tracks: Tracks, detector: Detector, origin: Origin) -> dict[str, Any]:
    known = (tracks.sensor >= 0) & (tracks.sensor < len(detector))
    expected = f"rows of detector {detector.name}, 0 to {len(detector) - 1}"
    origin.require("hit_sensor", known, tracks.sensor, expected, tracks.offset)
    names = ("event", "vertex", "vertex_cov", "p", "mass", "kind")
    flat = {name: column for name in names if (column := getattr(tracks, name)) is not None}
    flat |= {f"truth_{name}": column for name, column in sorted(tracks.truth.items()) if name != "hit_uv"}
    hits = {"hit_sensor": detector.sensor_id.numpy()[tracks.sensor]}
    hits |= _split("hit_", tracks.uv) | _split("hit_sigma_", tracks.sigma)
    if "hit_uv" in tracks.truth:
        hits |= _split("truth_hit_", tracks.truth["hit_uv"])
    unknown = sorted(set(flat) - set(_DTYPE))
    if unknown:
        raise SchemaError(f"{origin.path}: tracks have {unknown}, which the schema has no branch for")
    count = tracks.hits_per_track
    lists = {name: ak.unflatten(column.astype(_DTYPE[name]), count) for name, column in hits.items()}
    return {name: column.astype(_DTYPE[name]) for name, column in flat.items()} | lists


def _split(prefix: str, column: Array) -> dict[str, Array]:
    return {f"{prefix}u": column[:, 0], f"{prefix}v": column[:, 1]}
