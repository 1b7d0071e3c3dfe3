"""Volumes and weak modes in tables and in the report: the numbers that were found, the largest first."""

from __future__ import annotations

import io
import re

import pytest
import torch
from hierarchy_numbers import DETECTOR, EVERYONE, SIX, STAVES, UM, volumes, weak_modes
from rich.console import Console

from alignnet.evaluation import tables
from alignnet.evaluation.report import hierarchy_sections
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.volumes import LARGEST
from alignnet.evaluation.weak_modes import moved_by, with_truth
from alignnet.geometry.misalign import Composed, WeakMode


def printed(table):
    text = io.StringIO()
    Console(width=200, file=text).print(table)
    return text.getvalue()


def test_the_largest_volumes_come_first_with_their_errors():
    found = volumes()["stave"]
    length = SIX[:, :3].norm(dim=1)
    order = length.argsort(descending=True)[:LARGEST].tolist()
    assert [row["name"] for row in found["largest"]] == [STAVES.names[i] for i in order]
    for row, i in zip(found["largest"], order, strict=True):
        assert abs(row["du_um"] - float(SIX[i, 0]) / UM) < 1e-8
    assert abs(found["rms"]["dv_um"] - float(SIX[:, 1].square().mean().sqrt()) / UM) < 1e-8
    assert abs(found["median_error"]["dw_um"] - 3) < 1e-9  # of those that are known
    assert found["error"].endswith("from draws")


def test_recovered_parts_are_found_over_injected_where_that_is_clear():
    found = weak_modes()["modes"]
    radial, twist, curl = (found[name] for name in ("radial", "twist", "curl"))
    assert abs(radial["recovered"] - 0.9) < 1e-3
    assert abs(radial["injected_um"] - radial["found_um"] - radial["residual_um"]) < 1e-9
    assert twist["recovered"] is None  # 1 µm with an error of 2
    assert curl["recovered"] is None
    assert curl["sigma_um"] is None
    assert (radial["verdict"], curl["verdict"]) == ("seen", "invisible")


def test_a_truth_that_comes_later_says_the_same():
    whole = weak_modes()
    known = ("injected_um", "residual_um", "recovered")
    without = {n: {k: v for k, v in row.items() if k not in known} for n, row in whole["modes"].items()}
    truth = Composed([WeakMode("radial", 50 * UM), WeakMode("twist", 1 * UM)])(DETECTOR)
    found = with_truth(whole | {"modes": without}, DETECTOR, EVERYONE, torch.zeros_like(truth), truth)
    assert found["aim_um"] == whole["aim_um"]
    for name, row in whole["modes"].items():
        other = found["modes"][name]
        assert set(other) == set(row)
        for key, value in row.items():
            is_number = isinstance(value, float)
            assert other[key] == (pytest.approx(value, rel=1e-9, abs=1e-9) if is_number else value)
    assert "injected_um" not in without["radial"]


def test_numbers_of_surfaces_move_no_sensor():
    before, after = torch.zeros(3, 6), torch.zeros(3, 9)
    after[1, 2], after[2, 7] = 1e-6, 1.0
    assert moved_by(before, after).tolist() == [False, True, False]


def test_tables_and_sections_say_what_was_found():
    metrics = {"weak_modes": weak_modes(), "volumes": volumes()}
    text = printed(tables.mode_table(metrics["weak_modes"]))
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["radial"]]
    assert re.split(r"\s+", line.strip())[1:] == [
        "2.00",
        "1.00",
        "∞",
        "50.0",
        "45.0",
        "5.00",
        "0",
        "%",
        "seen",
    ]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "invisible" in next(line for line in text.splitlines() if line.split()[:1] == ["curl"])
    assert "stave" in printed(tables.volume_level_table(metrics["volumes"]))
    report = Report(metrics, DETECTOR, torch.zeros(len(DETECTOR), 6))
    page = str(hierarchy_sections.weak_modes(report))
    assert "invisible (not told by these tracks): curl" in page
    assert "∞" in page
    page = str(hierarchy_sections.volumes(report))
    assert all(row["name"] in page for row in metrics["volumes"]["stave"]["largest"])


def test_without_numbers_there_are_no_sections():
    empty = Report({}, DETECTOR, torch.zeros(len(DETECTOR), 6))
    assert not str(hierarchy_sections.weak_modes(empty))
    assert not str(hierarchy_sections.volumes(empty))
