"""The report as one file: verdict and sections."""

from __future__ import annotations

from pathlib import Path

from alignnet.data.atomic import replacing
from alignnet.evaluation.report.document import document
from alignnet.evaluation.report.markup import Html, element, formula, joined, listed
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.report.sections import SECTIONS
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
    return document(f"{title}: {judged.headline}", body)


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
