"""Detector, metadata and misalignment in ROOT files; a file is there whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from small_detectors import COLUMNS, double, four_planes

from alignnet.data.atomic import replacing
from alignnet.data.root import (
    SimulationWriter,
    check_same_sensors,
    has_misalignment,
    read_detector,
    read_metadata,
    read_misalignment,
    read_tracks,
    write_simulation,
)
from alignnet.data.simulate import Simulation
from alignnet.data.sources import Beam
from alignnet.data.tracks import Tracks, concatenate
from alignnet.errors import ConfigError, SchemaError
from alignnet.geometry import rigid
from alignnet.geometry.its2 import its2
from alignnet.geometry.telescope import telescope

METADATA = {"generator": "test", "seed": 1}
DETECTOR = four_planes()
SIX = torch.linspace(-0.01, 0.02, 24, dtype=torch.float64).reshape(4, 6)


def make_tracks(first_event=0) -> Tracks:
    return Tracks(
        event=np.arange(first_event, first_event + 6) // 2,
        offset=np.arange(0, 25, 4),
        sensor=np.tile([0, 1, 2, 3], 6),
        uv=np.arange(48.0).reshape(24, 2) / 100,
        sigma=np.full((24, 2), 2.0**-11),
        truth={"position": np.ones((6, 3)), "pdg": np.full(6, -211), "q": np.full(6, -1, np.int8)},
    )


@pytest.fixture
def file(tmp_path):
    write_simulation(tmp_path / "a.root", DETECTOR, make_tracks(), SIX, METADATA)
    return tmp_path / "a.root"


def write_tree(path, tree, branches, metadata=None):
    """What somebody else's script might write."""
    with uproot.recreate(path) as out:
        columns = {name: ak.Array(column) for name, column in branches.items()}
        out.mktree(tree, {name: column.type.content for name, column in columns.items()}).extend(columns)
        if metadata is not None:
            out["metadata"] = metadata
    return path


def sensor_branches(**changes):
    whole = {
        "sensor_id": DETECTOR.sensor_id.numpy(),
        "name": list(DETECTOR.names),
        "layer": DETECTOR.layer.numpy(),
        "rotation": DETECTOR.rotation.reshape(4, 9).numpy(),
        "translation": DETECTOR.translation.numpy(),
        "half_u": DETECTOR.half[:, 0].numpy(),
        "half_v": DETECTOR.half[:, 1].numpy(),
    }
    return {name: column for name, column in {**whole, **changes}.items() if column is not None}


def six_branches(rows, **changes):
    six = {name: SIX[rows, i].numpy() for i, name in enumerate(rigid.LOCAL_NAMES)}
    return {"sensor_id": DETECTOR.sensor_id[rows].numpy(), **six, **changes}


def test_a_file_gives_back_the_detector_it_was_given(file):
    read = read_detector(file)
    assert (read.name, read.b_z, read.names) == ("four planes", -0.5, DETECTOR.names)
    for name in COLUMNS:
        assert torch.equal(getattr(read, name), getattr(DETECTOR, name)), name
    for name in ("radius", "half_z", "x_over_x0"):
        assert torch.equal(getattr(read.scatterers, name), getattr(DETECTOR.scatterers, name)), name
    assert read.fingerprint == DETECTOR.fingerprint
    assert read_detector(file, "another name").name == "another name"


def test_optional_sensor_branches_and_scatterers_may_be_absent(tmp_path):
    read = read_detector(write_tree(tmp_path / "a.root", "sensors", sensor_branches(), '{"b_z_tesla": 1}'))
    assert read.b_z == 1
    assert len(read.scatterers) == 0
    assert not read.centre.any()
    assert not read.x_over_x0.any()
    assert read.name == "a"


DETECTOR_FAULTS = {
    "reflection": (
        sensor_branches(rotation=-DETECTOR.rotation.reshape(4, 9).numpy()),
        "rotation, entry 0.*right-ha",
    ),
    "no rotation": (sensor_branches(rotation=np.ones((4, 9)) + np.eye(4, 9)), "rotation"),
    "one name twice": (sensor_branches(name=["a", "b", "b", "c"]), "tree sensors: .*names are not unique"),
    "one identifier twice": (sensor_branches(sensor_id=np.array([1, 2, 2, 3])), "sensor_id is not unique"),
    "NaN": (sensor_branches(half_v=np.array([1, 1, np.nan, 1])), "half_v, entry 2: found nan"),
    "no area": (sensor_branches(half_u=np.zeros(4)), "half-lengths"),
    "negative material": (
        sensor_branches(x_over_x0=np.array([0, 0, 0, -0.1])),
        "x_over_x0, entry 3: found -0.1",
    ),
    "numbers for names": (
        sensor_branches(name=np.arange(4)),
        "branch name: found type int64, expected strings",
    ),
    "no layer": (sensor_branches(layer=None), "no branch layer"),
}


