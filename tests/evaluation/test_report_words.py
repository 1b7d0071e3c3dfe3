"""Words of the report where a number is missing or a name is not one."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html import unescape

import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from small_detectors import barrel
from training_runs import configured

from alignnet.evaluation.decays import Decays, decays_of
from alignnet.evaluation.figures import picture_words, write_pictures
from alignnet.evaluation.report.markup import formula
from alignnet.evaluation.report.quality_sections import decays
from alignnet.evaluation.report.report import Report

DETECTOR = barrel()


def test_masses_without_a_peak_are_counted_and_explained():
    found = Decays(0.5, decays_of({"k0s": {}}))
    found.counts["k0s"][0, 3] = 7
    metrics = {"decays": {"after": found.metrics()}}
    text = decays(Report(metrics, DETECTOR, torch.zeros(len(DETECTOR), 6)))
    assert "No peak was found" in text
    assert "K⁰<sub>S</sub> → π⁺π⁻ after 7." in text
    assert "max_chi2_per_ndf" in text
    assert decays(Report({}, DETECTOR, torch.zeros(len(DETECTOR), 6))) == ""


def test_without_decays_a_line_says_how_to_ask_for_them_with_keys_that_exist():
    metrics = {"residuals": {"layer0": {}}}
    text = unescape(decays(Report(metrics, DETECTOR, torch.zeros(len(DETECTOR), 6))))
    command = re.search(r"<code>(.*)</code>", text)
    assert command
    program, name, *overrides = shlex.split(command[1])
    assert (program, name) == ("alignnet", "evaluate")
    assert set(decays_of(OmegaConf.to_container(configured("evaluate", *overrides).evaluation.decays)))
    straight = replace(DETECTOR, b_z=0.0)  # whose tracks have no momentum
    assert decays(Report(metrics, straight, torch.zeros(len(DETECTOR), 6))) == ""


def test_indices_are_set_low():
    assert formula("DCA_xy, p_T, K⁰_S") == "DCA<sub>xy</sub>, p<sub>T</sub>, K⁰<sub>S</sub>"


@pytest.mark.parametrize("stem", ["dca_phi", "dca_eta", "dca_charge", "dca_top", "dca_side", "fit_quality",
                                  "residuals_halfbarrel", "residuals_stave", "surface", "overlaps", "monitor",
                                  "surface_before", "mass_k0s", "corrections_layer3",
                                  "residual_histograms"])  # fmt: skip
def test_pictures_are_described_in_words(stem):
    words = picture_words(stem)
    assert words
    assert "_" not in words.replace("p_T", "")


def test_a_picture_of_another_name_has_no_words():
    assert picture_words("notes") == picture_words("dcavertex") == picture_words("mass_") == ""


def test_pictures_of_an_evaluation_before_go_and_those_of_others_stay(tmp_path):
    for stem in ("mass_k0s", "dca_phi", "holiday"):
        (tmp_path / f"{stem}.png").write_bytes(b"old")
    write_pictures(tmp_path, {"dca_phi": Figure()})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dca_phi.png", "holiday.png"]
    assert (tmp_path / "dca_phi.png").read_bytes().startswith(b"\x89PNG")
