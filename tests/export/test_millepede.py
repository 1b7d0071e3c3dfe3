"""To Millepede and back: labels, signs, and text that pede reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mille_toys import normal_equations

from alignnet.data.mille import read_mille
from alignnet.errors import ConfigError, GeometryError, SchemaError
from alignnet.export.millepede import (
    read_result,
    sensor_labels,
    track_records,
    write_mille,
    write_result,
    write_steering,
)
from alignnet.geometry.telescope import telescope

PEDE = """ Parameter   ! first 3 elements per line are significant (if used as input)
! comment of a label
        50     0.12387E-01    0.0000       0.12387E-01   0.38268E-03         185
        51    -0.10100E-02    0.0000      -0.10100E-02   0.31170E-03   0.350
        52     0.35959E-02    0.0000       0.35959E-02
       150      0.0000       -1.0000
       151      0.0000       -1.0000                                  12
"""


def tracks(n=30, sensors=4, seed=0):
    """A linear toy: each track crosses all sensors twice and has two local parameters; p is the truth."""
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(sensors, 3))
    local = rng.normal(size=(n, 2 * sensors, 2))
    hit = np.tile(np.arange(sensors), 2)
    derivative = rng.normal(size=(n, 2 * sensors, 3))
    labels = np.broadcast_to(10 * hit[:, None] + np.arange(1, 4), derivative.shape)
    y = np.einsum("tml,tl->tm", local, rng.normal(size=(n, 2))) + (derivative * p[hit]).sum(-1)
    return p, y, local, derivative, labels


def solve(records):
    """Global least squares from the records alone, as Millepede poses it; its labels and values."""
    labels, h, g, *_ = normal_equations(records)
    return labels, np.linalg.solve(h, g)


@pytest.mark.parametrize("double", [True, False])
def test_measured_minus_predicted_with_derivatives_of_the_prediction_gives_the_parameters(double, tmp_path):
    p, y, local, derivative, labels = tracks()
    write_mille(tmp_path / "a.bin", y, local, derivative, 0.5, labels, double=double)
    found_labels, found = solve(read_mille(tmp_path / "a.bin"))
    assert np.array_equal(found_labels, labels[0, :4].ravel())
    assert found == pytest.approx(p.ravel(), abs=1e-12 if double else 1e-5)


def test_masked_measurements_and_empty_tracks_are_left_out():
    p, y, local, derivative, labels = tracks()
    mask = np.ones(y.shape, dtype=bool)
    mask[2, 1:5], mask[7] = False, False
    y[~mask], derivative[~mask] = np.nan, np.nan
    records = track_records(y, local, derivative, 1.0, labels, mask)
    assert np.diff(records.record_offset).tolist() == [8, 8, 4] + [8] * 26
    assert solve(records)[1] == pytest.approx(p.ravel(), abs=1e-12)


def test_zero_derivatives_are_left_out():
    _, y, local, derivative, labels = tracks()
    local[:, 3, 1], derivative[:, :, 2] = 0, 0
    records = track_records(y, local, derivative, 1.0, labels)
    assert (np.diff(records.local_offset).reshape(30, 8)[:, 3] == 1).all()
    assert (records.global_label % 10 != 3).all()
    assert (records.global_value != 0).all()


def test_whitened_measurements_may_see_every_parameter_of_their_track():
    p, y, local, derivative, labels = tracks()
    rng = np.random.default_rng(1)
    whole = np.zeros((30, 8, 12))
    for m in range(8):
        whole[:, m, 3 * (m % 4) : 3 * (m % 4) + 3] = derivative[:, m]
    turn = np.linalg.qr(rng.normal(size=(30, 8, 8))).Q
    records = track_records(
        (turn @ y[..., None])[..., 0], turn @ local, turn @ whole, 1.0, labels[:, :4].reshape(30, 1, 12)
    )
    assert solve(records)[1] == pytest.approx(p.ravel(), abs=1e-12)


def test_labels_are_those_of_o2_and_consecutive_for_a_sensor():
    detector = replace(telescope([0.0, 1.0], 1.0, 1.0), sensor_id=torch.tensor([24_119, 0]))
    assert sensor_labels(detector)[0].tolist() == [12_412_000 + k for k in range(6)]
    assert sensor_labels(detector)[1, 0] == 10_000_100
    with pytest.raises(GeometryError, match="sensor_id must be 0 to"):
        sensor_labels(replace(detector, sensor_id=torch.tensor([0, 2**25])))


def test_pedes_own_text_is_read(tmp_path):
    (tmp_path / "millepede.res").write_text(PEDE)
    result = read_result(tmp_path / "millepede.res")
    nan = np.nan
    assert result.label.tolist() == [50, 51, 52, 150, 151]
    assert result.value.tolist() == [0.012387, -0.00101, 0.0035959, 0, 0]
    assert result.presigma.tolist() == [0, 0, 0, -1, -1]
    assert np.array_equal(result.difference, [0.012387, -0.00101, 0.0035959, nan, nan], equal_nan=True)
    assert np.array_equal(result.error, [3.8268e-4, 3.117e-4, nan, nan, nan], equal_nan=True)


numbers = st.floats(-1e200, 1e200)


@given(
    st.lists(st.tuples(st.integers(1, 2**31 - 1), numbers, numbers, numbers, st.floats(0, 1e200)), min_size=1)
)
def test_a_result_keeps_every_digit(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "millepede.res"
    label, value, presigma, difference, error = (np.array(column) for column in zip(*rows, strict=True))
    write_result(path, label, value, presigma, difference, error)
    result, fixed = read_result(path), presigma < 0
    assert np.array_equal(result.label, label)
    assert np.array_equal(result.value, value)
    assert np.array_equal(result.presigma, presigma)
    assert np.array_equal(result.difference, np.where(fixed, np.nan, difference), equal_nan=True)
    assert np.array_equal(result.error, np.where(fixed, np.nan, error), equal_nan=True)


def test_a_result_looks_like_pedes(tmp_path):
    write_result(
        tmp_path / "a.res",
        [[50, 51], [52, 53]],
        [[0.25, -0.5], [0, 1]],
        [[0, 0], [-1, 0.1]],
        error=[[1, np.nan]] * 2,
    )
    lines = (tmp_path / "a.res").read_text().splitlines()
    assert lines[0] == PEDE.splitlines()[0]
    assert [len(line.split()) for line in lines[1:]] == [5, 4, 3, 4]
    assert [int(line[:10]) for line in lines[1:]] == [50, 51, 52, 53]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no parameter"),
        (
            "*** Results of checking input only, no solution performed ***\n !    10    0.0   0.0  12\n",
            "found no parameter",
        ),
        (PEDE + "  60  0.1  abc\n", "line 8: could not convert"),
        (PEDE + "  60  NaN  0.0\n", "line 8: found .*all finite"),
        (PEDE + "  60  0.1\n", "line 8: found"),
        (PEDE + "  6.5  0.1  0.0\n", "line 8: invalid literal"),
    ],
)
def test_a_damaged_result_is_named_with_its_line(text, message, tmp_path):
    (tmp_path / "a.res").write_text(text)
    with pytest.raises(SchemaError, match=message):
        read_result(tmp_path / "a.res")
    with pytest.raises(SchemaError, match="cannot be read"):
        read_result(tmp_path / "none.res")


def test_steering_text_says_what_is_fixed_and_constrained(tmp_path):
    path = tmp_path / "steer.txt"
    factors = np.array([[1.0, 0, 1, 0], [0, 0.25, 0, 0]])
    write_steering(
        path, ["a.bin", "b.bin.gz"], [11, 12, 13, 14], [True, False, False, False], 0.5, 0.125, factors
    )
    text = path.read_text()
    blocks = text.split("\n\n")
    assert blocks[0].splitlines() == ["Cfiles", "a.bin", "b.bin.gz"]
    rows = [line.split() for line in blocks[1].splitlines()[1:]]
    assert [(int(a), float(b), float(c)) for a, b, c in rows] == [
        (11, 0.125, -1), (12, 0.125, 0.5), (13, 0.125, 0.5), (14, 0.125, 0.5),
    ]  # fmt: skip
    assert [[int(line.split()[0]) for line in block.splitlines()[1:]] for block in blocks[2:4]] == [
        [11, 13],
        [12],
    ]
    assert text.rstrip().endswith("end")
    assert max(map(len, text.splitlines())) < 1024


def test_a_result_can_be_fed_back_as_start_values(tmp_path):
    write_result(tmp_path / "a.res", [5, 7], [0.1, -0.2], [0.0, -1.0])
    assert read_result(tmp_path / "a.res").value.tolist() == [0.1, -0.2]


@pytest.mark.parametrize("name", ["my file.bin", "data.txt", "", "*.bin"])
def test_file_names_that_pede_would_misread_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="pede cannot read a binary called"):
        write_steering(tmp_path / "steer.txt", [name], [1])
