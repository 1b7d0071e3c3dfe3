"""Figures of volumes name them by layer and side, which come from the geometry."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import barrel, planes

from alignnet.evaluation.hit_sums import SensorSums
from alignnet.evaluation.levels import level_metrics
from alignnet.evaluation.quality_plots import volume_residuals
from alignnet.geometry.its2 import its2

ITS2 = its2()
QUARTER = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def turned(detector):
    """By 90° about the beam line: what was at the top is at the left."""
    return replace(
        detector, rotation=QUARTER @ detector.rotation, translation=detector.translation @ QUARTER.T
    )


def levels(detector):
    sums = {name: SensorSums(len(detector)) for name in ("before", "after")}
    return level_metrics(detector, sums)["residual_levels"]


@pytest.mark.parametrize("detector", [ITS2, barrel(staves=8)], ids=["ITS2", "small barrel"])
def test_half_barrels_turn_with_the_detector(detector):
    once, twice = (levels(one)["HalfBarrel"]["volumes"] for one in (detector, turned(detector)))
    assert set(once["side"]) == {"top", "bottom"}
    after = {"top": "left", "bottom": "right"}
    assert twice["side"] == [after[side] for side in once["side"]]
    assert once["layer"] == twice["layer"] == [n for n in detector.layers for _ in range(2)]


def test_the_upper_half_of_its2_has_the_staves_above_the_beam():
    volumes = levels(ITS2)["HalfBarrel"]["volumes"]
    side = dict(zip(volumes["name"], volumes["side"], strict=True))
    for name, y in zip(ITS2.names[::97], ITS2.translation[::97, 1].tolist(), strict=True):
        path = name[: name.index("HalfBarrel") + len("HalfBarrel0")]
        assert (side[path] == "top") == (y > 0)


def test_staves_have_layers_and_no_sides_and_the_whole_neither():
    found = levels(ITS2)
    staves = found["Stave"]["volumes"]
    assert [staves["layer"].count(n) for n in ITS2.layers] == [12, 16, 20, 24, 30, 42, 48]
    assert "side" not in staves
    assert found["all"]["volumes"]["layer"] == [None]
    assert all("side" not in one.get("volumes", {}) for one in levels(planes(6)).values())


def test_ticks_of_a_figure_are_words():
    found = levels(ITS2)
    ticks = [t.get_text() for t in volume_residuals(found, "HalfBarrel").axes[1].get_xticklabels()]
    assert ticks[:3] == ["top\n0", "bottom\n0", "top\n1"]
    axis = volume_residuals(found, "Stave").axes[1]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["0", "1", "2", "3", "4", "5", "6"]
    assert axis.get_xticks()[0] == 5.5  # the middle of twelve
