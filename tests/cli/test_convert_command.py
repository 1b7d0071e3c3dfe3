"""`alignnet convert`: what other files hold arrives unchanged, and what they are is found out."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from called import called
from training_runs import configured

import alignnet
from alignnet.cli.convert import main
from alignnet.data.noise import NoiseHits
from alignnet.data.o2_runs import O2Runs
from alignnet.data.root import (
    SimulationWriter,
    has_misalignment,
    read_alignment,
    read_detector,
    read_metadata,
    read_misalignment,
    read_tracks,
    write_simulation,
)
from alignnet.data.root_noise import NoiseFile
from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam, ParticleGun
from alignnet.export.alice import write_alice
from alignnet.export.table import read_table
from alignnet.geometry.its2 import its2
from alignnet.geometry.telescope import telescope

PLANES = replace(telescope([0.0, 1.95, 10.88, 12.83], 1.0, 0.84, 0.02), b_z=0.25)
SIX = torch.linspace(-0.01, 0.02, 24, dtype=torch.float64).reshape(4, 6)
TRACKS = Simulation(Beam(), PLANES, SIX, seed=4).generate(60)


RUN = Path(__file__).parents[1] / "data_files" / "o2"
"""24 tracks, written by ROOT from classes of O2."""


def convert(*overrides):
    main.__wrapped__(configured("convert", *overrides))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("originals")
    write_simulation(tmp_path / "trees.root", PLANES, TRACKS, SIX, {"generator": "test", "seed": 4})
    with uproot.open(tmp_path / "trees.root") as trees, uproot.recreate(tmp_path / "ntuples.root") as ntuples:
        ntuples["metadata"] = str(trees["metadata"])
        for tree in ("sensors", "misalignment", "tracks"):
            columns = trees[tree].arrays()
            ntuples.mkrntuple(tree, {name: columns[name] for name in columns.fields if name != "n_hits"})
    write_hits(tmp_path / "hits.csv", TRACKS)
    write_sensors(tmp_path / "planes.csv")
    write_alice(tmp_path / "objects.root", PLANES, SIX)
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path


@pytest.fixture
def folder(originals, tmp_path):
    """A file of the schema, the same as RNTuples, and the same as tables; an alignment as AlignParams."""
    return shutil.copytree(originals, tmp_path / "folder")


def write_hits(path, tracks):
    t = tracks.track_of_hit
    columns = {
        "p": tracks.p[t], "event": tracks.event[t], "track": t,
        "sensor": np.array(PLANES.names)[tracks.sensor], "u": tracks.uv[:, 0], "v": tracks.uv[:, 1],
        "sigma_u": tracks.sigma[:, 0], "sigma_v": tracks.sigma[:, 1],
    }  # fmt: skip
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]))


def write_sensors(path):
    rotation = PLANES.rotation.reshape(4, 9)
    heading = ["sensor_id", "name", "layer", *(f"rotation_{i}{j}" for i in range(3) for j in range(3))]
    heading += ["translation_x", "translation_y", "translation_z", "half_u", "half_v", "x_over_x0"]
    places = torch.cat([rotation, PLANES.translation, PLANES.half], -1).tolist()
    rows = [[i, PLANES.names[i], i, *places[i], 0.02] for i in range(4)]
    path.write_text("\n".join(",".join(map(str, row)) for row in [heading, *rows]))


def same(read, written=TRACKS):
    return all(
        np.array_equal(getattr(read, name), getattr(written, name)) for name in ("event", "offset", "uv")
    )


def test_ntuples_become_trees_with_all_that_they_hold(folder, caplog):
    with caplog.at_level(logging.INFO, "alignnet.convert"):
        convert(f"input={folder / 'ntuples.root'}", f"output={folder / 'new.root'}")
    with uproot.open(folder / "new.root") as file:
        assert set(file.classnames(cycle=False).values()) == {"TTree", "TObjString"}
    detector = read_detector(folder / "new.root")
    assert (detector.fingerprint, detector.b_z, detector.name) == (PLANES.fingerprint, 0.25, "telescope")
    read = read_tracks(folder / "new.root", detector)
    assert same(read)
    assert np.array_equal(read.truth["hit_uv"], TRACKS.truth["hit_uv"])
    assert torch.equal(read_misalignment(folder / "new.root", detector), SIX)
    metadata = read_metadata(folder / "new.root")
    assert (metadata["generator"], metadata["seed"]) == ("test", 4)
    assert metadata["converted_by"] == f"alignnet {alignnet.__version__}"
    assert "tracks" in caplog.messages[0]
    assert "with true misalignment" in caplog.messages[0]


def test_a_file_may_be_rewritten_in_its_place(folder):
    path = folder / "ntuples.root"
    convert(f"input={path}", f"output={path}")
    assert same(read_tracks(path, read_detector(path)))


def test_tables_of_hits_and_sensors_become_a_file_to_align_with(folder):
    output = folder / "new.root"
    convert(
        f"input={folder / 'hits.csv'}", f"sensors={folder / 'planes.csv'}", "b_z=0.25", f"output={output}"
    )
    detector = read_detector(output)
    assert (detector.fingerprint, detector.b_z, detector.name) == (PLANES.fingerprint, 0.25, "planes")
    read = read_tracks(output, detector)
    assert same(read)
    assert read.p == pytest.approx(TRACKS.p)
    assert not has_misalignment(output)


def test_hits_may_refer_to_a_detector_that_is_known(folder):
    output = folder / "new.root"
    hits = (f"input={folder / 'hits.csv'}", f"output={output}")
    convert(*hits, "detector=telescope")
    assert read_detector(output).b_z == 0
    convert(*hits, "detector=file", f"detector.path={folder / 'trees.root'}")
    assert read_detector(output).b_z == 0.25
    assert same(read_tracks(output, PLANES))


@pytest.mark.parametrize("suffix", ["root", "csv"])
def test_alignment_objects_become_an_alignment(folder, suffix):
    output = folder / f"alignment.{suffix}"
    convert(f"input={folder / 'objects.root'}", "detector=telescope", f"output={output}")
    table = read_table(output)
    assert np.abs(table.local - SIX.numpy()).max() < 1e-14
    assert table.name == PLANES.names
    if suffix == "root":
        assert torch.allclose(read_alignment(output, PLANES), SIX, rtol=0, atol=1e-14)


@pytest.mark.parametrize("vertices", ["seeding", "absent", RUN / "o2_primary_vertex.root"])
def test_a_run_of_o2_becomes_a_file_to_align_with(vertices, folder, caplog):
    keys = [f"o2.dictionary={RUN / 'dictionary.root'}", f"o2.vertices={vertices}", "selection=all"]
    output = folder / "new.root"
    with caplog.at_level(logging.INFO):
        convert(f"input={RUN / 'o2trac_its.root'}", f"output={output}", *keys)
    detector = read_detector(output)
    assert (detector.fingerprint, detector.b_z) == (its2().fingerprint, 0.5)
    tracks = read_tracks(output, detector)
    assert (len(tracks), len(np.unique(tracks.event)), tracks.n_hits) == (24, 8, 168)
    assert (tracks.vertex is None) == (vertices == "absent")
    assert "24 tracks, 24 within the selection" in caplog.text
    metadata = read_metadata(output)
    assert (metadata["generator"], metadata["vertices"]) == ("ALICE O2", str(vertices))
    assert metadata["selection"]["min_clusters"] == 3


@pytest.mark.parametrize("patterns", [False, True])
def test_tracks_become_a_run_of_o2_and_come_back(patterns, folder):
    keys = ("selection=all", f"o2.dictionary={RUN / 'dictionary.root'}")
    convert(f"input={RUN / 'o2trac_its.root'}", f"output={folder / 'first.root'}", *keys)
    known = read_tracks(folder / "first.root", its2())
    if not patterns:  # a dictionary holds one resolution
        known = replace(known, sigma=np.full_like(known.sigma, 5e-4))
        write_simulation(folder / "first.root", its2(), known, None, {"generator": "test", "seed": 4})
    run, back = folder / "again", folder / "back.root"
    convert(f"input={folder / 'first.root'}", "to=o2", f"output={run}", f"o2.patterns={patterns}")
    assert (run / "dictionary.bin").exists() is not patterns
    dictionary = [] if patterns else [f"o2.dictionary={run / 'dictionary.bin'}"]
    convert(f"input={run / 'o2trac_its.root'}", f"output={back}", "selection=all", *dictionary)
    found = read_tracks(back, its2())
    assert np.array_equal(found.offset, known.offset)
    assert np.array_equal(found.sensor, known.sensor)
    assert np.abs(found.uv - known.uv).max() < (2.2e-4 if patterns else 3.3e-5)
    assert found.vertex == pytest.approx(known.vertex, abs=1e-6)


def test_noise_goes_with_its_tracks(tmp_path):
    simulation = Simulation(ParticleGun(n_tracks_per_event=2), its2(), seed=4, noise_per_sensor=0.002)
    tracks, noise = simulation.chunk(0, 20), simulation.noise(0, 20)
    with SimulationWriter(tmp_path / "a.root", its2(), None, {"generator": "test", "seed": 4}) as writer:
        writer.append(tracks)
        writer.append_noise(noise)
    convert(f"input={tmp_path / 'a.root'}", f"output={tmp_path / 'b.root'}")
    again = NoiseHits.joined(list(NoiseFile(tmp_path / "b.root", its2()).chunks()))
    assert np.array_equal(again.uv, noise.uv)
    assert np.array_equal(again.event, noise.event)
    convert(f"input={tmp_path / 'b.root'}", "to=o2", f"output={tmp_path / 'run'}")
    found = NoiseHits.joined(list(O2Runs().run(tmp_path / "run").unassociated(its2())))
    kept = noise.select(np.flatnonzero(np.isin(noise.event, tracks.event)))
    assert len(kept) > 500
    assert np.array_equal(found.sensor, kept.sensor)
    assert np.abs(found.uv - kept.uv).max() < 3.4e-5
    keys = ("selection=all", "o2.vertices=absent", "o2.unassociated=true")
    convert(f"input={tmp_path / 'run'}", f"output={tmp_path / 'c.root'}", *keys)
    back = NoiseHits.joined(list(NoiseFile(tmp_path / "c.root", its2()).chunks()))
    assert np.array_equal(back.uv, found.uv)
    assert set(read_tracks(tmp_path / "c.root", its2()).event) <= set(back.event)
    assert np.array_equal(read_tracks(tmp_path / "c.root", its2()).sensor, tracks.sensor)


def test_a_file_of_another_program_is_converted(shared_data, tmp_path):
    source = shared_data / "fei4_telescope.root"
    if not source.is_file():
        pytest.skip(f"{source} is not there: tracks of a beam telescope")
    convert(f"input={source}", f"output={tmp_path / 'new.root'}")
    detector = read_detector(tmp_path / "new.root")
    assert same(read_tracks(tmp_path / "new.root", detector), read_tracks(source, detector))


def test_short_tracks_are_refused_or_dropped(folder):
    short = TRACKS.select_hits(TRACKS.track_of_hit > 0)
    rows = short.select(np.arange(1, len(TRACKS)))
    two = rows.select_hits((rows.track_of_hit > 0) | (np.arange(rows.n_hits) < 2))
    write_simulation(folder / "short.root", PLANES, two, None, {"generator": "test", "seed": 4})
    keys = (f"input={folder / 'short.root'}", f"output={folder / 'new.root'}")
    with pytest.raises(alignnet.errors.SchemaError, match=r"entry 0: found 2 hits.*data\.short_tracks=drop"):
        convert(*keys)
    assert not (folder / "new.root").exists()
    convert(*keys, "data.short_tracks=drop")
    assert len(read_tracks(folder / "new.root", PLANES)) == len(two) - 1


BAD = {
    "input=none.root output=new.root": "none.root: found no such file, expected a ROOT file",
    "input=none.csv output=new.root detector=telescope": "none.csv: found no such file, expected a CSV file",
    "input=trees.root output=new.csv": "output is .*new.csv, expected a name that ends in .root",
    "input=objects.root output=new.txt": "output is .*, expected a name that ends in .root or .parquet or",
    "input=trees.root output=new.root from=o3": "from is 'o3', expected root, csv, alice, o2",
    "input=trees.root output=new to=o3": "to is 'o3', expected root or o2",
    "input=objects.root output=new to=o2 from=alice": "to is 'o2', expected root",
    "input=trees.root output=new to=o2": "detector telescope has sensor_id 0 to 3 and names like telescope/",
    "input=trees.root output=new.root from=o2": "trees.root: has no tree o2sim, only .*is it a file of",
    "input=run/o2trac_its.root output=new.root": "run/o2clus_its.root: time frame 0, cluster 0: found",
    "input=run/o2trac_its.root output=new.root o2.clusters=no": "no: found no such file, expected a ROOT",
    "input=run/o2trac_its.root output=new.root o2.dictionary=no": "no: found no such file, expected a dictio",
    "input=run/o2trac_its.root output=new.root o2.vertices=null": "o2.vertices is None, expected the name of",
    "input=run/o2trac_its.root output=new.root selection.pt=[9,10] o2.dictionary=run/dictionary.root":
        "run/o2trac_its.root: no track is left .24 tracks, 0 within the selection",
    "input=run/o2trac_its.root output=new.root o2.unassociated=true": "o2.unassociated=true: clusters of no",
    "input=run/o2trac_its.root output=new to=o2 o2.unassociated=true": "o2.unassociated is True",
    "input=run/o2trac_its.root output=new.root selection.pt=high": "selection.pt is 'high'; expected",
    "input=run/o2trac_its.root output=new.root o2.timing.length=0": "o2.timing.length is 0, expected at le",
    "input=tracks.dat output=new.root": "input is .*: its suffix does not tell .*no such file.*from=root|csv",
    "input=hits.csv output=new.root": "no detector for the hits: give detector=its2",
    "input=hits.csv output=new.root sensors=planes.csv": "b_z is null: with sensors=FILE.csv give the field",
    "input=hits.csv output=new.root sensors=planes.csv b_z=half": "b_z is 'half': with sensors",
    "input=hits.csv output=new.root sensors=planes.csv b_z=0 detector=its2": "both detector and sensors",
    "input=hits.csv output=new.root detector=its2": "hits.csv: line 2, column sensor: found telescope/plane0",
    "input=trees.root output=new.root b_z=1": "b_z goes with a table of sensors: give sensors=FILE.csv",
    "input=run/o2trac_its.root output=new.root b_z=-0.5":
        "b_z goes with a table of sensors: .*; the field of ITS2 is detector=its2 detector.b_z=",
    "input=trees.root output=new.root detector=its2 b_z=1": "b_z goes with a table of .*=its2",
    "input=run/o2trac_its.root output=new.root detector.b_z=-0.5":
        "detector.b_z needs a choice of detector: give detector=.*its2 or .* with it",
    "input=hits.csv output=new.root from=root": "hits.csv: cannot be read as a ROOT file: it begins with b'",
    "input=objects.root output=new.root from=root": "objects.root: found no metadata",
    "input=objects.root output=new.root": "objects.root: volume 'telescope/plane0' holds no sensor of",
    "input=trees.root output=new.root from=alice": "trees.root: found only .*expected an object ccdb_object",
    "input=trees.root output=new.root data.short_tracks=keep": "data.short_tracks is 'keep', expected error",
}  # fmt: skip


@pytest.mark.parametrize("keys", BAD)
def test_what_cannot_be_converted_is_one_line_and_no_file(refused, keys, folder):
    there = re.sub(r"(input|output|sensors|clusters|dictionary)=", rf"\1={folder}/", keys)
    assert re.match(f"(.*/)?{BAD[keys]}", refused(convert, *there.split()))
    assert not list(folder.glob("*new*"))


def test_the_command_converts_and_fails_with_exit_code_2(folder):
    keys = ("input=hits.csv", "output=new.root", "sensors=planes.csv", "b_z=0")
    code, out, err = called("convert", *keys, folder=folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "written: new.root"
    assert ak.count(uproot.open(folder / "new.root")["tracks"]["hit_u"].array()) == TRACKS.n_hits
