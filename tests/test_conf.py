"""Every option of conf/ names arguments that exist, every experiment composes, and every choice trains."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_object
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import OmegaConf
from training_runs import SMALL, configured, train

from alignnet.cli.app import CONF, build
from alignnet.cli.keys import check_keys
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root_alignment import read_alignment_table
from alignnet.sensors.constraints import set_free

COMMANDS = (
    "trackfinding", "train", "evaluate", "simulate", "generate", "find", "export", "convert", "watch"
)  # fmt: skip
OURS = {"terms", "weight", "sets", "find"}  # of the objective, beside the arguments of what a section makes
OPTIONS = sorted(path.relative_to(CONF) for path in Path(CONF).glob("*/*.yaml"))
LEAVES = [option for option in OPTIONS if option.parts[0] not in ("experiment", "sample")]


def options(group):
    return sorted(path.stem for path in Path(CONF, group).glob("*.yaml"))


def calls(node):
    """Every constructor call in a node, references unresolved: its target and its arguments."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"], [key for key in node if not key.startswith("_")]
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from calls(child)


@pytest.mark.parametrize("option", LEAVES, ids=str)
def test_an_option_names_arguments_that_its_target_has(option):
    node = OmegaConf.load(Path(CONF) / option)
    found = list(calls(node))
    plain = (Path("detector/file.yaml"), Path("baselines/none.yaml"), Path("data/files.yaml"))
    changes = option.parts[0] in ("fault", "mistake")  # of what others name
    assert found or "defaults" in node or option in plain or changes
    for target, names in found:
        takes = inspect.signature(get_object(target)).parameters
        assert set(names) - OURS <= set(takes), f"{target} takes {', '.join(takes)}"


def test_the_sections_of_a_training_name_arguments_that_exist():
    config = configured("train")
    for section, takes in (
        (config.data, AlignmentData),
        (config.sensors.fixed, set_free),
        (config.trainer, Trainer),
        (config.early_stop, EarlyStopping),
    ):
        assert set(section) - OURS <= set(inspect.signature(takes).parameters)


def test_an_option_gives_every_argument_that_has_a_default():
    """What a user may change is in the file, so that `--cfg job` shows it."""
    for option in LEAVES:
        for target, names in calls(OmegaConf.load(Path(CONF) / option)):
            if not target.startswith("alignnet.") or "misalignment" in str(option):
                continue
            takes = inspect.signature(get_object(target)).parameters.values()
            known = {p.name for p in takes if p.kind is not p.VAR_KEYWORD and p.default is not p.empty}
            elsewhere = (
                {"noise", "weights"}
                if "loss" in str(option)
                else {"kind"}
                if "source" in str(option)
                else set()
            )
            assert known - elsewhere <= set(names), option


def pairs():
    """Every experiment with every optimizer; each with some of the others in the quick tests."""
    for i, experiment in enumerate(options("experiment")):
        for k, optimizer in enumerate(options("optimizer")):
            marks = () if (i + k) % 5 == 0 else pytest.mark.slow
            yield pytest.param(experiment, optimizer, marks=marks)


@pytest.mark.parametrize(("experiment", "optimizer"), list(pairs()))
def test_an_experiment_goes_with_every_optimizer(experiment, optimizer):
    config = configured("train", f"experiment={experiment}", f"optimizer={optimizer}")
    build(config.optimizer)
    check_keys(config)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command):
    config = configured(command, hydra=True)
    assert config.hydra.help.header
    assert config.hydra.help.footer


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_composes_and_its_parts_can_be_built(experiment):
    config = configured("train", f"experiment={experiment}")
    assert config.data.files
    for target, names in calls(config):
        assert set(names) - OURS <= set(inspect.signature(get_object(target)).parameters)
    build(config.optimizer)


@pytest.mark.parametrize("sample", options("sample"))
def test_a_sample_composes(sample):
    config = configured("simulate", f"sample={sample}")
    assert str(config.output).endswith(".root")


def keys_of(node, path=""):
    """Every key of a configuration, with those above it."""
    if OmegaConf.is_dict(node):
        for key in node:
            yield f"{path}{key}"
            yield from keys_of(OmegaConf.select(node, key, throw_on_missing=False), f"{path}{key}.")


@pytest.mark.parametrize(
    ("command", "group", "option"),
    [
        (command, group, option)
        for command, group in (("simulate", "fault"), ("train", "mistake"))
        for option in options(group)
    ],
)
def test_a_fault_changes_values_of_keys_that_exist(command, group, option):
    study = f"{'sample' if command == 'simulate' else 'experiment'}=robustness"
    base = configured(command, study)
    other = configured(command, study, f"{group}={option}")
    assert other != base
    assert {k for k in keys_of(other) if "dead.fractions." not in k} == set(keys_of(base))


def test_every_group_is_tried_here():
    assert {option.parts[0] for option in OPTIONS} == {
        "averaging", "detector", "experiment", "loss", "misalignment", "optimizer", "sample", "selection",
        "source", "toy", "baselines", "time", "data", "finding", "decay",
        "fault", "mistake",
    }  # fmt: skip


CHOICES = [
    *(f"optimizer={name}" for name in options("optimizer")),
    "sensors.parametrisation=field optimizer=adam",
    *(f"loss={name}" for name in options("loss")),
    *(f"averaging={name} data.partitioned=true optimizer=sgd" for name in options("averaging")),
    *(f"loss.vertex={name}" for name in ("fitted", "absent")),
    "loss.weights.kind=cauchy loss.weights.quantile=0.3",
    "optimizer.precision=float32 loss.precision=float32",
    "sensors.parametrisation=global",
    "sensors.parametrisation=affine optimizer.sensor_prior=null",
    "sensors.surface_order=2 evaluation.errors=exact evaluation.spectrum=3",
    "sensors.surface_order=3 sensors.parametrisation=global optimizer=preconditioned_sgd",
    "sensors.parametrisation=affine optimizer=preconditioned_sgd",
    "sensors.fixed.layers=[0] data.split=[1,0,0] early_stop=null",
]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_trains(choice, barrel_file, tmp_path, no_pictures):
    few = ("data.max_tracks=120", "data.batch_size=10", "trainer.max_epochs=1")
    keys = {key.partition("=")[0] for key in few}
    small = [option for option in SMALL if option.partition("=")[0] not in keys]
    train(tmp_path, f"data.files=[{barrel_file}]", *small, *few, *choice.split())
    local = read_alignment_table(tmp_path / "alignment.root").local
    assert np.isfinite(local).all()
    assert np.abs(local).max() > 0
    assert {path.name for path in tmp_path.iterdir()} >= {"alignment.root", "metrics.json", "checkpoints"}
