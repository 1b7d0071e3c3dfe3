"""SVG files of matplotlib as elements of a page, in few bytes.

matplotlib writes every figure for itself: each has its own letters and marks, and says of every tick and
point how it is coloured, to a millionth of a point. A page of many figures has what they share once: outlines
in one hidden element, colours and line widths as classes of its style sheet.
"""

from __future__ import annotations

import re
from collections import Counter

from alignnet.evaluation.report.markup import Html, html
from alignnet.evaluation.report.png import with_table

INK = "#222222"
_VARIABLES = {
    INK: "var(--ink)",
    "#000000": "var(--ink)",
    "#0072b2": "var(--after)",
    "#d55e00": "var(--before)",
    "#bfbfbf": "var(--rule)",  # "0.75"
    "#999999": "var(--quiet)",  # "0.6"
}
_WIDE = 700.0  # figures that are wider than this [CSS pixels] need not fit on a telephone …
_SHRINK = 0.7  # … but scroll there, shrunk by no more than this
_NARROW = 330.0  # while others do fit

_NOTHING = r'<path d="[^"]*"(?: clip-path="[^"]*")? style="fill: none"/>'
_FIGURE = re.compile(r"(<svg[^>]*>)(.*?)(</svg>)", flags=re.S)
_OUTLINE = re.compile(r'<path id="([^"]+)"([^>]*)/>')
_REFERENCE = re.compile(r'((?:href="|url\()#)([^")]+)')
_STYLE = re.compile(r' style="((?:(?!url\()[^"])*)"')
_CLIP = re.compile(r'<clipPath id="([^"]+)">(.*?)</clipPath>', flags=re.S)


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
    content = re.sub(r'(<(?:g|image)\b[^>]*?) id="[^"]*"', r"\1", content)
    content = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", content)
    content = content.replace("xlink:href=", "href=")
    content = re.sub(_NOTHING, "", content)
    content = re.sub(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)', _rounded, content)
    content = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), content)
    content = re.sub(r"data:image/png;base64,[^\"]*", lambda found: with_table(found[0]), content)
    content = re.sub(r"\s*\n\s*", "\n", _unwrapped(content).replace("<defs>\n</defs>", ""))
    size = f"--width:{width:.0f}px;--least:{least_width(width):.0f}px"
    opening = f'<svg viewBox="{box[1]}" style="{size}" role="img" aria-label="{html(finding)}">'
    return Html(f"{opening}{content}</svg>")


def least_width(width: float) -> float:
    """The width [CSS pixels] below which a figure scrolls rather than shrinks."""
    return _SHRINK * width if width > _WIDE else min(_SHRINK * width, _NARROW)


def said_once(body: str) -> tuple[str, Html]:
    """The style sheet of a page's figures, and the page with what they share said once.

    Args:
        body: with figures of `inline`.
    """
    shared: dict[str, str] = {}  # identifiers on the page, by what is defined
    body = _FIGURE.sub(lambda figure: figure[1] + _without_shared(figure[2], shared) + figure[3], body)
    store = "".join(text.replace(" id=", f' id="{name}"', 1) for text, name in shared.items())
    hidden = f'<svg class="shared" aria-hidden="true"><defs>{store}</defs></svg>\n' if store else ""
    return _with_classes(hidden + body)


def _without_shared(content: str, shared: dict[str, str]) -> str:
    """A figure without its definitions, which refers to those in `shared`; what is new is added there."""
    names: dict[str, str] = {}

    def kept(found: re.Match[str], text: str) -> str:
        names[found[1]] = shared.setdefault(text, f"s{len(shared):x}")
        return ""

    content = _OUTLINE.sub(lambda found: kept(found, f"<path id={found[2]}/>"), content)
    content = _CLIP.sub(lambda found: kept(found, f"<clipPath id=>{found[2]}</clipPath>"), content)
    content = re.sub(r"<defs>\s*</defs>\n?", "", content)
    return _REFERENCE.sub(lambda found: found[1] + names.get(found[2], found[2]), content)


def _with_classes(body: str) -> tuple[str, Html]:
    """Rules for all that elements of figures say of their looks, and the page with classes in their place."""
    styles: Counter[str] = Counter()
    for _, content, _ in _FIGURE.findall(body):
        styles.update(_STYLE.findall(content))
    names = {style: f"c{i:x}" for i, (style, _) in enumerate(styles.most_common())}
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())

    def classed(content: str) -> str:
        return _STYLE.sub(lambda found: f' class="{names[found[1]]}"', content)

    return rules, Html(_FIGURE.sub(lambda figure: figure[1] + classed(figure[2]) + figure[3], body))


def _unwrapped(content: str) -> str:
    """The content of groups that say nothing, without them."""
    parts: list[str] = []
    bare: list[bool] = []  # whether each group that is open says nothing
    for part in re.split(r"(</?g\b[^>]*>)", content):
        if part.startswith("<g") and not part.endswith("/>"):
            bare.append(part == "<g>")
        is_dropped = part == "<g/>" or part == "<g>" or (part == "</g>" and bare.pop())
        if not is_dropped:
            parts.append(part)
    return "".join(parts)


def _rounded(numbers: re.Match[str]) -> str:
    """Coordinates with a hundredth of a point in the place of a millionth, and no blanks about letters."""
    text = re.sub(r"(\.\d\d)\d+", r"\1", numbers[0])
    return re.sub(r"\s*([A-Za-z])\s+", r"\1", text) if text.startswith(' d="') else text
