"""Checkpoints are whole or absent, execute nothing, and are refused where they do not belong."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import OPTIMIZERS, fitted, problem_of

from alignnet.data.root import read_detector
from alignnet.errors import CheckpointError, ConfigError
from alignnet.loss.chi2 import HelixChi2
from alignnet.sensors.sensor import SensorLayer
from alignnet.training.checkpoint import AtomicCheckpointIO, load_checkpoint
from alignnet.training.module import AlignmentModule
from alignnet.training.run import last_checkpoint, load_theta

CONTENT = {"state_dict": {"sensors.theta": torch.arange(6.0)}, "epoch": 3}


class Executes:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def trained(barrel_file, tmp_path_factory) -> Path:
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    fitted(folder, *problem_of(barrel_file, OPTIMIZERS["sgd"]), epochs=1)
    return folder


def test_what_was_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    back = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(back["state_dict"]["sensors.theta"], torch.arange(6.0))
    assert back["epoch"] == 3
    assert list(path.parent.iterdir()) == [path]


class Killed(BaseException):
    """Stands for a signal that ends the process."""


@pytest.mark.parametrize("n_bytes", [0, 1, 100, 700])
def test_a_kill_while_saving_leaves_the_old_file(tmp_path, monkeypatch, n_bytes):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    whole = path.read_bytes()

    def partly(content, file):
        file.write(whole[:n_bytes])
        raise Killed

    monkeypatch.setattr(torch, "save", partly)
    with pytest.raises(Killed):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "epoch": 4}, path)
    assert path.read_bytes() == whole


def test_a_process_that_dies_while_saving_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    for die in ("fsync", "replace"):
        child = os.fork()
        if child == 0:  # leaves at once, without cleaning up after itself, as after SIGKILL
            try:
                if die == "fsync":
                    os.fsync = lambda descriptor: os._exit(9)
                else:
                    Path.replace = lambda self, target: (os.rename(self, target), os._exit(9))
                AtomicCheckpointIO().save_checkpoint({**CONTENT, "epoch": 4}, path)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9
        assert load_checkpoint(path)["epoch"] == (3 if die == "fsync" else 4)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ConfigError, match=r"cannot write .*last\.ckpt: No space left on device; make room, or"
    ):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "epoch": 4}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path)["epoch"] == 3


def test_a_pickle_that_executes_something_is_refused_before_it_does(tmp_path):
    trap = tmp_path / "executed"
    for name, save in {
        "torch.ckpt": torch.save,
        "pickle.ckpt": lambda c, p: p.write_bytes(pickle.dumps(c)),
    }.items():
        path = tmp_path / name
        save({**CONTENT, "callbacks": Executes(trap)}, path)
        with pytest.raises(
            CheckpointError, match="refused, it is damaged or holds more than tensors"
        ) as caught:
            load_checkpoint(path)
        assert str(caught.value).count("\n") == 0
        assert not trap.exists()


@pytest.mark.parametrize(
    "damage", ["garbage", "empty", "half", "flipped", "zip", "text", "list", "tensor", "folder"]
)
def test_what_is_no_checkpoint_is_one_error_that_names_the_file(trained, tmp_path, damage):
    path, good = tmp_path / "last.ckpt", (trained / "checkpoints" / "last.ckpt").read_bytes()
    if damage == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "not what was asked for")
    elif damage in ("list", "tensor"):
        torch.save([1, 2] if damage == "list" else torch.zeros(3), path)
    elif damage == "folder":
        path.mkdir()
    else:
        flipped = bytes(255 - byte for byte in good[200:900]).join([good[:200], good[900:]])
        contents = {
            "garbage": os.urandom(3000),
            "empty": b"",
            "half": good[: len(good) // 2],
            "flipped": flipped,
        }
        path.write_bytes(contents.get(damage, b"a text file\n"))
    with pytest.raises(CheckpointError, match=r"last\.ckpt: ") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no checkpoints/last\.ckpt there; give the folder of a training run"
    ):
        last_checkpoint(tmp_path)


def other_module(file: Path, parametrisation: str = "local", **changes) -> AlignmentModule:
    detector = replace(read_detector(file), **changes)
    sensors = SensorLayer.of(detector, parametrisation)
    return AlignmentModule(sensors, HelixChi2(detector), OPTIMIZERS["sgd"], detector)


def test_places_are_taken_from_a_checkpoint_of_the_same_detector(barrel_file, trained):
    module = other_module(barrel_file)
    local = load_theta(module, trained / "checkpoints" / "last.ckpt")
    assert local.abs().max() > 1e-6
    assert torch.equal(local, module.sensors.theta)


@pytest.mark.parametrize("change", ["name", "place", "fewer", "parametrisation"])
def test_a_checkpoint_of_another_detector_or_parametrisation_is_refused(barrel_file, trained, change):
    detector = read_detector(barrel_file)
    module = {
        "name": lambda: other_module(barrel_file, name="another barrel"),
        "place": lambda: other_module(barrel_file, translation=detector.translation + 1e-5),
        "fewer": lambda: other_module(
            barrel_file,
            names=detector.names[1:],
            **{
                key: getattr(detector, key)[1:]
                for key in ("sensor_id", "layer", "rotation", "translation", "half", "centre", "x_over_x0")
            },
            curvature_radius=detector.curvature_radius[1:],
        ),
        "parametrisation": lambda: other_module(barrel_file, parametrisation="global"),
    }[change]()
    before = module.sensors.theta.detach().clone()
    with pytest.raises(CheckpointError, match="the checkpoint is for another"):
        load_theta(module, trained / "checkpoints" / "last.ckpt")
    assert torch.equal(module.sensors.theta, before)


def test_a_checkpoint_of_another_program_is_refused(barrel_file, tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="was not written by alignnet"):
        load_theta(other_module(barrel_file), tmp_path / "other.ckpt")
