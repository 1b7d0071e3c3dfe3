"""A page as one file: head, style sheet, and a body with figures."""

from __future__ import annotations

from importlib.resources import files

from alignnet.evaluation.report.markup import html
from alignnet.evaluation.report.svg import said_once


def document(title: str, body: str) -> str:
    """The HTML of a page that needs nothing else.

    Args:
        title: of the window.
        body: with figures of `alignnet.evaluation.report.pictures`.
    """
    rules, body = said_once(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{html(title)}</title>\n<style>\n{style()}{rules}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def style() -> str:
    """The style sheet of every page."""
    return (files("alignnet.evaluation.report") / "report.css").read_text(encoding="utf-8")
