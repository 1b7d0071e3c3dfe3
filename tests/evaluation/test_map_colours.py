"""Colours of maps: even steps to the eye on both sides of 0, for the colour-blind too; one scale for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from small_detectors import barrel, random_local

from alignnet.evaluation.colours import diverging, srgb
from alignnet.evaluation.map_panels import colours, correction_scale, layer_panel, linear_width

UM = 1e-4
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
"""Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009) 1291: of linear sRGB, severity 1."""  # fmt: skip


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb_linear):
    """CIELAB of linear sRGB, IEC 61966-2-1."""
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    ratio = rgb_linear @ to_xyz.T / [0.95047, 1.0, 1.08883]
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


COLOURS = np.array([to_rgb(colour) for colour in diverging(129).colors])


def test_srgb_of_known_colours():
    known = np.array([[100.0, 0, 0], [0, 0, 0], [53.2408, 80.0925, 67.2032], [32.2970, 79.1875, -107.8602]])
    assert srgb(known) == pytest.approx(np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]), abs=2e-3)


def test_steps_are_even_and_both_sides_alike():
    found = lab(linear(COLOURS))
    steps = np.linalg.norm(np.diff(found, axis=0), axis=-1)
    assert steps == pytest.approx(np.full(128, steps.mean()), rel=0.02)
    assert found[::-1, 0] == pytest.approx(found[:, 0], abs=0.1)  # as light at −x as at x
    assert (np.diff(found[:65, 0]) > 0).all()


@pytest.mark.parametrize("matrix", [DEUTERANOPIA, PROTANOPIA])
def test_the_colour_blind_tell_both_signs_apart(matrix):
    seen = lab((linear(COLOURS) @ np.array(matrix).T).clip(0, 1))
    apart = np.linalg.norm(seen - seen[::-1], axis=-1)
    assert apart[0] > 50  # the ends; 2 is just noticeable
    assert (apart[:52] > 10).all()  # from a fifth of the scale


@pytest.mark.parametrize(
    ("largest", "scale"), [(7.3, 10), (20, 20), (21, 30), (250, 300), (310, 500), (0.004, 0.01)]
)
def test_the_scale_is_round_and_holds_nearly_all(largest, scale):
    local = torch.zeros(1000, 6, dtype=torch.float64)
    local[:, 0] = largest * UM
    local[0, 0] = 1e4 * UM
    assert correction_scale(local) == pytest.approx(scale)


def test_all_maps_give_equal_corrections_equal_colours():
    detector = barrel()
    local = random_local(len(detector), 30e-4, 0.0, seed=1)
    cells = [
        collection
        for layer in detector.layers
        for c in "uvw"
        for collection in layer_panel(detector, local, layer, c, 50.0).axes[0].collections
    ]
    assert len(cells) == 12
    for cell in cells:
        assert (cell.norm.vmin, cell.norm.vmax, cell.norm.linear_width) == (-50.0, 50.0, linear_width(50.0))
    shown = np.concatenate([np.abs(np.asarray(cell.get_array())) for cell in cells])
    expected = local[:, :3].abs().flatten().numpy() / UM
    np.testing.assert_allclose(np.sort(shown), np.sort(expected))
    assert tuple(colours(50.0).to_rgba(0.0)) == pytest.approx((*COLOURS[64], 1.0), abs=0.01)
