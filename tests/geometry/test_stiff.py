"""Volumes that keep their shape: near to what would bend them, and rigid."""

from __future__ import annotations

import pytest
import torch

from alignnet.errors import GeometryError
from alignnet.geometry import rigid
from alignnet.geometry.its2 import its2
from alignnet.geometry.misalign import Gaussian, WeakMode, misaligned
from alignnet.geometry.mode_amplitudes import ModeAmplitudes
from alignnet.geometry.recovery import difference
from alignnet.geometry.stiff import Stiff
from alignnet.geometry.volumes import Volumes

DETECTOR = its2()
LEVELS = ["stave", "module"]
UM = 1e-4


def test_what_is_rigid_already_stays_as_it_is():
    moves = Gaussian({"stave": {"translation": 0.03, "rotation": 2e-3}}, seed=3)
    assert (Stiff(moves, LEVELS)(DETECTOR) - moves(DETECTOR)).abs().max() < 1e-11


def test_sensors_of_a_volume_keep_their_distances():
    moved = misaligned(DETECTOR, Stiff(WeakMode("z_expansion", 500 * UM), LEVELS)(DETECTOR))
    module = Volumes.of(DETECTOR, "module")
    inner, outer = (DETECTOR.layer == 0).nonzero().squeeze(-1)[:9], (module.group == 7).nonzero().squeeze(-1)
    for rows in (inner, outer):  # a stave, which has no modules, and a module
        before, after = (d.translation[rows] for d in (DETECTOR, moved))
        assert (torch.cdist(before, before) - torch.cdist(after, after)).abs().max() < 1e-10


@pytest.mark.parametrize("mode", ["z_expansion", "bowing", "curl"])
def test_no_other_motion_of_a_volume_comes_nearer(mode):
    part = WeakMode(mode, 50 * UM)
    wanted, found = part(DETECTOR), Stiff(part, LEVELS)(DETECTOR)
    rows = Volumes.of(DETECTOR, "module").group == 11
    least = difference(found, wanted, DETECTOR)[rows].square().sum()
    now = misaligned(DETECTOR, found)
    for seed in range(4):
        other = Gaussian({"module": {"translation": 1 * UM, "rotation": 1e-6}}, seed=seed)
        place = misaligned(now, other(now))
        local = rigid.local_of(DETECTOR.rotation, DETECTOR.translation, place.rotation, place.translation)
        assert difference(local, wanted, DETECTOR)[rows].square().sum() > least


def test_stiff_volumes_have_nearly_the_whole_amplitude():
    found = ModeAmplitudes(DETECTOR)
    for mode, within in (("z_expansion", 0.05), ("twist", 1e-3)):
        amplitude = found(Stiff(WeakMode(mode, 50 * UM), LEVELS)(DETECTOR))[found.rows(mode)]
        assert amplitude.item() == pytest.approx(50 * UM, rel=within)


def test_a_level_that_there_is_not_is_refused():
    with pytest.raises(GeometryError):
        Stiff(WeakMode("curl", 50 * UM), ["disc"])(DETECTOR)
