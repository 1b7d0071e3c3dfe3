"""Volumes in time: where they are at each event, and what the simulation keeps of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import GUN, barrel, random_local, simulated

from alignnet.data.dead import Dead
from alignnet.data.root import read_detector, read_misalignment, read_tracks
from alignnet.data.root_motion import read_motion
from alignnet.data.root_series import SeriesWriter
from alignnet.data.simulate import Simulation
from alignnet.data.simulate_time import moving_chunks
from alignnet.data.tracks import concatenate
from alignnet.errors import ConfigError
from alignnet.geometry import rigid
from alignnet.geometry.motion import Drift, Jump, Moving, Thermal, Together

DETECTOR = barrel()
LOCAL = random_local(len(DETECTOR), 30e-4, 0.2e-3)
NAME = "B/BLayer1/BHalfBarrel0"
JUMP = Jump("half_barrel", [NAME], {"du": 20e-4, "rot_v": 1e-4}, event=70)


def test_a_jump_moves_all_that_is_in_its_volume_as_one_body_and_nothing_else():
    before, after = Moving(DETECTOR, LOCAL, JUMP).steps(0, 100)
    assert (before.first, before.last, after.first, after.last) == (0, 70, 70, 100)
    torch.testing.assert_close(before.local, LOCAL)
    inside = torch.tensor([name.startswith(NAME) for name in DETECTOR.names])
    torch.testing.assert_close(after.local[~inside], LOCAL[~inside])
    drawn = DETECTOR.rotation, DETECTOR.translation
    was, now = (rigid.place_local(*drawn, step.local)[1][inside] for step in (before, after))
    torch.testing.assert_close(torch.cdist(now, now), torch.cdist(was, was))
    # u of a half-barrel, whose sensors face several ways, is global x; its turn leaves the mean in place
    torch.testing.assert_close((now - was).mean(0), torch.tensor([20e-4, 0, 0]).double(), atol=2e-6, rtol=0)


def test_a_drift_comes_to_its_end_in_steps_and_a_thermal_one_by_its_time_constant():
    drift = Drift("half_barrel", [NAME], {"dv": 1.0}, begin=100, end=500, step=100)
    steps = Moving(DETECTOR, LOCAL, drift).steps(0, 700)
    assert [step.first for step in steps] == [0, 100, 200, 300, 400, 500]
    dv = {step.first: float(step.six[0, 1]) for step in steps}
    assert dv[0] == 0.0
    assert dv[200] == pytest.approx(0.375)
    assert dv[500] == 1.0
    warm = Thermal("half_barrel", [NAME], {"dv": 1.0}, begin=0, time_constant=200, step=2)
    assert warm.fraction(200) == pytest.approx(1 - np.exp(-201 / 200))
    assert warm.fraction(-5) == 0.0


def test_motions_of_one_volume_add_and_names_that_fit_nothing_are_refused():
    both = Together([JUMP, Drift("half_barrel", ["B/BLayer1/*"], {"du": 10e-4}, 0, 50, 10)])
    last = Moving(DETECTOR, LOCAL, both).steps(0, 100)[-1]
    six = dict(zip(last.names, last.six.tolist(), strict=True))
    assert six[NAME][0] == pytest.approx(30e-4)
    assert six["B/BLayer1/BHalfBarrel1"][0] == pytest.approx(10e-4)
    with pytest.raises(ConfigError, match=r"no half_barrel has a name like \['X\*'\]"):
        Moving(DETECTOR, LOCAL, Jump("half_barrel", ["X*"], {"du": 1.0}, 5))
    with pytest.raises(ConfigError, match="expected numbers of du"):
        Jump("half_barrel", ["*"], {"dx": 1.0}, 5)


def test_a_series_of_files_holds_the_same_tracks_and_where_volumes_were(tmp_path):
    simulation = Simulation(GUN, DETECTOR, LOCAL, seed=3)
    moving = Moving(DETECTOR, LOCAL, JUMP)
    writer = SeriesWriter(tmp_path / "run.root", 40, 100, DETECTOR, LOCAL, {"generator": "tests", "seed": 3})
    with writer:
        for part in moving_chunks(simulation, moving, 100):
            writer.append(*part)
    names = [path.name for path in writer.paths]
    assert names == ["run_0000.root", "run_0001.root", "run_0002.root"]
    found = concatenate([read_tracks(path, DETECTOR) for path in writer.paths])
    rest, moved = simulation.generate(100), simulation.moved(DETECTOR, moving.steps(0, 100)[1].local)
    jumped = moved.generate(100)
    late, of_jumped = found.event >= 70, jumped.event >= 70
    np.testing.assert_array_equal(found.select(~late).uv, rest.select(rest.event < 70).uv)
    np.testing.assert_array_equal(found.select(late).uv, jumped.select(of_jumped).uv)
    rows = [read_motion(path) for path in writer.paths]
    assert [row.first.tolist() for row in rows] == [[0], [40, 70], [80]]
    assert [row.last.tolist() for row in rows] == [[40], [70, 80], [100]]
    assert rows[1].six[1] == pytest.approx([20e-4, 0, 0, 0, 1e-4, 0])
    assert {name for row in rows for name in row.volume} == {NAME}
    again = read_detector(writer.paths[2])
    torch.testing.assert_close(read_misalignment(writer.paths[2], again), LOCAL)


def test_dead_sensors_have_no_hits_and_the_others_all_of_theirs():
    alive = simulated(DETECTOR, GUN, 60)
    dead = Dead(["B/BLayer2/BHalfBarrel0/BStave1"], {"sensor": 0.2}, seed=4)
    gone = dead(DETECTOR)
    assert gone[DETECTOR.names.index("B/BLayer2/BHalfBarrel0/BStave1/BChip0")]
    assert 1 < int(gone.sum()) < 12
    left = simulated(DETECTOR, GUN, 60, dead=dead, min_hits=1)
    assert not gone.numpy()[left.sensor].any()
    everything = simulated(DETECTOR, GUN, 60, min_hits=1)
    assert len(alive) > 0
    np.testing.assert_array_equal(left.uv, everything.uv[~gone.numpy()[everything.sensor]])
    with pytest.raises(ConfigError, match="no sensor has a name like 'Nobody'"):
        Dead(["Nobody"])(DETECTOR)


def test_tails_widen_the_part_of_hits_and_crossings_that_they_are_of():
    options = {"scattering": False, "energy_loss": False, "hit_efficiency": 1.0}
    tracks = simulated(DETECTOR, GUN, 400, hit_tail=0.1, tail_scale=5.0, **options)
    pull = (tracks.uv - tracks.truth["hit_uv"]) / tracks.sigma
    beyond = np.mean(np.abs(pull) > 4)  # 0.1 of σ = 5: P(|x| > 0.8) = 0.4237
    assert beyond == pytest.approx(0.1 * 0.4237, rel=0.15)
    same = simulated(DETECTOR, GUN, 400, **options)
    np.testing.assert_array_equal(same.truth["hit_uv"], tracks.truth["hit_uv"])
    scattered = simulated(DETECTOR, GUN, 200, scattering_tail=1.0, tail_scale=2.0, energy_loss=False, seed=1)
    plain = simulated(DETECTOR, GUN, 200, energy_loss=False, seed=1)
    straight = simulated(DETECTOR, GUN, 200, scattering=False, energy_loss=False, seed=1)
    shared = set.intersection(*(set(_second_hits(t)) for t in (scattered, plain, straight)))
    assert len(shared) > 300
    wide, narrow = (
        np.mean([np.abs(_second_hits(t)[key] - _second_hits(straight)[key]) for key in sorted(shared)])
        for t in (scattered, plain)
    )
    assert wide == pytest.approx(2 * narrow, rel=0.03)


def _second_hits(tracks):
    """True position of each track's second hit, by its momentum and sensor."""
    found = {}
    for k in np.flatnonzero(tracks.hits_per_track > 1):
        row = tracks.offset[k] + 1
        found[(*tracks.truth["momentum"][k], tracks.sensor[row])] = tracks.truth["hit_uv"][row]
    return found
