"""`alignnet train`: what it refuses in one line, and what it keeps when a run goes wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from called import called
from training_runs import SMALL, finish, start, theta_of, train


@pytest.fixture
def refused_run(refused) -> Callable[..., str]:
    """What a run that cannot be says; nothing of it is left."""

    def line_of(folder: Path, *overrides: str) -> str:
        line = refused(train, folder, *overrides)
        assert not (folder / "alignment.root").exists()
        assert not (folder / "metrics.json").exists()
        return line

    return line_of


def test_a_run_that_diverges_names_the_events_and_keeps_the_last_good_checkpoint(
    refused_run, few, tmp_path, capsys, no_pictures
):
    train(tmp_path, *few, "optimizer=sgd", "optimizer.lr=1e-9", "trainer.max_epochs=1")
    good = theta_of(tmp_path)
    for name in ("alignment.root", "metrics.json"):
        (tmp_path / name).unlink()
    capsys.readouterr()
    line = refused_run(tmp_path, *few, "optimizer=sgd", "optimizer.lr=1e3", f"resume={tmp_path}")
    assert " in epoch 1, events [" in line
    assert "the last good checkpoint is kept" in line
    assert torch.equal(theta_of(tmp_path), good)


def rewritten(source: Path, target: Path, **changes) -> Path:
    """A copy of a file, its tree `tracks` changed: a function of the column, or None to leave it out."""
    with uproot.open(source) as file, uproot.recreate(target) as copy:
        copy["metadata"] = str(file["metadata"])
        for tree in ("sensors", "misalignment", "tracks"):
            columns = {name: file[tree][name].array() for name in file[tree].keys()}  # noqa: SIM118  not a dict
            columns.pop("n_hits", None)
            for name, change in changes.items() if tree == "tracks" else ():
                column = columns.pop(name)
                if change is not None:
                    columns[name] = change(column)
            copy[tree] = columns
    return target


def first_hit(value):
    """A column with the first hit of the fifth track replaced."""

    def change(column):
        flat = ak.flatten(column).to_numpy().copy()
        count = ak.num(column)
        flat[int(ak.sum(count[:4]))] = value
        return ak.unflatten(flat, count)

    return change


BAD_FILES = {
    "not ROOT": (lambda s, t: t.write_text("event,u,v\n1,2,3\n"), "it begins with b'even', expected b'root'"),
    "truncated": (lambda s, t: t.write_bytes(s.read_bytes()[: s.stat().st_size // 2]), "it is truncated"),
    "one byte short": (lambda s, t: t.write_bytes(s.read_bytes()[:-1]), "it is truncated"),
    "empty": (lambda s, t: t.write_bytes(b""), "cannot be read as a ROOT file: it is empty"),
    "a branch is missing": (
        lambda s, t: rewritten(s, t, hit_sigma_u=None), "tree tracks has no branch hit_sigma_u",
    ),
    "unknown sensor": (
        lambda s, t: rewritten(s, t, hit_sensor=first_hit(999)),
        "branch hit_sensor, entry 4, hit 0: found 999, expected a sensor_id of detector small barrel",
    ),
    "NaN": (
        lambda s, t: rewritten(s, t, hit_v=first_hit(np.nan)),
        "branch hit_v, entry 4, hit 0: found nan, expected finite measured positions",
    ),
    "no resolution": (
        lambda s, t: rewritten(s, t, hit_sigma_u=first_hit(0.0)),
        "branch hit_sigma_u, entry 4, hit 0: found 0.0, expected a resolution > 0",
    ),
    "two hits": (
        lambda s, t: rewritten(
            s, t, **{f"hit_{n}": lambda c: ak.concatenate([c[:2], c[2:3, :2], c[3:]]) for n in
                     ("sensor", "u", "v", "sigma_u", "sigma_v")},
            **{f"truth_hit_{n}": None for n in "uv"},
        ),
        "entry 2: found 2 hits, expected at least 3",
    ),
    "no tracks": (
        lambda s, t: rewritten(
            s, t, **dict.fromkeys(("vertex_cov", "truth_hit_u", "truth_hit_v"), None),
            **{n: lambda c: c[:0] for n in (
                "event", "hit_sensor", "hit_u", "hit_v", "hit_sigma_u", "hit_sigma_v", "vertex", "p", "mass",
                "kind", "truth_position", "truth_momentum", "truth_q", "truth_pdg")},
        ),
        "tree tracks is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(refused_run, barrel_file, tmp_path, fault):
    path = tmp_path / "bad.root"
    make, complaint = BAD_FILES[fault]
    make(barrel_file, path)
    line = refused_run(tmp_path, f"data.files=[{path}]", *SMALL)
    assert str(path) in line
    assert complaint in line


BAD_KEYS = {
    "data.files=[]": "data.files is []; expected a list of at least one ROOT file",
    "data.files=other.root": "data.files is 'other.root'; expected a list of at least one ROOT file",
    "data.files=[nowhere.root]": "nowhere.root: found no such file, expected a ROOT file",
    "optimizer.levels.stav=1": "unknown key 'optimizer.levels.stav'",  # which is a list in other optimisers
    "data.batchsize=3": "unknown key 'data.batchsize'; did you mean data.batch_size or data.cache?",
    "data.batch_size=many": "data.batch_size is 'many'; expected a whole number",
    "data.split=0.8": "data.split is 0.8; expected a list, each a finite number",
    "data.split=[0.8,0.8,0.8]": "data.split is [0.8, 0.8, 0.8]; expected three fractions",
    "data.max_tracks=0": "data.max_tracks is 0; expected at least 1, or null for all",
    "+data.shuffled=true": "data.shuffled: AlignmentData takes no 'shuffled', only files, ",
    "optimizer=lion": "optimizer=lion: there is no such choice, only adam, gauss_newton, ",
    "optimizer.lr=fast": "optimizer.lr is 'fast'; expected a finite number",
    "+optimizer.levels.stav=null": "optimizer.levels has ['stav']; small barrel has the levels [",
    "loss.noise.systematic=a": "loss.noise.systematic is 'a'; expected a finite number",
    "loss.noise.systematic=-1": "loss.noise.systematic is -1; expected a length ≥ 0 in cm",
    "loss.noise.systematic=nan": "loss.noise.systematic is nan; expected a finite number",
    "loss.weights.threshold=-1": "loss.weights.threshold is -1; expected a number > 0",
    "loss.weights.threshold=a": "loss.weights.threshold is 'a'; expected a finite number",
    "loss=exact": "loss=exact: there is no such choice, only diagonal, full, none",
    "loss.vertex=guessed": "loss.vertex is 'guessed'; choose from ['given', 'fitted', 'absent']",
    "sensors.parametrisation=free": "sensors.parametrisation is 'free'; expected local or global or ",
    "sensors.parametrisation=affine": "optimizer.sensor_prior is for six degrees of freedom a sensor",
    "sensors.parametrisation=field": "GaussNewton moves sensors, not the weights of a",
    "sensors.field=3": "sensors.field is 3; expected NAME: value pairs",
    "sensors.fixed.layers=[9]": "sensors.fixed.layers has [9]; detector small barrel has [0, 1, 2, 3]",
    "sensors.start=nowhere.root": "nowhere.root: found no such file",
    "seed=-1": "seed: -1 is not in bounds",
    "seed=one": "seed is 'one'; expected a whole number",
    "figure_every=-1": "figure_every is -1; expected epochs, 0 for no figures",
    "+seeds=3": "seeds: Train takes no 'seeds', only seed, resume, figure_every, data, detector, sensors, ",
    "+sensors.free=3": "sensors.free: Sensors takes no 'free', only parametrisation, ",
    "data=null": "a group is null; `alignnet train --help` lists the choices",
    "sensors=null": "sensors is null; expected NAME: value pairs",
    "+optimizer.levels.stave.fixed=[dq]": "optimizer.levels.stave.fixed is ['dq']; expected some, not",
    "optimizer.modes={curl: null}": "optimizer.modes.curl is None; expected 0 for none of it, or {sigma: cm}",
    "optimizer.levels={stavo: {translation: 1, rotation: 1}}": "optimizer.levels has no entry 'stavo'",
    "sensors.fixed=null": "sensors.fixed is null; expected NAME: value pairs",
    "early_stop=often": "early_stop is 'often'; expected NAME: value pairs or null",
    "trainer.precision=bf16-true": "trainer.precision is 'bf16-true'; expected 64-true or 32-true",
    "+trainer.logger=false": "trainer.logger: alignnet sets it; leave it out",
    "trainer.accelerator=abacus": "trainer: You selected an invalid accelerator name",
    "+trainer.epochs=3": "trainer.epochs: Trainer takes no 'epochs', only ",
    "+trainer.max_time=1": "trainer.max_time is 1; expected a word or ",
    "early_stop.patient=3": "unknown key 'early_stop.patient'; did you mean early_stop.patience",
    "evaluation.part=best": "evaluation.part is 'best'; expected all or train or validation or test",
    "evaluation.dca_vertex=best": "evaluation.dca_vertex is 'best'; expected given or leave_one_out or truth",
    "+evaluation.tracks=3": "evaluation.tracks: Evaluation takes no 'tracks', only limit, ",
    "evaluation.max_tracks=0": "evaluation.max_tracks is 0; expected at least 1, or null for all",
    "evaluation.max_chi2_per_ndf=0": "evaluation.max_chi2_per_ndf is 0; expected a number > 0, or null",
    "resume=nowhere": "nowhere: no checkpoints/last.ckpt there; give the folder of a training run",
}


@pytest.mark.parametrize("override", BAD_KEYS)
def test_a_key_that_cannot_be_used_is_named_before_anything_is_trained(
    refused_run, barrel_file, tmp_path, override
):
    line = refused_run(tmp_path, f"data.files=[{barrel_file}]", *SMALL, override)
    assert line.startswith(BAD_KEYS[override])
    assert not (tmp_path / "checkpoints").exists()


def test_a_file_that_is_named_twice_would_count_twice(refused_run, barrel_file, tmp_path):
    other = barrel_file.parent / "." / barrel_file.name
    line = refused_run(tmp_path, f"data.files=[{barrel_file},{other}]", *SMALL)
    assert line.endswith("more than once; its tracks would count twice")


def test_the_command_itself_ends_with_one_line_and_code_2(barrel_file, tmp_path):
    run_folder = tmp_path / "old"
    (run_folder / ".hydra").mkdir(parents=True)
    (run_folder / ".hydra" / "overrides.yaml").write_text(f"- data.files=[{barrel_file}]\n- detector=file\n")
    (run_folder / "checkpoints").mkdir()
    (run_folder / "checkpoints" / "last.ckpt").write_bytes(os.urandom(3000))
    code, out, err = finish(start("train", "resume=old", folder=tmp_path))
    assert code == 2
    assert err.startswith("alignnet: error: old/checkpoints/last.ckpt: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out


def test_ctrl_c_says_so_and_ends_with_130(few, tmp_path):
    options = ("optimizer=sgd", "optimizer.lr=1e-12", "trainer.max_epochs=100000", "early_stop=null")
    process = start("train", *few[:-1], *options, f"hydra.run.dir={tmp_path / 'run'}", folder=tmp_path)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for _ in range(6000):  # a machine may have much else to do
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process, timeout=60)
    assert code == 130
    assert err.splitlines()[-1] == "alignnet: interrupted"
    assert torch.load(last, weights_only=True)["epoch"] >= 0


ENDLESS = """
import hashlib, os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from alignnet.training.optim import GaussNewton

