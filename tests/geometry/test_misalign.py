"""Random motions of a hierarchy: what moves with what, in which order, and by how much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from alignnet.errors import ConfigError, GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.detector import Detector
from alignnet.geometry.its2 import its2
from alignnet.geometry.misalign import (
    Composed,
    Gaussian,
    NoMisalignment,
    WeakMode,
    misaligned,
    volume_frames,
)
from alignnet.geometry.telescope import telescope

CONF = Path(__file__).resolve().parents[2] / "conf" / "misalignment"
STAVE = {"translation": 0.005, "rotation": 2e-4}
SENSOR = {"translation": 0.0005, "rotation": 1e-4}
ideal = its2()
nominal = (ideal.rotation, ideal.translation)


def first_sensors(group: Tensor) -> Tensor:
    """The row of the first sensor of each volume."""
    index, row = np.unique(group.numpy(), return_index=True)
    return torch.from_numpy(row[index >= 0])


def carried_frames(now: Detector, level: str) -> tuple[Tensor, Tensor]:
    """The volumes' ideal frames, carried to where their first sensors now are."""
    group, _ = ideal.groups(level)
    row = first_sensors(group)
    undo = rigid.invert((ideal.rotation[row], ideal.translation[row]))
    motion = rigid.compose(undo, (now.rotation[row], now.translation[row]))
    return rigid.compose(volume_frames(ideal, group), motion)


def motions(before: Detector, after: Detector, level: str) -> Tensor:
    """The local six of each volume's motion, in the frame where `before` has it: V' = V d."""
    return rigid.local_of(*carried_frames(before, level), *carried_frames(after, level))


def test_no_misalignment_and_zero_sigmas_leave_every_sensor_in_place() -> None:
    assert torch.equal(NoMisalignment()(ideal), torch.zeros(24120, 6, dtype=torch.float64))
    still = Gaussian({"stave": {}, "sensor": {"translation": 0.0, "rotation": [0, 0, 0]}}, seed=3)(ideal)
    assert still.abs().max() < 1e-13
    assert Composed([])(ideal).abs().max() < 1e-13


def test_small_motions_add_up_linearly() -> None:
    """Doubling all sigmas doubles the local six, up to products of angles (6e-4 here) and displacements."""

    def of_scale(scale: float) -> Tensor:
        levels = {
            name: {"translation": scale * 0.005, "rotation": scale * 2e-4}
            for name in ("half_barrel", "stave")
        }
        return Gaussian(levels, seed=5)(ideal)

    whole, thousandth = of_scale(1.0), of_scale(1e-3)
    assert (whole - 1e3 * thousandth).abs().max() < 1e-3 * whole.abs().max()
    assert (of_scale(2e-3) - 2 * thousandth).abs().max() < 1e-6 * thousandth.abs().max()


def test_the_same_seed_gives_the_same_places_and_another_seed_others() -> None:
    levels = {"stave": STAVE, "sensor": SENSOR}
    assert torch.equal(Gaussian(levels, seed=1)(ideal), Gaussian(levels, seed=1)(ideal))
    torch.manual_seed(99)  # the global state has no say
    assert torch.equal(Gaussian(levels, seed=1)(ideal), Gaussian(levels, seed=1)(ideal))
    assert not torch.allclose(Gaussian(levels, seed=1)(ideal), Gaussian(levels, seed=2)(ideal), atol=1e-4)


def test_adding_a_level_leaves_the_draws_of_the_others() -> None:
    """A stave's motion is the same with its half-barrel and its sensors still, and with them moving."""
    alone = misaligned(ideal, Gaussian({"stave": STAVE}, seed=4)(ideal))
    parents = misaligned(ideal, Gaussian({"half_barrel": STAVE}, seed=4)(ideal))
    both = misaligned(ideal, Gaussian({"half_barrel": STAVE, "stave": STAVE}, seed=4)(ideal))
    assert torch.allclose(motions(parents, both, "stave"), motions(ideal, alone, "stave"), rtol=0, atol=1e-12)
    sensors = Gaussian({"sensor": SENSOR}, seed=4)(ideal)
    all_three = misaligned(
        ideal, Gaussian({"half_barrel": STAVE, "stave": STAVE, "sensor": SENSOR}, seed=4)(ideal)
    )
    in_place = rigid.local_of(both.rotation, both.translation, all_three.rotation, all_three.translation)
    assert torch.allclose(in_place, sensors, rtol=0, atol=1e-12)


