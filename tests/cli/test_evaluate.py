"""`alignnet evaluate`: a run evaluated again gives its own numbers, and other tracks give others."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_detectors import BEAM, GUN, planes, simulated
from training_runs import configured, evaluate

from alignnet.cli.evaluate import _given
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import read_detector, read_misalignment, read_tracks, write_simulation


@pytest.fixture
def run(trained, tmp_path, no_pictures) -> Path:
    """A copy of the run, so that each test evaluates it afresh."""
    return shutil.copytree(trained.folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))


@pytest.fixture
def other_file(barrel_file, tmp_path) -> Path:
    """Further tracks in the same misaligned detector."""
    detector = read_detector(barrel_file)
    local = read_misalignment(barrel_file, detector)
    path = tmp_path / "other.root"
    tracks = simulated(detector, GUN, 100, local, seed=77)
    write_simulation(path, detector, tracks, local, {"generator": "tests", "seed": 77})
    return path


def numbers(run: Path, folder: str = "evaluation") -> dict:
    return json.loads((run / folder / "metrics.json").read_text())


def flat(node, prefix=""):
    """Every number of nested tables, by its path."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = {k: v for key, value in items for k, v in flat(value, f"{prefix}/{key}").items()}
    return found if isinstance(node, dict | list) else {prefix: math.nan if node is None else node}


def test_a_run_on_its_own_tracks_gives_its_own_numbers(run):
    evaluate(f"run={run}")
    again, trained = numbers(run), numbers(run, ".")
    own = ("residuals", "truth", "truth_rigid_only", "truth_layer_rigid", "dca", "chi2_per_ndf", "n_tracks")
    for key in (*own, "chi2_per_ndf_before", "chi2_per_ndf_ideal", "n_aligned"):
        assert flat(again[key]) == pytest.approx(flat(trained[key]), rel=1e-9, nan_ok=True)
    assert again["truth"]["layer0"]["u"]["limit_um"] > 0
    assert again["seconds"] > 0
    assert again["peak_memory_mb"] > 100


def test_other_tracks_give_other_numbers_of_the_same_alignment(run, other_file):
    masses = "evaluation.decays={k0s: {min_flight: 0.2}}"
    evaluate(f"run={run}", f"data.files=[{other_file}]", "evaluation.max_tracks=null", masses)
    other, trained = numbers(run), numbers(run, ".")
    assert set(other["decays"]) == set(other["dca"])
    assert list(other["decays"]["after"]) == ["k0s"]
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    assert other["n_tracks"] == min(
        config.data.max_tracks, len(read_tracks(other_file, read_detector(other_file)))
    )
    assert other["chi2_per_ndf"] != trained["chi2_per_ndf"]
    assert other["chi2_per_ndf_ideal"] < other["chi2_per_ndf"] < 0.5 * other["chi2_per_ndf_before"]
    assert flat(other["truth"]) == pytest.approx(
        flat(trained["truth"]), rel=1e-6, nan_ok=True
    )  # of the sensors, not of tracks; of one draw there is no spread


def test_weak_modes_of_a_training_without_truth_are_held_against_that_of_the_file(run):
    trained = numbers(run, ".")
    known = ("injected_um", "residual_um", "recovered")
    rows = {n: {k: v for k, v in row.items() if k not in known}
            for n, row in trained["weak_modes"]["modes"].items()}  # fmt: skip
    without = trained | {"weak_modes": trained["weak_modes"] | {"modes": rows}}
    (run / "metrics.json").write_text(json.dumps(without))
    evaluate(f"run={run}")
    found = numbers(run)["weak_modes"]["modes"]
    assert set(found) == set(rows)
    for name, row in trained["weak_modes"]["modes"].items():
        for key in known:
            value = found[name][key]
            assert (value is None) == (row[key] is None)
            assert value is None or value == pytest.approx(row[key], rel=1e-6, abs=1e-6)


