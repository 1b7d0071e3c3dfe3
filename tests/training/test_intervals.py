"""Volumes of an interval: their H and g against those of all sensors, and the whole against its gauge."""

from __future__ import annotations

import pytest
import torch
from small_detectors import GUN, barrel, batch_of, random_local, simulated
from small_problems import dense, loss_of

from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.motion import Jump, Moving
from alignnet.geometry.volumes import Volumes
from alignnet.sensors.sensor import SensorLayer
from alignnet.solvers.hessian import Problem
from alignnet.solvers.levels import level
from alignnet.solvers.linearised import linearise
from alignnet.solvers.volume_sums import VolumeSums
from alignnet.training import intervals
from alignnet.training.intervals import VolumeFit, whole_motions

DETECTOR = barrel()
LOCAL = random_local(len(DETECTOR), 5e-4, 5e-5)
TRACKS = simulated(DETECTOR, GUN, 25, LOCAL)


@pytest.mark.parametrize("vertex", ["absent", "given", "fitted"])
def test_sums_are_the_whole_matrix_between_motions_of_volumes(vertex):
    loss, sensors = loss_of(DETECTOR, "full", vertex), SensorLayer.of(DETECTOR)
    block = linearise(loss, sensors, batch_of(TRACKS, DETECTOR))
    problem, one = Problem(sensors, [block]), level(DETECTOR, sensors, "half_barrel", None)
    sums = VolumeSums(sensors, one)
    sums.add(block)
    unit = torch.eye(one.n_groups * 6, dtype=torch.float64)
    z = torch.stack([one.prolong(row.view(-1, 6)).flatten() for row in unit], 1)
    torch.testing.assert_close(sums.matrix, z.T @ dense(problem) @ z, rtol=1e-9, atol=1e-3)
    torch.testing.assert_close(sums.gradient, z.T @ problem.gradient().flatten(), rtol=1e-9, atol=1e-6)
    by_volume = torch.zeros(one.n_groups, dtype=torch.float64).index_add_(0, one.group, problem.hits())
    torch.testing.assert_close(sums.hits, by_volume)


def test_one_step_finds_volumes_that_jumped():
    name = "B/BLayer1/BHalfBarrel0"
    (step,) = Moving(DETECTOR, LOCAL, Jump("half_barrel", [name], {"du": 20e-4, "rot_v": 2e-4}, 0)).steps(
        0, 9
    )
    quiet = {"scattering": False, "energy_loss": False, "smearing": False, "hit_efficiency": 1.0}
    tracks = simulated(DETECTOR, GUN, 150, step.local, **quiet)
    fit = VolumeFit(DETECTOR, loss_of(DETECTOR, "none", "absent", iterations=10), "half_barrel", LOCAL)
    x = torch.zeros(len(fit), dtype=torch.float64)
    whole = whole_motions(fit.volumes).flatten(0, 1)
    for _ in range(3):
        one = fit.linearised(tracks, x)
        hold = 1e6 * whole @ whole.T  # the whole stays
        x = x - torch.linalg.solve(one.matrix + hold, one.gradient + hold @ x)
    truth = torch.zeros_like(x).view(-1, 6)
    row = fit.volumes.names.index(name)
    truth[row, 0], truth[row, 4] = 20e-4, 2e-4
    left = x - truth.flatten()
    left = left - whole @ torch.linalg.lstsq(whole, left[:, None]).solution[:, 0]
    assert fit.linearised(tracks, x).chi2_per_ndf < 1e-4
    assert float(left.view(-1, 6)[:, :3].abs().max()) < 1e-5  # 0.1 µm of 20


def test_the_whole_moves_as_its_volumes_say_and_a_gauge_takes_just_that_out():
    volumes = Volumes.of(DETECTOR, "stave")
    six = 1e-6 * torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    moved = volumes.motion(whole_motions(volumes) @ six)
    turn = rigid.exp(six[3:])
    for rotation, shift in zip(*moved, strict=True):
        torch.testing.assert_close(rotation, turn, atol=1e-11, rtol=0)
        torch.testing.assert_close(shift, six[:3], atol=1e-10, rtol=0)
    fit = VolumeFit(
        DETECTOR, loss_of(DETECTOR), "half_barrel", LOCAL, ("du", "dv", "dw", "rot_u", "rot_v", "rot_w")
    )
    freedom = fit.freedom((0.01, 5e-4), (1e-4, 2e-6), True, True)
    whole = whole_motions(fit.volumes).flatten(0, 1)
    torch.testing.assert_close(freedom.hold @ whole, torch.zeros_like(whole), atol=1e-10, rtol=0)
    torch.testing.assert_close(freedom.hold @ freedom.hold, freedom.hold)
    assert round(float(freedom.hold.trace())) == len(fit) - 6


def test_degrees_of_freedom_that_are_left_out_do_not_move(monkeypatch):
    fit = VolumeFit(DETECTOR, loss_of(DETECTOR), "half_barrel", LOCAL, ("du", "dw"))
    x = torch.arange(1.0, len(fit) + 1, dtype=torch.float64)
    assert fit.sixes(x)[:, [1, 3, 4, 5]].abs().max() == 0
    full = VolumeFit(DETECTOR, loss_of(DETECTOR), "half_barrel", LOCAL)
    rows = torch.arange(len(full)).view(-1, 6)[:, [0, 2]].flatten()
    zero = torch.zeros(len(full), dtype=torch.float64)
    a, b = fit.linearised(TRACKS, zero[: len(fit)]), full.linearised(TRACKS, zero)
    torch.testing.assert_close(a.matrix, b.matrix[rows][:, rows])
    with pytest.raises(ConfigError, match=r"watch\.dof is"):
        VolumeFit(DETECTOR, loss_of(DETECTOR), "half_barrel", LOCAL, ("x",))
    monkeypatch.setattr(intervals, "MOST", 5)
    with pytest.raises(ConfigError, match="level half_barrel has 8 volumes, 24 unknowns, expected up to 5"):
        VolumeFit(DETECTOR, loss_of(DETECTOR), "half_barrel", LOCAL, ("du", "dv", "dw"))