def test_levels_are_composed_as_alice_applies_them_parents_first() -> None:
    """G' = D_sensor · D_module · D_half_barrel · G, each D = V d V⁻¹ with V where the parents have put it."""
    levels = {name: {"translation": 0.05, "rotation": 0.01} for name in ("sensor", "module", "half_barrel")}
    found = misaligned(ideal, Gaussian(levels, seed=11)(ideal))
    now = ideal
    for level in ("half_barrel", "module", "sensor"):
        inside = motions(ideal, misaligned(ideal, Gaussian({level: levels[level]}, seed=11)(ideal)), level)
        delta = rigid.local_to_global(*carried_frames(now, level), inside)
        group, _ = ideal.groups(level)
        has = group >= 0
        rotation, translation = now.rotation.clone(), now.translation.clone()
        place = rigid.place_global(rotation[has], translation[has], delta[group[has]])
        rotation[has], translation[has] = place
        now = now.placed(rotation, translation)
    assert torch.allclose(now.translation, found.translation, rtol=0, atol=1e-11)
    assert torch.allclose(now.rotation, found.rotation, rtol=0, atol=1e-12)


def test_the_order_in_which_levels_are_written_does_not_matter() -> None:
    written = Gaussian({"half_barrel": STAVE, "stave": STAVE, "sensor": SENSOR}, seed=2)(ideal)
    reversed_ = Gaussian({"sensor": SENSOR, "Stave": STAVE, "HalfBarrel": STAVE}, seed=2)(ideal)
    assert torch.equal(written, reversed_)


