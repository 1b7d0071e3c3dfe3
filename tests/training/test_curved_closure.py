"""Closure: detectors that are not flat barrels are misaligned, and put right by their tracks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small_detectors import BEAM, barrel, planes, random_local, simulated
from torch import Tensor
from training_runs import fitted

from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import write_simulation
from alignnet.data.sources import ParticleGun, Source
from alignnet.geometry.detector import Detector
from alignnet.geometry.misalign import SurfaceModes
from alignnet.geometry.recovery import Recovery, difference
from alignnet.geometry.tracker import barrel_endcap, discs
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.constraints import set_free
from alignnet.sensors.sensor import SensorLayer
from alignnet.training.module import AlignmentModule
from alignnet.training.optim import GaussNewton
from alignnet.units import UM

FLAT = barrel(x_over_x0=0.001)
BENT = replace(
    FLAT,
    curvature_radius=torch.where(FLAT.layer == 0, 2.5, torch.where(FLAT.layer == 1, 4.0, 0.0)).double(),
)
GUN = ParticleGun(n_tracks_per_event=8, pt_min=1.0, pt_max=10.0, eta_max=1.0, vertex_sigma=(0.02, 0.02, 2.0))
EXACT = {"smearing": False, "scattering": False, "energy_loss": False, "hit_efficiency": 1.0}


def aligned(
    folder: Path,
    detector: Detector,
    source: Source,
    truth: Tensor,
    n_events: int,
    fixed: dict[str, object],
    order: int = 0,
    parametrisation: str = "local",
    epochs: int = 4,
    options: dict[str, object] | None = None,
) -> tuple[SensorLayer, float]:
    """Sensors after a training on simulated tracks, and its last χ²/ndf."""
    tracks = simulated(detector, source, n_events, truth, **(options or {}))
    if options:  # exact, and so is the vertex
        tracks = replace(tracks, vertex=tracks.truth["position"].copy())
    write_simulation(folder / "tracks.root", detector, tracks, truth, {"generator": "closure", "seed": 0})
    sensors = SensorLayer.of(detector, parametrisation, order)
    set_free(sensors, detector, **fixed)
    vertex = "absent" if tracks.vertex is None else "given"
    loss = HelixChi2(detector, vertex=vertex, normalisation="total")
    loss.noise.momentum = 3.0
    data = AlignmentData([str(folder / "tracks.root")], detector, split=[1.0, 0.0, 0.0], batch_size=100)
    data.setup()
    module = AlignmentModule(sensors, loss, partial(GaussNewton, tolerance=1e-9, min_hits=5), detector)
    monitor = fitted(folder, module, data, epochs)
    return sensors, monitor.history[-1]["train/chi2_per_ndf"]


@pytest.mark.parametrize("parametrisation", ["local", "global"])
def test_exact_tracks_put_bent_sensors_and_their_surfaces_right(parametrisation, tmp_path):
    moves = (BENT.layer < 2)[:, None]
    truth = torch.cat([random_local(len(BENT)), SurfaceModes(2, 30 * UM)(BENT)[:, 6:]], -1) * moves
    fixed = {"layers": [2, 3]}
    sensors, _ = aligned(tmp_path, BENT, GUN, truth, 120, fixed, 2, parametrisation, epochs=5, options=EXACT)
    found = Recovery(BENT, moves[:, 0], weak_modes=False, columns=9)
    left = difference(sensors.local(), truth, BENT)[moves[:, 0]]
    assert left.square().mean().sqrt() < 0.02 * UM
    assert (
        max(max(row) for row in found.per_layer(difference(sensors.local(), truth, BENT)).values())
        < 0.02 * UM
    )


def test_noisy_tracks_put_bent_sensors_right_as_well_as_their_number_says(tmp_path):
    moves = (BENT.layer < 2)[:, None]
    truth = torch.cat([random_local(len(BENT)), SurfaceModes(2, 30 * UM)(BENT)[:, 6:]], -1) * moves
    sensors, chi2 = aligned(tmp_path, BENT, GUN, truth, 250, {"layers": [2, 3]}, 2, epochs=3)
    left = difference(sensors.local(), truth, BENT)[moves[:, 0]]
    assert chi2 == pytest.approx(1.0, abs=0.06)
    assert left[..., :2].square().mean().sqrt() < 3 * UM
    assert left.square().mean().sqrt() < 6 * UM


def test_three_bows_of_flat_planes_are_found(tmp_path):
    detector = planes(6, x_over_x0=0.0)
    held = torch.tensor([1, 0, 0, 0, 0, 1]).bool()
    truth = SurfaceModes(2, 50 * UM)(detector) * ~held[:, None]
    source = replace(BEAM, divergence=0.4, spot=2.0)
    fixed = {"layers": [0, 5], "dof": ["du", "dv", "dw", "rot_u", "rot_v", "rot_w"]}
    sensors, chi2 = aligned(tmp_path, detector, source, truth, 2000, fixed, 2, epochs=2)
    assert chi2 == pytest.approx(1.0, abs=0.06)
    off = (sensors.local() - truth)[~held, 6:]
    assert truth[~held, 6:].square().mean().sqrt() > 30 * UM
    assert off.square().mean().sqrt() < 4 * UM
    assert torch.equal(sensors.local()[:, :6], torch.zeros(6, 6).double())


def test_flat_planes_have_no_bows_where_none_were_put(tmp_path):
    detector = planes(6, x_over_x0=0.0)
    source = replace(BEAM, divergence=0.4, spot=2.0)
    truth = torch.zeros(6, 6, dtype=torch.float64)
    fixed = {"layers": [0, 5], "dof": ["du", "dv", "dw", "rot_u", "rot_v", "rot_w"]}
    sensors, _ = aligned(tmp_path, detector, source, truth, 1500, fixed, 2, epochs=2)
    assert sensors.local()[:, 6:].square().mean().sqrt() < 4 * UM


DISCS = discs(z=(20.0, 26.0, 32.0, 40.0, 50.0), radii=(2.5, 8.0), x_over_x0=0.001)
FORWARD = ParticleGun(
    n_tracks_per_event=20, pt_min=1.0, pt_max=10.0, eta_max=4.0, vertex_sigma=(0.01, 0.01, 1.0)
)
WHOLE = barrel_endcap(
    radii=(3.0, 7.0, 12.0), half_length=20.0, modules=2, ladder_width=6.0, endcap_z=(26.0, 32.0, 40.0),
    endcap_radii=(3.0, 12.0), sensor_length=9.0, x_over_x0=0.001, b_z=2.0,
)  # fmt: skip
CENTRAL = ParticleGun(
    n_tracks_per_event=20, pt_min=2.0, pt_max=20.0, eta_max=2.5, vertex_sigma=(0.01, 0.01, 3.0)
)


@pytest.mark.parametrize(
    ("detector", "source", "n_events", "hold"),
    [(DISCS, FORWARD, 120, [0, 4]), (WHOLE, CENTRAL, 100, [0, 2, 3, 6])],
    ids=["discs", "barrel_endcap"],
)
def test_exact_tracks_put_discs_and_endcaps_right(detector, source, n_events, hold, tmp_path):
    moves = ~torch.isin(detector.layer, torch.tensor(hold))
    truth = random_local(len(detector), 0.005, 1e-3) * moves[:, None]
    sensors, _ = aligned(
        tmp_path, detector, source, truth, n_events, {"layers": hold}, epochs=3, options=EXACT
    )
    count = torch.bincount(
        torch.cat([b.sensor[b.is_hit] for b in _batches(tmp_path, detector)]), minlength=len(detector)
    )
    judged = moves & (count >= 10)
    assert judged.sum() > 0.5 * moves.sum()
    left = difference(sensors.local(), truth, detector)[judged]
    assert left.square().mean().sqrt() < 0.05 * UM


def _batches(folder: Path, detector: Detector) -> list[object]:
    data = AlignmentData([str(folder / "tracks.root")], detector, split=[1.0, 0.0, 0.0])
    data.setup()
    return list(data.loader("train"))