@pytest.mark.parametrize("fault", DETECTOR_FAULTS)
def test_what_is_no_detector_is_refused(fault, tmp_path):
    branches, message = DETECTOR_FAULTS[fault]
    path = write_tree(tmp_path / "faulty.root", "sensors", branches, '{"b_z_tesla": 0.5}')
    with pytest.raises(SchemaError, match=message) as error:
        read_detector(path)
    assert "faulty.root" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "found no metadata"),
        ("B = 0.5 T", "metadata is not JSON"),
        ("[0.5]", "JSON list, expected an object"),
        ('{"schema": 2, "b_z_tesla": 0.5}', "schema 2, expected 1"),
        ('{"schema": 1}', "b_z_tesla None"),
        ('{"b_z_tesla": "0.5 T"}', "b_z_tesla '0.5 T', expected the field along z in tesla"),
        ('{"b_z_tesla": NaN}', "b_z_tesla nan"),
    ],
)
def test_a_file_without_a_usable_field_is_refused(text, message, tmp_path):
    with pytest.raises(SchemaError, match=message):
        read_detector(write_tree(tmp_path / "a.root", "sensors", sensor_branches(), text))


def test_a_file_that_is_not_root_is_refused(tmp_path):
    path = tmp_path / "a:b.root"  # uproot itself would look for an object b.root in a file a
    path.write_text("not a ROOT file")
    with pytest.raises(SchemaError, match=r"a:b.root: cannot be read as a ROOT file"):
        read_metadata(path)


def test_metadata_says_what_the_file_is(file):
    units = {"schema": 1, "units": "cm, GeV/c, rad, T", "b_z_tesla": -0.5, "detector": "four planes"}
    assert read_metadata(file) == {**METADATA, **units}


def test_metadata_must_name_generator_and_seed(tmp_path):
    with pytest.raises(SchemaError, match=r"metadata lacks \['seed'\]"):
        write_simulation(tmp_path / "a.root", DETECTOR, make_tracks(), SIX, {"generator": "test"})
    with pytest.raises(SchemaError, match="cannot be written as JSON"):
        write_simulation(tmp_path / "a.root", DETECTOR, make_tracks(), SIX, {**METADATA, "six": SIX})


def test_branches_have_the_names_and_types_of_the_schema(tmp_path):
    whole = {"vertex": np.zeros((6, 3)), "vertex_cov": np.tile([1.0, 0, 1, 0, 0, 1], (6, 1)), "p": np.ones(6)}
    truth = {**make_tracks().truth, "momentum": np.ones((6, 3)), "hit_uv": np.zeros((24, 2))}
    tracks = replace(make_tracks(), **whole, mass=np.ones(6), kind=np.zeros(6), truth=truth)
    write_simulation(tmp_path / "a.root", DETECTOR, tracks, SIX, METADATA)
    with uproot.open(tmp_path / "a.root") as file:
        types = {tree: file[tree].typenames() for tree in ("sensors", "tracks", "misalignment", "scatterers")}
    assert types["tracks"] == {
        "event": "int64_t", "vertex": "double[3]", "vertex_cov": "double[6]", "p": "float", "mass": "float",
        "kind": "int8_t", "truth_position": "double[3]", "truth_momentum": "double[3]", "truth_q": "int8_t",
        "truth_pdg": "int32_t", "n_hits": "int32_t", "hit_sensor": "int32_t[]", "hit_u": "double[]",
        "hit_v": "double[]", "hit_sigma_u": "float[]", "hit_sigma_v": "float[]", "truth_hit_u": "double[]",
        "truth_hit_v": "double[]",
    }  # fmt: skip
    assert types["sensors"] == {
        "sensor_id": "int32_t", "name": "char*", "layer": "int32_t", "rotation": "double[9]",
        "translation": "double[3]", "half_u": "double", "half_v": "double", "centre_u": "double",
        "centre_v": "double", "x_over_x0": "float", "curvature_radius": "double",
    }  # fmt: skip
    assert types["misalignment"] == {"sensor_id": "int32_t", **dict.fromkeys(rigid.LOCAL_NAMES, "double")}
    assert types["scatterers"] == dict.fromkeys(("radius", "half_z", "x_over_x0"), "double")


def test_hits_name_their_sensor_by_identifier(file):
    with uproot.open(file) as opened:
        assert opened["tracks"]["hit_sensor"].array()[0].tolist() == [70, 3, 100, 42]


def test_misalignment_comes_back_in_sensor_order(file, tmp_path):
    assert torch.equal(read_misalignment(file, DETECTOR), SIX)
    rows = torch.tensor([2, 0])
    path = write_tree(tmp_path / "b.root", "misalignment", six_branches(rows))
    expected = SIX * double(1, 0, 1, 0)[:, None]
    assert torch.equal(read_misalignment(path, DETECTOR), expected)


def test_a_file_tells_whether_it_has_the_truth(file, tmp_path):
    assert has_misalignment(file)
    write_simulation(tmp_path / "data.root", DETECTOR, make_tracks(), None, METADATA)
    assert not has_misalignment(tmp_path / "data.root")
    with pytest.raises(SchemaError, match="no such file"):
        has_misalignment(tmp_path / "none.root")


