"""A training starts where it is told to: from an alignment, or from ALICE's objects of any volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_runs import SMALL, configured

from alignnet.cli.setup import load_problem
from alignnet.data.root import read_detector, write_alignment
from alignnet.errors import SchemaError
from alignnet.export.alice import AlignParams, write_alice, write_align_params
from alignnet.geometry import rigid


def start_of(barrel_file, path):
    """Where the sensors of a training stand before its first step: local six, and as the run keeps it."""
    problem = load_problem(
        configured("train", f"data.files=[{barrel_file}]", f"sensors.start={path}", *SMALL)
    )
    rotation, translation = problem.sensors.placement()
    nominal = problem.detector.rotation, problem.detector.translation
    return rigid.local_of(*nominal, rotation.detach(), translation.detach()), problem.start


def test_objects_of_all_levels_are_applied_parents_first(barrel_file, tmp_path):
    detector = read_detector(barrel_file)
    sensor = detector.names[5]
    volumes = ["/".join(sensor.split("/")[:n]) for n in range(1, sensor.count("/") + 2)]
    assert len(volumes) > 2
    rng = np.random.default_rng(4)
    deltas = rng.normal(0, [5e-3, 5e-3, 5e-3, 1e-3, 1e-3, 1e-3], (len(volumes), 6))
    shuffled = rng.permutation(len(volumes))
    entries = AlignParams(tuple(volumes[i] for i in shuffled), np.full(len(volumes), -1), deltas[shuffled])
    write_align_params(tmp_path / "objects.root", entries)
    place = detector.rotation[5], detector.translation[5]
    for delta in torch.from_numpy(deltas):
        place = rigid.place_global(*place, delta)
    expected = rigid.local_of(detector.rotation[5], detector.translation[5], *place)
    for found in start_of(barrel_file, tmp_path / "objects.root"):
        assert torch.allclose(found[5], expected, rtol=0, atol=1e-11)
        moved = (found != 0).any(-1)
        below = [name.startswith(volumes[0]) for name in detector.names]
        assert moved.tolist() == below


def test_both_kinds_of_file_give_the_same_start(barrel_file, tmp_path):
    detector = read_detector(barrel_file)
    local = 1e-3 * torch.randn(len(detector), 6, dtype=torch.float64)
    write_alice(tmp_path / "objects.root", detector, local)
    write_alignment(tmp_path / "tree.root", detector, local, None, np.zeros(len(local)), np.zeros(len(local)))
    for name in ("objects.root", "tree.root"):
        for found in start_of(barrel_file, tmp_path / name):
            assert torch.allclose(found, local, rtol=0, atol=1e-11), name


def test_objects_of_another_detector_are_refused(barrel_file, tmp_path):
    write_align_params(
        tmp_path / "a.root", AlignParams(("ITS/ITSULayer0",), np.array([-1]), np.zeros((1, 6)))
    )
    with pytest.raises(SchemaError, match=r"a\.root: volume 'ITS/ITSULayer0' holds no sensor of detector"):
        start_of(barrel_file, tmp_path / "a.root")
