"""`alignnet train resume=DIR`: the overrides of the run come back, and so do its numbers."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from training_runs import theta_of, train

from alignnet.cli.resume import continued
from alignnet.cli.task import file_of
from alignnet.data.root import read_alignment_table
from alignnet.errors import CheckpointError


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    overrides = ["data.files=[a.root]", "optimizer=sgd", "trainer.max_epochs=3", "+data.extra=1"]
    OmegaConf.save(overrides, folder / ".hydra" / "overrides.yaml")
    return folder


def test_a_run_that_was_killed_goes_on_to_the_same_numbers_bit_by_bit(trained, tmp_path, no_pictures):
    train(tmp_path, *trained.overrides, "figure_every=0", f"trainer.max_epochs={trained.epochs}")
    assert torch.equal(theta_of(trained.folder), theta_of(tmp_path))
    found, expected = (
        read_alignment_table(folder / "alignment.root") for folder in (trained.folder, tmp_path)
    )
    assert (found.local == expected.local).all()
    assert (found.error == expected.error).all()
    resumed, whole = (
        json.loads((folder / "metrics.json").read_text()) for folder in (trained.folder, tmp_path)
    )
    for key in ("chi2_per_ndf", "chi2_per_ndf_before", "residuals", "truth", "dca", "n_tracks"):
        assert resumed[key] == whole[key]
    assert [row["epoch"] for row in resumed["history"]] == list(range(trained.epochs))
    for row, other in zip(resumed["history"], whole["history"], strict=True):
        assert {key: row[key] for key in row} == {key: other[key] for key in row}


def test_a_run_goes_on_in_its_own_folder_with_its_own_overrides(trained):
    config = OmegaConf.load(trained.folder / ".hydra" / "config.yaml")
    assert config.optimizer.momentum == 0.3
    assert config.data.max_tracks == 300
    assert config.trainer.max_epochs == trained.epochs
    assert config.resume == str(trained.folder)
    assert not list(trained.folder.parent.glob("outputs*"))


def test_overrides_of_the_run_come_first_and_new_ones_win(run):
    found = continued([f"resume={run}", "trainer.max_epochs=9", "seed=2"])
    assert found == [
        "data.files=[a.root]", "optimizer=sgd", "+data.extra=1",
        f"resume={run}", "trainer.max_epochs=9", "seed=2", f"hydra.run.dir={run}",
    ]  # fmt: skip


def test_a_run_that_goes_on_twice_has_every_override_once(run):
    first = continued([f"resume={run}", "trainer.max_epochs=9"])
    OmegaConf.save(
        [item for item in first if not item.startswith("hydra.")], run / ".hydra" / "overrides.yaml"
    )
    second = continued([f"resume={run}", "trainer.max_epochs=12"])
    keys = [item.partition("=")[0] for item in second]
    assert len(keys) == len(set(keys))
    assert "trainer.max_epochs=12" in second


def test_a_rank_that_is_started_with_the_arguments_of_another_changes_nothing(run):
    first = continued([f"resume={run}", "trainer.max_epochs=9"])
    assert sorted(continued(first)) == sorted(first)


def test_results_go_elsewhere_where_that_is_asked_for(run):
    assert continued([f"resume='{run}'", "hydra.run.dir=other"])[-1] == "hydra.run.dir=other"


@pytest.mark.parametrize("arguments", [[], ["seed=3"], ["resume=null", "seed=3"], ["--help"]])
def test_without_a_run_to_go_on_from_arguments_stay_as_they_are(arguments):
    assert continued(arguments) == arguments


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"not the folder of a training run, it has no \.hydra/overrides"
    ):
        continued([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "damaged", [b"", b"- seed=2\n- {", b"seed: 2\n", b"- [1, 2]\n", b"\xff\xfe\x00- a", b"3"]
)
def test_a_damaged_list_of_overrides_is_not_taken_for_an_empty_one(run, damaged):
    path = run / ".hydra" / "overrides.yaml"
    path.write_bytes(damaged)
    assert file_of("train", [f"resume={run}"]) == "train"
    with pytest.raises(CheckpointError, match=r"overrides.yaml: is damaged, expected a list"):
        continued([f"resume={run}"])
    path.write_text("[]\n")
    assert continued([f"resume={run}"]) == [f"resume={run}", f"hydra.run.dir={run}"]
