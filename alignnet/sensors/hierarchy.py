"""Rigid motions of the volumes of a hierarchy level, as displacements of the sensors on them.

A volume that moves by t and turns by w about its centre c (the mean of its sensors' origins) moves the sensor
at T by t + w × (T − c) and turns it by w; in the sensor's own frame both are multiplied by Rᵀ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.volumes import Volumes
from alignnet.sensors.sensor import SensorLayer


def volume_motions(detector: Detector, level: str) -> tuple[Tensor, Tensor]:
    """Local sixes of each sensor for the six unit motions of its volume, to first order.

    Args:
        level: a level of the detector's hierarchy (`Detector.levels`).

    Returns:
        (sensors, 6, 6), the last dimension the motions (translations along global x, y, z; rotations about
        them), and each sensor's volume (sensors,), −1 where it has none.
    """
    group, names = detector.groups(level)
    inside = group >= 0
    index = group.clamp_min(0)
    count = torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, inside.double())
    weighted = detector.translation * inside[:, None]
    centre = torch.zeros(len(names), 3, dtype=torch.float64).index_add_(0, index, weighted) / count[:, None]
    arm = detector.translation - centre[index]
    turn = torch.eye(3, dtype=torch.float64).expand(len(detector), 3, 3)
    shift = torch.cat([turn, -rigid.skew(arm)], -1)
    rotation = torch.cat([torch.zeros_like(turn), turn], -1)
    back = detector.rotation.transpose(-1, -2)
    order = torch.tensor(rigid.LOCAL_TO_XYZ)
    local = torch.cat([(back @ part).index_select(-2, order) for part in (shift, rotation)], -2)
    return local * inside[:, None, None], group


def frame_motions(detector: Detector, volumes: Volumes) -> Tensor:
    """The same for the volumes' du, dv, dw, rot_u, rot_v, rot_w in their own frames (sensors, 6, 6)."""
    motions, group = volume_motions(detector, volumes.level)
    order = torch.tensor(rigid.LOCAL_TO_XYZ)
    axes = volumes.frame[0].index_select(-1, order)[group.clamp_min(0)]
    return torch.cat([motions[..., :3] @ axes, motions[..., 3:] @ axes], -1)


def theta_motions(sensors: SensorLayer, motions: Tensor) -> Tensor:
    """The same motions (sensors, 6, motions) in the sensors' degrees of freedom (sensors, dof, motions).

    They leave the surfaces as they are.
    """
    local = motions.new_zeros(len(motions), 6, requires_grad=True)
    with torch.enable_grad():
        theta = sensors.parametrisation.theta(local, sensors.frame)
        rows = [torch.autograd.grad(dof.sum(), local, retain_graph=True)[0] for dof in theta.unbind(-1)]
    found = torch.stack(rows, -2) @ motions
    return torch.nn.functional.pad(found, (0, 0, 0, sensors.theta.shape[-1] - found.shape[-2]))
