"""A report of a small barrel's alignment, and what a parser makes of a page."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_detectors import GUN, barrel, random_local, simulated
from training_runs import SMALL, train

from alignnet.data.root import write_simulation
from alignnet.evaluation.decays import Decays, decays_of
from alignnet.evaluation.numbers import NUMBERS
from alignnet.evaluation.report.report import Report

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = '<script>alert("x")</script> & "quoted" \'single\' </pre></style>'


def report_of_a_barrel(folder: Path) -> Report:
    """What `alignnet train` reports of a small barrel, with words in it that a page must escape."""
    report = trained(folder)
    metrics = {**report.metrics, "decays": {name: kaons() for name in ("before", "after", "ideal")}}
    worst = {"name": HOSTILE, "sensor_id": 5, "layer": 0, "n_hits": 8, "reasons": [HOSTILE], "excess": 2.0}
    metrics["sensors"] |= {"attention": metrics["sensors"]["attention"] | {"worst": [worst]}}
    metrics["novel"] = {"stave 3": {"mean_um": 0.25}}
    run = {
        "title": HOSTILE,
        "facts": {"training": f"alignnet train 'data.files=[{HOSTILE}]'"},
        "data": [{"file": HOSTILE, "megabytes": 3.0, "events": 80, "tracks": 640, "hits": 2560}],
        "software": {"alignnet": "1"},
        "config": f"data:\n  files: [{HOSTILE}]\n",
    }
    links = {"../alignment.root": "the answer", 'a"b.png': HOSTILE}
    return replace(report, metrics=metrics, run=run, links=links)


def trained(folder: Path) -> Report:
    """The report of a training in which half-barrels, staves and sensors move, with everything asked for."""
    detector, file, reports = barrel(chips=2), folder / "tracks.root", []
    truth = random_local(len(detector), 30e-4, 2e-4, seed=3)
    tracks = simulated(detector, GUN, 120, truth, seed=8)
    write_simulation(file, detector, tracks, truth, {"generator": "tests", "seed": 8})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignnet.cli.report.write_report", lambda path, report: reports.append(report))
        train(
            folder / "run", *SMALL, f"data.files=[{file}]", "data.batch_size=200", "trainer.max_epochs=2",
            "early_stop=null", "trainer.enable_progress_bar=false", "loss.vertex=given",
            "evaluation.errors=exact", "evaluation.spectrum=4", f"evaluation.numbers=[{','.join(NUMBERS)}]",
        )  # fmt: skip
    (report,) = reports
    return report


def kaons() -> dict[str, Any]:
    """Peaks of ten thousand K⁰_S, 5 MeV wide."""
    found = Decays(0.5, decays_of({"k0s": {}}))
    rows = found.counts["k0s"]
    middle = np.linspace(-1, 1, rows.shape[1]) * found.wanted["k0s"].half_window
    rows[:] = np.round(10_000 * np.exp(-0.5 * (middle / 5e-3) ** 2) / len(middle) + 20)
    return found.metrics()


class Parsed(HTMLParser):
    """What a page holds; `errors` says where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.errors: list[str] = []
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        self.errors += [f"never closed: {tag}" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        """An element begins."""
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.errors.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """An element that is empty."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """An element ends: the last that began."""
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        """Text."""
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, Any]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def png_size(uri: str) -> tuple[int, int]:
    """Width and height of a PNG in a data: address."""
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    found: tuple[int, int] = struct.unpack(">II", base64.b64decode(data)[16:24])
    return found
