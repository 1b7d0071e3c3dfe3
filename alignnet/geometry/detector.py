"""The detector: a frozen table of sensors at their nominal places, and the hierarchy that their names spell.

    global = rotation · local + translation

The columns of `rotation` are the global directions of local x (u), y (the normal, w) and z (v); the sensitive
plane is y = 0, or, where `curvature_radius` is not 0, a sheet that is bent about local z and touches it at
the local origin (`geometry.surface`). The active area is `half` = (half_u, half_v) around `centre` =
(centre_u, centre_v). A sensor's `name` is its symbolic path, parents separated by `/`; everything known about
half-barrels, staves and modules is read from there, so that any detector with such names has a hierarchy.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from alignnet.errors import GeometryError
from alignnet.geometry.surface import Surface, curvature_of


@dataclass(frozen=True)
class Scatterers:
    """Passive cylinders around the z axis, for example a beam pipe; each field has shape (cylinders,)."""

    radius: Tensor  # [cm]
    half_z: Tensor  # [cm]
    x_over_x0: Tensor  # radiation lengths at normal incidence

    @classmethod
    def none(cls) -> Scatterers:
        """No passive material."""
        empty = torch.zeros(0, dtype=torch.float64)
        return cls(empty, empty.clone(), empty.clone())

    def __len__(self) -> int:
        return len(self.radius)


@dataclass(frozen=True)
class Detector:
    """Sensors at their nominal places, in sensor order; tensors are float64 (lengths in cm) or int64.

    Args:
        name: what a report calls the detector.
        sensor_id: unique identifiers, shape (sensors,); hits in files refer to them.
        names: unique symbolic paths.
        layer: layer number of each sensor, shape (sensors,).
        rotation: local → global rotations, shape (sensors, 3, 3).
        translation: global positions of the local origins, shape (sensors, 3).
        half: half-lengths of the active areas along u and v, shape (sensors, 2).
        centre: local (u, v) of the active areas' centres, shape (sensors, 2).
        x_over_x0: material at normal incidence, shape (sensors,).
        curvature_radius: 0 for a flat sensor, else the radius of its bend about local z, shape (sensors,);
            > 0 towards w, < 0 away from it. u is then the length along the arc.
        b_z: field along z [T].
        scatterers: passive cylinders.
        deformation: amplitudes of the Legendre modes of the surfaces [cm], shape (sensors, modes), of a
            detector as it really stands; None for none.

    Raises:
        GeometryError: shapes disagree, an identifier or a name occurs twice, a rotation is not orthogonal, a
            bent sensor overlaps itself, or a number is not finite.
    """

    name: str
    sensor_id: Tensor
    names: tuple[str, ...]
    layer: Tensor
    rotation: Tensor
    translation: Tensor
    half: Tensor
    centre: Tensor
    x_over_x0: Tensor
    curvature_radius: Tensor
    b_z: float = 0.0
    scatterers: Scatterers = field(default_factory=Scatterers.none)
    deformation: Tensor | None = None

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.sensor_id)

    @property
    def layers(self) -> list[int]:
        """The layer numbers, ascending."""
        return sorted(set(self.layer.tolist()))

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        ids = self.sensor_id.numpy()
        order = np.argsort(ids, kind="stable")
        return ids[order], order

    def rows(self, sensor_id: np.ndarray) -> np.ndarray:
        """Rows in this table of the given identifiers; −1 where the detector has no such sensor."""
        ids, order = self._order
        where = np.searchsorted(ids, sensor_id).clip(max=len(ids) - 1)
        return np.where(ids[where] == sensor_id, order[where], -1)

    def groups(self, level: str) -> tuple[Tensor, tuple[str, ...]]:
        """Which volume of a hierarchy level each sensor belongs to.

        Args:
            level: a word of the names without its number, for example "Stave" matches "ITSUStave3"; the level
                is the path up to and including that word. "sensor" is the sensor itself, "all" the whole
                detector.

        Returns:
            The group index of each sensor, shape (sensors,), −1 where its path has no such level, and the
            groups' symbolic paths in order of first appearance.

        Raises:
            GeometryError: no sensor has this level.
        """
        wanted = level.replace("_", "").lower()
        paths = [_path_to(name, wanted) for name in self.names]
        known = list(dict.fromkeys(path for path in paths if path is not None))
        if not known:
            raise GeometryError(f"detector {self.name} has no level {level!r}; its levels are {self.levels}")
        index = {path: i for i, path in enumerate(known)}
        rows = [-1 if path is None else index[path] for path in paths]
        return torch.tensor(rows, dtype=torch.int64), tuple(known)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """The words of the hierarchy that `groups` accepts, coarsest first.

        The root that all names share ("ITS") is left out: it is "all".
        """
        words = dict.fromkeys(_word(part) for name in self._examples for part in name.split("/")[:-1])
        roots = {name.split("/")[0] for name in self.names}
        if len(roots) == 1 and not (root := roots.pop())[-1:].isdigit():
            words.pop(_word(root), None)
        ordered = sorted(words, key=lambda word: min(_depth(name, word) for name in self._examples))
        return ("all", *ordered, "sensor")

    @cached_property
    def _examples(self) -> list[str]:
        return list({"/".join(_word(p) for p in n.split("/")): n for n in self.names}.values())

    def placed(self, rotation: Tensor, translation: Tensor) -> Detector:
        """The same detector with its sensors at other places."""
        return replace(self, rotation=rotation, translation=translation)

    def part(self, rows: Tensor) -> Detector:
        """The detector of these sensors alone, with all passive cylinders.

        Args:
            rows: of the sensors, int64 (n,).
        """
        per_sensor = ("sensor_id", "layer", "rotation", "translation", "half", "centre", "x_over_x0",
                      "curvature_radius")  # fmt: skip
        columns = {name: getattr(self, name)[rows] for name in per_sensor}
        deformation = None if self.deformation is None else self.deformation[rows]
        names = tuple(self.names[row] for row in rows.tolist())
        return replace(self, names=names, deformation=deformation, **columns)

    @cached_property
    def surface(self) -> Surface:
        """Shapes of the sensors' sheets."""
        none = self.half.new_zeros(len(self), 0)
        amplitude = none if self.deformation is None else self.deformation
        return Surface(curvature_of(self.curvature_radius), self.half, self.centre, amplitude)

    @cached_property
    def curved(self) -> Tensor:
        """Which sensors are bent or deformed (sensors,)."""
        return (self.surface.curvature != 0) | (self.surface.amplitude != 0).any(-1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names and nominal places (rounded to 1 nm): what a checkpoint must agree with."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for tensor in (self.rotation, self.translation, self.half):
            digest.update(np.round(tensor.numpy() * 1e7).astype(np.int64).tobytes())
        if (self.curvature_radius != 0).any():
            digest.update(np.round(self.curvature_radius.numpy() * 1e7).astype(np.int64).tobytes())
        return digest.hexdigest()[:16]


@lru_cache(maxsize=1 << 16)  # the same few words stand in thousands of names
def _word(part: str) -> str:
    """A path element without its numbers and its upper-case detector prefix: "ITSULayer0" → "Layer"."""
    bare = re.sub(r"\d+$", "", part)
    return re.sub(r"^[A-Z]+(?=[A-Z][a-z])", "", bare)


@lru_cache(maxsize=1 << 16)
def _key(part: str) -> str:
    """What a level is compared by: "ITSUHalfBarrel1" → "halfbarrel", as "half_barrel" is too."""
    return _word(part).replace("_", "").lower()


def _path_to(name: str, wanted: str) -> str | None:
    if wanted in ("sensor", "all"):
        return name if wanted == "sensor" else ""
    parts = name.split("/")
    for i, part in enumerate(parts):
        if _key(part) == wanted:
            return "/".join(parts[: i + 1])
    return None


def _depth(name: str, word: str) -> float:
    words = [_word(part) for part in name.split("/")]
    return words.index(word) if word in words else float("inf")


def _check_shapes(detector: Detector) -> None:
    n = len(detector.sensor_id)
    shapes: dict[str, Sequence[int]] = {
        "sensor_id": (n,), "layer": (n,), "rotation": (n, 3, 3), "translation": (n, 3), "half": (n, 2),
        "centre": (n, 2), "x_over_x0": (n,), "curvature_radius": (n,),
    }  # fmt: skip
    if detector.deformation is not None:
        shapes["deformation"] = (n, detector.deformation.shape[-1])
    for key, shape in shapes.items():
        found = tuple(getattr(detector, key).shape)
        if found != tuple(shape):
            raise GeometryError(f"detector {detector.name}: {key} has shape {found}, expected {tuple(shape)}")
    if n == 0 or len(detector.names) != n:
        raise GeometryError(
            f"detector {detector.name}: {len(detector.names)} names for {n} sensors, expected one each"
        )


def _check_values(detector: Detector) -> None:
    if not isinstance(detector.b_z, int | float) or not math.isfinite(detector.b_z):
        raise GeometryError(f"detector {detector.name}: b_z is {detector.b_z!r}, expected a number in tesla")
    if len(set(detector.names)) != len(detector.names):
        raise GeometryError(f"detector {detector.name}: names are not unique")
    if len(torch.unique(detector.sensor_id)) != len(detector):
        raise GeometryError(f"detector {detector.name}: sensor_id is not unique")
    for key in ("rotation", "translation", "half", "centre", "x_over_x0", "curvature_radius"):
        bad = ~torch.isfinite(getattr(detector, key)).reshape(len(detector), -1).all(-1)
        if bad.any():
            raise GeometryError(
                f"detector {detector.name}: {key} of sensor {_first(detector, bad)} is not finite"
            )
    product = detector.rotation @ detector.rotation.transpose(-1, -2)
    skew = (product - torch.eye(3, dtype=product.dtype)).abs().amax((-1, -2)) > 1e-6
    if skew.any():
        raise GeometryError(
            f"detector {detector.name}: rotation of sensor {_first(detector, skew)} is not orthogonal"
        )
    flat = (detector.half <= 0).any(-1)
    if flat.any():
        raise GeometryError(
            f"detector {detector.name}: half-lengths of sensor {_first(detector, flat)} are not > 0"
        )
    reach = detector.half[:, 0] + detector.centre[:, 0].abs()
    around = (detector.curvature_radius != 0) & (reach >= torch.pi * detector.curvature_radius.abs())
    if around.any():
        name, row = _first(detector, around), int(around.nonzero()[0])
        raise GeometryError(
            f"detector {detector.name}: sensor {name} is bent to a radius of "
            f"{float(detector.curvature_radius[row]):g} cm and reaches {float(reach[row]):g} cm along it, "
            "expected less than half of the circumference"
        )


def _first(detector: Detector, bad: Tensor) -> str:
    return detector.names[int(bad.nonzero()[0])]
