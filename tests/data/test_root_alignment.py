"""The tree `alignment` of ROOT files: it repeats what was found, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_detectors import four_planes

from alignnet.data.root import read_alignment, read_alignment_table, write_alignment
from alignnet.errors import GeometryError
from alignnet.geometry import rigid
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local_six": SIX[:3]}, r"shape \(3, 6\), expected \(4, 6\)"),
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
