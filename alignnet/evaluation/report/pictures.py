"""Figures as inline SVG, drawn once for light pages, dark ones and paper.

The figures' colours become variables of the page's style sheet, and their backgrounds nothing. What is dense
(the sensors of a map) is a PNG inside the SVG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from alignnet.evaluation.report.markup import Html, element, formula
from alignnet.evaluation.report.svg import INK, inline, least_width

_RC: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
}
_NO_METADATA: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_RASTER_DPI = 170
_LARGER = 1.2  # than a figure on paper
NARROWEST = 340.0
"""What figures have of a telephone's width [CSS pixels]."""


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Args:
        name: unique on the page.
        draw: makes it.
        finding: what it shows, for those who don't see it.
        title: above it, or "".
    """

    name: str
    draw: Callable[[], Figure]
    finding: str
    title: str = ""

    def html(self) -> Html:
        """The figure as SVG with its title."""
        with matplotlib.rc_context({**_RC, "svg.hashsalt": self.name}):
            drawn, text = self.draw(), StringIO()
            drawn.savefig(text, format="svg", dpi=_RASTER_DPI, transparent=True, metadata=_NO_METADATA)
        width = 96 * _LARGER * float(drawn.get_size_inches()[0])  # [CSS pixels]
        title = element("p", formula(self.title), class_="title") if self.title else ""
        figure = inline(text.getvalue(), self.name, self.finding, width)
        return element("div", title, element("div", figure, **_box(width)), class_="panel")


def panels(pictures: list[Picture], caption: str, class_: str = "panels") -> Html:
    """Figures side by side where there is room, with what they say below."""
    if not pictures:
        return Html("")
    grid = element("div", *(picture.html() for picture in pictures), class_=class_)
    return element("figure", grid, element("figcaption", formula(caption)))


def _box(width: float) -> dict[str, str]:
    """Attributes of the box that a figure of this width scrolls in, where keys can reach it."""
    scrolls = {"tabindex": "0", "role": "group"} if least_width(width) > NARROWEST else {}
    return {"class_": "figure", **scrolls}
