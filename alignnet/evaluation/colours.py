"""The colours of maps: from blue through nearly white to red, in even steps of CIELAB on both sides.

Equal differences of a value are then equal differences of colour, and equal distances from 0 are equally far
from white. Blue and orange-red stay apart for the colour-blind.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap

from alignnet.data.tracks import Array

_MIDDLE = (97.0, 0.0, 0.0)  # L*, a*, b*
_LIGHTNESS, _CHROMA = 35.0, 50.0  # of both ends
_HUES = (285.0, 45.0)  # [degrees] of the negative and the positive end
_WHITE = (0.95047, 1.0, 1.08883)  # D65
_TO_SRGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)


def diverging(steps: int = 257) -> ListedColormap:
    """The colour map of a signed quantity; an odd number of `steps` has the middle itself."""
    ends = [
        (_LIGHTNESS, _CHROMA * np.cos(np.radians(hue)), _CHROMA * np.sin(np.radians(hue))) for hue in _HUES
    ]
    where = np.linspace(-1.0, 1.0, steps)[:, None]
    towards = np.where(where < 0, ends[0], ends[1])
    lab = np.asarray(_MIDDLE) + np.abs(where) * (towards - np.asarray(_MIDDLE))
    return ListedColormap(srgb(lab).clip(0.0, 1.0).tolist(), name="blue_red")


def srgb(lab: Array) -> Array:
    """Colours (…, 3) in sRGB from CIELAB (D65), IEC 61966-2-1; beyond 0 … 1 where sRGB has no such colour."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _WHITE
    linear = xyz @ np.asarray(_TO_SRGB).T
    curved = 1.055 * np.sign(linear) * np.abs(linear) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(linear <= 0.0031308, 12.92 * linear, curved))
