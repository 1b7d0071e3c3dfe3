"""`alignnet train`: what it leaves, on one process and on several, and what it refuses in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import SMALL, finish, run, start, theta_of, train

from alignnet.cli.app import CONF, errors_in_one_line
from alignnet.data.datamodule import AlignmentData
from alignnet.data.root import read_alignment, read_alignment_table, read_detector, read_misalignment
from alignnet.geometry.recovery import Recovery, difference

TWO_PROCESSES = ("trainer.devices=2", "trainer.strategy=ddp")


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


# what a run leaves


def test_a_run_leaves_its_answer_its_numbers_its_pictures_and_how_to_repeat_it(trained):
    found = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*") if path.is_file()}
    events = {name for name in found if name.startswith("tensorboard/events.out.tfevents.")}
    pictures = {name for name in found if name.startswith("evaluation/") and name.endswith(".png")}
    assert events
    names = ("residuals", "residual_histograms", "truth", "dca", "convergence")
    layers = {f"evaluation/corrections_layer{layer}.png" for layer in range(4)}
    assert pictures == layers | {f"evaluation/{name}.png" for name in names}
    for name in pictures:
        content = (trained.folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB\x60\x82")
    assert found - events - pictures == {
        "alignment.root", "metrics.json", "train.log", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
        "tensorboard/hparams.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml",
    }  # fmt: skip


def test_a_run_says_how_it_goes_and_how_well_it_did(trained):
    lines = trained.printed.splitlines()
    assert lines[0].startswith("small barrel: 24 sensors, 300 tracks from ")
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in epochs] == [
        f"epoch {trained.killed}",
        f"epoch {trained.killed + 1}",
    ]
    assert all(" train χ²/ndf " in line and ", val χ²/ndf " in line and " µm" in line for line in epochs)
    assert any(line.startswith("Remaining misalignment") for line in lines)
    assert any(line.startswith("χ²/ndf: before ") for line in lines)
    assert lines[-1] == f"alignment: {trained.folder / 'alignment.root'}"
    assert not any("it/s" in line for line in lines)  # no progress bar where there is no terminal


def test_the_numbers_have_the_names_that_others_rely_on(trained):
    metrics = metrics_of(trained.folder)
    for kind in ("truth", "truth_rigid_only"):
        for layer in range(4):
            for coordinate in "uvw":
                row = metrics[kind][f"layer{layer}"][coordinate]
                assert {"before_um", "after_um", "limit_um"} <= set(row)
                assert all(row[key] > 0 for key in ("before_um", "after_um", "limit_um"))
    for layer in range(4):
        for coordinate in "uv":
            row = metrics["residuals"][f"layer{layer}"][coordinate]
            assert row["width_um"] > 0
            assert abs(row["mean_um"]) < row["width_um"]
    assert set(metrics["dca"]) == {"before", "after", "ideal"}
    assert metrics["n_tracks"] == 300
    assert 0 < metrics["chi2_per_ndf"] < metrics["chi2_per_ndf_before"]
    assert 0.5 < metrics["chi2_per_ndf_ideal"] < 1.5
    assert 0.1 < metrics["seconds"] < 300
    assert len(metrics["history"]) == trained.epochs
    assert all(np.isfinite(value) for row in metrics["history"] for value in row.values())


def test_the_memory_is_that_of_a_process_which_holds_torch_and_a_small_sample(trained):
    assert 150 < metrics_of(trained.folder)["peak_memory_mb"] < 3000


def test_the_answer_is_nearer_to_the_truth_by_what_the_numbers_say(trained, barrel_file):
    detector = read_detector(barrel_file)
    truth = read_misalignment(barrel_file, detector)
    left = difference(read_alignment(trained.folder / "alignment.root", detector), truth, detector)
    aligned = torch.from_numpy(read_alignment_table(trained.folder / "alignment.root").status == 0)
    per_layer = Recovery(detector, aligned).per_layer(left)
    rows = metrics_of(trained.folder)["truth"]
    for layer, values in per_layer.items():
        for value, coordinate in zip(values, "uvw", strict=True):
            assert rows[f"layer{layer}"][coordinate]["after_um"] == pytest.approx(value * 1e4, rel=1e-9)
    assert all(
        rows[f"layer{k}"]["u"]["after_um"] < 0.7 * rows[f"layer{k}"]["u"]["before_um"] for k in range(3)
    )


def test_tensorboard_has_the_cost_by_parts_the_residuals_and_what_remains(trained):
    board = EventAccumulator(str(trained.folder / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    scalars = set(board.Tags()["scalars"])
    layers = range(4)
    assert {"train/chi2_per_ndf", "train/chi2_track_per_ndf", "train/chi2_vertex_per_ndf"} <= scalars
    assert {"val/chi2_per_ndf", "train/gradient_norm", "train/step_um"} <= scalars
    assert {f"residual_mean_um/layer{n}_{c}" for n in layers for c in "uv"} <= scalars
    assert {f"remaining_um/layer{n}_{c}" for n in layers for c in "uvw"} <= scalars
    assert set(board.Tags()["images"]) == {"corrections", "residuals"}
    history = [row["train/chi2_per_ndf"] for row in metrics_of(trained.folder)["history"]]
    shown = [event.value for event in board.Scalars("train/chi2_per_ndf")]
    assert shown == pytest.approx(history[-len(shown) :], rel=1e-6)


def test_what_is_in_the_log_file_is_dated(trained):
    lines = (trained.folder / "train.log").read_text().splitlines()
    assert sum("alignnet.training: epoch" in line for line in lines) >= 2


# several processes


@pytest.fixture(scope="module")
def few(barrel_file) -> tuple[str, ...]:
    """Overrides by which two ranks get unequal shares of every batch, and one of them none of the last."""
    split, size, n_tracks = "[0.8,0.1,0.1]", 3, 95
    data = AlignmentData([str(barrel_file)], read_detector(barrel_file), max_tracks=n_tracks, seed=1)
    data.setup()
    n_events = len(data.rows["train"])
    assert n_events % size == 1
    options = (
        f"data.files=[{barrel_file}]",
        *SMALL,
        f"data.batch_size={size}",
        f"data.max_tracks={n_tracks}",
    )
    return (*[o for o in options if o != "data.batch_size=20"], f"data.split={split}", "trainer.max_epochs=2")


TO_THE_END = ("optimizer=gauss_newton", "optimizer.tolerance=1e-10", "optimizer.max_iterations=3000")
HOW = {
    "preconditioned_sgd": ("optimizer=preconditioned_sgd", "optimizer.momentum=0.3"),
    "sgd": ("optimizer=sgd", "optimizer.lr=1e-9"),
    "gauss_newton": TO_THE_END,
}


def assert_same_run(one: Path, other: Path) -> None:
    """Θ of two runs agrees to 1e-10 cm and rad, and so do their numbers."""
    assert theta_of(one).abs().max() > 1e-6
    assert (theta_of(one) - theta_of(other)).abs().max() < 1e-10
    found, expected = (read_alignment_table(folder / "alignment.root") for folder in (other, one))
    assert abs(found.local - expected.local).max() < 1e-10
    assert (found.n_hits == expected.n_hits).all()
    assert np.allclose(found.error, expected.error, rtol=1e-6, equal_nan=True)
    numbers, others = metrics_of(one), metrics_of(other)
    assert others["chi2_per_ndf"] == pytest.approx(numbers["chi2_per_ndf"], rel=1e-6)
    for row, twin in zip(numbers["history"], others["history"], strict=True):
        exact = [key for key in row if not key.startswith(("solver/", "train/gradient", "train/largest"))]
        assert {key: twin[key] for key in exact} == pytest.approx(
            {key: row[key] for key in exact}, rel=1e-4, abs=1e-6
        )


def test_two_processes_do_what_one_does_with_the_joint_batch(few, tmp_path, no_pictures):
    """Shares of a batch are unequal, and the second rank has no event in the last one."""
    how = HOW["preconditioned_sgd"]
    printed = run("train", *few, *how, *TWO_PROCESSES, "hydra.run.dir=two", folder=tmp_path)
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert printed.count("epoch 1:") == 1
    assert printed.count("small barrel: 24 sensors") == 1


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "gauss_newton"])
def test_two_processes_do_what_one_does_with_every_optimizer(few, tmp_path, no_pictures, optimizer):
    how = HOW[optimizer]
    run("train", *few, *how, *TWO_PROCESSES, "hydra.run.dir=two", folder=tmp_path)
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_nodes_started_by_torchrun_do_what_one_process_does(few, tmp_path, no_pictures, free_port):
    how = HOW["preconditioned_sgd"]
    torchrun = ("torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "static")
    nodes = [
        start(
            "train", *few, *how, "trainer.num_nodes=2", "trainer.strategy=ddp", "hydra.run.dir=two",
            folder=tmp_path,
            launcher=(*torchrun, "--master-addr", "127.0.0.1", "--master-port", str(free_port),
                      "--node-rank", str(rank), "-m", "alignnet"),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    ends = [finish(node) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0], ends
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_run_on_two_processes_goes_on_to_the_same_numbers(few, tmp_path, no_pictures):
    how = HOW["gauss_newton"]
    first = [option for option in few if not option.startswith("trainer.max_epochs")]
    run("train", *first, *how, *TWO_PROCESSES, "trainer.max_epochs=1", "hydra.run.dir=two", folder=tmp_path)
    run("train", "resume=two", "trainer.max_epochs=2", folder=tmp_path)
    train(tmp_path / "one", *few, *how)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_averaging_of_partitions_comes_as_far_as_one_process(few, tmp_path, no_pictures):
    how = (
        "optimizer=preconditioned_sgd",
        "averaging=partition",
        "data.partitioned=true",
        "averaging.period=2",
    )
    run("train", *few, *how, *TWO_PROCESSES, "trainer.max_epochs=4", "hydra.run.dir=two", folder=tmp_path)
    train(tmp_path / "one", *few, *how[:1], "trainer.max_epochs=4")
    one, two = (metrics_of(tmp_path / name)["chi2_per_ndf"] for name in ("one", "two"))
    before = metrics_of(tmp_path / "one")["chi2_per_ndf_before"]
    assert two - 1 < 0.5 * (before - 1)
    assert abs(two - one) < 0.5 * (before - one)


# what goes wrong


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What a run that cannot be says; nothing of it is left."""
    with pytest.raises(SystemExit) as exit_code, errors_in_one_line(CONF, "train"):
        train(folder, *overrides)
    assert exit_code.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("alignnet: error: ")
    assert line.count("\n") == 1
    assert not (folder / "alignment.root").exists()
    assert not (folder / "metrics.json").exists()
    return line.removeprefix("alignnet: error: ").rstrip()


