"""Figures as inline SVG, drawn once for light pages, dark ones and paper.

The figures' colours become variables of the page's style sheet, and their backgrounds nothing. What is dense
(the sensors of a map) is a PNG inside the SVG.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from alignnet.evaluation.report.markup import Html, element, formula, html

INK = "#222222"
_VARIABLES = {
    INK: "var(--ink)",
    "#000000": "var(--ink)",
    "#0072b2": "var(--after)",
    "#d55e00": "var(--before)",
    "#bfbfbf": "var(--rule)",  # "0.75"
    "#999999": "var(--quiet)",  # "0.6"
}
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
            figure, text = self.draw(), StringIO()
            figure.savefig(text, format="svg", dpi=_RASTER_DPI, transparent=True, metadata=_NO_METADATA)
        width = 96 * _LARGER * float(figure.get_size_inches()[0])  # [CSS pixels]
        title = element("p", formula(self.title), class_="title") if self.title else ""
        return element("div", title, inline(text.getvalue(), self.name, self.finding, width), class_="panel")


def panels(pictures: list[Picture], caption: str, class_: str = "panels") -> Html:
    """Figures side by side where there is room, with what they say below."""
    if not pictures:
        return Html("")
    grid = element("div", *(picture.html() for picture in pictures), class_=class_)
    return element("figure", grid, element("figcaption", formula(caption)))


def inline(svg: str, name: str, finding: str, width: float) -> Html:
    """An SVG file of matplotlib as an element of the page.

    Args:
        svg: the file.
        name: put before its identifiers, which then are the page's only ones.
        finding: text in its place.
        width: that it has where there is room [CSS pixels].
    """
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    content = svg[svg.index(">", box.end()) + 1 : svg.rindex("</svg>")]
    content = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", content, flags=re.S)
    content = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", content)
    content = content.replace("xlink:href=", "href=")
    content = re.sub(r' d="[^"]*"', _rounded, content)
    content = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), content)
    content = re.sub(r"\s*\n\s*", "\n", content)
    opening = f'<svg viewBox="{box[1]}" style="width:{width:.0f}px" role="img" aria-label="{html(finding)}">'
    return Html(f"{opening}{content}</svg>")


def _rounded(path: re.Match[str]) -> str:
    """A path with a hundredth of a point in the place of a millionth."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])