@pytest.mark.parametrize("level", ["half_barrel", "stave", "half_stave", "module"])
def test_a_volume_moves_rigidly(level: str) -> None:
    actual = misaligned(ideal, Gaussian({level: {"translation": 0.1, "rotation": 0.01}}, seed=8)(ideal))
    group, paths = ideal.groups(level)
    for volume in (0, len(paths) // 2, len(paths) - 1):
        rows = (group == volume).nonzero().squeeze(-1)[:200]
        inside = [
            (d.translation[rows] - d.translation[rows[0]]) @ d.rotation[rows[0]] for d in (ideal, actual)
        ]
        assert torch.allclose(*inside, rtol=0, atol=1e-12)
        turn = [d.rotation[rows[:1]].mT @ d.rotation[rows] for d in (ideal, actual)]
        assert torch.allclose(*turn, rtol=0, atol=1e-13)
        assert (ideal.translation[rows] - actual.translation[rows]).norm(dim=-1).min() > 0.01


def test_sensors_without_a_level_stay() -> None:
    local = Gaussian({"half_stave": STAVE, "module": STAVE}, seed=1)(ideal)
    assert local[ideal.layer < 3].abs().max() < 1e-13
    assert (local[ideal.layer >= 3].abs().max(-1).values > 1e-5).all()


@pytest.mark.parametrize("level", ["stave", "half_stave", "module", "sensor"])
def test_motions_have_the_stated_sigmas_about_the_volumes_own_axes(level: str) -> None:
    sigma = torch.tensor([3e-3, 1e-3, 5e-3, 1e-4, 3e-4, 2e-4], dtype=torch.float64)
    stated = {"translation": sigma[:3].tolist(), "rotation": sigma[3:].tolist()}
    actual = misaligned(ideal, Gaussian({level: stated}, seed=21)(ideal))
    if level == "sensor":
        found = rigid.local_of(*nominal, actual.rotation, actual.translation)
    else:
        found = motions(ideal, actual, level)
    n = len(found)
    assert ((found.square().mean(0).sqrt() / sigma - 1).abs() < 4.5 / (2 * n) ** 0.5).all()
    assert ((found.mean(0) / sigma).abs() < 4.5 / n**0.5).all()
    correlation = torch.corrcoef(found.T) - torch.eye(6, dtype=torch.float64)
    assert (correlation.abs() < 5 / n**0.5).all()


def test_half_barrels_move_by_their_sigma() -> None:
    draws = [
        motions(
            ideal,
            misaligned(ideal, Gaussian({"half_barrel": {"translation": 0.003}}, seed=s)(ideal)),
            "half_barrel",
        )
        for s in range(6)
    ]
    found = torch.cat(draws)[:, :3]
    assert float(found.square().mean().sqrt()) == pytest.approx(0.003, rel=4.5 / (2 * found.numel()) ** 0.5)


def test_volumes_of_sensors_that_face_one_way_have_that_normal() -> None:
    group, paths = ideal.groups("stave")
    axes, origin = volume_frames(ideal, group)
    assert torch.allclose(axes[group][:, :, 1], ideal.rotation[:, :, 1], rtol=0, atol=1e-12)
    assert torch.allclose(axes[:, :, 2], torch.tensor([0.0, 0.0, 1.0]).double(), rtol=0, atol=1e-12)
    assert origin[:, 2].abs().max() < 1e-11
    first = (group == 100).nonzero().squeeze(-1)
    assert torch.allclose(origin[100], ideal.translation[first].mean(0), rtol=0, atol=1e-12), paths[100]


def test_half_barrels_have_the_global_axes_and_single_sensors_their_own_frame() -> None:
    axes, _ = volume_frames(ideal, ideal.groups("half_barrel")[0])
    assert torch.equal(axes, torch.eye(3, dtype=torch.float64).expand(14, 3, 3))
    axes, origin = volume_frames(ideal, ideal.groups("sensor")[0])
    assert torch.equal(axes, ideal.rotation)
    assert torch.equal(origin, ideal.translation)


def test_frames_are_right_handed_also_for_planes_across_the_beam() -> None:
    planes = telescope([0.0, 1.0, 2.0, 3.0], 1.0, 1.0)
    axes, origin = volume_frames(planes, torch.tensor([0, 0, 1, 1]))
    assert torch.equal(axes, planes.rotation[:2])
    assert origin[:, 2].tolist() == [0.5, 2.5]


def test_parts_are_composed_in_their_order() -> None:
    """The second part acts in the frame where the first has left the sensor: d = d₁ d₂ for sensors alone."""
    parts = [Gaussian({"sensor": {"translation": 0.1, "rotation": 0.1}}, seed=s) for s in (1, 2)]
    found = Composed(parts)(ideal)
    still = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    first, second = (rigid.place_local(*still, part(ideal)) for part in parts)
    expected = rigid.local_of(*still, *rigid.compose(second, first))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(Composed(parts[::-1])(ideal), expected, rtol=0, atol=1e-4)


def test_a_weak_mode_on_top_acts_where_the_sensors_are() -> None:
    staves, twist = Gaussian({"stave": STAVE}, seed=1), WeakMode("twist", 0.01)
    found = misaligned(ideal, Composed([staves, twist])(ideal))
    moved = misaligned(ideal, staves(ideal))
    expected = misaligned(moved, twist(moved))
    assert torch.allclose(found.translation, expected.translation, rtol=0, atol=1e-12)
    assert torch.allclose(found.rotation, expected.rotation, rtol=0, atol=1e-12)


def test_misaligned_needs_six_numbers_a_sensor() -> None:
    with pytest.raises(GeometryError, match=r"\(24120, 5\), expected \(24120, 6\)"):
        misaligned(ideal, torch.zeros(24120, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"stave": {"translations": 0.1}}, "stave.*translations"),
        ({"stave": {"translation": -0.1}}, "stave.*>= 0"),
        ({"stave": {"rotation": [0.1, 0.2]}}, "stave.*one or three"),
        ({"stave": {"rotation": float("nan")}}, "stave"),
        ({"half_barrel": {}, "HalfBarrel": {}}, "twice"),
    ],
)
def test_sigmas_that_cannot_be_used_are_refused_with_their_level(levels: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Gaussian(levels)


def test_a_level_that_the_detector_does_not_have_is_refused() -> None:
    with pytest.raises(GeometryError, match="ladder"):
        Gaussian({"ladder": STAVE})(ideal)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configured_misalignment_can_be_applied_to_its2(path: Path) -> None:
    local = instantiate(OmegaConf.load(path), _convert_="all")(ideal)
    moved = misaligned(ideal, local).translation - ideal.translation
    spread = float(moved.square().sum(-1).mean().sqrt())
    assert spread == 0 if path.stem == "none" else 1e-3 < spread < 3e-2


def test_the_default_misalignment_is_as_large_as_that_of_the_simulated_data(acts_file: Path) -> None:
    """About 100 µm a sensor: the levels' sigmas in quadrature, with the lever arms of their rotations."""
    uproot = pytest.importorskip("uproot")
    table = uproot.open(acts_file)["misalignment"].arrays(library="np")
    theirs = torch.stack([torch.from_numpy(table[name]) for name in ("du", "dv", "dw")], -1)
    ours = instantiate(OmegaConf.load(CONF / "gaussian.yaml"), _convert_="all")(ideal)[:, :3]
    for layers in (ideal.layer < 3, ideal.layer >= 3):
        ratio = ours[layers].square().mean().sqrt() / theirs[layers].square().mean().sqrt()
        assert 0.6 < float(ratio) < 1.6


def test_the_names_of_the_configurations_are_those_documented() -> None:
    names = {path.stem for path in CONF.glob("*.yaml")}
    assert {"none", "gaussian", "stave_chip", "half_barrel", "weak_twist", "weak_mix"} <= names
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in names)
