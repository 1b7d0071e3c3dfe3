"""`alignnet convert from=decays`: from tracks of collisions to a data set that trains, or one clear line."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import torch
from called import called
from neutral_kaons import K0S, NeutralKaons
from small_detectors import GUN, barrel, random_local, simulated
from training_runs import SMALL, configured

from alignnet.cli.convert import main
from alignnet.cli.keys import check_keys
from alignnet.cli.setup import load_problem
from alignnet.data.root import read_detector, read_metadata, read_misalignment, read_tracks, write_simulation
from alignnet.export.alice import write_alice
from alignnet.export.table import write_table
from alignnet.geometry.its2 import its2
from alignnet.loss.decay_chi2 import pairs_of

DETECTOR = barrel(radii=(2.5, 4.0, 7.0, 11.0, 15.0, 20.0))
PLACES = random_local(len(DETECTOR), 100e-4, 0.5e-3, seed=2)
LOOSE = ("decay=k0s", "decay.min_d0=0.01", "decay.min_flight=0.3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Collisions with kaons in a detector that is 100 µm off, and files that none can be found in."""
    folder = tmp_path_factory.mktemp("decays")
    told = {"generator": "tests", "seed": 6}
    tracks = simulated(DETECTOR, NeutralKaons(), 60, PLACES, seed=6)
    write_simulation(folder / "tracks.root", DETECTOR, tracks, PLACES, told)
    write_simulation(folder / "prompt.root", DETECTOR, simulated(DETECTOR, GUN, 30), None, told)
    straight = barrel(b_z=0.0)
    write_simulation(folder / "straight.root", straight, simulated(straight, GUN, 5), None, told)
    none = torch.zeros(len(DETECTOR), dtype=torch.int64)
    write_table(folder / "places.root", DETECTOR, PLACES, None, none, none)
    write_alice(folder / "objects.root", DETECTOR, PLACES)
    return folder


def convert(*overrides):
    main.__wrapped__(configured("convert", *overrides))


@pytest.fixture(scope="module")
def pairs(folder):
    """Those that are found where the sensors are."""
    keys = (f"input={folder}/tracks.root", f"output={folder}/k0s.root", f"alignment={folder}/places.root")
    convert("from=decays", *keys, *LOOSE)
    return folder / "k0s.root"


def test_a_file_of_pairs_trains_beside_the_collisions(folder, pairs):
    decay = f"+data.sets.k0s={{files: [{pairs}], decay: {{mass: {K0S}, width: 1.0e-3}}}}"
    start = f"sensors.start={folder}/places.root"
    config = configured("train", *SMALL, f"data.files=[{folder}/tracks.root]", start, decay)
    check_keys(config)
    problem = load_problem(config)
    kaons = next(iter(problem.data.loader("train")))[1]
    assert len(pairs_of(kaons)) == kaons.n_events > 0
    chi2 = problem.objective.sets[1].loss(problem.sensors, kaons)
    assert int((chi2.weight > 0).sum()) > 0.85 * kaons.n_tracks


def test_what_was_looked_for_and_the_truth_are_kept(folder, pairs):
    detector = read_detector(pairs)
    assert torch.equal(
        read_misalignment(pairs, detector), read_misalignment(folder / "tracks.root", detector)
    )
    told = read_metadata(pairs)
    assert (told["converted_from"], told["decay"]["min_flight"]) == ("tracks.root", 0.3)
    assert told["alignment"] == str(folder / "places.root")
    tracks = read_tracks(pairs, detector)
    assert tracks.vertex is None
    assert np.mean(tracks.truth["mother_pdg"] == 310) > 0.95


def test_more_is_found_where_sensors_are_believed_to_be_where_they_are(folder, pairs):
    convert("from=decays", f"input={folder}/tracks.root", f"output={folder}/nominal.root", *LOOSE)
    n = [len(read_tracks(path, DETECTOR)) for path in (pairs, folder / "nominal.root")]
    assert n[0] > 1.1 * n[1]


