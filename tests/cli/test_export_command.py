"""`alignnet export`: a run's answer arrives in every format, and Millepede gets the tracks it came from."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from called import called
from omegaconf import OmegaConf
from small_detectors import part_of
from training_runs import configured

from alignnet.cli.export import main
from alignnet.data.mille import read_mille
from alignnet.data.root import read_alignment, write_alignment, write_simulation
from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam
from alignnet.export.alice import read_alice_alignment
from alignnet.export.millepede import read_result, sensor_labels
from alignnet.export.table import read_table
from alignnet.geometry.telescope import telescope

PLANES = telescope([0.0, 1.95, 10.88, 12.83], 1.0, 0.84, 0.02)
SIX = torch.linspace(-0.01, 0.02, 24, dtype=torch.float64).reshape(4, 6)
ERROR = SIX.abs() / 10
ERROR[1, 2], ERROR[3] = 0.0, torch.nan
STATUS = np.array([1, 0, 0, 2])
TRACKS = Simulation(Beam(), PLANES, SIX, seed=4).generate(60)


@pytest.fixture(scope="module")
def trained():
    """The configuration of a training."""
    keys = ["detector=file", "data.files=[beam.root]", "loss.vertex=absent", "data.split=[0.8,0.1,0.1]"]
    return configured("train", *keys)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """The folder of a training run, started in its parent folder: what `alignnet train` leaves there."""
    write_simulation(tmp_path / "beam.root", PLANES, TRACKS, SIX, {"generator": "test", "seed": 4})
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(trained, folder / ".hydra" / "config.yaml")
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(tmp_path)}}}, folder / ".hydra" / "hydra.yaml")
    write_alignment(folder / "alignment.root", PLANES, SIX, ERROR, np.array([50, 60, 70, 5]), STATUS)
    return folder


def export(run, *overrides):
    main.__wrapped__(configured("export", f"run={run}", *overrides))


@pytest.mark.parametrize("suffix", ["root", "csv"])
def test_a_table_repeats_the_answer(run, tmp_path, suffix):
    path = tmp_path / "new" / f"alignment.{suffix}"
    export(run, "format=table", f"output={path}")
    table, answer = read_table(path), read_table(run / "alignment.root")
    assert np.array_equal(table.local, SIX.numpy())
    for found, expected in zip(table, answer, strict=True):
        assert np.array_equal(found, expected, equal_nan=found is table.error)


def test_alice_gets_objects_that_bring_the_sensors_to_the_same_places(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "alignnet.export"):
        export(run, "format=alice", f"output={tmp_path / 'objects.root'}")
    assert torch.allclose(read_alice_alignment(tmp_path / "objects.root", PLANES), SIX, rtol=0, atol=1e-14)
    assert caplog.messages[0] == "telescope has names like telescope/plane0: not those of ALICE"
    assert caplog.messages[1] == "telescope: 2 sensors aligned, 1 fixed, 1 with too few hits"


def test_millepede_gets_values_and_errors_and_hears_what_was_fixed(run, tmp_path):
    export(run, "format=millepede", f"output={tmp_path / 'millepede.res'}")
    result = read_result(tmp_path / "millepede.res")
    assert np.array_equal(result.label, sensor_labels(PLANES).ravel())
    assert np.array_equal(result.value.reshape(4, 6), SIX.numpy())
    fixed = np.zeros((4, 6), dtype=bool)
    fixed[0], fixed[1, 2] = True, True
    assert np.array_equal(result.presigma.reshape(4, 6) < 0, fixed)
    expected = np.where(fixed, np.nan, ERROR.numpy())
    assert np.array_equal(result.error.reshape(4, 6), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["tracks.bin", "tracks.bin.gz"])
def test_the_training_tracks_become_records_with_a_steering_file(run, tmp_path, name):
    export(run, "format=millepede", f"output={tmp_path / 'millepede.res'}", f"mille={tmp_path / name}")
    records = read_mille(tmp_path / name)
    events = len(np.unique(TRACKS.event))
    assert len(records) == round(0.8 * events)
    assert set(records.global_label) <= set(sensor_labels(PLANES).ravel())
    lines = (tmp_path / "tracks.txt").read_text().splitlines()
    assert lines[:2] == ["Cfiles", name]
    first = sensor_labels(PLANES)[0]
    for k, label in enumerate(first):
        start, presigma = next(line.split()[1:] for line in lines if line.startswith(f"{label} "))
        assert (float(start), float(presigma)) == (SIX[0, k], -1.0)
    starts = {int(line.split()[0]): float(line.split()[2]) for line in lines[4 : 4 + first.size * 4]}
    seen = set(records.global_label.tolist())
    assert {
        label for label, presigma in starts.items() if presigma >= 0
    } <= seen  # or pede knows nothing of it
    assert lines[-6:] == ["method inversion 3 0.01", "countrecords", "entries 10 5", "hugecut 1e7", "", "end"]


def test_a_file_from_before_is_replaced_only_by_a_whole_one(refused, run, tmp_path):
    path = tmp_path / "alignment.csv"
    path.write_text("from before")
    write_simulation(tmp_path / "beam.root", shuffled(), TRACKS, SIX, {"generator": "test", "seed": 4})
    refused(export, run, "format=table", f"output={path}")
    assert path.read_text() == "from before"
    write_simulation(tmp_path / "beam.root", PLANES, TRACKS, SIX, {"generator": "test", "seed": 4})
    export(run, "format=table", f"output={path}")
    assert np.array_equal(read_table(path).local, SIX.numpy())


def shuffled():
    return replace(PLANES, sensor_id=torch.tensor([0, 1, 2, 7]))


def test_the_answer_is_given_in_the_order_of_the_detector(run, tmp_path):
    """Also where the run's file and the detector's list the sensors in another order."""
    turned = part_of(PLANES, torch.arange(4).flip(0))
    write_simulation(tmp_path / "beam.root", turned, TRACKS, SIX, {"generator": "test", "seed": 4})
    export(run, "format=table", f"output={tmp_path / 'a.root'}")
    table = read_table(tmp_path / "a.root")
    assert table.name == turned.names
    assert np.array_equal(table.local, SIX.flip(0).numpy())
    assert np.array_equal(table.status, STATUS[::-1])
    assert torch.equal(read_alignment(tmp_path / "a.root", PLANES), SIX)


BAD = {
    "format=table output=new.txt": "output is .*new.txt, expected a name that ends in .root or .pa",
    "format=alice output=new.csv": "output is .*new.csv, expected a name that ends in .root",
    "format=pede output=new.res": "format is 'pede', expected alice, table, millepede",
    "format=table output=run/alignment.root": "output is .*alignment.root, the run's own answer; choose",
    "format=table output=new.csv mille=tracks.bin": "mille=tracks.bin goes with format=millepede, not",
    "format=millepede output=new.res mille=tracks.txt": "mille is tracks.txt: pede takes .txt for steering",
    "format=table output=new.csv objects=levels": "objects=levels is for format=alice, not for format=table",
    "format=table output=new.csv run=none": "run is .*none: no such folder; give that of a training run",
    "format=table output=new.csv run=empty": ".*empty: not the folder of a training run",
    "format=table output=new.csv run=unfinished": ".*unfinished has no alignment.root: .*train resume=",
    "format=table output=new.csv run=others": ".*has 3 sensors that are not the 4 of detector telescope",
    "output=new.csv": "format has no value: give one, format=...",
}


@pytest.mark.parametrize("keys", BAD)
def test_what_cannot_be_exported_is_one_line_and_no_file(refused, keys, run):
    folder = run.parent
    (folder / "empty").mkdir()
    for name in ("unfinished", "others"):
        shutil.copytree(run / ".hydra", folder / name / ".hydra")
    three = telescope([0.0, 1.0, 2.0], 1.0, 1.0)
    write_alignment(folder / "others" / "alignment.root", three, SIX[:3], None, np.zeros(3), np.zeros(3))
    there = re.sub(r"(output|run)=", rf"\1={folder}/", keys)
    assert re.match(BAD[keys], refused(export, run, *there.split()))
    assert not list(folder.glob("*new*"))


def test_tracks_do_not_overwrite_the_result(refused, run):
    for name, mille in (("new.res", ".hydra/../new.res"), ("new.txt", "new.bin.gz")):
        both = f"output={run}/{name}", f"mille={run}/{mille}"
        line = refused(export, run, f"run={run}", "format=millepede", *both)
        assert re.match(r"mille is .*: it or its steering text is output; choose another", line)
    assert not list(run.glob("new*"))


def test_the_command_exports_from_any_folder(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    keys = ("run=../run", "format=table", "output=a.csv")
    code, out, err = called("export", *keys, folder=tmp_path / "elsewhere")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "written: a.csv"
    assert np.array_equal(read_table(tmp_path / "elsewhere" / "a.csv").local, SIX.numpy())
