"""Objects of every level: applied parents first they bring the sensors where the alignment has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_detectors import barrel, inner_barrel, part_of, random_local

from alignnet.data.root_alignment import read_alignment, write_alignment
from alignnet.data.root_volumes import (
    LevelAnswer,
    has_volumes,
    read_volumes,
    volume_columns,
    volume_table,
)
from alignnet.errors import SchemaError
from alignnet.export.alice import (
    hierarchy_params,
    read_alice,
    read_alice_alignment,
    read_start,
    read_start_volumes,
    write_align_params,
)
from alignnet.geometry import rigid
from alignnet.geometry.its2 import its2
from alignnet.geometry.volumes import Volumes, accumulated, carried, relative
from alignnet.training.volume_answers import moved_from_drawing

ITS2 = its2()
SOME = part_of(ITS2, torch.arange(3, len(ITS2), 37))
ALL = ("all", "Layer", "HalfBarrel", "Stave", "HalfStave", "Module")


def levels_of(detector, names, size=0.3, turn=0.02):
    """Random motions of some levels and of the sensors in them, and where the sensors then are."""
    levels = [Volumes.of(detector, name) for name in names]
    sixes = [random_local(len(level), size, turn, seed=i) for i, level in enumerate(levels)]
    own = random_local(len(detector), 0.01, 1e-3, seed=99)
    drawn = detector.rotation, detector.translation
    local = rigid.local_of(*drawn, *carried(levels, sixes, rigid.place_local(*drawn, own)))
    placed = {level.level: (level, p) for level, p in zip(levels, accumulated(levels, sixes), strict=True)}
    return levels, sixes, placed, local


@pytest.mark.parametrize(
    "names", [ALL, ("Stave",), ("HalfBarrel", "Module"), ("all", "HalfStave"), ()], ids="-".join
)
def test_objects_of_any_levels_lead_to_the_sensors_places(tmp_path, names):
    *_, placed, local = levels_of(SOME, names)
    write_align_params(tmp_path / "a.root", hierarchy_params(SOME, local, placed))
    found = read_alice_alignment(tmp_path / "a.root", SOME)
    place, expected = (rigid.place_local(SOME.rotation, SOME.translation, six) for six in (found, local))
    assert (place[1] - expected[1]).abs().max() < 1e-10  # cm
    assert (place[0] - expected[0]).abs().max() < 1e-12
    entries = read_alice(tmp_path / "a.root")
    alignable = [name for name in names if name != "Layer"]
    assert len(entries.symname) == len(SOME) + sum(len(placed[name][0]) for name in alignable)
    assert (entries.alignable_id[: -len(SOME)] == -1).all()
    depth = [name.count("/") for name in entries.symname[: -len(SOME)]]
    assert depth == sorted(depth)


def test_layers_which_alice_cannot_align_are_in_their_half_barrels(tmp_path):
    _, _, placed, local = levels_of(SOME, ("Layer", "HalfBarrel"))
    entries = hierarchy_params(SOME, local, placed)
    assert not any(name.count("/") == 1 for name in entries.symname)
    write_align_params(tmp_path / "a.root", entries)
    found = read_start_volumes(tmp_path / "a.root", SOME)
    assert list(found) == ["HalfBarrel"]
    for a, b in zip(found["HalfBarrel"][1], placed["HalfBarrel"][1], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("names", [("all", "HalfBarrel", "Stave", "HalfStave", "Module"), ("Stave",)])
def test_a_start_knows_its_volumes_again(tmp_path, names):
    _, _, placed, local = levels_of(SOME, names)
    write_align_params(tmp_path / "a.root", hierarchy_params(SOME, local, placed))
    assert (read_start(tmp_path / "a.root", SOME) - local).abs().max() < 1e-10
    found = read_start_volumes(tmp_path / "a.root", SOME)
    assert list(found) == list(names)
    for name in names:
        for a, b in zip(found[name][1], placed[name][1], strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_the_tree_of_volumes_comes_back(tmp_path):
    levels, sixes, placed, local = levels_of(SOME, ("HalfBarrel", "Stave", "Module"))
    rows = [
        LevelAnswer(
            level,
            placed[level.level][1],
            0.1 * six.abs(),
            torch.arange(len(level)),
            torch.arange(len(level)) % 3,
            2,
        )
        for level, six in zip(levels, sixes, strict=True)
    ]
    table = volume_table(SOME, rows[::-1])
    zero = np.zeros(len(SOME))
    trees = {"volumes": volume_columns(table)}
    write_alignment(tmp_path / "a.root", SOME, local, None, zero, zero, trees=trees)
    assert has_volumes(tmp_path / "a.root")
    found = read_volumes(tmp_path / "a.root")
    for a, b in zip(found, table, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert np.allclose(found.local, torch.cat(sixes).numpy(), rtol=0, atol=1e-12)
    assert found.name[0] == "ITS/ITSULayer0/ITSUHalfBarrel0"
    again = read_start_volumes(tmp_path / "a.root", SOME)
    for level in levels:
        assert torch.allclose(again[level.level][1][1], placed[level.level][1][1], rtol=0, atol=1e-11)
    assert torch.equal(read_alignment(tmp_path / "a.root", SOME), local)


def test_a_run_moves_on_from_the_volumes_of_its_start():
    """P of staves = what the run moved them and their half-barrels by, after what the start had."""
    detector = barrel(chips=2)
    _, _, start, _ = levels_of(detector, ("HalfBarrel", "Stave"))
    moved = [Volumes.of(detector, "stave")]
    sixes = [random_local(len(moved[0]), 0.1, 0.01, seed=7)]
    levels, found = moved_from_drawing(moved, sixes, start)
    assert [level.level for level in levels] == ["HalfBarrel", "stave"]
    (after,) = accumulated(moved, sixes)
    expected = rigid.compose(start["Stave"][1], after)
    assert torch.allclose(found[1][1], expected[1], rtol=0, atol=1e-12)
    assert torch.allclose(found[0][1], start["HalfBarrel"][1][1], rtol=0, atol=1e-12)
    assert relative(levels, found)[0].abs().max() > 0.1


def test_volumes_of_another_detector_are_refused(tmp_path):
    _, _, placed, local = levels_of(SOME, ("Stave",))
    write_align_params(tmp_path / "a.root", hierarchy_params(SOME, local, placed))
    with pytest.raises(SchemaError, match="is none of detector"):
        read_start_volumes(tmp_path / "a.root", inner_barrel())