def test_without_the_truth_residuals_remain(run, other_file, barrel_file, tmp_path):
    detector = read_detector(barrel_file)
    tracks = read_tracks(other_file, detector)
    path = tmp_path / "data.root"
    write_simulation(path, detector, tracks, None, {"generator": "tests", "seed": None})
    evaluate(f"run={run}", f"data.files=[{path}]")
    metrics = numbers(run)
    assert "truth" not in metrics
    assert metrics["chi2_per_ndf_ideal"] is None
    assert set(metrics["dca"]) == {"before", "after"}
    assert metrics["residuals"]["layer0"]["u"]["width_um"] > 0


def test_one_part_of_the_events_can_be_evaluated(run, barrel_file):
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    data = AlignmentData(
        [str(barrel_file)], read_detector(barrel_file), split=config.data.split, seed=config.seed,
        max_tracks=config.data.max_tracks,
    )  # fmt: skip
    counts = {}
    for part in ("train", "validation", "test"):
        evaluate(f"run={run}", f"{'+' * (part == 'test')}evaluation.part={part}")
        counts[part] = numbers(run)["n_tracks"]
        assert counts[part] == len(data.part(part))
    assert sum(counts.values()) == 300


def test_a_run_is_found_from_another_folder_with_the_relative_names_it_was_started_with(
    run, barrel_file, tmp_path, monkeypatch
):
    shutil.copy(barrel_file, tmp_path / "tracks.root")
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config.data.files = ["tracks.root"]
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(tmp_path)}}}, run / ".hydra" / "hydra.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    evaluate("run=../run")
    assert numbers(run)["chi2_per_ndf"] == pytest.approx(numbers(run, ".")["chi2_per_ndf"], rel=1e-9)


def test_a_folder_that_is_no_run_is_one_line(refused, tmp_path):
    assert refused(evaluate, "run=nowhere").startswith(
        "run is nowhere: no such folder; give that of a training run"
    )
    assert refused(evaluate, f"run={tmp_path}").startswith(f"{tmp_path}: not the folder of a training run")
    assert refused(evaluate) == "run has no value: give one, run=..."


def test_a_run_that_has_not_finished_is_one_line_that_says_how_to_go_on(refused, run):
    (run / "alignment.root").unlink()
    assert refused(evaluate, f"run={run}").endswith(f"go on with alignnet train resume={run}")


def test_misspelt_settings_are_one_line(refused, run):
    assert "prat" in refused(evaluate, f"run={run}", "+evaluation.prat=test")
    for sign in ("", "+"):
        assert refused(evaluate, f"run={run}", f"{sign}evaluation.part=best").startswith(
            "evaluation.part is 'best'; choose"
        )


def test_what_is_not_set_is_as_the_run_had_it_and_null_is_a_value():
    assert _given({"part": "???", "max_tracks": None, "timing": {"bias": "???"}}) == {"max_tracks": None}
    decays = {"decays": {"k0s": {}}, "timing": {"bias": 0, "length": "???"}}
    assert _given(decays) == {"decays": {"k0s": {}}, "timing": {"bias": 0}}


def test_every_setting_of_an_evaluation_is_one_of_a_training():
    ours, trained = configured("evaluate"), configured("train")
    for section in ("evaluation", "o2", "selection"):
        assert set(ours[section]) <= set(trained[section])
    assert set(trained.selection) - {"_target_"} == set(ours.selection)
    assert set(trained.o2) == set(ours.o2)


def test_tracks_of_another_detector_are_refused(refused, run, tmp_path):
    detector, path = planes(6), tmp_path / "planes.root"
    tracks = simulated(detector, BEAM, 20, seed=1)
    write_simulation(path, detector, tracks, None, {"generator": "tests", "seed": 1})
    assert str(path) in refused(evaluate, f"run={run}", f"data.files=[{path}]")
    assert not (run / "evaluation").exists()
