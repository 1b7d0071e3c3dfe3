"""Volumes carry what is inside them, parents first: against products of 4×4 matrices."""

from __future__ import annotations

import pytest
import torch
from small_detectors import barrel, part_of, random_local
from torch import Tensor

from alignnet.geometry import rigid
from alignnet.geometry.its2 import its2
from alignnet.geometry.volumes import Volumes, accumulated, carried, deltas, own_six, parents_first, relative

ITS2 = its2()
SOME = part_of(ITS2, torch.arange(5, len(ITS2), 61))
NAMES = ("all", "layer", "half_barrel", "stave", "half_stave", "module")
LEVELS = [Volumes.of(SOME, name) for name in NAMES]
SIXES = [random_local(len(level), 0.5, 0.1, seed=i) for i, level in enumerate(LEVELS)]
PLACE = SOME.rotation, SOME.translation


def matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """A motion as a 4×4 matrix."""
    full = torch.eye(4, dtype=torch.float64)
    full[:3, :3], full[:3, 3] = rotation, translation
    return full


def path_of(name: str, level: str) -> str | None:
    """The volume of a level that a sensor is in, by its name alone."""
    word = {"all": "ITS", "layer": "ITSULayer", "half_barrel": "HalfBarrel", "stave": "UStave"}
    word |= {"half_stave": "HalfStave", "module": "Module"}
    parts = name.split("/")
    at = [i for i, part in enumerate(parts) if word[level] in part]
    return "/".join(parts[: at[0] + 1]) if at else None


def test_composed_motions_are_products_of_matrices():
    """M₁ … Mₙ G with M = V d V⁻¹, volumes found by the letters of the sensors' names."""
    rotation, translation = carried(LEVELS[::-1], SIXES[::-1], PLACE)
    for sensor in range(0, len(SOME), 17):
        product = torch.eye(4, dtype=torch.float64)
        for name, level, six in zip(NAMES, LEVELS, SIXES, strict=True):
            path = path_of(SOME.names[sensor], name)
            if path is None:
                continue
            volume = level.names.index("" if name == "all" else path)
            frame = matrix(level.frame[0][volume], level.frame[1][volume])
            shift, turn = rigid.split_local(six[volume])
            inside = matrix(torch.linalg.matrix_exp(rigid.skew(turn)), shift)
            product = product @ frame @ inside @ torch.linalg.inv(frame)
        expected = product @ matrix(SOME.rotation[sensor], SOME.translation[sensor])
        assert torch.allclose(matrix(rotation[sensor], translation[sensor]), expected, rtol=0, atol=1e-11)


def test_alices_deltas_applied_parents_first_lead_to_the_same_places():
    found = carried(LEVELS, SIXES, PLACE)
    for sensor in range(0, len(SOME), 17):
        place = matrix(SOME.rotation[sensor], SOME.translation[sensor])
        for level, motion in zip(LEVELS, deltas(LEVELS, accumulated(LEVELS, SIXES)), strict=True):
            volume = int(level.group[sensor])
            if volume >= 0:
                place = matrix(motion[0][volume], motion[1][volume]) @ place
        assert torch.allclose(place, matrix(found[0][sensor], found[1][sensor]), rtol=0, atol=1e-11)


def test_sixes_against_the_parents_come_back():
    found = relative(LEVELS, accumulated(LEVELS, SIXES))
    for six, expected in zip(found, SIXES, strict=True):
        assert torch.allclose(six, expected, rtol=0, atol=1e-12)


def test_what_sensors_moved_by_themselves_comes_back_however_their_volumes_moved():
    own = random_local(len(SOME), 0.2, 0.05, seed=9)
    here = carried(LEVELS, SIXES, rigid.place_local(*PLACE, own))
    moved = list(zip(LEVELS, accumulated(LEVELS, SIXES), strict=True))
    local = rigid.local_of(*PLACE, *here)
    assert (local - own).abs().max() > 0.1
    assert torch.allclose(own_six(SOME, local, moved[::-1]), own, rtol=0, atol=1e-12)
    assert torch.allclose(own_six(SOME, local, []), local, rtol=0, atol=1e-12)


def test_a_motion_of_the_whole_leaves_every_volume_where_it_is_on_its_parent():
    sixes = [random_local(1, 3.0, 0.4), *SIXES[1:]]
    moved, still = (accumulated(LEVELS, one) for one in (sixes, SIXES))
    assert (moved[3][1] - still[3][1]).abs().max() > 1.0
    for a, b in zip(relative(LEVELS, moved)[1:], relative(LEVELS, still)[1:], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_only_the_order_of_the_levels_in_the_tree_counts():
    assert [level.level for level in parents_first(LEVELS[::-1])] == list(NAMES)
    one, other = carried(LEVELS, SIXES, PLACE), carried(LEVELS[::-1], SIXES[::-1], PLACE)
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("name", ["half_barrel", "stave", "sensor"])
def test_a_volume_keeps_its_sensors_together(name):
    detector = barrel(chips=3)
    level = Volumes.of(detector, name)
    six = random_local(len(level), 0.2, 0.3)
    rotation, translation = carried([level], [six], (detector.rotation, detector.translation))
    for volume in range(len(level)):
        rows = level.group == volume
        before, after = (torch.cdist(t[rows], t[rows]) for t in (detector.translation, translation))
        assert torch.allclose(before, after, rtol=0, atol=1e-12)
        relative_turn = rotation[rows].transpose(-1, -2) @ rotation[rows][:1]
        drawn = detector.rotation[rows].transpose(-1, -2) @ detector.rotation[rows][:1]
        assert torch.allclose(relative_turn, drawn, rtol=0, atol=1e-12)
    assert (translation - detector.translation).abs().max() > 0.1