def test_numbers_are_said_at_the_end(folder, caplog):
    with caplog.at_level(logging.INFO, "alignnet.convert"):
        keys = (
            f"input={folder}/tracks.root",
            f"output={folder}/said.root",
            f"alignment={folder}/objects.root",
        )
        convert("from=decays", *keys, *LOOSE)
    said = "\n".join(caplog.messages)
    n = len(read_tracks(folder / "said.root", DETECTOR)) // 2
    assert f"{n} pairs within 0.4976 ± 0.06 GeV/c², background by side bands" in said
    assert re.search(r"peak of \d+ at (49|50)\d\.\d\d ± \d\.\d\d MeV/c²", said)
    purity = re.search(r"truth: \d+ of the pairs are such decays: purity (0\.9\d*|1\.000)", said)
    assert purity is not None


def test_a_run_of_o2_has_the_pairs_that_its_tracks_have(tmp_path):
    detector, still = its2(), torch.zeros(24120, 6, dtype=torch.float64)
    tracks = simulated(detector, NeutralKaons(), 30, seed=7)
    write_simulation(tmp_path / "tracks.root", detector, tracks, still, {"generator": "tests", "seed": 7})
    convert(f"input={tmp_path}/tracks.root", f"output={tmp_path}/run", "to=o2")
    found = []
    for source in ("tracks.root", "run"):
        keys = (f"input={tmp_path / source}", f"output={tmp_path}/k0s.root")
        convert("from=decays", *keys, *LOOSE, "selection=all", "o2.vertices=o2_primary_vertex.root")
        found.append(read_tracks(tmp_path / "k0s.root", detector))
    assert len(found[0]) > 60
    assert set(found[1].sensor) <= set(found[0].sensor)
    assert len(found[1]) > 0.9 * len(found[0])


BAD = {
    "from=decays": "from=decays: which decay",
    "from=decays decay=k0s decay.half_window=0.3": "decay.half_window is 0.3; expected less than 0.2185",
    "from=decays decay=k0s decay.half_window=wide": "decay.half_window is 'wide'; expected a finite number",
    "from=decays decay=xi": ".*decay.*xi",
    "from=decays decay=k0s decay.min_fligth=1": ".*min_fligth",
    "from=decays decay=k0s to=o2": "to is 'o2', expected root",
    "from=decays decay=k0s alignment=none.root": "none.root: found no such file",
    "from=decays decay=k0s o2.unassociated=true": "o2.unassociated=true: a file of decays",
    "decay=k0s": "decay is given, which goes with from=decays",
    "alignment=none.root": "alignment is given, which goes with from=decays",
}


@pytest.mark.parametrize("keys", BAD)
def test_what_cannot_be_done_is_one_line_and_no_file(keys, folder):
    code, _, err = called("convert", "input=tracks.root", "output=new.root", *keys.split(), folder=folder)
    assert code == 2
    assert err.count("\n") == 1
    assert re.match(f"alignnet: error: {BAD[keys]}", err)
    assert not list(folder.glob("*new*"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("prompt", r"no pair of tracks .* is left of 1\d\d tracks"),
        ("straight", "a decay's mass needs momenta, and those a field"),
        ("objects", ".*objects.root: has alignment objects, expected tracks"),
        ("none", ".*none.root: found no such file"),
    ],
)
def test_an_input_without_decays_is_one_line_and_no_file(refused, source, said, folder):
    keys = ("from=decays", "decay=k0s", "decay.min_d0=1", f"input={folder}/{source}.root")
    assert re.match(said, refused(convert, f"output={folder}/new.root", *keys))
    assert not list(folder.glob("*new*"))


def test_the_file_of_the_tracks_is_not_written_over(refused, folder):
    path = folder / "tracks.root"
    line = refused(convert, "from=decays", "decay=k0s", f"input={path}", f"output={path}")
    assert "the file of the tracks; choose another name" in line
