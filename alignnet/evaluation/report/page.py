"""The report as one file: head, style sheet, verdict, sections."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from alignnet.data.atomic import replacing
from alignnet.evaluation.report.markup import Html, element, formula, html, joined, listed
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.report.sections import SECTIONS
from alignnet.evaluation.report.svg import said_once
from alignnet.evaluation.report.verdict import Verdict, verdict


def write_report(path: Path, report: Report) -> None:
    """Write the report, whole or not at all.

    Args:
        path: of the file, for example RUN/evaluation/report.html.
        report: what it says.

    Raises:
        ConfigError: it cannot be written there.
    """
    with replacing(path) as temporary:
        Path(temporary).write_text(page(report), encoding="utf-8")


def page(report: Report) -> str:
    """The HTML of a report."""
    judged = verdict(report.metrics)
    title = f"Alignment of {report.detector.name}"
    contents = [(section, section.content(report)) for section in SECTIONS]
    shown = [(section, content) for section, content in contents if content]
    menu = listed([element("a", s.title, href=f"#{s.key}") for s, _ in shown], class_="menu")
    body = joined(
        [
            element("header", element("p", report.run.get("title", ""), class_="over"), element("h1", title)),
            Html(f'<main>\n{_verdict(judged)}\n<nav aria-label="Sections">{menu}</nav>'),
            *(
                element("section", element("h2", s.title), content, id=s.key, aria_label=s.title)
                for s, content in shown
            ),
            Html("</main>"),
        ]
    )
    rules, body = said_once(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{html(title)}: {html(judged.headline)}</title>\n<style>\n{style()}{rules}</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _verdict(judged: Verdict) -> Html:
    """The headline, and a line for each finding with its level in words."""
    words = {"plain": "note"}
    rows = [
        element(
            "li",
            element("span", words.get(f.level, f.level), class_="level"),
            " ",
            element("span", formula(f.text)),
            class_=f.level,
        )
        for f in judged.findings
    ]
    headline = element("p", judged.headline, class_=f"headline {judged.level}")
    found = element("ul", *rows, class_="findings")
    return element("section", element("h2", "Verdict"), headline, found, id="verdict", aria_label="Verdict")


def style() -> str:
    """The style sheet of every report."""
    return (files("alignnet.evaluation.report") / "report.css").read_text(encoding="utf-8")
