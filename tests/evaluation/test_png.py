"""Smaller PNG files have the same pixels."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from alignnet.evaluation.report.png import indexed, with_table


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pixels_of(file: bytes) -> np.ndarray:
    with Image.open(BytesIO(file)) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("n", [1, 2, 17, 256])
def test_a_file_of_few_colours_is_smaller_and_has_every_pixel_as_it_was(n):
    rng = np.random.default_rng(n)
    colours = np.unique(rng.integers(0, 256, (n, 4), dtype=np.uint8), axis=0)
    colours[-1, 3] = 0  # nothing there
    pixels = colours[rng.integers(0, len(colours), (40, 61))]
    found = indexed(png(pixels))
    assert found is not None
    np.testing.assert_array_equal(pixels_of(found), pixels)
    assert len(found) < len(png(pixels)) or n == 1


def test_more_colours_than_a_table_holds_stay():
    pixels = np.zeros((1, 257, 4), dtype=np.uint8)
    pixels[0, :, 0], pixels[0, 256, 1] = np.arange(257) % 256, 1
    address = f"data:image/png;base64,{b64encode(png(pixels)).decode()}"
    assert indexed(png(pixels)) is None
    assert with_table(address) == address
