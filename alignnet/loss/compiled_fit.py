"""Where `HelixChi2.fit` runs compiled, and the way there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alignnet.data.batch import Batch
from alignnet.geometry.plane import Plane
from alignnet.loss import fit_kernel as fk
from alignnet.loss import fit_layout as fl
from alignnet.loss.noise import _MOMENTUM_LIMITS, NoiseModel
from alignnet.physics.helix import Helix
from alignnet.physics.jit import in_threads, pays, shares
from alignnet.physics.whitening import Whitening

if TYPE_CHECKING:
    from alignnet.loss.chi2 import HelixChi2

_KINDS = {"none": fl.NONE, "diagonal": fl.DIAGONAL, "full": fl.FULL}


def applies(loss: HelixChi2, batch: Batch) -> bool:
    """Whether a batch can be fitted by compiled loops: on a CPU, in float64, track by track."""
    return is_plain(loss, batch) and loss.dtype == torch.float64 and pays(fk.fit_tracks, batch.n_tracks)


def is_plain(loss: HelixChi2, batch: Batch) -> bool:
    """Whether compiled loops know this cost's weights, and can read this batch."""
    plain = type(loss.noise) is NoiseModel and loss.vertex != "fitted"
    return plain and batch.uv.device.type == "cpu" and batch.uv.dtype == torch.float64


def fitted(loss: HelixChi2, planes: Plane, batch: Batch) -> fl.Fitted:
    """The batch's tracks, fitted."""
    measured, model = measured_of(loss, planes, batch), model_of(loss)
    tracks, hits = batch.is_hit.shape
    full, rows = (tracks if model.kind == fl.FULL else 0), 2 * hits
    out = fl.Fitted(
        state=np.zeros((tracks, 7)),
        factor=np.zeros((full, rows, rows)),
        inverse_sigma=np.zeros((tracks - full, rows)),
        vertex_factor=np.zeros((tracks, 2, 2)),
        vertex_inverse=np.zeros((tracks, 2)),
        axes=np.zeros((tracks, 3, 3)),
        ok=np.zeros(tracks, dtype=np.bool_),
        s=np.zeros((tracks, hits)),
        settled=np.zeros(tracks, dtype=np.bool_),
    )
    in_threads(lambda first, last: fk.fit_tracks(measured, model, out, first, last), shares(tracks))
    return out


def helix_of(out: fl.Fitted) -> Helix:
    """The tracks' states."""
    state = torch.from_numpy(out.state)
    return Helix(state[:, :3], state[:, 3:6], state[:, 6])


def whitenings_of(out: fl.Fitted, loss: HelixChi2) -> tuple[Whitening, Whitening | None]:
    """Weights of the rows of hits and, where there is one, of the vertex."""
    model = model_of(loss)
    hits = _whitening(model.kind, out.inverse_sigma, out.factor)
    return hits, _whitening(
        model.vertex_kind, out.vertex_inverse, out.vertex_factor
    ) if model.vertex else None


def _whitening(kind: int, inverse_sigma: np.ndarray, factor: np.ndarray) -> Whitening:
    if kind == fl.FULL:
        return Whitening(None, torch.from_numpy(factor))
    return Whitening(torch.from_numpy(inverse_sigma), None)


def model_of(loss: HelixChi2) -> fl.Model:
    """The cost's options, as loops read them."""
    noise = loss.noise
    return fl.Model(
        radius=noise.radius.numpy(),
        cylinder_x_over_x0=noise.cylinder_x_over_x0.numpy(),
        b_z=float(loss.b_z),
        n_parameters=loss.n_parameters,
        kind=_KINDS[noise.kind] if noise.needs_momentum else fl.NONE,
        vertex_kind=_KINDS[noise.kind],
        log_term=bool(noise.log_term),
        energy_loss=bool(noise.energy_loss and noise.b_z),
        systematic=float(noise.systematic) ** 2,
        low=_MOMENTUM_LIMITS[0],
        high=_MOMENTUM_LIMITS[1],
        vertex=loss.vertex == "given",
        iterations=int(loss.iterations),
    )


def measured_of(loss: HelixChi2, planes: Plane, batch: Batch) -> fl.Measured:
    """A batch on its planes, as loops read it."""
    noise, p = loss.noise, batch.p
    if noise.needs_momentum and not noise.b_z:
        p = noise.momenta(Helix(batch.vertex, batch.vertex, batch.p), batch)
    x = noise.x_over_x0.index_select(0, batch.sensor.flatten()).view_as(batch.sensor)
    return fl.Measured(
        *(_plain(field) for field in planes),
        *map(_plain, (batch.is_hit, batch.sigma.square(), x, batch.outward, batch.vertex, batch.vertex_cov)),
        *map(_plain, (batch.has_vertex, p, batch.mass, batch.crossed)),
    )


def _plain(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array
