"""`alignnet train data=found_tracks`: the tracks are those that `alignnet find` finds, and are found once."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from training_runs import configured

from alignnet.cli.find import main as find
from alignnet.cli.found_tracks import finding_figures, with_found_tracks
from alignnet.cli.run_folder import trained_config
from alignnet.cli.simulate import main as simulate
from alignnet.data.root import read_detector, read_tracks, write_alignment
from alignnet.errors import ConfigError

HITS = (
    "n_events=3", "source.n_tracks_per_event=20", "source.spectrum=thermal", "source.vertex_resolution=null",
    "simulation.noise_per_sensor=0.005", "misalignment.levels={stave: {translation: 0.01, rotation: 1e-5}}",
)  # fmt: skip


@pytest.fixture(scope="module")
def hits(tmp_path_factory):
    path = tmp_path_factory.mktemp("found_tracks") / "hits.root"
    simulate.__wrapped__(configured("simulate", f"output={path}", *HITS))
    return path


def settings(hits, *overrides):
    return configured("train", "data=found_tracks", f"data.files=[{hits}]", "loss.vertex=absent", *overrides)


def test_the_training_gets_what_the_command_finds(hits, tmp_path):
    config = with_found_tracks(settings(hits), tmp_path / "run")
    assert config.data.find is None
    (found,) = config.data.files
    output = tmp_path / "found.root"
    find.__wrapped__(configured("find", f"input={hits}", f"output={output}", "graph.systematic=0.01"))
    detector = read_detector(hits)
    ours, theirs = (read_tracks(path, detector) for path in (found, output))
    assert len(ours) > 40
    assert (ours.sensor == theirs.sensor).all()
    assert (ours.uv == theirs.uv).all()
    figures = finding_figures(tmp_path / "run")["finding"][str(hits)]
    assert figures["efficiency"] > 0.9
    assert json.loads((tmp_path / "run" / "found_tracks.json").read_text()) == figures


def test_tracks_are_found_again_only_where_something_is_new(hits, tmp_path):
    found = tmp_path / "found_tracks.root"

    def made(*overrides):
        with_found_tracks(settings(hits, *overrides), tmp_path)
        return found.stat().st_mtime_ns

    first = made()
    assert made() == first
    second = made("data.find.graph.systematic=0.012")
    assert second > first
    (tmp_path / "found_tracks.json").unlink()  # as if the process had been killed between the two files
    third = made("data.find.graph.systematic=0.012")
    assert third > second
    started = (f"sensors.start={start_of(hits, tmp_path, 1e-4)}", "data.find.graph.systematic=0.012")
    fourth = made(*started)
    assert fourth > third
    assert made(*started) == fourth
    start_of(hits, tmp_path, 2e-4)
    assert made(*started) > fourth


def start_of(hits, folder, shift):
    """A file with all sensors shifted and turned by as much."""
    detector, path = read_detector(hits), folder / "start.root"
    local = torch.full((len(detector), 6), shift, dtype=torch.float64)
    none = torch.zeros(len(detector), dtype=torch.int64)
    write_alignment(path, detector, local, None, none, none)
    return path


def test_what_comes_after_a_training_reads_the_tracks_that_it_found(hits, tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(settings(hits), tmp_path / ".hydra" / "config.yaml")
    (tmp_path / "alignment.root").touch()
    assert trained_config(tmp_path).data.files == [str(tmp_path / "found_tracks.root")]


def test_a_run_of_o2_is_refused(hits, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "o2trac_its.root").touch()
    with pytest.raises(ConfigError, match=r"a run of ALICE O2; data=found_tracks takes files"):
        with_found_tracks(settings(f"{hits},{tmp_path / 'run'}"), tmp_path)


def test_without_the_choice_nothing_is_found(hits, tmp_path):
    config = configured("train", f"data.files=[{hits}]")
    assert with_found_tracks(config, tmp_path) is config
    assert finding_figures(tmp_path) == {}
