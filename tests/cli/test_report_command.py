"""The report that train and evaluate leave: what ran, how it went, and where everything is."""

from __future__ import annotations

import json
import logging
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from training_runs import evaluate, train

import alignnet
from alignnet.data.root import read_detector, read_tracks


class Text(HTMLParser):
    """The text of a page, its links and its figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.figures: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """A link, a figure, or something else."""
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "svg" and "aria-label" in dict(attrs):
            self.figures.append(dict(attrs)["aria-label"])

    def handle_data(self, data):
        """Text."""
        self.words.append(data)

    def after(self, name: str) -> str:
        """What stands after a name."""
        return self.words[self.words.index(name) + 1]


@pytest.fixture
def run(trained, tmp_path, no_pictures) -> Path:
    """A copy of the run, so that each test evaluates it afresh."""
    return shutil.copytree(trained.folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))


def metrics_of(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_training_leaves_a_report_of_what_ran_on_what(trained, barrel_file):
    report, metrics = (
        Text(trained.folder / "evaluation" / "report.html"),
        metrics_of(trained.folder / "metrics.json"),
    )
    command = report.after("training")
    assert command.startswith("alignnet train ")
    assert f"resume={trained.folder}" in command or str(barrel_file) in command
    assert report.after("detector") == "small barrel: 24 sensors in 4 layers, field 0.5 T"
    assert report.after("alignment file") == str(trained.folder / "alignment.root")
    assert f"alignnet {alignnet.__version__}" in report.after("software")
    assert f"torch {torch.__version__}" in report.after("software")
    assert report.after("seed") == "1"
    assert str(barrel_file) in report.words
    (data,) = metrics["run"]["data"]
    tracks = read_tracks(barrel_file, read_detector(barrel_file), entry_stop=300)
    assert (data["tracks"], data["hits"]) == (len(tracks), tracks.n_hits)
    assert data["events"] == len(set(tracks.event.tolist()))
    assert (trained.folder / ".hydra" / "config.yaml").read_text() in report.words


def test_a_report_links_to_what_lies_beside_it_and_to_nothing_else(trained):
    folder = trained.folder / "evaluation"
    files = [link for link in Text(folder / "report.html").links if not link.startswith("#")]
    assert {"../alignment.root", "../metrics.json", "dca.png", "corrections_layer3.png"} <= set(files)
    assert [link for link in files if not (folder / link).exists()] == []


def test_a_report_shows_every_layer_and_the_numbers_of_the_run(trained):
    figures = Text(trained.folder / "evaluation" / "report.html").figures
    maps = [figure for figure in figures if figure.startswith("Map of the corrections")]
    assert len(maps) == 3 * 4
    metrics = metrics_of(trained.folder / "metrics.json")
    first, last = (metrics["history"][i]["train/chi2_per_ndf"] for i in (0, -1))
    assert any(f"from {first:.4g} to {last:.4g}" in figure for figure in figures)


def test_evaluate_says_where_its_report_is_and_how_the_training_went(run, caplog):
    with caplog.at_level(logging.INFO, "alignnet.report"):
        evaluate(f"run={run}")
    path = run / "evaluation" / "report.html"
    assert f"report: {path}" in caplog.messages
    report, metrics = Text(path), metrics_of(run / "evaluation" / "metrics.json")
    trained = metrics_of(run / "metrics.json")
    assert report.after("training") == trained["run"]["command"]
    assert report.after("trained on") == trained["run"]["date"]
    assert report.after("evaluation").startswith("alignnet evaluate")
    assert any("Convergence was not judged" in word for word in report.words)
    assert "convergence" not in metrics  # that is of the training, whose file has it


def test_without_the_numbers_of_the_training_convergence_is_not_known(run):
    (run / "metrics.json").unlink()
    evaluate(f"run={run}")
    words = Text(run / "evaluation" / "report.html").words
    assert any("Whether the training converged is not known" in word for word in words)


def test_the_report_can_be_turned_off(run, few, tmp_path):
    evaluate(f"run={run}", "evaluation.report=false")
    train(tmp_path / "again", *few, "optimizer=preconditioned_sgd", "evaluation.report=false")
    for folder in (run, tmp_path / "again"):
        assert (folder / "alignment.root").is_file()
        assert not (folder / "evaluation" / "report.html").exists()


def test_runs_from_before_there_were_reports_get_one(run):
    path = run / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    del config.evaluation["report"]
    OmegaConf.save(config, path)
    metrics = metrics_of(run / "metrics.json")
    for key in ("run", "sensors"):
        del metrics[key]
    (run / "metrics.json").write_text(json.dumps(metrics))
    evaluate(f"run={run}")
    assert (run / "evaluation" / "report.html").is_file()


def test_sensors_are_counted_as_tree_alignment_has_them(run):
    evaluate(f"run={run}")
    again, trained = (
        metrics_of(path)["sensors"] for path in (run / "evaluation/metrics.json", run / "metrics.json")
    )
    assert {k: v for k, v in again.items() if k != "attention"} == {
        k: v for k, v in trained.items() if k != "attention"
    }
    assert again["n"] == again["aligned"] == 24
    assert again["attention"]["by_reason"] == trained["attention"]["by_reason"]
