"""Tables of an alignment: the same numbers, to the last digit, in every kind of file."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignnet.data.root import read_alignment
from alignnet.data.root_alignment import alignment_table
from alignnet.errors import ConfigError, SchemaError
from alignnet.export.table import SUFFIXES, read_table, write_table
from alignnet.geometry.telescope import telescope

DETECTOR = replace(telescope([0.0, 1.0, 2.0], 1.0, 1.0), names=("a/0", 'b,"1"', "c d\n2"))
SIX = torch.tensor([[0.1, 1 / 3, -1e-300, 1e-17, torch.pi / 1e4, 5e-324]], dtype=torch.float64).repeat(3, 1)
ERRORS = torch.tensor([[1 / 7], [torch.nan], [0.0]], dtype=torch.float64).repeat(1, 6)
ARGUMENTS = (DETECTOR, SIX, ERRORS, np.array([7, 0, 2**40]), np.array([0, 2, 1]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_table_gives_back_every_digit(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra alignnet[parquet] is not installed")
    path = tmp_path / f"table{suffix}"
    write_table(path, *ARGUMENTS)
    read, expected = read_table(path), alignment_table(*ARGUMENTS)
    assert read.name == expected.name
    for field in ("sensor_id", "local", "error", "global_", "n_hits", "status"):
        found, wanted = getattr(read, field), getattr(expected, field)
        assert np.array_equal(found, wanted, equal_nan=field == "error"), field
        assert found.dtype == wanted.dtype, field
    assert list(tmp_path.iterdir()) == [path]


def test_the_root_table_is_the_alignment_tree(tmp_path):
    write_table(tmp_path / "a.root", *ARGUMENTS)
    assert torch.equal(read_alignment(tmp_path / "a.root", DETECTOR), SIX)


def test_csv_begins_with_the_columns_of_the_schema(tmp_path):
    write_table(tmp_path / "a.csv", *ARGUMENTS)
    columns = (tmp_path / "a.csv").read_text().splitlines()[0].split(",")
    local = [
        f"{name}{end}" for name in ("du", "dv", "dw", "rot_u", "rot_v", "rot_w") for end in ("", "_error")
    ]
    last = ["x", "y", "z", "psi", "theta", "phi", "n_hits", "status", "error_kind"]
    assert columns == ["sensor_id", "name", *local, *last]


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'alignnet\[parquet\]'"):
        write_table(tmp_path / "a.parquet", *ARGUMENTS)
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown kind of table '.txt', expected one of .root, .parquet, .csv"
    ):
        write_table(tmp_path / "a.txt", *ARGUMENTS)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_no_such_table_is_refused(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra alignnet[parquet] is not installed")
    path = tmp_path / f"a{suffix}"
    for content in (None, "", "x,y\n1,2\n", "sensor_id,name\n1\n"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(SchemaError, match="not a table of an alignment"):
            read_table(path)
