"""`data.sets` and `loss.terms` as they are written: what becomes of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_detectors import COSMICS, barrel, simulated
from training_runs import SMALL, configured

from alignnet.cli.keys import check_keys
from alignnet.cli.setup import load_problem
from alignnet.cli.told_sets import told_sets
from alignnet.data.decay_source import TwoBodyDecays
from alignnet.data.root import write_simulation
from alignnet.errors import ConfigError
from alignnet.loss.decay_chi2 import DecayChi2
from alignnet.loss.survey import Survey

TERM = """
class Flat:
    def __init__(self, detector, sigma):
        self.rows, self.sigma = detector.layer == 0, sigma

    def __call__(self, local):
        return local[self.rows, 2] / self.sigma


def plain(local, sigma=1e-3):
    return local[:, 0] / sigma


def given(local, detector, sigma):
    return local[detector.layer == 1, 1] / sigma


def number():
    return 3.0
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, detector = tmp_path_factory.mktemp("sets"), barrel()
    straight = replace(detector, b_z=0.0)
    still = torch.zeros(24, 6, dtype=torch.float64)
    for name, where, source in (
        ("cosmics", straight, COSMICS),
        ("k0s", detector, TwoBodyDecays(lifetime=0.3)),
    ):
        write_simulation(
            folder / f"{name}.root",
            where,
            simulated(where, source, 60),
            still,
            {"generator": "tests", "seed": 0},
        )
    (folder / "survey.csv").write_text(f"name,dof,value,sigma\n{detector.names[3]},du,1e-3,1e-4\n")
    return folder


def problem(barrel_file, *overrides):
    config = configured("train", *SMALL, f"data.files=[{barrel_file}]", *overrides)
    check_keys(config)
    return load_problem(config)


def test_sets_have_their_field_vertex_and_weight_and_the_rest_of_the_first(barrel_file, files):
    found = problem(
        barrel_file,
        "data.weight=0.5",
        "loss.noise.systematic=1e-4",
        f"+data.sets.cosmics={{files: [{files}/cosmics.root], b_z: 0, weight: 2, max_tracks: 20}}",
        "+data.sets.cosmics.loss={vertex: absent}",
        f"+data.sets.k0s={{files: [{files}/k0s.root], decay: {{mass: 0.4976, width: 0.001}}}}",
    )
    first, cosmics, kaons = found.objective.sets
    assert [one.weight for one in (first, cosmics, kaons)] == [0.5, 2.0, 1.0]
    assert [one.name for one in (first, cosmics, kaons)] == ["tracks", "cosmics", "k0s"]
    assert [one.loss.b_z for one in (first, cosmics, kaons)] == [0.5, 0.0, 0.5]
    assert [one.loss.n_parameters for one in (first, cosmics, kaons)] == [5, 4, 5]
    assert [one.loss.vertex for one in (first, cosmics)] == ["given", "absent"]
    assert {one.loss.noise.systematic for one in (first, cosmics, kaons)} == {1e-4}
    assert isinstance(kaons.loss, DecayChi2)
    assert kaons.loss.mass == 0.4976
    assert found.data.others["cosmics"].n_tracks <= 20
    batch = next(iter(found.data.loader("train")))
    assert len(batch) == 3


def test_terms_get_the_detector_and_their_weight(barrel_file, files, monkeypatch):
    monkeypatch.syspath_prepend(files)
    (files / "my_terms.py").write_text(TERM)
    found = problem(
        barrel_file,
        "+loss.terms.flat={_target_: my_terms.Flat, sigma: 0.001, weight: 3}",
        f"+loss.terms.survey={{_target_: alignnet.loss.survey.Survey, file: {files}/survey.csv}}",
    )
    terms = found.objective.terms
    assert terms.weights == {"flat": 3.0, "survey": 1.0}
    assert isinstance(terms.functions["survey"], Survey)
    assert terms.functions["flat"].rows.sum() == 6
    assert float(terms.chi2(found.sensors).detach()) == pytest.approx(
        100
    )  # of the survey: 10 σ, the sensors at 0


