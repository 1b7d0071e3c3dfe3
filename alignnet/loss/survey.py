"""Survey measurements: where volumes or sensors were found, as Gaussian terms of the objective.

A volume's six numbers are those of the rigid motion in its frame that comes nearest, by least squares, to how
its sensors' corners and centres are displaced from the drawing: linear in these displacements, which follow
exactly from the sensors' places. Relative to a parent it is what is left of the displacements when the parent
has been moved by its own six. A measurement of value y and width σ adds ½ ((six − y)/σ)².
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn

from alignnet.data.csv_columns import CsvTable
from alignnet.errors import SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.recovery import displacement, probe_points
from alignnet.geometry.volumes import volume_frames

_COLUMNS = {"name": "text", "dof": "text", "value": "float", "sigma": "float"}


class Survey(nn.Module):
    """The measurements of a file, a term of `loss.terms`.

    The columns of the CSV file are `name`, the symbolic path of a volume or sensor; `dof`, one of du, dv, dw,
    rot_u, rot_v, rot_w; `value` and `sigma` [cm, rad]; and, if there is one, `relative_to`, the path of a
    volume around it, empty for the drawing.

    Args:
        detector: the nominal places.
        file: the CSV file.

    Raises:
        SchemaError: names the line that has an unknown path or degree of freedom, a volume against itself, a
            value that is no number, or a width that is not > 0.
    """

    sensor: Tensor
    row: Tensor
    factor: Tensor
    value: Tensor
    sigma: Tensor

    def __init__(self, detector: Detector, file: str | Path) -> None:
        super().__init__()
        table = CsvTable(file, _COLUMNS, {"relative_to": "text"})  # type: ignore[arg-type]
        self.detector, self.file = detector, Path(file)
        parents = table["relative_to"] if "relative_to" in table else [""] * len(table)
        parts, sigma = [], torch.from_numpy(table["sigma"].copy())
        for i, (name, dof, parent) in enumerate(zip(table["name"], table["dof"], parents, strict=True)):
            value = float(table["value"][i])
            if not (sigma[i] > 0 and isfinite(sigma[i]) and isfinite(value)):
                raise SchemaError(
                    f"{file}, line {table.line[i]}: sigma is {float(sigma[i])} and value {value}, expected "
                    "finite numbers and sigma > 0"
                )
            try:
                parts.append(measured(detector, str(name), str(dof), str(parent) or None))
            except ValueError as error:
                raise SchemaError(f"{file}, line {table.line[i]}: {error}") from None
        count = torch.tensor([len(sensor) for sensor, _ in parts])
        self.register_buffer("sensor", torch.cat([sensor for sensor, _ in parts]))
        self.register_buffer("factor", torch.cat([factor for _, factor in parts]))
        self.register_buffer("row", torch.arange(len(parts)).repeat_interleave(count))
        self.register_buffer("value", torch.from_numpy(table["value"].copy()))
        self.register_buffer("sigma", sigma)

    def forward(self, local: Tensor) -> Tensor:
        """(measured by the sensors − value)/σ of each line (lines,)."""
        moved = displacement(self.detector, local).index_select(0, self.sensor)
        found = torch.zeros_like(self.value).index_add(0, self.row, (moved * self.factor).sum((1, 2)))
        return (found - self.value) / self.sigma


def measured(detector: Detector, name: str, dof: str, parent: str | None = None) -> tuple[Tensor, Tensor]:
    """One of the six of a volume, as a form of its sensors' displacements.

    Args:
        detector: the nominal places.
        name: path of the volume or sensor.
        dof: of `rigid.LOCAL_NAMES`.
        parent: path of a volume around it, whose own motion is taken out.

    Returns:
        Rows of sensors (terms,), and factors of the displacements of their probe points along u, v, w
        (terms, 5, 3).

    Raises:
        ValueError: there is no such path or degree of freedom, or the parent does not hold it.
    """
    if dof not in rigid.LOCAL_NAMES:
        raise ValueError(f"dof is {dof!r}, expected one of {list(rigid.LOCAL_NAMES)}")
    inside = inside_of(detector, name)
    form = _six(detector, inside, inside)[rigid.LOCAL_NAMES.index(dof)]  # (sensors inside, 5, 3), global
    if parent is None:
        return inside, _along_axes(detector, inside, form)
    around = inside_of(detector, parent)
    if len(around) == len(inside) and bool((around == inside).all()):
        raise ValueError(f"{parent!r} holds what {name!r} holds, so that one cannot move against the other")
    if not bool(torch.isin(inside, around).all()):
        raise ValueError(f"{parent!r} is not around {name!r}")
    carried = _motions(detector, around, inside)  # of the parent's six, (sensors inside, 5, 3, 6)
    taken = torch.einsum("spc,spck->k", form, carried)
    other = -torch.einsum("k,kspc->spc", taken, _six(detector, around, around))
    both = torch.cat([_along_axes(detector, inside, form), _along_axes(detector, around, other)])
    return torch.cat([inside, around]), both


def inside_of(detector: Detector, path: str) -> Tensor:
    """Rows of the sensors of a path: the sensor itself, or all in the volume.

    Raises:
        ValueError: there is no such path.
    """
    found = [i for i, name in enumerate(detector.names) if name == path or name.startswith(path + "/")]
    if not found:
        raise ValueError(f"{path!r} is no volume or sensor of {detector.name}, as {detector.names[0]!r} is")
    return torch.tensor(found)


def _points(detector: Detector, rows: Tensor) -> Tensor:
    """Nominal global positions of the probe points (rows, 5, 3)."""
    local = probe_points(detector)[rows]
    return detector.translation[rows, None] + local @ detector.rotation[rows].transpose(-1, -2)


def _frame(detector: Detector, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Axes u, v, w (3, 3), in columns, and the origin of a volume; of a sensor its own."""
    if len(rows) == 1:
        rotation, origin = detector.rotation[rows[0]], detector.translation[rows[0]]
    else:
        group = torch.full((len(detector),), -1).index_fill(0, rows, 0)
        frames = volume_frames(detector, group)
        rotation, origin = frames[0][0], frames[1][0]
    return rotation[:, torch.tensor(rigid.LOCAL_TO_XYZ)], origin


def _motions(detector: Detector, volume: Tensor, rows: Tensor) -> Tensor:
    """Displacements of the probe points of `rows` by the volume's six (rows, 5, 3, 6), to first order."""
    axes, origin = _frame(detector, volume)
    arm = _points(detector, rows) - origin
    turns = torch.linalg.cross(
        axes.T.expand(*arm.shape[:2], 3, 3), arm[..., None, :].expand(*arm.shape[:2], 3, 3)
    )
    return torch.cat([axes.expand(*arm.shape[:2], 3, 3), turns.transpose(-1, -2)], -1)


def _six(detector: Detector, volume: Tensor, rows: Tensor) -> Tensor:
    """The six of the volume by least squares, as forms of the displacements (6, rows, 5, 3)."""
    columns = _motions(detector, volume, rows)
    scale = columns.square().sum((0, 1, 2)).sqrt()
    inverse = torch.linalg.pinv((columns / scale).flatten(0, 2)) / scale[:, None]
    return inverse.view(6, *columns.shape[:3])


def _along_axes(detector: Detector, rows: Tensor, form: Tensor) -> Tensor:
    """A form of global displacements as one of those along each sensor's u, v, w."""
    return form @ detector.rotation[rows][..., torch.tensor(rigid.LOCAL_TO_XYZ)]
