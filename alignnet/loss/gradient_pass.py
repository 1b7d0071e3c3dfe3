"""One pass over stored tracks: a fit step, χ² at the state that it leads to, and ∂χ²/∂Θ of every sensor.

On CPUs the kernels of `loss.gradient_kernels` do it, in parts that add up in one order whatever the number of
threads; elsewhere, and while there is too little to do for a compiler, tensors and autograd do. Both read the
same `TrackStore` and leave the same in it. A sensor's gradient goes through six numbers: with the force F and
the moments M of its hits about the centre of its plane, any map Θ → plane that keeps it rigid has

    dC = F·dc + Σ f·(u da + v db)        a, b, c of g = a s̃₁ + b s̃₂ + c

which autograd continues to Θ, once for each sensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignnet.errors import ConfigError
from alignnet.geometry.plane import Plane
from alignnet.loss import gradient_kernels as kernels
from alignnet.loss import lane_kernels as rows
from alignnet.loss import sensor_kernels
from alignnet.loss.gradient_kernels import FORCE_ROWS, TOTALS
from alignnet.loss.lane_kernels import POSE_ROWS
from alignnet.loss.track_store import TrackStore
from alignnet.physics import helix as hx
from alignnet.physics.jit import in_threads, pays
from alignnet.physics.trackfit import derivatives, residuals, step
from alignnet.sensors.parametrisation import RigidLocal
from alignnet.sensors.sensor import SensorLayer

_PART = 1024  # tiles of a part
_PARTS = 16  # at most; each has forces of its own
_SEARCH = 8  # Newton steps to planes from path lengths of other states
_PLAIN_TILES = 256  # taken together by the plain path


class Gradient(NamedTuple):
    """Sums over tracks, weighted; they add over stores and ranks."""

    chi2: float
    ndf: float
    theta: Tensor  # ∂ chi2 / ∂Θ (sensors, dof); 0 for what is fixed
    n_tracks: int  # tracks in these sums
    n_left_out: int  # tracks that their hits do not determine, or that miss a plane


class GradientPass:
    """Passes over tracks on sensors, at Θ as it is at each call.

    Args:
        sensors: the model.
        steps: Gauss–Newton steps of every track before its χ² is taken.
        threads: of the compiled kernels; default: as many as torch uses.
        fused: True for the kernels, False for the plain path; None takes the kernels where they apply, once
            they are on disk or there was enough to do for a compiler.

    Raises:
        ConfigError: the kernels were asked for, and sensors are not rigid planes.
    """

    def __init__(
        self, sensors: SensorLayer, steps: int = 1, threads: int | None = None, fused: bool | None = None
    ) -> None:
        if fused and not self._is_rigid(sensors):
            raise ConfigError(
                "the compiled gradient pass is for rigid, flat sensors; take fused=False for `affine`, bent "
                "sensors and surface modes"
            )
        self.sensors, self.steps, self.threads, self.fused = sensors, steps, threads, fused

    def __call__(self, stores: TrackStore | Iterable[TrackStore]) -> Gradient:
        """Move the tracks by their fit step(s), and add up χ² and its gradient there."""
        stores = [stores] if isinstance(stores, TrackStore) else stores
        plain = torch.zeros(TOTALS, dtype=torch.float64), torch.zeros_like(self.sensors.theta)
        fused: _Forces | None = None
        for store in stores:
            if self.is_fused(store, more=len(store)):
                fused = _Forces(self.sensors) if fused is None else fused
                fused.add(store, self.steps, self.threads or torch.get_num_threads())
            else:
                plain = _plain(self.sensors, store, self.steps, plain)
        totals, gradient = plain
        if fused is not None:
            totals, gradient = totals + fused.totals, gradient + fused.gradient()
        chi2, ndf, taken, left_out = totals.tolist()
        return Gradient(chi2, ndf, gradient, int(taken), int(left_out))

    @torch.no_grad()
    def residuals(self, store: TrackStore) -> Tensor:
        """Predicted minus measured where the tracks are, (tracks, hits, 2) [cm]."""
        if not self.is_fused(store):
            planes = _planes(self.sensors, store)
            states = hx.expand(store.helix)
            s = hx.path_to_plane(states, planes.origin, planes.normal, store.hits(0), _SEARCH)
            return residuals(store.helix, planes, s)[0][:, : store.n_hits]
        n, poses = len(store.tiles), _Forces(self.sensors).table
        found = np.empty((n, store.n_hits, 2, rows.LANES))
        tiles, sensor = store.tiles.view(n, -1).numpy(), store.sensor.view(n, -1).numpy()
        kernels.residuals(tiles, sensor, poses, store.n_planes, found)
        return torch.from_numpy(found).permute(0, 3, 1, 2).flatten(0, 1)[: store.n_tracks]

    def is_fused(self, store: TrackStore, more: int = 0) -> bool:
        """Whether the compiled kernels take these tracks; `more` are about to be taken (`jit.pays`)."""
        if self.fused is not None:
            return self.fused
        double = store.tiles.device.type == "cpu" and self.sensors.theta.dtype == torch.float64
        return self._is_rigid(self.sensors) and double and pays(kernels.sweep, more)

    @staticmethod
    def _is_rigid(sensors: SensorLayer) -> bool:
        return sensors.is_rigid and not sensors.is_curved


class _Forces:
    """Forces on sensors from the kernels, in parts that are added in order."""

    def __init__(self, sensors: SensorLayer) -> None:
        self.sensors = sensors
        self.table = np.empty(len(sensors) * POSE_ROWS)
        if type(sensors.parametrisation) is RigidLocal:
            tables = (sensors.theta.detach(), sensors.rotation, sensors.translation, sensors.centre)
            sensor_kernels.poses(*(table.contiguous().numpy() for table in tables), self.table)
        else:
            slope, centre = (part.detach() for part in sensors.affine_map())
            axes = slope / sensors.half_length[:, None]
            self.table[:] = torch.cat([centre, axes.transpose(1, 2).flatten(1)], 1).flatten().numpy()
        self.parts = torch.zeros(0, len(sensors) * FORCE_ROWS, dtype=torch.float64)
        self.totals = torch.zeros(TOTALS, dtype=torch.float64)

    def add(self, store: TrackStore, steps: int, threads: int) -> None:
        """Sweep over a store."""
        n = len(store.tiles)
        edges = np.linspace(0, n, min(_PARTS, max(1, n // _PART)) + 1).astype(int).tolist()
        if len(self.parts) < len(edges) - 1:
            more = len(edges) - 1 - len(self.parts)
            self.parts = torch.cat([self.parts, self.parts.new_zeros(more, self.parts.shape[1])])
        tiles, sensor = store.tiles.view(n, -1).numpy(), store.sensor.view(n, -1).numpy()
        bend = float(store.n_parameters == 5)

        def sweep(part: int) -> Tensor:
            own = slice(edges[part], edges[part + 1])
            forces = self.parts[part].numpy()
            found = kernels.sweep(tiles[own], sensor[own], self.table, store.n_planes, steps, bend, forces)
            return torch.from_numpy(found)

        for totals in in_threads(sweep, [(part,) for part in range(len(edges) - 1)], threads):
            self.totals += totals

    def gradient(self) -> Tensor:
        """∂χ²/∂Θ (sensors, dof)."""
        sensors = self.sensors
        forces = torch.zeros_like(self.parts[0])
        for part in self.parts:
            forces += part
        if type(sensors.parametrisation) is not RigidLocal:
            return self._by_autograd(2 * forces.unflatten(0, (-1, FORCE_ROWS)))
        gradient = torch.empty_like(sensors.theta)
        tables = (sensors.theta.detach().contiguous(), sensors.centre.contiguous(), forces, gradient.detach())
        sensor_kernels.to_theta(*(table.numpy() for table in tables))
        return gradient * sensors.free

    def _by_autograd(self, forces: Tensor) -> Tensor:
        u, v = torch.from_numpy(self.table).unflatten(0, (-1, 3, 3))[:, 1:].unbind(1)
        normal, half = torch.linalg.cross(v, u), self.sensors.half_length
        fu, fv, fw, fw_v, fw_u, turn = (column[:, None] for column in forces[:, :6].unbind(1))
        along_a, along_b = (fw_u * normal + turn * v) / half[:, :1], fw_v * normal / half[:, 1:]
        with torch.enable_grad():
            outputs = self.sensors.affine_map()
        weights = [torch.stack([along_a, along_b], -1), fu * u + fv * v + fw * normal]
        (gradient,) = torch.autograd.grad(outputs, self.sensors.theta, weights)
        return gradient


Sums = tuple[Tensor, Tensor]


def _plain(sensors: SensorLayer, store: TrackStore, steps: int, sums: Sums) -> Sums:
    """The same with tensors and autograd, some tiles at a time: totals and gradient so far, added to."""
    totals, gradient = sums
    for first in range(0, len(store.tiles), _PLAIN_TILES):
        found, slope = _plain_part(sensors, store.part(first, _PLAIN_TILES), steps)
        totals, gradient = totals + found.to(totals), gradient + slope
    return totals, gradient


def _plain_part(sensors: SensorLayer, store: TrackStore, steps: int) -> Sums:
    with torch.enable_grad():
        planes = _planes(sensors, store)
    weights = torch.stack([store.hits(3), store.hits(4)], -1)
    fixed, helix, s = planes.detach(), store.helix, store.hits(0)
    usable = torch.ones_like(helix.omega, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(steps):
            residual, s = residuals(helix, fixed, s)
            rows = (residual * weights).flatten(1)
            change = derivatives(helix, fixed, s, store.n_parameters) * weights[..., None]
            delta, _, ok = step(rows, change.flatten(1, 2), None, None)
            usable = usable & ok & delta.isfinite().all(-1)
            helix = hx.updated(helix, torch.where(usable[:, None], delta, 0.0))
    with torch.enable_grad():
        keep = usable[:, None, None]
        residual, s = residuals(helix, Plane(*(torch.where(keep, x, x.detach()) for x in planes)), s)
        chi2 = (residual * weights).square().flatten(1).sum(-1)
        weighted = torch.where(usable, chi2 * store.weight, 0.0)
        (gradient,) = torch.autograd.grad(weighted.sum(), sensors.theta)
    _keep(store, helix, s.detach(), chi2.detach(), usable)
    ndf, left_out = torch.where(usable, store.weight * store.ndf, 0.0), ~usable & (store.ndf != 0)
    return torch.stack([weighted.detach().sum(), ndf.sum(), usable.sum(), left_out.sum()]), gradient


def _planes(sensors: SensorLayer, store: TrackStore) -> Plane:
    """The planes of hits, and of a vertex."""
    sensor = store.hit_sensor
    uv = torch.stack([store.hits(1), store.hits(2)], -1)[:, : store.n_hits] + sensors.centre[sensor]
    planes = sensors.planes(uv, sensor)
    return planes.joined(store.vertex_plane()) if store.has_vertex else planes


def _keep(store: TrackStore, helix: hx.Helix, s: Tensor, chi2: Tensor, usable: Tensor) -> None:
    store.put(rows.POSITION, torch.cat([helix.position, helix.direction, helix.omega[:, None]], 1))
    store.put(rows.CHI2, chi2[:, None])
    store.put(rows.USABLE, usable[:, None].to(chi2))
    for k in range(store.n_planes):
        store.put(rows.PLANES + rows.HIT_ROWS * k, s[:, k : k + 1])