class Endless(GaussNewton):
    def step(self, closure=None):
        super().step(closure)
        if self.state[self.param_groups[0]["params"][0]].setdefault("steps", 0):
            Path(f"second_step_{os.getpid()}").touch()
            with ThreadPoolExecutor(1) as pool:  # machine code, for hours
                pool.submit(hashlib.pbkdf2_hmac, "sha256", b"", b"", 2**31 - 1).result()
        self.state[self.param_groups[0]["params"][0]]["steps"] += 1
"""


def test_a_signal_to_the_first_process_ends_all_within_seconds_and_the_run_can_go_on(
    few, tmp_path, no_pictures
):
    """While they are in machine code, where Python does not see it; `finish` waits for all of them."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    options = (*few, "optimizer=gauss_newton", f"hydra.run.dir={tmp_path / 'run'}")
    two = ("trainer.devices=2", "trainer.strategy=ddp", "optimizer._target_=endless.Endless")
    process = start("train", *options, *two, folder=tmp_path)
    for _ in range(2400):
        if len(list(tmp_path.glob("second_step_*"))) == 2 or process.poll() is not None:
            break
        time.sleep(0.05)
    process.terminate()
    code, _, err = finish(process, timeout=30)
    assert (code, err.splitlines()[-1]) == (143, "alignnet: terminated")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    train(tmp_path / "run", *options, f"resume={tmp_path / 'run'}")
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [0, 1]


@pytest.fixture
def short(few, tmp_path, no_pictures) -> Path:
    """A run of an epoch."""
    folder = tmp_path / "run"
    options = ("optimizer=sgd", "optimizer.lr=1e-9", "trainer.max_epochs=1", f"hydra.run.dir={folder}")
    code, _, err = called("train", *few, *options, folder=tmp_path)
    assert (code, err) == (0, "")
    return folder


def test_a_checkpoint_of_another_detector_is_refused(refused_run, few, short, tmp_path):
    line = refused_run(tmp_path, *few, "detector.name=other", "optimizer=sgd", f"resume={short}")
    assert line == "the checkpoint is for another detector: 'small barrel'; this run has 'other'"


def test_a_refused_continuation_leaves_the_run_as_it_was(short, tmp_path):
    before = {path.name: path.read_bytes() for path in (short / ".hydra").iterdir()}
    code, _, err = called("train", f"resume={short}", "seed=2", "trainer.max_epochs=99", folder=tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "whose seed is 1, this run's is 2" in err
    assert {path.name: path.read_bytes() for path in (short / ".hydra").iterdir()} == before