def test_a_function_of_the_sensors_is_a_term(barrel_file, files, monkeypatch):
    monkeypatch.syspath_prepend(files)
    (files / "my_functions.py").write_text(TERM)
    found = problem(
        barrel_file,
        "+loss.terms.plain={_target_: my_functions.plain}",
        "+loss.terms.given={_target_: my_functions.given, sigma: 1e-4, _partial_: true}",
    )
    local = torch.full((24, 6), 2e-3, dtype=torch.float64)
    terms = found.objective.terms
    assert terms.functions["plain"](local).tolist() == pytest.approx([2.0] * 24)
    assert terms.functions["given"](local).tolist() == pytest.approx([20.0] * 6)
    for wrong, said in {
        "{_target_: my_functions.number}": r"terms\.a: my_functions\.number gives a float; expected a",
        "{_target_: my_functions.given, sgima: 1}": r"terms\.a\.sgima: given takes no 'sgima', only local, ",
        "{_target_: my_functions.given}": r"terms\.a: given: missing a required argument: 'local'",
        "{_target_: my_functions.plane}": r"terms\.a\._target_ is 'my_functions\.plane': .*PYTHONPATH=\. ",
        "{_target_: no_functions.plain}": r"terms\.a\._target_ is .*No module named 'no_functions'; expected",
    }.items():
        with pytest.raises(ConfigError, match=said):
            problem(barrel_file, f"+loss.terms.a={wrong}")


def test_what_a_set_has_is_told_and_a_set_of_decays_without_any_is_refused(barrel_file, files, caplog):
    found = problem(
        barrel_file, f"+data.sets.k0s={{files: [{files}/k0s.root], decay: {{mass: 0.4976, width: 0.001}}}}"
    )
    line = told_sets(found.data, found.objective.others)[0]
    n = found.data.others["k0s"].n_tracks
    assert line.startswith(f"data.sets.k0s: {n} tracks in ")
    assert f" pairs from {files}/k0s.root; 0.5 T, weight 1" in line
    assert not caplog.messages
    single = f"+data.sets.a={{files: [{files}/cosmics.root], decay: {{mass: 0.4976, width: 0.001}}}}"
    none = problem(barrel_file, single)
    with pytest.raises(
        ConfigError, match=r"a\.decay: its \d+ events have 1 to 1 tracks, none has 2; expected"
    ):
        told_sets(none.data, none.objective.others)
    assert f"{files}/cosmics.root: made at 0 T by its metadata, and fitted at 0.5 T" in caplog.messages[-1]
    assert "give data.sets.a.b_z=0" in caplog.messages[-1]


def test_without_sets_batches_are_what_they_were(barrel_file):
    found = problem(barrel_file)
    assert not found.data.others
    assert len(found.objective.sets) == 1
    assert not len(found.objective.terms)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+data.sets.a=[x.root]", "expected its files"),
        ("+data.sets.a={files: [x.root], feild: 0}", "takes no 'feild'"),
        (
            "+data.sets.a={files: [%s], loss: {vertx: absent}}",
            r"data\.sets\.a\.loss has \['vertx'\]; a loss has",
        ),
        ("+data.sets.a={files: [%s], loss: {vertex: absnt}}", r"data\.sets\.a: loss\.vertex is 'absnt'"),
        ("+data.sets.a={files: [%s], decay: {mass: 0.5}}", r"data\.sets\.a: .* missing .*'width'"),
        ("+data.sets.a={b_z: 0}", "missing a required argument: 'files'"),
        ("+data.sets.a={files: [x.root], weight: heavy}", r"data\.sets\.a\.weight is 'heavy'"),
        ("+loss.terms.a={sigma: 1}", "has no _target_"),
        (
            "+loss.terms.a={_target_: alignnet.loss.survey.Survey, path: x}",
            r"loss\.terms\.a\.path: .*takes no",
        ),
        (
            "+loss.terms.a={_target_: ipaddress.ip_address, address: x}",
            "terms.a: .* raised ValueError: 'x' does",
        ),
        (
            "+loss.terms.a={_target_: alignnet.loss.survey.Survey, file: x, weight: abc}",
            r"terms\.a\.weight is 'abc'; expected a finite number > 0",
        ),
    ],
)
def test_what_cannot_be_used_is_named(barrel_file, override, said):
    with pytest.raises(ConfigError, match=said):
        problem(barrel_file, override.replace("%s", str(barrel_file)))
