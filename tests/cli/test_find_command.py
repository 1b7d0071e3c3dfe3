"""`alignnet find`: hits of a file to a file of tracks that an alignment reads."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from training_runs import configured

from alignnet.cli.find import main, network_of
from alignnet.cli.simulate import main as simulate
from alignnet.data.root import (
    read_detector,
    read_metadata,
    read_misalignment,
    read_tracks,
    write_alignment,
)
from alignnet.data.root_noise import has_noise
from alignnet.errors import CheckpointError, ConfigError
from alignnet.trackfinding.its2.network import TrackletNetwork

HITS = (
    "n_events=4", "source.n_tracks_per_event=25", "source.spectrum=thermal", "source.vertex_resolution=null",
    "simulation.noise_per_sensor=0.005", "misalignment.levels={stave: {translation: 0.01, rotation: 1e-5}}",
)  # fmt: skip


def find(*overrides):
    main.__wrapped__(configured("find", *overrides))


@pytest.fixture(scope="module")
def hits(tmp_path_factory):
    path = tmp_path_factory.mktemp("find") / "hits.root"
    simulate.__wrapped__(configured("simulate", f"output={path}", *HITS))
    return path


@pytest.fixture
def run(tmp_path):
    """The folder of a run with an untrained network."""
    torch.manual_seed(1)
    weights = {f"system.{k}": v for k, v in TrackletNetwork(hidden=8).state_dict().items()}
    node = {"_target_": "alignnet.trackfinding.its2.network.TrackletNetwork", "hidden": 8, "iterations": 4}
    for folder in ("checkpoints", ".hydra"):
        (tmp_path / folder).mkdir()
    OmegaConf.save({"system": node}, tmp_path / ".hydra" / "config.yaml")
    torch.save({"state_dict": weights}, tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path


def test_found_tracks_are_a_file_to_align_with(hits, tmp_path):
    found, figures = tmp_path / "found.root", tmp_path / "figures.json"
    find(f"input={hits}", f"output={found}", f"metrics={figures}", "graph.systematic=0.01")
    assert has_noise(hits)
    detector = read_detector(found)
    tracks, true = read_tracks(found, detector, min_hits=5), read_tracks(hits, detector)
    assert 0.9 * len(true) < len(tracks) <= len(true)
    assert set(tracks.event.tolist()) == set(true.event.tolist())
    assert torch.equal(read_misalignment(found, detector), read_misalignment(hits, detector))
    assert read_metadata(found)["hits"] == str(hits)
    assert not tracks.truth
    assert json.loads(figures.read_text())["efficiency"] > 0.9


def test_where_the_sensors_are_believed_to_be_matters(hits, tmp_path):
    """With the true places, and trust in them, more is found than with the nominal ones; and as many hits."""
    detector = read_detector(hits)
    nominal, aligned, places = (tmp_path / f"{name}.root" for name in ("nominal", "aligned", "places"))
    none = torch.zeros(len(detector), dtype=torch.int64)
    write_alignment(places, detector, read_misalignment(hits, detector), None, none, none)
    find(f"input={hits}", f"output={nominal}", "graph.systematic=0.001")
    find(f"input={hits}", f"output={aligned}", "graph.systematic=0.001", f"alignment={places}")
    few, many = (read_tracks(path, detector) for path in (nominal, aligned))
    assert len(few) < 0.8 * len(many)


def test_a_trained_network_is_read_from_its_run(run, hits, tmp_path):
    network = network_of(run)
    assert network.hidden == 8
    find(f"input={hits}", f"output={tmp_path / 'found.root'}", f"network={run}", "finder.threshold=0.0")


def test_what_cannot_be_read_is_refused(run, hits, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints"):
        network_of(tmp_path / "nothing")
    OmegaConf.save({"system": {"_target_": "torch.nn.Identity"}}, run / ".hydra" / "config.yaml")
    with pytest.raises(CheckpointError, match="has a Identity, expected a TrackletNetwork"):
        network_of(run)
    with pytest.raises(ConfigError, match="the file of the hits"):
        find(f"input={hits}", f"output={hits}")
    with pytest.raises(ConfigError, match="step is 0"):
        find(f"input={hits}", f"output={tmp_path / 'found.root'}", "step=0")
    assert not (tmp_path / "found.root").exists()