def test_a_run_that_diverges_names_the_events_and_keeps_the_last_good_checkpoint(
    few, tmp_path, capsys, no_pictures
):
    train(tmp_path, *few, "optimizer=sgd", "optimizer.lr=1e-9", "trainer.max_epochs=1")
    good = theta_of(tmp_path)
    for name in ("alignment.root", "metrics.json"):
        (tmp_path / name).unlink()
    capsys.readouterr()
    line = refused(tmp_path, capsys, *few, "optimizer=sgd", "optimizer.lr=1e3", f"resume={tmp_path}")
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
    "not ROOT": (lambda s, t: t.write_text("event,u,v\n1,2,3\n"), "it is not one, or damaged"),
    "truncated": (lambda s, t: t.write_bytes(s.read_bytes()[: s.stat().st_size // 2]), "damaged"),
    "empty": (lambda s, t: t.write_bytes(b""), "cannot be read as a ROOT file"),
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
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(barrel_file, tmp_path, capsys, fault):
    path = tmp_path / "bad.root"
    make, complaint = BAD_FILES[fault]
    make(barrel_file, path)
    line = refused(tmp_path, capsys, f"data.files=[{path}]", *SMALL)
    assert str(path) in line
    assert complaint in line


BAD_KEYS = {
    "data.files=[]": "data.files is []; expected a list of at least one ROOT file",
    "data.files=other.root": "data.files is 'other.root'; expected a list of at least one ROOT file",
    "data.files=[nowhere.root]": "nowhere.root: found no such file, expected a ROOT file",
    "data.batchsize=3": "unknown key 'data.batchsize'; did you mean data.batch_size?",
    "data.batch_size=many": "data.batch_size is 'many'; expected a whole number",
    "data.split=0.8": "data: ",
    "optimizer=adam": "optimizer=adam: there is no such choice, only gauss_newton, preconditioned_sgd, sgd",
    "optimizer.lr=fast": "optimizer: ",
    "loss=exact": "loss=exact: there is no such choice, only diagonal, full, none",
    "loss.vertex=guessed": "loss.vertex is 'guessed'; choose from ['given', 'fitted', 'absent']",
    "sensors.parametrisation=free": "parametrisation 'free'; choose from ['affine', 'global', 'local']",
    "sensors.parametrisation=affine": "optimizer.sensor_prior is for six degrees of freedom a sensor",
    "sensors.fixed.layers=[9]": "sensors.fixed.layers has [9]; detector small barrel has [0, 1, 2, 3]",
    "sensors.start=nowhere.root": "nowhere.root: found no such file",
    "seed=-1": "seed: ",
    "trainer.accelerator=abacus": "trainer: You selected an invalid accelerator name",
    "+trainer.epochs=3": "trainer: ",
    "early_stop.patient=3": "unknown key 'early_stop.patient'; did you mean early_stop.patience",
    "evaluation.part=best": "evaluation.part is 'best'; choose from ['all', 'train', 'validation', 'test']",
    "evaluation.dca_vertex=best": "evaluation.dca_vertex is 'best'; choose from",
    "evaluation.max_chi2_per_ndf=0": "evaluation.max_chi2_per_ndf is 0; expected a number > 0, or null",
    "resume=nowhere": "nowhere: no checkpoints/last.ckpt there; give the folder of a training run",
}


@pytest.mark.parametrize("override", BAD_KEYS)
def test_a_key_that_cannot_be_used_is_named_before_anything_is_trained(
    barrel_file, tmp_path, capsys, monkeypatch, override
):
    monkeypatch.setattr("sys.argv", ["train"])
    line = refused(tmp_path, capsys, f"data.files=[{barrel_file}]", *SMALL, override)
    assert line.startswith(BAD_KEYS[override])
    assert not (tmp_path / "checkpoints").exists()


def test_the_command_itself_ends_with_one_line_and_code_2(barrel_file, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(os.urandom(200))
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


def test_a_checkpoint_of_another_detector_is_refused(few, trained, tmp_path, capsys):
    line = refused(tmp_path, capsys, *few, "detector.name=other", f"resume={trained.folder}")
    assert line == "the checkpoint is for another detector: 'small barrel'; this run has 'other'"


# real data


@pytest.fixture(scope="module")
def telescope_run(tmp_path_factory) -> dict:
    """The numbers of `experiment=telescope`."""
    folder = tmp_path_factory.mktemp("telescope")
    train(folder, "experiment=telescope", "figure_every=0", "trainer.accelerator=cpu")
    return metrics_of(folder)


def test_planes_in_a_real_beam_end_where_their_residuals_are_as_wide_as_they_should_be(telescope_run):
    """FE-I4 pixels of 50 µm along v; along u they are 250 µm long, and their residuals are no Gaussians."""
    before = [
        abs(row[c]["unbiased_before_mean_um"]) for row in telescope_run["residuals"].values() for c in "uv"
    ]
    assert max(before) > 1000
    for row in telescope_run["residuals"].values():
        v, u = row["v"], row["u"]
        assert v["unbiased_width_um"] == pytest.approx(v["expected_unbiased_width_um"], rel=0.15)
        assert abs(v["unbiased_mean_um"]) < 3.0
        assert abs(v["mean_um"]) < 1.0
        assert abs(u["mean_um"]) < 3.0
        assert v["n_hits"] > 3000
    assert telescope_run["chi2_per_ndf"] < 1.3 < telescope_run["chi2_per_ndf_before"]


def test_a_run_on_real_data_stops_by_itself(telescope_run):
    assert 3 < len(telescope_run["history"]) < 15
    assert "truth" not in telescope_run
    assert telescope_run["dca"] is None
