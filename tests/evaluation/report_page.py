"""A report of a small barrel's alignment, and what a parser makes of a page."""

from __future__ import annotations

import base64
import struct
from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch
from hierarchy_numbers import volumes, weak_modes
from report_metrics import good_metrics, mode, sensors
from small_detectors import GUN, barrel, random_local, simulated

from alignnet.evaluation.attention import SensorAnswer
from alignnet.evaluation.decays import Decays, decays_of
from alignnet.evaluation.numbers import NUMBERS
from alignnet.evaluation.report.report import Report
from alignnet.evaluation.summary import Evaluation
from alignnet.loss.chi2 import HelixChi2

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = '<script>alert("x")</script> & "quoted" \'single\' </pre></style>'


def report_of_a_barrel(folder) -> Report:
    """Real numbers of an evaluation, and those that come of a training besides."""
    detector = barrel()
    truth = random_local(len(detector), 30e-4, 2e-4, seed=3)
    n, every = len(detector), torch.ones(len(detector), dtype=torch.bool)
    answer = SensorAnswer(torch.full((n,), 99), torch.zeros(n), torch.full((n, 6), 1e-4).double())
    tracks, loss = simulated(detector, GUN, 80, truth, seed=8), HelixChi2(detector, normalisation="total")
    evaluation = Evaluation(
        detector, loss, tracks, torch.zeros_like(truth), 0.97 * truth, truth, every,
        error_draws=[0.03 * truth, 0.02 * truth], answer=answer, numbers=tuple(NUMBERS),
    )  # fmt: skip
    kept = ("converged", "convergence", "history", "errors", "pulls")
    metrics = {key: good_metrics()[key] for key in kept} | evaluation.run(folder)
    metrics["decays"] = {name: kaons() for name in ("before", "after", "ideal")}
    row = dict.fromkeys(("du_um", "dv_um", "dw_um", "rot_u_mrad", "rot_v_mrad", "rot_w_mrad"), 0.7)
    metrics["errors"]["layer0"] = row
    modes = [mode("twist 0.83", 12.0), mode("rigid: rotation z", None, 0.99)]
    metrics["spectrum"] = {"n_null": 1, "gap": 9.0, "converged": True, "modes": modes}
    worst = {"name": HOSTILE, "sensor_id": 5, "layer": 0, "n_hits": 8, "reasons": [HOSTILE], "excess": 2.0}
    metrics["sensors"] |= {"attention": sensors(residuals=1)["attention"] | {"worst": [worst]}}
    metrics |= {"volumes": volumes(), "weak_modes": weak_modes()}
    metrics["novel"] = {"stave 3": {"mean_um": 0.25}}
    run = {
        "title": HOSTILE,
        "facts": {"training": f"alignnet train 'data.files=[{HOSTILE}]'"},
        "data": [{"file": HOSTILE, "megabytes": 3.0, "events": 80, "tracks": 640, "hits": 2560}],
        "software": {"alignnet": "1"},
        "config": f"data:\n  files: [{HOSTILE}]\n",
    }
    return Report(
        metrics, detector, 0.97 * truth, run, {"../alignment.root": "the answer", 'a"b.png': HOSTILE}
    )


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
