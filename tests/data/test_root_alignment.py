"""The tree `alignment` of ROOT files: it repeats what was found, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import uproot
from small_detectors import GUN, barrel, four_planes, random_local, simulated

from alignnet.data.root import (
    read_alignment,
    read_alignment_table,
    read_misalignment,
    write_alignment,
    write_simulation,
)
from alignnet.errors import GeometryError, SchemaError
from alignnet.export.table import read_table, write_table
from alignnet.geometry import rigid
from alignnet.geometry.misalign import SurfaceModes
from alignnet.geometry.surface import mode_names, n_modes
from alignnet.geometry.telescope import telescope

DETECTOR = four_planes()
SIX = torch.linspace(-0.01, 0.02, 24, dtype=torch.float64).reshape(4, 6)
QUARTER_TURN = torch.nn.functional.pad(torch.full((4, 1), torch.pi / 2, dtype=torch.float64), (5, 0))


def test_an_alignment_repeats_the_misalignment_it_found(tmp_path):
    errors = SIX.abs() / 10
    errors[1] = torch.nan
    write_alignment(
        tmp_path / "a.root", DETECTOR, SIX, errors, torch.tensor([5, 0, 7, 2**40]), np.array([0, 1, 0, 2])
    )
    assert torch.equal(read_alignment(tmp_path / "a.root", DETECTOR), SIX)
    table = read_alignment_table(tmp_path / "a.root")
    assert table.name == DETECTOR.names
    assert np.array_equal(table.error, errors.numpy(), equal_nan=True)
    assert (table.n_hits.tolist(), table.status.tolist()) == ([5, 0, 7, 2**40], [0, 1, 0, 2])
    moved = rigid.place_global(DETECTOR.rotation, DETECTOR.translation, torch.from_numpy(table.global_))
    for found, expected in zip(
        moved, rigid.place_local(DETECTOR.rotation, DETECTOR.translation, SIX), strict=True
    ):
        assert torch.allclose(found, expected, rtol=0, atol=1e-14)


def test_an_alignment_is_read_by_sensor_not_by_row(tmp_path):
    write_alignment(tmp_path / "a.root", DETECTOR, SIX, None, np.zeros(4), np.zeros(4))
    turned = replace(DETECTOR, sensor_id=DETECTOR.sensor_id.flip(0))
    assert torch.equal(read_alignment(tmp_path / "a.root", turned), SIX.flip(0))


@pytest.mark.parametrize("order", [2, 3, 5])
def test_amplitudes_of_surfaces_come_back_with_their_errors(order, tmp_path):
    local = torch.cat([SIX, 1e-3 * torch.randn(4, n_modes(order), dtype=torch.float64)], -1)
    write_alignment(tmp_path / "a.root", DETECTOR, local, local.abs(), np.ones(4), np.zeros(4))
    assert torch.equal(read_alignment(tmp_path / "a.root", DETECTOR), local)
    table = read_alignment_table(tmp_path / "a.root")
    assert np.array_equal(table.error, local.abs().numpy())
    assert table.global_.shape == (4, 6)
    with uproot.open(tmp_path / "a.root") as file:
        branches = file["alignment"].keys()
    assert set(mode_names(order)) <= set(branches)
    for name in (tmp_path / "a.csv", tmp_path / "b.root"):
        write_table(name, DETECTOR, local, local.abs(), np.ones(4), np.zeros(4))
        assert np.array_equal(read_table(name).local, local.numpy())


def test_a_part_of_the_amplitudes_of_an_order_is_refused(tmp_path):
    write_alignment(tmp_path / "a.root", DETECTOR, SIX, None, np.ones(4), np.zeros(4))
    with uproot.open(tmp_path / "a.root") as file:
        columns = file["alignment"].arrays(["sensor_id", *rigid.LOCAL_NAMES], library="np")
    with uproot.recreate(tmp_path / "b.root") as file:
        file["alignment"] = {**columns, "w20": np.zeros(4), "w11": np.zeros(4)}
    with pytest.raises(
        SchemaError, match="w20, w11: found 2 amplitudes, expected all amplitudes up to an order"
    ):
        read_alignment(tmp_path / "b.root", DETECTOR)


def test_a_true_misalignment_keeps_its_surfaces(tmp_path):
    detector = barrel()
    local = torch.cat([random_local(len(detector)), SurfaceModes(3, 1e-3)(detector)[:, 6:]], -1)
    tracks = simulated(detector, GUN, 2, local)
    write_simulation(tmp_path / "t.root", detector, tracks, local, {"generator": "gun", "seed": 0})
    assert torch.equal(read_misalignment(tmp_path / "t.root", detector), local)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local_six": SIX[:3]}, r"shape \(3, 6\), expected \(4, 6\)"),
        ({"local_six": torch.nn.functional.pad(SIX, (0, 2))}, "2 amplitudes of a surface"),
        ({"local_six": SIX * torch.nan}, "box/upper/plane0 is .*nan"),
        ({"errors": SIX[:, :5]}, r"errors has shape \(4, 5\)"),
        ({"n_hits": np.zeros(5)}, r"n_hits has shape \(5,\)"),
        ({"status": np.array([0, 1, 2, 3])}, r"status holds \[3\]"),
        ({"local_six": QUARTER_TURN, "detector": telescope([0.0, 1, 2, 3], 1, 1)}, "rotation by 90°"),
        ({"detector": replace(DETECTOR, sensor_id=DETECTOR.sensor_id + 2**31)}, "expected 32-bit integers"),
    ],
)
def test_an_alignment_that_does_not_fit_is_refused(changes, message, tmp_path):
    whole = {
        "detector": DETECTOR,
        "local_six": SIX,
        "errors": SIX,
        "n_hits": np.zeros(4),
        "status": np.zeros(4),
    }
    with pytest.raises(GeometryError, match=message):
        write_alignment(tmp_path / "a.root", **{**whole, **changes})
    assert list(tmp_path.iterdir()) == []
