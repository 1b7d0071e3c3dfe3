"""`alignnet simulate`: what it writes, what it depends on, and what it refuses."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys

import numpy as np
import pytest
import torch
from called import called
from hydra import compose, initialize_config_dir
from training_runs import configured

import alignnet
from alignnet.cli import progress
from alignnet.cli.app import CONF, build
from alignnet.cli.simulate import main
from alignnet.data.noise import NoiseHits
from alignnet.data.root import read_detector, read_metadata, read_misalignment, read_tracks
from alignnet.data.root_noise import NoiseFile, has_noise
from alignnet.errors import AlignnetError
from alignnet.geometry.misalign import Gaussian
from alignnet.geometry.telescope import telescope

BEAM = ("detector=telescope", "source=beam", "misalignment=sensor", "n_events=200")


def simulate(*overrides):
    main.__wrapped__(configured("simulate", *overrides))


def simulated(path, *overrides):
    """Run the command on a configuration; returns what is in the file."""
    simulate(f"output={path}", *overrides)
    detector = read_detector(path)
    return detector, read_tracks(path, detector), read_misalignment(path, detector)


def test_one_file_holds_the_nominal_detector_the_tracks_the_truth_and_the_recipe(tmp_path, caplog):
    path = tmp_path / "new" / "beam.root"
    with caplog.at_level(logging.INFO, "alignnet.simulate"):
        detector, tracks, six = simulated(path, *BEAM, "seed=7", "source.momentum=4.0")
    nominal = telescope([0.0, 1.95, 10.88, 12.83], 1.0, 0.84, 0.02)
    assert detector.fingerprint == nominal.fingerprint
    sensor = {"translation": 50e-4, "rotation": 1e-3}
    assert torch.equal(six, Gaussian({"sensor": sensor}, seed=1)(nominal))
    assert tracks.p == pytest.approx(4.0)
    metadata = read_metadata(path)
    assert (metadata["generator"], metadata["seed"]) == (f"alignnet {alignnet.__version__}", 7)
    assert metadata["source"]["momentum"] == 4.0
    assert metadata["misalignment"]["levels"]["sensor"] == sensor
    assert metadata["simulation"]["hit_efficiency"] == 0.99
    said = f"200 events, {len(tracks)} tracks, {tracks.n_hits} hits on 4 of 4 sensors of telescope"
    assert caplog.messages[0].startswith(said)
    assert caplog.messages[1].startswith(f"written: {path}")


def test_tracks_and_misalignment_have_each_their_own_seed(tmp_path):
    _, tracks, six = simulated(tmp_path / "a.root", *BEAM)
    _, again, _ = simulated(tmp_path / "a.root", *BEAM)
    assert np.array_equal(again.uv, tracks.uv)
    _, others, same = simulated(tmp_path / "b.root", *BEAM, "seed=2")
    assert torch.equal(same, six)
    assert not np.array_equal(others.truth["position"][:50], tracks.truth["position"][:50])
    _, _, other = simulated(tmp_path / "c.root", *BEAM, "misalignment.seed=2")
    assert (other != six).all()


def test_the_detector_of_a_file_is_the_one_that_was_written_to_it(tmp_path):
    _, tracks, _ = simulated(tmp_path / "a.root", *BEAM)
    from_file = (*BEAM[1:], "detector=file", f"detector.path={tmp_path / 'a.root'}", "detector.name=mine")
    detector, again, _ = simulated(tmp_path / "b.root", *from_file)
    assert detector.name == "mine"
    assert np.abs(again.uv - tracks.uv).max() < 1e-8  # a file holds x/X0 in single precision


def test_noise_is_written_beside_the_same_tracks_in_every_chunk(tmp_path):
    few = (*BEAM[:3], "n_events=2100")  # two chunks
    _, quiet, _ = simulated(tmp_path / "a.root", *few)
    detector, noisy, _ = simulated(tmp_path / "b.root", *few, "simulation.noise_per_sensor=0.5")
    assert not has_noise(tmp_path / "a.root")
    assert np.array_equal(noisy.uv, quiet.uv)
    assert np.array_equal(noisy.event, quiet.event)
    event = NoiseHits.joined(list(NoiseFile(tmp_path / "b.root", detector).chunks())).event
    mean, n = 0.5 * len(detector), 2100
    per_event = np.bincount(event, minlength=n)
    assert len(per_event) <= n
    assert per_event[2000:].sum() > 100
    assert abs(per_event.mean() - mean) < 4 * np.sqrt(mean / n)


def test_a_sample_sets_keys_that_the_command_line_changes_again(tmp_path):
    config = configured("simulate", "sample=its2_demo", "n_events=3")
    assert (config.n_events, config.output) == (3, "outputs/samples/its2_demo.root")
    assert configured("simulate", "sample=its2_demo").n_events * config.source.n_tracks_per_event == 160_000
    assert config.misalignment.levels.stave.translation == 10e-4  # another than misalignment=stave_chip has
    detector, tracks, six = simulated(tmp_path / "a.root", "sample=its2_demo", "n_events=3")
    assert detector.name == "ITS2"
    assert len(tracks) == 24
    assert 8e-4 < six.std(0)[:3].min() < 14e-4  # 10 µm of staves and 5 µm of chips


@pytest.mark.parametrize("source", ["gun", "beam", "cosmics"])
def test_sources_are_written_out_with_the_values_that_they_have_by_themselves(source):
    written = build(configured("simulate", f"source={source}").source)
    default = dataclasses.asdict(type(written)())
    given = dataclasses.asdict(written)
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()} == default


BAD = {
    "n_events=0": "n_events is 0, expected a whole number >= 1",
    "n_events=1.5": "n_events is 1.5, expected a whole number",
    "n_events=many": "n_events is 'many', expected a whole number",
    "seed=-1": "seed is -1, expected a whole number >= 0",
    "output=a.csv": "output is a.csv, expected a name that ends in .root",
    "detector=file": "detector.path is null; give the file",
    "detector=cube": "detector=cube: there is no such choice, only barrel_endcap, discs, file, its2, ",
    "misalignment=stave_chip": "detector telescope has no level 'stave'; its levels are",
    "source.momentum=fast": "source.momentum is 'fast'; expected a finite number",
    "source.momentum=-1": "source: momentum is -1, expected a number > 0",
    "source.colour=red": "unknown key 'source.colour'",
    "simulation.noise_per_sensor=-1": "simulation: noise_per_sensor is -1, expected a number >= 0",
    "simulation.hit_efficiency=2": "simulation: hit_efficiency is 2, expected a number between 0 and 1",
    "source.centre=[100,0]": "no particle of 200 events leaves 3 hits in telescope: choose a source",
}


@pytest.mark.parametrize("override", BAD)
def test_what_cannot_be_simulated_is_one_line_and_no_file(refused, override, tmp_path):
    keys = [key for key in BEAM if key.partition("=")[0] != override.partition("=")[0]]
    output = [] if override.startswith("output") else [f"output={tmp_path / 'a.root'}"]
    assert re.match(BAD[override], refused(simulate, *keys, *output, override))
    assert list(tmp_path.iterdir()) == []


def test_a_file_from_before_survives_a_run_that_fails(tmp_path):
    simulated(tmp_path / "a.root", *BEAM)
    before = (tmp_path / "a.root").read_bytes()
    with pytest.raises(AlignnetError, match="no particle"):
        simulated(tmp_path / "a.root", *BEAM, "source.centre=[100,0]")
    assert (tmp_path / "a.root").read_bytes() == before


def test_in_a_log_progress_is_a_line_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    log = logging.getLogger("alignnet.simulate")
    with caplog.at_level(logging.INFO, "alignnet.simulate"):
        assert list(progress.tracked(iter("abc"), "events", 5000, 2000, log)) == ["a", "b", "c"]
    assert caplog.messages == ["2,000 of 5,000 events", "4,000 of 5,000 events"]


def test_on_a_terminal_progress_is_a_bar_that_goes_away(monkeypatch, caplog):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log = logging.getLogger("alignnet.simulate")
    assert list(progress.tracked(iter("abc"), "events", 5000, 2000, log)) == ["a", "b", "c"]
    assert caplog.messages == []


@pytest.mark.parametrize("command", ["simulate", "generate", "export", "convert"])
def test_the_examples_of_the_help_can_be_run(command):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        footer = compose(command, return_hydra_config=True).hydra.help.footer
        examples = re.findall(rf"^ *alignnet {command} (.*)$", footer, flags=re.MULTILINE)
        assert len(examples) >= 3
        for line in examples:
            words = [word.replace("'", "") for word in line.split() if word != "--multirun"]
            compose(
                command, overrides=[word.partition(",")[0] if "seed=" in word else word for word in words]
            )


def test_what_moves_after_the_last_event_is_told(tmp_path, caplog):
    jump = ("n_events=5", "misalignment=none", "time=jump")
    with caplog.at_level(logging.WARNING, "alignnet.simulate"):
        simulated(tmp_path / "still.root", *jump, "time.event=1000")
    assert caplog.messages == ["time: nothing moves between the first and the last of 5 events"]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "alignnet.simulate"):
        simulated(tmp_path / "moves.root", *jump, "time.event=3")
    assert not caplog.messages


def test_an_output_must_be_named(refused):
    assert refused(simulate, *BEAM) == "output has no value: give one, output=..."


def test_the_command_writes_a_file_from_any_folder(tmp_path):
    code, out, err = called("simulate", "output=a.root", *BEAM, folder=tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("written: a.root (0.")
    assert len(read_tracks(tmp_path / "a.root", read_detector(tmp_path / "a.root"))) > 100