def test_exact_places_go_before_rounded_parameters(tmp_path):
    rotation, translation = rigid.place_local(DETECTOR.rotation, DETECTOR.translation, SIX)
    rounded = {name: np.round(SIX[:, i].numpy(), 3) for i, name in enumerate(rigid.LOCAL_NAMES)}
    exact = {"actual_rotation": rotation.reshape(4, 9).numpy(), "actual_translation": translation.numpy()}
    path = write_tree(tmp_path / "a.root", "misalignment", six_branches(range(4), **rounded, **exact))
    assert torch.allclose(read_misalignment(path, DETECTOR), SIX, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensor_id": np.array([70, 3, 70, 42])}, "sensor_id, entry 2: found 70, expected each sensor once"),
        ({"sensor_id": np.array([70, 3, 100, 1])}, "sensor_id, entry 3: found 1, expected a sensor_id of"),
        ({"dw": np.array([0, np.nan, 0, 0])}, "dw, entry 1: found nan"),
    ],
)
def test_a_misalignment_of_other_sensors_is_refused(changes, message, tmp_path):
    path = write_tree(tmp_path / "a.root", "misalignment", six_branches(range(4), **changes))
    with pytest.raises(SchemaError, match=message):
        read_misalignment(path, DETECTOR)


def test_the_two_ways_to_say_a_misalignment_agree_in_another_programs_file(shared_data):
    path = shared_data / "acts_its2.root"
    detector = read_detector(path)
    exact = read_misalignment(path, detector)
    with uproot.open(path) as file:
        six = file["misalignment"].arrays(list(rigid.LOCAL_NAMES), library="np")
    said = torch.from_numpy(np.stack([six[name] for name in rigid.LOCAL_NAMES], -1))
    assert exact.std(0)[0] > 50e-4
    assert (exact - said).abs().max() < 1e-9


def test_a_file_written_in_pieces_is_the_file_written_at_once(file, tmp_path):
    parts = [make_tracks(), make_tracks(100), make_tracks(200)]
    with SimulationWriter(tmp_path / "pieces.root", DETECTOR, SIX, METADATA) as writer:
        writer.append(parts[0])
        writer.append(parts[0].select(np.zeros(6, bool)))
        writer.append(concatenate(parts[1:]))
    read, whole = read_tracks(tmp_path / "pieces.root", DETECTOR), concatenate(parts)
    assert np.array_equal(read.uv, whole.uv)
    assert np.array_equal(read.event, whole.event)
    assert torch.equal(read_misalignment(tmp_path / "pieces.root", DETECTOR), SIX)


class Interruption(BaseException):
    """What a user's Ctrl-C is."""


def interrupt(path):
    with SimulationWriter(path, DETECTOR, SIX, METADATA) as writer:
        writer.append(make_tracks())
        raise Interruption


def test_an_interrupted_file_leaves_nothing_behind(tmp_path):
    with pytest.raises(Interruption):
        interrupt(tmp_path / "new" / "a.root")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupted_file_leaves_the_one_before_as_it_was(file):
    before = file.read_bytes()
    with pytest.raises(Interruption):
        interrupt(file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def append_all(path, *parts):
    with SimulationWriter(path, DETECTOR, SIX, METADATA) as writer:
        for part in parts:
            writer.append(part)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (replace(make_tracks(), p=np.ones(6)), r"differ in \['p'\]"),
        (replace(make_tracks(), uv=np.full((24, 2), np.nan)), "hit_u, entry 6, hit 0: found nan"),
        (
            replace(make_tracks(), sensor=np.tile([0, 1, 2, 4], 6)),
            "entry 6, hit 3: found 4, expected rows of",
        ),
        (
            replace(make_tracks(), truth={"colour": np.ones(6)}),
            r"\['truth_colour'\], which the schema has no",
        ),
    ],
)
def test_tracks_that_could_not_be_read_are_not_written(second, message, tmp_path):
    with pytest.raises(SchemaError, match=message):
        append_all(tmp_path / "a.root", make_tracks(), second)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_tracks_is_not_written(tmp_path):
    with pytest.raises(SchemaError, match="no tracks came"):
        append_all(tmp_path / "a.root")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.root"):
        with pytest.raises(ConfigError, match="cannot write"), replacing(path):
            pass


def test_the_written_metadata_is_plain_json(file):
    with uproot.open(file) as opened:
        assert json.loads(str(opened["metadata"]))["seed"] == 1


def test_a_file_of_another_detector_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "beam.root"
    planes = telescope([0.0, 1.0, 2.0], 1.0, 1.0)
    six = torch.zeros(3, 6, dtype=torch.float64)
    tracks = Simulation(Beam(), planes).generate(20)
    write_simulation(path, planes, tracks, six, {"generator": "test", "seed": 0})
    check_same_sensors(path, planes)
    with pytest.raises(SchemaError, match="use detector=file"):
        check_same_sensors(path, its2())
