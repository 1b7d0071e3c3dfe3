"""PNG files in fewer bytes: those of few colours with a table of them, without a change to any pixel."""

from __future__ import annotations

from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
from PIL import Image

_MOST = 256
"""Colours of a table."""


def with_table(address: str) -> str:
    """A PNG in a `data:` address with a table of its colours, if these are few and it is shorter so."""
    kind, _, data = address.partition(",")
    file = indexed(b64decode(data))
    return address if file is None else min(address, f"{kind},{b64encode(file).decode()}", key=len)


def indexed(file: bytes) -> bytes | None:
    """The same pixels as numbers of their colours; None where these are too many, or not RGBA."""
    with Image.open(BytesIO(file)) as image:
        if image.mode != "RGBA":
            return None
        pixels = np.asarray(image)
    colours, index = np.unique(np.ascontiguousarray(pixels).view("<u4")[..., 0], return_inverse=True)
    if len(colours) > _MOST:
        return None
    table = colours.view(np.uint8).reshape(-1, 4)
    found, text = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8), "P"), BytesIO()
    found.putpalette(table[:, :3].tobytes())
    found.save(text, "png", optimize=True, transparency=table[:, 3].tobytes())
    return text.getvalue()
