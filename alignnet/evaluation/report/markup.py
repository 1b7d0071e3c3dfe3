"""Pieces of HTML as strings. Every text that goes in is escaped here, and nowhere else.

Plain functions and `html.escape` in place of a template engine: a page is made of a few kinds of pieces, the
checks of types reach into them, and nothing more has to be installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote


class Html(str):
    """Text that is HTML already; other strings are escaped where they go in."""


def html(text: object) -> Html:
    """Text as HTML."""
    return text if isinstance(text, Html) else Html(escape(str(text), quote=True))


def formula(text: object) -> Html:
    """Text as HTML with its indices set low (DCA_xy, p_T) and its units kept beside their numbers."""
    low = re.sub(r"\b(DCA|p|K⁰)_(xy|z|T|S)\b", r"\1<sub>\2</sub>", html(text))
    return Html(re.sub(r"(?<=[\d∞]) (?=[µσ%])", "\N{NO-BREAK SPACE}", low))


def joined(parts: Iterable[object]) -> Html:
    """Pieces, one after the other."""
    return Html("\n".join(html(part) for part in parts if part))


def element(tag: str, *content: object, **attributes: str) -> Html:
    """An element; `class_` is its class, and underscores of other attributes are hyphens."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{named}>{''.join(map(html, content))}</{tag}>")


def link(path: str, text: object | None = None) -> Html:
    """A link to a file beside the page."""
    return element("a", path if text is None else text, href=quote(path, safe="/#.-_~"))


class Column(NamedTuple):
    """A column of a table."""

    name: str
    is_text: bool = False  # else of numbers, which stand right


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Html:
    """A table in a box of its own, in which it scrolls on a narrow page; a row's first cell names the row."""
    head = "".join(_cell("th", formula(c.name), c.is_text, scope="col") for c in columns)
    body = []
    for row in rows:
        first, *others = row
        cells = [_cell("th", first, columns[0].is_text, scope="row")]
        cells += [_cell("td", value, c.is_text) for value, c in zip(others, columns[1:], strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(body)}</tbody>"
    box = element("table", element("caption", formula(caption)), Html(inner))
    return element("div", box, class_="scroll", tabindex="0", role="region", aria_label=str(caption))


def pairs(rows: Iterable[tuple[object, object]]) -> Html:
    """Names and what they are; what there is no value for is left out."""
    items = "".join(element("dt", name) + element("dd", value) for name, value in rows if value)
    return Html(f"<dl>{items}</dl>") if items else Html("")


def listed(items: Iterable[object], class_: str = "plain") -> Html:
    """A list."""
    return element("ul", *(element("li", item) for item in items), class_=class_)


def folded(summary: object, *content: object) -> Html:
    """What is shown when the reader opens it; printed open."""
    return element("details", element("summary", summary), *content)


def _cell(tag: str, value: object, is_text: bool, **attributes: str) -> str:
    return element(tag, value, **attributes, **({"class_": "text"} if is_text else {}))
